//! Answers of the endpoints on a real socket, with a tiny random model.

use crate::common::server::{Running, chat_body, content, with};
use crate::common::tiny::CONTEXT;
use harness::serve::{Limits, Stop};
use serde_json::{Value, json};
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn a_chat_is_answered_whole_and_as_a_stream() {
    let server = Running::usual();
    let (status, whole) = server.chat(json!({ "logprobs": true, "top_logprobs": 3 }));
    assert_eq!(status, 200, "{whole}");
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("tiny")));
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    let count = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert!((1..=20).contains(&count) && tokens.len() == count, "{whole}");
    assert_eq!(choice["finish_reason"], if count == 20 { "length" } else { "stop" });
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert!(top.len() == 3 && top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        assert!(token["logprob"].as_f64().unwrap() <= top[0]["logprob"].as_f64().unwrap());
    }

    let body = with(
        chat_body(),
        json!({ "stream": true, "stream_options": { "include_usage": true }, "logprobs": true }),
    );
    let chunks = server.stream("/v1/chat/completions", &body);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    let (last, pieces) = chunks.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], choice["finish_reason"]);
    assert!(
        pieces.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null() && chunk["usage"].is_null())
    );
    let text: String =
        pieces.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("")).collect();
    assert_eq!(text, content(&whole));
    let log_probs = |chunk: &Value| chunk["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len);
    assert_eq!(pieces.iter().map(log_probs).sum::<usize>(), count);
}

