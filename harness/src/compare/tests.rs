//! Comparisons between models created in the tests, judged by a server run by the tests.
#![allow(clippy::unwrap_used)]

use super::judge::{UNREADABLE, verdict};
use super::*;
use crate::models::{Model, questions};
use crate::track::Silent;
use model::{Cpu, GenerateOptions, ModelConfig, Sampling, Transformer};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn model(name: &str, stage: Option<&str>) -> Model {
    let texts = "abcd efgh 你好 天空是蓝色的 ".repeat(30);
    let tokenizer = crate::data::Tokenizer::train(std::iter::once(texts), 300).unwrap();
    let (vocab_size, max_seq_len) = (tokenizer.vocab_size(), 64);
    let config = ModelConfig {
        d_model: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size,
        max_seq_len,
        ..ModelConfig::default()
    };
    let transformer = Transformer::new(&config, name.len() as u64, &Cpu).unwrap();
    let stage = stage.map(|stage| crate::config::Stage::named(stage).unwrap());
    Model { name: name.into(), source: format!("test/{name}"), stage, transformer, tokenizer }
}

fn ask<'a>(prompts: &'a [String], stop: &'a [String]) -> Ask<'a> {
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    let options = GenerateOptions { max_tokens: 20, sampling, seed: 7, ..GenerateOptions::default() };
    let sampling = json!({ "temperature": 1.0, "seed": 7, "stop": stop });
    Ask { prompts, system: None, form: None, options, stop, sampling }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn the_questions_are_there() {
    let found = questions().unwrap();
    assert!(found.len() == 24 && found[1] == "你是谁" && found.iter().all(|text| !text.trim().is_empty()));
}

#[test]
fn models_are_asked_in_their_own_form() {
    let models = [model("p", Some("pretrain")), model("ss", Some("sft")), model("fff", None)];
    let prompts = strings(&["天空", "a</s>b"]);
    let found = answer(&models, &ask(&prompts, &[]), &Silent).unwrap();
    let forms: Vec<Form> = found.models.iter().map(|model| model.form).collect();
    assert_eq!(forms, [Form::Continuation, Form::Chat, Form::Chat]);
    assert_eq!(found.models[2].letter, "C");
    let tokens = |model: usize, prompt: usize| found.prompts[prompt].answers[model].prompt_tokens;
    let of = |text: &str| models[0].tokenizer.encode(text).unwrap().len();
    // The beginning of a document, and the characters of a control token's name.
    assert_eq!(tokens(0, 0), 1 + of("天空"));
    assert_eq!(tokens(0, 1), 1 + of("a</s>b") + 3);
    assert!(tokens(1, 0) > tokens(0, 0));
    // Alone or with others, on one prompt or all: a model's answers are the same.
    let alone = answer(&models[1..2], &ask(&prompts[1..], &[]), &Silent).unwrap();
    assert_eq!(alone.prompts[0].answers[0], found.prompts[1].answers[1]);
    let forced = Ask { form: Some(Form::Continuation), ..ask(&prompts, &[]) };
    assert_eq!(
        answer(&models[1..2], &forced, &Silent).unwrap().prompts[0].answers[0].prompt_tokens,
        tokens(0, 0)
    );
}

#[test]
fn answers_end_at_strings_and_at_the_context() {
    let models = [model("p", None)];
    let prompts = strings(&["天空"]);
    let form = Some(Form::Continuation);
    let mut long = Ask { form, ..ask(&prompts, &[]) };
    long.options.max_tokens = 1000;
    let whole = answer(&models, &long, &Silent).unwrap().prompts.remove(0).answers.remove(0);
    assert!(whole.finish_reason == Finish::Stop || whole.prompt_tokens + whole.tokens == 64, "{whole:?}");
    let stop: Vec<String> = vec![whole.text.chars().skip(5).take(2).collect()];
    let cut = answer(&models, &Ask { form, ..ask(&prompts, &stop) }, &Silent)
        .unwrap()
        .prompts
        .remove(0)
        .answers
        .remove(0);
    assert_eq!(cut.text, whole.text[..whole.text.find(&stop[0]).unwrap()]);
    assert_eq!(cut.finish_reason, Finish::Stop);
    let prompts = strings(&["a", &"天空".repeat(40)]);
    let error = answer(&models, &ask(&prompts, &[]), &Silent).unwrap_err().to_string();
    assert!(
        error.starts_with("p: prompt 2 has ") && error.contains("the context of the model is 64"),
        "{error}"
    );
}

#[test]
fn letters_go_on_behind_z() {
    assert_eq!([0, 25, 26, 27, 701, 702].map(letter), ["A", "Z", "AA", "AB", "ZZ", "AAA"]);
}

#[test]
fn a_verdict_is_the_last_line_alone() {
    for (reply, expected) in [
        ("[[A]]", Some(Verdict::First)),
        ("B is longer.\nMy verdict: **[[B]]**.\n\n", Some(Verdict::Second)),
        ("At first I thought [[A]], but\n[[C]]", Some(Verdict::Tie)),
        ("[[A]] it is\nas I said", None),
        ("[[A]] or [[B]]", None),
        ("[[A]] [[A]]", None),
        ("A", None),
        ("[[a]]", None),
        ("[[D]]", None),
        ("[[A", None),
        ("[A]", None),
        ("", None),
    ] {
        assert_eq!(verdict(reply), expected, "{reply}");
    }
}

/// A server that answers every request with `reply`, which is given the body and the number of earlier requests.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

type Reply = dyn Fn(&Value, usize) -> (u16, String) + Send + Sync;

impl Server {
    fn start(reply: Box<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let (keep, reply) = (Arc::clone(&asked), Arc::new(reply));
        let before = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (keep, reply, before) = (Arc::clone(&keep), Arc::clone(&reply), Arc::clone(&before));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while let Some(body) = request(&mut stream) {
                        let (status, answer) = reply(&body, before.fetch_add(1, Ordering::SeqCst));
                        keep.lock().unwrap().push(body);
                        let head = format!(
                            "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                            answer.len()
                        );
                        if stream.write_all((head + &answer).as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, asked }
    }

    fn judge(&self, seed: u64) -> Judge {
        let client =
            Client::new(&self.url, "judge", Some("secret")).unwrap().waiting(Duration::from_millis(1));
        Judge { client, seed, at_once: 3 }
    }
}

/// Reads the body of a request; `None` if the connection ends.
fn request(stream: &mut TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let (mut len, mut head) = (0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        let line = line.to_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            len = text.trim().parse().unwrap();
        }
        head += &line;
    }
    assert!(
        head.starts_with("post /v1/chat/completions http/1.1")
            && head.contains("authorization: bearer secret"),
        "{head}"
    );
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

fn said(text: &str) -> (u16, String) {
    (200, json!({ "choices": [{ "message": { "role": "assistant", "content": text } }] }).to_string())
}

/// Returns the text between two marks of a question to the judge.
fn part<'a>(body: &'a Value, mark: &str) -> &'a str {
    let text = body["messages"][1]["content"].as_str().unwrap();
    let (begin, end) = (format!("<<<{mark}>>>\n"), format!("\n<<<end of {mark}>>>"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("{mark}: {text}")) + begin.len();
    &text[from..from + text[from..].find(&end).unwrap()]
}

/// Returns three models and six prompts; the answer of model `m` to prompt `p` is `m` letters long.
fn comparison() -> Comparison {
    let compared = |place: usize| Compared {
        letter: letter(place),
        name: format!("hidden-{place}"),
        source: format!("runs/{place}"),
        stage: Some("sft"),
        params: 1234,
        form: Form::Chat,
    };
    let answer = |model: usize| Answer {
        text: "x".repeat(model + 1),
        finish_reason: Finish::Stop,
        tokens: model + 1,
        prompt_tokens: 9,
        score: None,
    };
    let asked =
        |prompt: usize| Asked { prompt: format!("prompt {prompt}?"), answers: (0..3).map(answer).collect() };
    Comparison {
        models: (0..3).map(compared).collect(),
        sampling: json!({ "temperature": 0.0, "seed": 1, "stop": [] }),
        prompts: (0..6).map(asked).collect(),
        judge: None,
    }
}

fn judged(server: &Server, seed: u64) -> Comparison {
    let mut comparison = comparison();
    server.judge(seed).judge(&mut comparison, &AtomicBool::new(false), &Silent);
    comparison
}

#[test]
fn a_judge_that_knows_what_it_likes_agrees_with_itself() {
    // The longer answer is better.
    let server = Server::start(Box::new(|body, _| {
        let [a, b] = ["answer A", "answer B"].map(|mark| part(body, mark).len());
        said(if a > b { "Longer.\n[[A]]" } else { "Longer.\n[[B]]" })
    }));
    let found = judged(&server, 1);
    let judge = found.judge.as_ref().unwrap();
    assert_eq!((judge.planned, judge.valid, judge.pairs_in_both_orders), (36, 36, 18));
    assert_eq!((judge.unreadable, judge.failed, judge.not_asked), (0, 0, 0));
    // No variance: Wilson's interval for six prompts, with 6 of 6 and 3 of 6.
    let six = |value: f64, low: f64, high: f64| {
        move |share: Option<Share>| {
            let Share { value: found, interval: Some(interval), prompts: 6 } = share.unwrap() else {
                panic!("{share:?}")
            };
            assert_eq!(found, value);
            assert!((interval.0 - low).abs() < 1e-4 && (interval.1 - high).abs() < 1e-4, "{interval:?}");
        }
    };
    six(1.0, 0.6097, 1.0)(judge.agreement);
    six(0.5, 0.1876, 0.8124)(judge.first_wins);
    assert_eq!([0, 1, 2].map(|model| judge.win_rates[model].unwrap().value), [0.0, 0.5, 1.0]);
    let pair = judge.pairs[0];
    assert_eq!((pair.a, pair.b, pair.wins, pair.ties, pair.losses), (0, 1, 0, 0, 6));
    // Sign flips, six of six: 2 / 64; Holm's correction for three such tests.
    assert!((pair.p.unwrap() - 3.0 * 2.0 / 64.0).abs() < 1e-12);
    assert_eq!(
        [0, 1, 2].map(|model| found.prompts[3].answers[model].score),
        [Some(0.0), Some(0.5), Some(1.0)]
    );
    // The judge sees no names, and every pair is judged in both orders.
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().all(|body| !body.to_string().contains("hidden")
        && body["model"] == "judge"
        && body["temperature"] == 0));
    let first = asked.iter().filter(|body| part(body, "answer A").len() < part(body, "answer B").len());
    assert_eq!(first.count(), 18);
    // The seed determines the order.
    let order = |found: &Comparison| {
        let judgements = &found.judge.as_ref().unwrap().judgements;
        judgements.iter().map(|j| (j.prompt, j.first, j.second)).collect::<Vec<_>>()
    };
    drop(asked);
    assert_eq!(order(&judged(&server, 1)), order(&found));
    assert_ne!(order(&judged(&server, 2)), order(&found));
}

