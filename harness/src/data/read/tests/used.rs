//! All content that a layout can have is used, or refused with file, line and key, or counted.

use super::*;

fn preference(prompt: &[(&str, &str)], chosen: &str, rejected: &str) -> Row {
    let prompt = prompt.iter().map(|(role, content)| Message::new(role, *content)).collect();
    Row::Preference { prompt, chosen: chosen.into(), rejected: rejected.into() }
}

/// Returns the rows, the report and the error of a file in the folder of small faulty inputs.
fn case(kind: Kind, file: &str) -> Option<(Vec<Row>, ReadReport, String)> {
    let path = shared("cases")?.join(file);
    let (rows, report, error) = read_files(std::slice::from_ref(&path), kind, &DataConfig::default());
    let folder = format!("{}/", path.parent().unwrap().display());
    Some((rows, report, error.unwrap_or_default().replace(&folder, "")))
}

#[test]
fn earlier_turns_and_system_texts_are_used_beside_every_layout() {
    let before = [("system", "SYS"), ("user", "a"), ("assistant", "b")];
    let chatted = |last: &[(&str, &str)]| chat(&[&before[..], last].concat());
    let last = [("user", "c"), ("assistant", "d")];
    for (name, content) in [
        (
            "alpaca.jsonl",
            r#"{"instruction":"c","input":"","output":"d","history":[["a","b"]],"system":"SYS"}"#,
        ),
        ("q.jsonl", r#"{"history":"[['a','b']]","q":"c","a":"d","system":"SYS"}"#),
        (
            "share.jsonl",
            r#"{"system":"SYS","history":[["a","b"]],"conversations":[{"from":"human","value":"c"},{"from":"gpt","value":"d"}]}"#,
        ),
        (
            "whole.jsonl",
            r#"{"messages":[{"role":"system","content":"SYS"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#,
        ),
        (
            "same.jsonl",
            r#"{"system":"SYS","history":[["a","b"]],"messages":[{"role":"system","content":"SYS"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#,
        ),
        ("q.csv", "system,history,q,a\nSYS,\"[['a','b']]\",c,d\n"),
        ("alpaca.csv", "instruction,output,history,system\nc,d,\"[[\"\"a\"\",\"\"b\"\"]]\",SYS\n"),
    ] {
        assert_eq!(good(Kind::Conversations, name, content.as_bytes()), [chatted(&last)], "{name}");
    }
    let asked = [&before[..], &[("user", "c")]].concat();
    for (name, content) in [
        ("texts.jsonl", r#"{"system":"SYS","history":[["a","b"]],"prompt":"c","chosen":"d","rejected":"e"}"#),
        ("texts.csv", "system,history,prompt,chosen,rejected\nSYS,\"[['a','b']]\",c,d,e\n"),
        (
            "answers.jsonl",
            r#"{"system":"SYS","history":[["a","b"]],"prompt":"c","chosen":[{"role":"assistant","content":"d"}],"rejected":"e"}"#,
        ),
        (
            "whole.jsonl",
            r#"{"system":"SYS","prompt":"a","chosen":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}],"rejected":[{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"e"}]}"#,
        ),
        (
            "again.jsonl",
            r#"{"system":"SYS","history":[["a","b"]],"prompt":"c","chosen":[{"role":"user","content":"c"},{"role":"assistant","content":"d"}],"rejected":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"e"}]}"#,
        ),
        (
            "list.jsonl",
            r#"{"prompt":[{"role":"system","content":"SYS"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"chosen":"d","rejected":"e"}"#,
        ),
    ] {
        assert_eq!(
            good(Kind::Preferences, name, content.as_bytes()),
            [preference(&asked, "d", "e")],
            "{name}"
        );
    }
}

#[test]
fn turns_say_whether_they_carry_loss() {
    let trained = |flags: &str| {
        let lines = format!(
            r#"{{"messages":[{{"role":"user","content":"q"}},{{"role":"assistant","content":"a"{flags}}}]}}"#
        );
        let Row::Chat(turns) = good(Kind::Conversations, "a.jsonl", lines.as_bytes()).remove(0) else {
            panic!("no conversation");
        };
        turns[1].trained
    };
    for (flags, expected) in [
        ("", None),
        (r#","weight":null"#, None),
        (r#","weight":0"#, Some(false)),
        (r#","weight":1.0"#, Some(true)),
        (r#","train":true"#, Some(true)),
        (r#","training":false"#, Some(false)),
        (r#","train":true,"weight":1"#, Some(true)),
    ] {
        assert_eq!(trained(flags), expected, "{flags}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_file_line_and_key() {
    let turns = |turns: &str| format!(r#"{{"messages":[{turns}]}}"#);
    let user = r#"{"role":"user","content":"q"}"#;
    let bot = r#"{"role":"assistant","content":"a"}"#;
    let system = r#"{"role":"system","content":"s"}"#;
    let flagged = |flag: &str| turns(&format!(r#"{user},{{"role":"assistant","content":"a",{flag}}}"#));
    let pair =
        |prompt: &str, chosen: &str| format!(r#"{{"prompt":{prompt},"chosen":{chosen},"rejected":"e"}}"#);
    for (kind, content, expected) in [
        (Kind::Conversations, turns(bot), r#""messages"[0] is an answer without a question"#),
        (
            Kind::Conversations,
            turns(&format!("{system},{bot}")),
            r#""messages"[1] is an answer without a question"#,
        ),
        (
            Kind::Conversations,
            turns(&format!("{user},{bot},{bot}")),
            r#""messages"[2] is an answer without a question"#,
        ),
        (
            Kind::Conversations,
            turns(&format!("{user},{user},{bot}")),
            r#""messages"[1] is a question, but the previous one has no answer"#,
        ),
        (
            Kind::Conversations,
            turns(&format!("{user},{system},{bot}")),
            r#""messages"[1] is a system text that is not the first turn"#,
        ),
        (Kind::Conversations, turns(user), r#""messages" has no assistant turn"#),
        (Kind::Conversations, turns(""), r#""messages" has no assistant turn"#),
        (
            Kind::Conversations,
            format!(r#"{{"system":"t","messages":[{system},{user},{bot}]}}"#),
            r#""system" and the first turn are two system texts"#,
        ),
        (
            Kind::Conversations,
            r#"{"q":"a","q":"b","a":"c"}"#.into(),
            r#"is not valid JSON (the key "q" occurs twice)"#,
        ),
        (
            Kind::Conversations,
            r#"{"system":["t"],"q":"a","a":"b"}"#.into(),
            r#""system" is a list, expected a text"#,
        ),
        (Kind::Conversations, r#"{"q":"a","a":null}"#.into(), r#""a" is null, expected a text"#),
        (
            Kind::Conversations,
            r#"{"instruction":"a","output":null}"#.into(),
            r#""output" is null, expected a text"#,
        ),
        (
            Kind::Conversations,
            r#"{"q":"a","a":"b","history":[["c",null]]}"#.into(),
            "history[0] holds a None",
        ),
        (Kind::Conversations, r#"{"q":"a","a":"b","history":[["c"]]}"#.into(), "history[0] has 1 elements"),
        (
            Kind::Conversations,
            r#"{"q":"a","a":"b","history":[{"role":"user","content":"c"}]}"#.into(),
            "history[0] is not a pair",
        ),
        (
            Kind::Conversations,
            flagged(r#""weight":0.5"#),
            r#""messages"[1]: "weight" is 0.5, expected 0, 1, true or false"#,
        ),
        (
            Kind::Conversations,
            flagged(r#""train":"yes""#),
            r#""messages"[1]: "train" is a text, expected 0, 1, true or false"#,
        ),
        (
            Kind::Conversations,
            flagged(r#""train":true,"weight":0"#),
            r#""messages"[1]: "weight" is false and "train" is true"#,
        ),
        (
            Kind::Conversations,
            turns(&format!(r#"{user},{{"role":"function","content":"a"}}"#)),
            r#""messages"[1]: the role is "function", but tool calls are not supported"#,
        ),
        (
            Kind::Preferences,
            pair(r#""q""#, &format!("[{bot},{user}]")),
            r#""chosen" does not end with an assistant turn"#,
        ),
        (
            Kind::Preferences,
            pair(r#""other""#, &format!("[{user},{bot}]")),
            r#""chosen" neither begins with "prompt" nor continues it"#,
        ),
        (
            Kind::Preferences,
            pair(&format!("[{user},{bot}]"), r#""d""#),
            r#""prompt" + "chosen"[2] is an answer without a question"#,
        ),
        (
            Kind::Preferences,
            pair(r#""q""#, r#"[{"role":"assistant","content":"d","weight":0}]"#),
            "a turn specifies whether it is trained on",
        ),
        (
            Kind::Preferences,
            r#"{"prompt":"q","chosen":[{"role":"assistant","content":"d","train":true}],"rejected":[{"role":"assistant","content":"e","train":false}]}"#.into(),
            "a turn specifies whether it is trained on",
        ),
    ] {
        let found = error(kind, "a.jsonl", format!("\n{content}").as_bytes());
        assert!(found.starts_with(&format!("a.jsonl:2: {expected}")), "{found}\nwhere expected\n{expected}");
        assert!(found.ends_with("fix the row or set data.on_bad_row = \"skip\""), "{found}");
    }
}

#[test]
fn keys_without_a_place_are_refused_or_told_once() {
    for (kind, name, content, expected) in [
        (
            Kind::Pretrain,
            "a.jsonl",
            r#"{"text":"a","titel":"t"}"#,
            r#"a.jsonl:1: the key "titel" has content and is not used; expected text"#,
        ),
        (
            Kind::Pretrain,
            "a.jsonl",
            "{\"text\":\"a\"}\n{\"text\":\"a\",\"weight\":0.5}",
            r#"a.jsonl:2: the key "weight" has content"#,
        ),
        (Kind::Pretrain, "a.csv", "text,x\na,1\n", r#"a.csv:2: the key "x" has content"#),
        (Kind::Pretrain, "a.csv", ",text\n0,a\n", r#"a.csv:2: the key "(column 1)" has content"#),
        (
            Kind::Conversations,
            "a.csv",
            "histroy,q,a\n\"[['a','b']]\",c,d\n",
            r#"a.csv:2: the key "histroy" has content and is not used; expected system, history, q, a; did you mean history?"#,
        ),
        (
            Kind::Conversations,
            "a.jsonl",
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","reasoning_content":"r"}]}"#,
            r#"a.jsonl:1: the key "messages[].reasoning_content" has content"#,
        ),
        (
            Kind::Conversations,
            "a.jsonl",
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"","tool_calls":[1]}]}"#,
            r#"a.jsonl:1: the key "messages[].tool_calls" has content and tool calls are not supported"#,
        ),
        (
            Kind::Conversations,
            "a.jsonl",
            r#"{"tools":"[1]","conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#,
            r#"a.jsonl:1: the key "tools" has content and tool calls"#,
        ),
        (
            Kind::Conversations,
            "a.jsonl",
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#,
            r#"a.jsonl:1: the key "messages" has content"#,
        ),
        (
            Kind::Preferences,
            "a.jsonl",
            r#"{"prompt":"p","chosen":"c","rejected":"r","sytem":"s"}"#,
            r#"a.jsonl:1: the key "sytem" has content and is not used; expected system, history, prompt, chosen, rejected; did you mean system?"#,
        ),
    ] {
        let (_, _, found) = read_as(kind, name, content.as_bytes(), BadRow::Skip);
        let found = found.unwrap_or_default();
        assert!(found.starts_with(expected), "{found}\nwhere expected\n{expected}");
        assert!(found.ends_with("or ignore it with data.unknown_keys = \"ignore\""), "{found}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let lines =
        "{\"text\":\"a\",\"source\":\"s\",\"id\":0}\n{\"text\":\"b\",\"source\":\"\",\"meta\":{},\"id\":1}";
    std::fs::write(&path, lines).unwrap();
    let config = DataConfig { unknown_keys: UnknownKeys::Ignore, ..DataConfig::default() };
    let (rows, report, error) = read_files(&[path], Kind::Pretrain, &config);
    assert_eq!((rows, error), (texts(&["a", "b"]), None));
    let notices: Vec<String> = report.notices("pretrain").iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "pretrain: 2 of 2 rows have a key \"id\" that is not used",
            "pretrain: 1 of 2 rows have a key \"source\" that is not used",
        ]
    );
}

#[test]
fn conversations_can_be_pretrained_on() {
    let lines =
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","train":true}]}"#;
    let Row::Chat(turns) = good(Kind::Pretrain, "a.jsonl", lines.as_bytes()).remove(0) else {
        panic!("no conversation");
    };
    assert_eq!(turns.iter().map(|turn| turn.trained).collect::<Vec<_>>(), [None, Some(true)]);
}

#[test]
fn an_empty_question_beside_others_is_counted_wherever_it_is() {
    let turns = |question: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"{question}"}},{{"role":"assistant","content":"x"}},{{"role":"user","content":"q"}},{{"role":"assistant","content":"a"}}]}}"#
        )
    };
    for (kind, name, content) in [
        (Kind::Conversations, "turns.jsonl", turns(" ")),
        (Kind::Pretrain, "text.jsonl", turns("")),
        (Kind::Conversations, "a.jsonl", r#"{"instruction":"q","output":"a","history":[["","x"]]}"#.into()),
        (Kind::Conversations, "q.csv", "history,q,a\n\"[['','x']]\",q,a\n".into()),
        (
            Kind::Preferences,
            "h.jsonl",
            r#"{"prompt":"q","chosen":"a","rejected":"b","history":[["\n","x"]]}"#.into(),
        ),
        (
            Kind::Preferences,
            "p.jsonl",
            r#"{"prompt":"","chosen":"a","rejected":"b","history":[["q","x"]]}"#.into(),
        ),
    ] {
        let (rows, report, error) = read_as(kind, name, content.as_bytes(), BadRow::Error);
        assert_eq!((rows.len(), report.empty, report.empty_questions), (1, 0, 1), "{name}: {error:?}");
        let notices: Vec<String> = report.notices("sft").iter().map(ToString::to_string).collect();
        assert_eq!(notices, ["sft: 1 of 1 rows used with an empty question beside others"], "{name}");
    }
    let asked = read_as(Kind::Conversations, "turns.jsonl", turns("p").as_bytes(), BadRow::Error).1;
    assert_eq!((asked.rows(), asked.empty_questions), (1, 0));
}

#[test]
fn two_columns_of_one_name_are_refused() {
    let found = error(Kind::Pretrain, "a.csv", b"text, text\na,b\n");
    assert_eq!(found, "a.csv:1: two columns are named \"text\", expected each name once");
    // Columns without a name, as spreadsheets produce them, are separate columns.
    assert_eq!(good(Kind::Pretrain, "a.csv", b"text,,\na,,\n"), texts(&["a"]));
}

#[test]
fn rows_are_counted_by_the_reason_for_which_they_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    std::fs::write(&path, "history,q,a\n[],a,\n[],,b\n[],c,d\n[],long question,long answer\n[],x\n").unwrap();
    let config = DataConfig { max_chars: 5, ..skipping() };
    let (rows, report, error) = read_files(std::slice::from_ref(&path), Kind::Conversations, &config);
    assert_eq!((rows.len(), error), (1, None));
    assert_eq!(
        (report.empty, report.filtered, report.bad, report.left_out(), report.rows()),
        (2, 1, 1, 4, 5)
    );
    let notices: Vec<String> = report.notices("sft").iter().map(ToString::to_string).collect();
    let bad = format!("{}:6: has 2 cells, expected 3 (history,q,a)", path.display());
    assert_eq!(
        notices,
        [
            "sft: 2 of 5 rows left out: no text, no question or an empty answer".to_string(),
            "sft: 1 of 5 rows left out: by data.min_chars, max_chars or min_chinese_share".to_string(),
            format!("sft: 1 of 5 rows left out: cannot be read (the first: {bad})"),
        ]
    );
    let nothing = error_of(&path, DataConfig { min_chars: 1000, ..skipping() });
    assert!(
        nothing.contains("a.csv: no row of conversations is left: 5 of 5 rows left out, 2 have no text, "),
        "{nothing}"
    );
}

#[test]
fn a_source_of_which_nothing_is_left_is_reported_without_the_others_that_share_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["a.jsonl", "b.jsonl"].map(|name| dir.path().join(name));
    std::fs::write(&one, "{\"q\":\"a\",\"a\":\"b\"}\n{\"q\":\"\",\"a\":\"b\"}\n").unwrap();
    std::fs::write(&other, "{\"q\":\"a\",\"a\":\"\"}\n{\"q\":\"a\"}\n").unwrap();
    let options = ReadOptions::new(&skipping());
    let [first, second] =
        [&one, &other].map(|path| rows(std::slice::from_ref(path), Kind::Conversations, &options));
    assert_eq!(first.filter(Result::is_ok).count(), 1);
    let found = { second }.find_map(Result::err).unwrap().to_string();
    let expected = "b.jsonl: no row of conversations is left: 2 of 2 rows left out, 1 have no text, no question or an \
                    empty answer, 1 cannot be read; the first bad row: ";
    assert!(found.contains(expected), "{found}");
}

fn error_of(path: &Path, config: DataConfig) -> String {
    read_files(&[path.to_path_buf()], Kind::Conversations, &config).2.unwrap()
}

#[test]
fn turns_after_the_last_answer_are_cut_and_counted() {
    let lines = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"thanks"}]}"#;
    let (rows, report, _) = read_as(Kind::Conversations, "a.jsonl", lines.as_bytes(), BadRow::Error);
    assert_eq!(rows, [chat(&[("user", "q"), ("assistant", "a")])]);
    assert_eq!((report.unanswered, report.left_out()), (1, 0));
    assert_eq!(
        report.notices("sft")[0].to_string(),
        "sft: 1 of 1 rows cut after their last answer: the turns that follow have no answer"
    );
    let Some(data) = shared("data/sft/sft_conversations.jsonl") else {
        return;
    };
    assert_eq!(read_files(&[data], Kind::Conversations, &DataConfig::default()).1.unanswered, 6);
}

#[test]
fn small_inputs_that_went_wrong_are_used_or_refused() {
    let expected = [("system", "SYS"), ("user", "a"), ("assistant", "b"), ("user", "c")];
    let folder = "06_turns_and_keys_dropped";
    for (kind, file, row) in [
        (Kind::Preferences, "dpo_history.jsonl", preference(&expected, "d", "e")),
        (Kind::Preferences, "dpo_prompt_multi.jsonl", preference(&expected[1..], "d", "e")),
        (Kind::Conversations, "sft_alpaca.jsonl", chat(&[&expected[..], &[("assistant", "d")]].concat())),
        (Kind::Conversations, "sft_sharegpt.jsonl", chat(&expected[..3])),
    ] {
        let Some((rows, _, error)) = case(kind, &format!("{folder}/{file}")) else {
            return;
        };
        assert_eq!((rows, error.as_str()), (vec![row], ""), "{file}");
    }
    for (kind, file, expected) in [
        (
            Kind::Conversations,
            "06_turns_and_keys_dropped/sft_history.csv",
            "sft_history.csv:2: history[0] has 1 elements",
        ),
        (
            Kind::Conversations,
            "04_assistant_without_question/sft.jsonl",
            "sft.jsonl:1: \"conversations\"[0] is an answer without a question",
        ),
        (
            Kind::Conversations,
            "04_assistant_without_question/sysmid.jsonl",
            "sysmid.jsonl:1: \"conversations\"[1] is a system text that is not the first turn",
        ),
        (
            Kind::Pretrain,
            "26_counts/allempty.jsonl",
            "allempty.jsonl: no row of pretraining text is left: 2 of 2 rows left out, 2 have no text",
        ),
        (
            Kind::Conversations,
            "26_counts/emptyans.csv",
            "emptyans.csv: no row of conversations is left: 2 of 2 rows left out, 2 have no text",
        ),
    ] {
        let (_, _, error) = case(kind, file).unwrap();
        assert!(error.starts_with(expected), "{error}\nwhere expected\n{expected}");
    }
    let (rows, report, _) = case(Kind::Pretrain, "26_counts/pre.jsonl").unwrap();
    assert_eq!((rows.len(), report.bad), (10, 0), "stops at the first bad row");
    let path = shared("cases/26_counts").unwrap();
    let (rows, report, error) = read_files(&[path.join("pre.jsonl")], Kind::Pretrain, &skipping());
    assert_eq!((rows.len(), report.bad, report.rows(), error), (10, 90, 100, None));
    let (rows, report, error) = read_files(&[path.join("empty.csv")], Kind::Pretrain, &skipping());
    assert_eq!((rows, report.empty, report.rows(), error), (texts(&["b"]), 2, 3, None));
}