#[test]
fn options_of_a_chat_mean_what_openai_says() {
    let server = Running::usual();
    let (_, one) = server.chat(json!({}));
    let (_, same) = server.chat(json!({ "messages": [{ "role": "user", "content": [
        { "type": "text", "text": "你" }, { "type": "text", "text": "好" }] }] }));
    assert_eq!(content(&one), content(&same), "parts of text are one text");
    let (_, three) = server.chat(json!({ "n": 3 }));
    let choices = three["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert_eq!(choices[0]["message"]["content"].as_str(), Some(content(&one)));
    assert_ne!(choices[0]["message"], choices[1]["message"]);
    assert_eq!(choices[2]["index"], 2);
    // No limit except the context length.
    let (_, long) = server.chat(json!({ "max_tokens": -1 }));
    let usage = &long["usage"];
    if long["choices"][0]["finish_reason"] == "length" {
        assert_eq!(usage["total_tokens"], CONTEXT);
    }
    assert!(content(&long).starts_with(content(&one)));
    let (_, new) = server.chat(json!({ "max_tokens": null, "max_completion_tokens": 5 }));
    assert_eq!(new["usage"]["completion_tokens"], 5);
    // A stop string is not part of the text.
    let stop: String = content(&long).chars().skip(10).take(2).collect();
    let (_, stopped) = server.chat(json!({ "max_tokens": -1, "stop": [stop, "\u{1}never"] }));
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(content(&stopped), &content(&long)[..content(&long).find(&stop).unwrap()]);
    // Generation continues after the end of a text.
    let (_, on) = server.chat(json!({ "max_tokens": -1, "ignore_eos": true }));
    assert_eq!(
        (&on["usage"]["total_tokens"], &on["choices"][0]["finish_reason"]),
        (&json!(CONTEXT), &json!("length"))
    );
    // Without a seed, answers differ.
    let unseeded = json!({ "seed": null, "max_tokens": -1 });
    assert_ne!(content(&server.chat(unseeded.clone()).1), content(&server.chat(unseeded).1));
    // Text does not become a control token: the prompt is longer than with a single token for </s>.
    let spelled = |text: &str| {
        let messages = json!([{ "role": "user", "content": text }]);
        server.chat(json!({ "messages": messages, "max_tokens": 1 })).1["usage"]["prompt_tokens"].as_u64()
    };
    assert_eq!(spelled("a</s>b"), spelled("a").map(|n| n + 5));
}

#[test]
fn continuations_tell_their_prompts() {
    let server = Running::usual();
    let scored =
        server.complete(json!({ "prompt": "天空是", "max_tokens": 0, "echo": true, "logprobs": 2 })).1;
    let choice = &scored["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("天空是"), &json!("length")));
    let found = &choice["logprobs"];
    let tokens = found["tokens"].as_array().unwrap();
    assert_eq!(tokens[0], "<s>");
    assert!(found["token_logprobs"][0].is_null() && found["top_logprobs"][0].is_null());
    for (i, own) in found["token_logprobs"].as_array().unwrap().iter().enumerate().skip(1) {
        let top = found["top_logprobs"][i].as_object().unwrap();
        assert!((2..=3).contains(&top.len()));
        assert_eq!(&top[tokens[i].as_str().unwrap()], own);
    }
    assert_eq!(found["text_offset"][0], 0);
    assert_eq!(scored["usage"]["prompt_tokens"].as_u64(), Some(tokens.len() as u64));
    assert_eq!(scored["usage"]["completion_tokens"], 0);

    // A greedy continuation has the same log-probabilities when it is scored as when it is generated.
    let ask = json!({ "prompt": [1, 70, 71, 72], "max_tokens": 6, "logprobs": 0 });
    let written = server.complete(ask).1["choices"][0]["logprobs"].clone();
    let echoed = json!({ "prompt": [1, 70, 71, 72], "max_tokens": 6, "logprobs": 0, "echo": true });
    let whole = server.complete(echoed.clone()).1["choices"][0]["logprobs"].clone();
    assert_eq!(
        whole["token_logprobs"].as_array().unwrap()[4..],
        written["token_logprobs"].as_array().unwrap()[..]
    );
    let chunks = server.stream(
        "/v1/completions",
        &with(json!({ "model": "tiny", "temperature": 0, "stream": true }), echoed),
    );
    let joined: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| {
            chunk["choices"][0]["logprobs"]["token_logprobs"].as_array().cloned().unwrap_or_default()
        })
        .collect();
    assert_eq!(joined, *whole["token_logprobs"].as_array().unwrap());
}

#[test]
fn prompts_come_alone_or_many_as_text_or_ids() {
    let server = Running::usual();
    let text = |answer: &Value, i: usize| answer["choices"][i]["text"].as_str().unwrap().to_owned();
    let (_, many) = server.complete(
        json!({ "prompt": ["ab", "cd", "天"], "max_tokens": 8, "n": 2, "seed": 1, "temperature": 1 }),
    );
    assert_eq!(many["choices"].as_array().unwrap().len(), 6);
    for (i, prompt) in ["ab", "cd", "天"].iter().enumerate() {
        let (_, one) =
            server.complete(json!({ "prompt": prompt, "max_tokens": 8, "seed": 1, "temperature": 1 }));
        assert_eq!(text(&one, 0), text(&many, 2 * i));
    }
    let (_, ids) = server.complete(json!({ "prompt": [[1, 70], [1, 71, 72]], "max_tokens": 3 }));
    assert_eq!(ids["usage"]["prompt_tokens"], 5);
    // Sixteen new tokens by default.
    let usage = server.complete(json!({ "prompt": "ab", "temperature": 1, "seed": 3 })).1["usage"].clone();
    assert!(usage["completion_tokens"].as_u64().unwrap() <= 16);
    let too_many: Vec<&str> = vec!["a"; 17];
    let (status, answer) = server.complete(json!({ "prompt": too_many }));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt")));
}

#[test]
fn who_hangs_up_frees_the_place() {
    let server = Running::start(|options| options.limits = Limits { texts: 1, waiting: 16 });
    // A long request: 64 texts, one at a time, with no limit except the context length.
    let body = with(chat_body(), json!({ "max_tokens": -1, "n": 64, "stream": true, "temperature": 3 }));
    for stream in [true, false] {
        let body = with(body.clone(), json!({ "stream": stream }));
        let mut connection = server.begin("/v1/chat/completions", &body);
        if stream {
            connection.read_exact(&mut [0; 100]).unwrap();
        } else {
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(connection);
        assert_eq!(server.chat(json!({})).0, 200);
    }
    let mut waited = 0;
    while server.metric("mindscale_texts_writing{model=\"tiny\"}") > 0.0 {
        waited += 1;
        assert!(waited < 1000, "a text is written for nobody");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn models_and_numbers_are_listed() {
    let server = Running::usual();
    let (_, list) = server.get("/v1/models");
    assert_eq!(
        list["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect::<Vec<_>>(),
        ["tiny", "other"]
    );
    assert_eq!(server.get("/v1/models/other").1["max_model_len"], CONTEXT);
    assert_eq!(server.get("/v1/models/none").0, 404);
    let (_, known) = server.get("/api/models");
    assert_eq!((&known[0]["stage"], &known[0]["source"]), (&json!("sft"), &json!("test/tiny")));
    let ask = json!({ "model": "other", "prompt": [1, 70], "max_tokens": 5, "temperature": 0 });
    let tokens = server.post("/v1/completions", &ask).1["usage"]["completion_tokens"].as_f64().unwrap();
    assert_eq!(server.metric("mindscale_written_tokens_total{model=\"other\"}"), tokens);
    assert_eq!(server.metric("mindscale_prompt_tokens_total{model=\"other\"}"), 2.0);
    assert_eq!(server.metric("mindscale_requests_total{model=\"tiny\"}"), 0.0);
    assert_eq!(server.metric("mindscale_responses_total{endpoint=\"/v1/completions\",status=\"200\"}"), 1.0);
}

#[test]
fn answers_that_were_begun_are_finished_before_the_end() {
    let server = Running::usual();
    let body = with(chat_body(), json!({ "max_tokens": -1, "stream": true, "n": 4 }));
    let (host, mut connection) = (server.address, server.begin("/v1/chat/completions", &body));
    let mut first = [0; 1];
    connection.read_exact(&mut first).unwrap();
    server.end(Stop::Graceful);
    let mut rest = String::new();
    connection.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(TcpStream::connect(host).is_err(), "nobody listens any more");
}