#[test]
fn a_judge_that_likes_a_place_is_found_out() {
    let server = Server::start(Box::new(|_, _| said("[[A]]")));
    let found = judged(&server, 1);
    let judge = found.judge.unwrap();
    assert_eq!((judge.agreement.unwrap().value, judge.first_wins.unwrap().value), (0.0, 1.0));
    assert!(judge.win_rates.iter().all(|rate| rate.unwrap().value == 0.5));
    assert_eq!((judge.pairs[2].wins, judge.pairs[2].ties, judge.pairs[2].losses), (0, 6, 0));
    assert_eq!(judge.pairs[2].p, Some(1.0));
}

#[test]
fn verdicts_of_both_orders_are_put_together() {
    let verdicts = |of: &[(usize, Option<Verdict>, Option<Verdict>)]| {
        let one = |prompt: usize, first: usize, verdict: Option<Verdict>| Judgement {
            prompt,
            first,
            second: 1 - first,
            verdict,
            reply: None,
            problem: verdict.is_none().then(|| UNREADABLE.into()),
        };
        let both =
            of.iter().flat_map(|&(prompt, ahead, behind)| [one(prompt, 0, ahead), one(prompt, 1, behind)]);
        Judged::new("judge", 1, 2, both.collect())
    };
    use Verdict::{First, Second, Tie};
    let judged = verdicts(&[
        (0, Some(First), Some(Second)), // wins in both orders
        (1, Some(First), Some(First)),  // the first position wins
        (2, Some(Tie), Some(Second)),   // a tie once
        (3, Some(Tie), Some(Tie)),
        (4, Some(Second), Some(First)), // loses in both orders
        (5, Some(First), None),         // only one order judged
    ]);
    assert_eq!(
        (judged.planned, judged.valid, judged.unreadable, judged.pairs_in_both_orders),
        (12, 11, 1, 5)
    );
    assert!((judged.agreement.unwrap().value - 0.6).abs() < 1e-12);
    // Scores of the first position: 0.5, 1, 0.25, 0.5, 0.5.
    let first = judged.first_wins.unwrap();
    assert!((first.value - 0.55).abs() < 1e-12);
    // Student's t with 4 degrees of freedom, 2.776445, times the standard error, sqrt(0.3 / 4 / 5) = 0.122474.
    let half = 2.776_445_1 * (0.3f64 / 20.0).sqrt();
    let (low, high) = first.interval.unwrap();
    assert!((low - (0.55 - half)).abs() < 1e-6 && (high - (0.55 + half)).abs() < 1e-6, "{low} {high}");
    let pair = judged.pairs[0];
    assert_eq!((pair.wins, pair.ties, pair.losses, pair.p), (1, 3, 1, None));
    assert_eq!(judged.win_rates[0].unwrap().value, 0.5);
    assert_eq!(judged.scores().len(), 10);
}

#[test]
fn what_fails_is_asked_again_and_then_reported() {
    // Every second request fails temporarily; one prompt is never judged.
    let server = Server::start(Box::new(|body, before| match part(body, "prompt") {
        "prompt 2?" => said("I cannot say."),
        _ if before % 2 == 0 => (503, json!({ "error": { "message": "busy" } }).to_string()),
        _ => said("[[C]]"),
    }));
    let mut comparison = comparison();
    let judge = Judge { at_once: 1, ..server.judge(1) };
    judge.judge(&mut comparison, &AtomicBool::new(false), &Silent);
    let judged = comparison.judge.unwrap();
    assert_eq!((judged.valid, judged.unreadable, judged.failed), (30, 6, 0));
    assert_eq!(comparison.prompts[2].answers[0].score, None);
    assert_eq!(judged.agreement.unwrap().prompts, 5);
}

#[test]
fn a_judge_that_is_not_there_is_not_asked_for_ever() {
    let of = |status: u16, answer: Value| {
        let server = Server::start(Box::new(move |_, _| (status, answer.to_string())));
        let judge = judged(&server, 1).judge.unwrap();
        let asked = server.asked.lock().unwrap().len();
        let (problem, _) = judge.problems.first_key_value().unwrap();
        assert_eq!((judge.valid, judge.failed + judge.not_asked), (0, 36));
        assert!(judge.agreement.is_none() && judge.pairs[0].win_rate.is_none());
        (problem.clone(), judge.failed, asked)
    };
    let (problem, failed, asked) = of(401, json!({ "error": { "message": "wrong key" } }));
    assert_eq!(problem, "status 401: wrong key");
    assert!(failed <= 3 && asked == failed);
    // Four attempts each; after five failures only the requests in flight are finished.
    let (problem, failed, asked) = of(500, json!({}));
    assert_eq!(problem, "status 500");
    assert!((5..=7).contains(&failed) && asked == 4 * failed);
    // A problem of one question does not affect the others.
    for (status, answer, expected) in [
        (200, json!({ "choices": [] }), "the answer has no choices[0].message.content"),
        (400, json!({ "error": { "message": "too long" } }), "status 400: too long"),
    ] {
        assert_eq!(of(status, answer), (expected.into(), 36, 36));
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client =
        Client::new(&format!("http://{closed}"), "judge", None).unwrap().waiting(Duration::from_millis(1));
    let problem = client.reply("", "", &AtomicBool::new(false)).unwrap_err().text;
    assert!(problem.contains("refused"), "{problem}");
}

#[test]
fn a_judge_with_a_temperature_of_its_own_is_asked_without() {
    let server = Server::start(Box::new(|body, _| match body["temperature"].is_null() {
        true => said("[[B]]"),
        false => (400, json!({ "error": { "message": "only 1", "param": "temperature" } }).to_string()),
    }));
    let judge = judged(&server, 1).judge.unwrap();
    assert_eq!((judge.valid, judge.first_wins.unwrap().value), (36, 0.0));
    assert!(server.asked.lock().unwrap().len() <= 36 + 3);
}

#[test]
fn once_asked_to_stop_nothing_more_is_asked() {
    let server = Server::start(Box::new(|_, _| said("[[A]]")));
    let mut comparison = comparison();
    server.judge(1).judge(&mut comparison, &AtomicBool::new(true), &Silent);
    assert_eq!(comparison.judge.unwrap().not_asked, 36);
    assert!(server.asked.lock().unwrap().is_empty());
}

#[test]
fn urls_and_keys_that_cannot_be_used_are_refused() {
    for url in ["", "localhost:8000", "ftp://a/v1", "http://", "http://a/v1?key=1", "http://a b/"] {
        let error = Client::new(url, "judge", None).err().unwrap().to_string();
        assert!(error.contains("expected the base URL of a server"), "{url}: {error}");
    }
    assert!(Client::new("https://api.openai.com/v1/chat/completions", "judge", Some("sk-1")).is_ok());
    let error = Client::new("http://a/v1", "judge", Some("a\nb")).err().unwrap();
    assert!(!format!("{error:#}").contains("a\nb"));
}

#[test]
fn nothing_that_a_model_writes_is_taken_for_what_is_around_it() {
    let mut comparison = comparison();
    let evil = "<script>alert(1)</script>\n\n## 7. x\r# y\u{1b}[2J\n\n**B** · \"q\", 龘|";
    comparison.prompts[0].answers[1].text = evil.into();
    comparison.prompts[0].prompt = "<b>\n# x".into();
    comparison.prompts.truncate(1);
    let markdown = comparison.render(Format::Markdown).unwrap();
    assert_eq!(markdown.lines().filter(|line| line.starts_with('#')).count(), 2, "{markdown}");
    assert!(
        markdown.contains("## 1. \\<b> # x\n")
            && markdown.contains("> \\<script>alert(1)\\</script>\n> \n> ## 7. x�# y�[2J\n"),
        "{markdown}"
    );
    let html = comparison.render(Format::Html).unwrap();
    assert!(
        html.contains("&lt;script&gt;")
            && html.matches("<script>").count() == 1
            && html.contains("&lt;b&gt;")
    );
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("src="));
    let csv = comparison.render(Format::Csv).unwrap();
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), &rows[1][5], &rows[1][1]), (3, evil, "<b>\n# x"));
    let json: Value = serde_json::from_str(&comparison.render(Format::Json).unwrap()).unwrap();
    assert_eq!(json["prompts"][0]["answers"][1]["text"], evil);
    assert_eq!(json["models"][1]["form"], "chat");
}

#[test]
fn a_comparison_reads_as_it_is_meant_to() {
    let server = Server::start(Box::new(|body, _| {
        let [a, b] = ["answer A", "answer B"].map(|mark| part(body, mark).len());
        said(if part(body, "prompt") == "prompt 1?" || a > b { "[[A]]" } else { "[[B]]" })
    }));
    let mut comparison = judged(&server, 1);
    comparison.prompts.truncate(2);
    comparison.prompts[1].answers[0].finish_reason = Finish::Length;
    insta::assert_snapshot!(comparison.render(Format::Markdown).unwrap(), @r"
    # Answers side by side

    |  | model | stage | form | parameters |
    | --- | --- | --- | --- | ---: |
    | A | hidden-0 | sft | chat | 1,234 |
    | B | hidden-1 | sft | chat | 1,234 |
    | C | hidden-2 | sft | chat | 1,234 |

    temperature 0.0, seed 1

    ## Judged by judge

    * 36 of 36 judgements have a verdict; 0 replies without one, 0 failed, 0 not asked
    * both orders agree: 83.3 [40.5, 100.0] % of 18 pairs of answers
    * the first answer wins: 58.3 [36.9, 79.8] %; 50 without position bias
    * an answer wins if it wins in both orders, otherwise it is a tie; ties count half; 95 % intervals of Student's t over prompts; p of the sign-flip test over prompts, corrected by Holm

    |  | model | wins (%) |
    | --- | --- | ---: |
    | A | hidden-0 | 8.3 [0.0, 29.8] |
    | B | hidden-1 | 50.0 [18.8, 81.2] |
    | C | hidden-2 | 91.7 [70.2, 100.0] |

    | pair | wins | ties | losses | wins (%) | p |
    | --- | ---: | ---: | ---: | ---: | ---: |
    | A – B | 0 | 1 | 5 | 8.3 [0.0, 29.8] | 0.188 |
    | A – C | 0 | 1 | 5 | 8.3 [0.0, 29.8] | 0.188 |
    | B – C | 0 | 1 | 5 | 8.3 [0.0, 29.8] | 0.188 |

    ## 1. prompt 0?

    **A** · 1 token, wins 0 %

    > x

    **B** · 2 tokens, wins 50 %

    > xx

    **C** · 3 tokens, wins 100 %

    > xxx

    ## 2. prompt 1?

    **A** · 1 token, cut, wins 50 %

    > x

    **B** · 2 tokens, wins 50 %

    > xx

    **C** · 3 tokens, wins 50 %

    > xxx
    ");
}
