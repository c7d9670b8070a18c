#![allow(clippy::unwrap_used)]

use super::report::LISTED;
use super::*;
use crate::data::row::Message;
use crate::testing::shared;
use proptest::prelude::*;
use std::io::Write;
use std::path::Path;

/// Returns the rows, the report and the error of one file.
fn read_as(
    kind: Kind,
    name: &str,
    bytes: &[u8],
    on_bad_row: BadRow,
) -> (Vec<Row>, ReadReport, Option<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let config = DataConfig { on_bad_row, ..DataConfig::default() };
    let (rows, report, error) = read_files(&[path], kind, &config);
    (rows, report, error.map(|error| error.replace(&format!("{}/", dir.path().display()), "")))
}

fn read_files(files: &[PathBuf], kind: Kind, config: &DataConfig) -> (Vec<Row>, ReadReport, Option<String>) {
    let options = ReadOptions::new(config);
    let (mut good, mut error) = (Vec::new(), None);
    for row in rows(files, kind, &options) {
        match row {
            Ok(row) => good.push(row),
            Err(found) => error = Some(format!("{found:#}")),
        }
    }
    (good, options.log.report(), error)
}

fn skipping() -> DataConfig {
    DataConfig { on_bad_row: BadRow::Skip, unknown_keys: UnknownKeys::Ignore, ..DataConfig::default() }
}

fn good(kind: Kind, name: &str, bytes: &[u8]) -> Vec<Row> {
    let (rows, _, error) = read_as(kind, name, bytes, BadRow::Error);
    assert_eq!(error, None, "{name}");
    rows
}

fn error(kind: Kind, name: &str, bytes: &[u8]) -> String {
    read_as(kind, name, bytes, BadRow::Error).2.unwrap()
}

fn texts(texts: &[&str]) -> Vec<Row> {
    texts.iter().map(|text| Row::Text(text.to_string())).collect()
}

fn chat(turns: &[(&str, &str)]) -> Row {
    Row::Chat(turns.iter().map(|(role, content)| Message::new(role, *content)).collect())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn every_layout_of_text_reads_the_same() {
    let expected = texts(&["第一段", "two, \"quoted\"\nlines"]);
    let lines = "{\"text\":\"第一段\"}\r\n\n{\"text\":\"two, \\\"quoted\\\"\\nlines\",\"more\":null}";
    let array = "[\n {\"text\":\"第一段\"}\n,{\"text\":\"two, \\\"quoted\\\"\\nlines\"} ]\n";
    let csv = "id,text\r\n,第一段\r\n ,\"two, \"\"quoted\"\"\nlines\"\r\n";
    let plain = "第一段\r\n\r\n \n\ntwo, \"quoted\"\nlines\n\n";
    for (name, content) in
        [("a.jsonl", lines), ("a.json", lines), ("a.json", array), ("a.csv", csv), ("a.txt", plain)]
    {
        assert_eq!(good(Kind::Pretrain, name, content.as_bytes()), expected, "{name}");
        let marked = format!("\u{feff}{content}");
        assert_eq!(good(Kind::Pretrain, name, marked.as_bytes()), expected, "{name}, byte order mark");
        assert_eq!(good(Kind::Pretrain, &format!("{name}.gz"), &gzip(content.as_bytes())), expected);
        assert_eq!(good(Kind::Pretrain, &format!("{name}.zst"), &zstd(content.as_bytes())), expected);
    }
}

#[test]
fn the_layout_found_is_reported() {
    let layout =
        |kind, name: &str, bytes: &[u8]| read_as(kind, name, bytes, BadRow::Error).1.files[0].layout.clone();
    assert_eq!(
        layout(Kind::Pretrain, "a.jsonl.gz", &gzip(b"{\"text\":\"x\"}")),
        "JSON lines of {text}, gzip"
    );
    assert_eq!(layout(Kind::Conversations, "a.csv", b"history,q,a\n[],x,y\n"), "CSV of {history, q, a}");
    let pair = br#"[{"prompt":"p","chosen":"c","rejected":"r"}]"#;
    assert_eq!(layout(Kind::Preferences, "a.json", pair), "JSON array of {prompt, chosen, rejected}");
}

#[test]
fn every_layout_of_conversations_reads_the_same() {
    let expected =
        vec![chat(&[("user", "问1"), ("assistant", "答1"), ("user", "问2"), ("assistant", "答2")])];
    let csv = "history,q,a\r\n\"[['问1', '答1']]\",问2,答2\r\n";
    let json_history = "history,q,a\n\"[[\"\"问1\"\",\"\"答1\"\"]]\",问2,答2";
    let roles = r#"{"conversations":[{"role":"user","content":"问1"},{"role":"assistant","content":"答1"},
        {"role":"user","content":"问2"},{"role":"assistant","content":"答2"},{"role":"user","content":"谢谢"}]}"#
        .replace('\n', " ");
    let sharegpt = r#"{"id":"","conversations":[{"from":"human","value":"问1"},{"from":"gpt","value":"答1"},{"from":"human","value":"问2"},{"from":"gpt","value":"答2"}]}"#;
    let messages = roles.replace("conversations", "messages");
    for (name, content) in [
        ("a.csv", csv),
        ("b.csv", json_history),
        ("c.jsonl", &roles),
        ("d.jsonl", sharegpt),
        ("e.jsonl", &messages),
        ("f.json", &format!("[{roles}]")),
    ] {
        assert_eq!(good(Kind::Conversations, name, content.as_bytes()), expected, "{name}");
    }
    let alpaca = r#"[{"instruction":"译","input":"hello","output":"你好"},{"instruction":"说","input":"","output":"好"}]"#;
    assert_eq!(
        good(Kind::Conversations, "a.json", alpaca.as_bytes()),
        [chat(&[("user", "译\nhello"), ("assistant", "你好")]), chat(&[("user", "说"), ("assistant", "好")])]
    );
}

#[test]
fn both_layouts_of_preferences_read_the_same() {
    let expected = vec![Row::Preference {
        prompt: vec![Message::new("user", "问")],
        chosen: "好".into(),
        rejected: "坏".into(),
    }];
    let array = "[\n {\n  \"prompt\": \"问\",\n  \"chosen\": \"好\",\n  \"rejected\": \"坏\"\n }\n]";
    let turns = r#"{"chosen":[{"role":"user","content":"问"},{"role":"assistant","content":"好"}],"rejected":[{"role":"user","content":"问"},{"role":"assistant","content":"坏"}]}"#;
    assert_eq!(good(Kind::Preferences, "a.json", array.as_bytes()), expected);
    assert_eq!(good(Kind::Preferences, "a.jsonl", turns.as_bytes()), expected);
    assert_eq!(good(Kind::Preferences, "a.csv", "prompt,chosen,rejected\n问,好,坏\n".as_bytes()), expected);
}

#[test]
fn cells_are_text_as_they_stand() {
    // MINIMIND_V1, quirk 21: pandas turns the first two into "nan", and others into numbers.
    let csv = "text\nNA\nnull\n007\n3.50\nTrue\n";
    assert_eq!(good(Kind::Pretrain, "a.csv", csv.as_bytes()), texts(&["NA", "null", "007", "3.50", "True"]));
}

#[test]
fn bad_rows_are_named_by_file_line_and_reason() {
    let long = "{\"text\":\"fine\"}\n{\"text\":\"hal";
    for (kind, name, content, expected) in [
        (Kind::Pretrain, "half.jsonl", long.as_bytes(), "half.jsonl:2: is not valid JSON"),
        (Kind::Pretrain, "utf8.jsonl", b"{\"text\":\"a\"}\n\n{\"text\":\"\xff\"}", "utf8.jsonl:3: is not UTF-8 from byte 10"),
        (Kind::Pretrain, "utf8.csv", b"id,text\n,fine\n,a\xe4\xbd\n", "utf8.csv:3: the cell \"text\" is not UTF-8 from its byte 2 on"),
        (Kind::Pretrain, "utf8.txt", b"fine\n\n\xe4\xbd\n", "utf8.txt:3: is not UTF-8"),
        (Kind::Pretrain, "type.jsonl", b"{\"text\":1}", "type.jsonl:1: \"text\" is a number, expected a text"),
        (Kind::Pretrain, "key.jsonl", b"{\"text\":\"a\"}\n{\"txt\":1}", "key.jsonl:2: has no \"text\", expected a text; found txt"),
        (Kind::Pretrain, "first.jsonl", b"{\"txt\":1}", "first.jsonl:1: has the keys txt; for pretraining text expected text, or conversations, or messages; did you mean text?"),
        (Kind::Conversations, "first.jsonl", b"{\"q\":1}", "first.jsonl:1: has the keys q; for conversations expected conversations, or messages, or instruction,output with or without input, or q,a with or without history"),
        (Kind::Pretrain, "line.jsonl", b"{\"text\":\"a\"}\n[\"x\"]", "line.jsonl:2: is a list, expected an object"),
        (Kind::Pretrain, "array.jsonl", b"[\"x\"]", "array.jsonl:1: a row of the array is a text, expected an object"),
        (Kind::Pretrain, "list.jsonl", b"{\"text\":\"a\"}\n3", "list.jsonl:2: is a number, expected an object"),
        (Kind::Pretrain, "keys.jsonl", b"{\"content\":1}", "keys.jsonl:1: has the keys content; for pretraining text expected text"),
        (Kind::Pretrain, "wide.csv", b"text,b\n1,\n1,2,3\n", "wide.csv:3: has 3 cells, expected 2 (text,b)"),
        (Kind::Pretrain, "open.csv", b"text\nfine\n\"never\nclosed\n", "open.csv:3: a quoted cell is never closed"),
        (Kind::Pretrain, "crlf.csv", b"text,b\r\n1,\r\n\r\n\"3\r\n4\",\r\n6\r\n", "crlf.csv:6: has 1 cells"),
        (Kind::Pretrain, "swallow.csv", b"id,text\n1,\"open\n2,x\n3,\"y\"\n", "swallow.csv:2: text after a closing quote"),
        (Kind::Pretrain, "cut.json", b"[{\"text\":\"a\"},\n{\"text\":\"b", "cut.json:2: the file ends within this row"),
        (Kind::Pretrain, "end.json", b"[{\"text\":\"a\"}\n", "end.json:2: the file ends before the array's closing bracket"),
        (Kind::Pretrain, "two.json", b"[{\"text\":\"a\"}]\n[]", "two.json:2: has text after"),
        (Kind::Conversations, "h.csv", b"history,q,a\n\"[['x'\",q,a\n", "h.csv:2: history: ends without ',' or ']'; expected a list"),
        (Kind::Conversations, "role.jsonl", br#"{"messages":[{"role":"tool","content":""}]}"#, "role.jsonl:1: \"messages\"[0]: the role is \"tool\", but tool calls"),
        (Kind::Conversations, "none.jsonl", br#"{"messages":[{"role":"user","content":""}]}"#, "none.jsonl:1: \"messages\" has no assistant turn"),
        (Kind::Conversations, "str.jsonl", br#"{"messages":"hi"}"#, "str.jsonl:1: \"messages\" is a text, expected a list"),
        (Kind::Preferences, "p.jsonl", br#"{"chosen":[{"role":"assistant","content":"c"}],"rejected":[{"role":"assistant","content":"c"}]}"#, "p.jsonl:1: has no \"prompt\", expected the question that \"chosen\" and \"rejected\" answer, or whole conversations in both; fix"),
        (Kind::Preferences, "q.jsonl", br#"{"question":"q","chosen":"c","rejected":"r"}"#, "q.jsonl:1: has no \"prompt\", expected the question that \"chosen\" and \"rejected\" answer, or whole conversations in both; found \"question\", which is not used; fix"),
        (Kind::Preferences, "a.jsonl", br#"{"instruction":"q","input":"","id":7,"chosen":"c","rejected":"r"}"#, "a.jsonl:1: has no \"prompt\", expected the question that \"chosen\" and \"rejected\" answer, or whole conversations in both; found \"instruction\", \"id\", which are not used; fix"),
        (Kind::Preferences, "k.jsonl", br#"{"prompt":"q","chosen":"a"}"#, "k.jsonl:1: has the keys prompt,chosen; for preference pairs expected prompt,chosen,rejected; fix"),
        (Kind::Preferences, "k.jsonl", br#"{"promt":"q","chosen":"a"}"#, "k.jsonl:1: has the keys promt,chosen; for preference pairs expected prompt,chosen,rejected; did you mean prompt?; fix"),
    ] {
        let found = error(kind, name, content);
        assert!(found.starts_with(expected), "{found}\nwhere expected\n{expected}");
        assert!(found.ends_with("fix the row or set data.on_bad_row = \"skip\""), "{found}");
    }
}

#[test]
fn a_message_advises_what_there_is_where_rows_are_read() {
    let problem = |content: &str, advice: Advice| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        let options = ReadOptions::new(&DataConfig::default()).advising(advice);
        let error = rows(&[path], Kind::Pretrain, &options).find_map(Result::err).unwrap().to_string();
        error.rsplit("; ").next().unwrap().to_string()
    };
    let (bad, unused) = ("3", "{\"text\":\"a\",\"b\":1}");
    assert_eq!(problem(bad, Advice::OPTIONS), "fix the row or skip such rows with --skip-bad-rows");
    assert_eq!(
        problem(unused, Advice::OPTIONS),
        "rename or remove it, or ignore it with --ignore-unknown-keys"
    );
    assert_eq!(problem(bad, Advice::NONE), "fix the row");
    assert_eq!(problem(unused, Advice::NONE), "rename or remove it");
    assert_eq!(
        problem(unused, Advice::KEYS),
        "rename or remove it, or ignore it with data.unknown_keys = \"ignore\""
    );
}

#[test]
fn bad_rows_can_be_skipped_and_are_counted_and_listed() {
    let lines = "{\"text\":\"a\"}\n{\"text\":\n{\"text\":\"b\"}\nxyz\n";
    let (rows, report, error) = read_as(Kind::Pretrain, "a.jsonl", lines.as_bytes(), BadRow::Skip);
    assert_eq!((rows, error), (texts(&["a", "b"]), None));
    assert_eq!((report.files[0].rows, report.bad), (2, 2));
    assert_eq!(report.problems.len(), 2);
    assert!(report.problems[0].contains("a.jsonl:2: is not valid JSON"), "{:?}", report.problems);
    let mut many = b"{\"text\":\"a\"}\n".to_vec();
    many.extend(b"bad\n".repeat(50));
    let report = read_as(Kind::Pretrain, "a.jsonl", &many, BadRow::Skip).1;
    assert_eq!((report.bad, report.problems.len()), (50, LISTED));
    let array = "[{\"text\":\"a\"}, {\"text\": oops}, {\"text\":\"b\"}]";
    assert_eq!(read_as(Kind::Pretrain, "a.json", array.as_bytes(), BadRow::Skip).0, texts(&["a", "b"]));
}

#[test]
fn files_that_cannot_serve_are_refused_whole() {
    for (kind, name, content, expected) in [
        (Kind::Pretrain, "empty.jsonl", &b""[..], "empty.jsonl: the file is empty"),
        (Kind::Pretrain, "blank.jsonl", b"\n\n", "blank.jsonl: has no row of pretraining text"),
        (Kind::Pretrain, "header.csv", b"text\n", "header.csv: has no row"),
        (Kind::Pretrain, "empty.json", b"[]", "empty.json: has no row"),
        (
            Kind::Pretrain,
            "wrong.csv",
            b"a,b\n1,2\n",
            "wrong.csv: has the columns a,b; for pretraining text expected text",
        ),
        (
            Kind::Conversations,
            "wrong.csv",
            b"text\n1\n",
            "wrong.csv: has the columns text; for conversations expected q,a with or without history, or instruction,output with or without input",
        ),
        (
            Kind::Conversations,
            "turns.csv",
            b"conversations\n[]\n",
            "turns.csv: has the columns conversations; for conversations expected q,a with or without history, or instruction,output with or without input; lists of turns are read from JSON only",
        ),
        (Kind::Conversations, "a.txt", b"hello", "a.txt: is plain text, expected conversations"),
        (Kind::Pretrain, "a.parquet", b"PAR1...", "a.parquet: unknown file extension; expected .jsonl"),
        // The extension decides, regardless of the content.
        (Kind::Pretrain, "a.text", b"{\"text\":\"a\"}", "a.text: unknown file extension; expected .jsonl"),
        (
            Kind::Pretrain,
            "a.jsonl.gz",
            b"{\"text\":\"a\"}",
            "a.jsonl.gz: expected gzip by its extension, but its content is uncompressed; rename the file",
        ),
        (Kind::Pretrain, "wide.jsonl", b"\xff\xfe{\0", "wide.jsonl: is UTF-16"),
        // Without a byte order mark, in both byte orders.
        (Kind::Pretrain, "little.jsonl", b"{\0\"\0t\0", "little.jsonl: is UTF-16"),
        (Kind::Pretrain, "big.csv", b"\0t\0e\0x\0t", "big.csv: is UTF-16"),
    ] {
        let found = error(kind, name, content);
        assert!(found.starts_with(expected), "{found}\nwhere expected\n{expected}");
    }
    let missing = read_files(&["/nowhere/a.jsonl".into()], Kind::Pretrain, &skipping()).2.unwrap();
    assert!(missing.starts_with("/nowhere/a.jsonl: cannot be read"), "{missing}");
    let skipped = read_as(Kind::Pretrain, "a.jsonl", b"{\"q\":1}\n{\"q\":2}", BadRow::Skip).2.unwrap();
    assert!(skipped.contains("the first bad row was") && skipped.contains("has the keys q"), "{skipped}");
}

#[test]
fn a_truncated_archive_is_an_error_even_when_skipping() {
    let lines = "{\"text\":\"一二三四五六七八九十\"}\n".repeat(5000);
    for (name, mut bytes) in [("a.jsonl.gz", gzip(lines.as_bytes())), ("a.jsonl.zst", zstd(lines.as_bytes()))]
    {
        bytes.truncate(bytes.len() - 9);
        let found = read_as(Kind::Pretrain, name, &bytes, BadRow::Skip).2.unwrap();
        assert!(found.starts_with(name), "{found}");
        // If the first block is cut off, nothing can be read at all.
        let reasons = ["cannot be read further", "cannot be decompressed"];
        assert!(reasons.iter().any(|reasons| found.contains(reasons)), "{found}");
    }
}

#[test]
fn a_row_without_end_does_not_fill_the_memory() {
    let mut endless = b"{\"text\":\"".to_vec();
    endless.resize(MAX_ROW_BYTES + 100, b'a');
    let mut quoted = b"text\n\"".to_vec();
    quoted.resize(MAX_ROW_BYTES + (1 << 20), b'a');
    let array = [b"[", endless.as_slice()].concat();
    for (name, content) in [("a.jsonl", &endless), ("a.csv", &quoted), ("a.json", &array), ("a.txt", &quoted)]
    {
        let found = error(Kind::Pretrain, name, content);
        assert!(found.contains("a row is longer than 64 MiB"), "{name}: {found}");
    }
}

#[test]
fn max_rows_ends_the_reading() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["a.jsonl", "b.jsonl"].map(|name| dir.path().join(name)).into();
    for path in &paths {
        std::fs::write(path, "{\"text\":\"x\"}\n".repeat(4)).unwrap();
    }
    for (max_rows, expected, unread) in
        [(3, 3, &paths[..]), (4, 4, &paths[1..]), (5, 5, &paths[1..]), (8, 8, &[]), (0, 8, &[])]
    {
        let config = DataConfig { max_rows, ..DataConfig::default() };
        let (rows, report, error) = read_files(&paths, Kind::Pretrain, &config);
        assert_eq!((rows.len(), report.unread.as_slice(), error), (expected, unread, None), "{max_rows}");
        let notices: Vec<String> = report.notices("sft").iter().map(ToString::to_string).collect();
        let first = unread.first().map(|first| {
            format!(
                "sft: {} of 2 files not read to their end: data.max_rows = {max_rows}, {max_rows} rows read (the first: {})",
                unread.len(),
                first.display()
            )
        });
        assert_eq!(notices, Vec::from_iter(first));
    }
}

#[test]
fn filters_leave_rows_out_and_count_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let all = ["", "短", "中文的文本", "latin text", "一半half", "很长很长很长很长的文本"];
    let lines = all.map(|text| serde_json::json!({ "text": text }).to_string());
    std::fs::write(&path, lines.join("\n")).unwrap();
    let kept = |config: DataConfig| {
        let (rows, report, _) = read_files(std::slice::from_ref(&path), Kind::Pretrain, &config);
        assert_eq!((report.empty, report.files[0].rows), (1, 6));
        assert_eq!(report.filtered as usize, 5 - rows.len());
        rows
    };
    let base = DataConfig::default;
    assert_eq!(kept(base()), texts(&all[1..]));
    assert_eq!(kept(DataConfig { min_chars: 2, max_chars: 10, ..base() }), texts(&all[2..5]));
    assert_eq!(kept(DataConfig { min_chinese_share: 0.9, ..base() }), texts(&[all[1], all[2], all[5]]));
}

#[test]
fn turns_before_the_last_question_are_cut_to_characters() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    std::fs::write(&path, "history,q,a\n\"[['很长的问题','很长的回答']]\",最后的问题,最后的回答\n").unwrap();
    let config = DataConfig { history_chars: 2, ..DataConfig::default() };
    let rows = read_files(&[path], Kind::Conversations, &config).0;
    let turns =
        [("user", "很长"), ("assistant", "很长"), ("user", "最后的问题"), ("assistant", "最后的回答")];
    assert_eq!(rows, [chat(&turns)]);
}

#[test]
fn real_files_have_the_rows_that_their_source_names() {
    // Numbers of rows from SOURCES.md next to the data.
    for (kind, files, rows) in [
        (Kind::Pretrain, &["pretrain/pretrain-00.jsonl", "pretrain/pretrain-01.jsonl"][..], 60_971),
        (Kind::Conversations, &["sft/sft_data_single.csv"], 21_183),
        (Kind::Conversations, &["sft/sft_conversations.jsonl"], 990),
        (Kind::Preferences, &["dpo/train_data.json"], 798),
        (Kind::Preferences, &["dpo/dpo.jsonl"], 798),
    ] {
        let Some(data) = shared("data") else {
            return;
        };
        let paths: Vec<PathBuf> = files.iter().map(|file| data.join(file)).collect();
        let (found, report, error) = read_files(&paths, kind, &DataConfig::default());
        assert_eq!(error, None);
        // One conversation has turns of its user that are empty.
        assert_eq!(report.empty_questions, u64::from(files[0] == "sft/sft_conversations.jsonl"));
        assert_eq!((found.len(), report.files.len()), (rows, files.len()), "{files:?}");
    }
}

#[test]
fn both_real_preference_files_hold_the_same_pairs() {
    let Some(data) = shared("data/dpo") else {
        return;
    };
    let pairs = |name: &str| read_files(&[data.join(name)], Kind::Preferences, &DataConfig::default()).0;
    // Only the layout with messages can hold system texts: 148 of the pairs have one.
    let mut systems = 0;
    let without_system = |row: Row| match row {
        Row::Preference { mut prompt, chosen, rejected } => {
            let before = prompt.len();
            prompt.retain(|message| message.role != "system");
            systems += before - prompt.len();
            Row::Preference { prompt, chosen, rejected }
        }
        other => other,
    };
    let messages: Vec<Row> = pairs("dpo.jsonl").into_iter().map(without_system).collect();
    assert!(pairs("train_data.json") == messages, "the files differ");
    assert_eq!(systems, 148);
}

mod used;

fn never_panics(name: &str, bytes: &[u8], dir: &Path) {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    for kind in [Kind::Pretrain, Kind::Conversations, Kind::Preferences] {
        let (rows, report, _) = read_files(std::slice::from_ref(&path), kind, &skipping());
        let read: u64 = report.files.iter().map(|file| file.rows).sum();
        assert_eq!(rows.len() as u64 + report.empty + report.filtered, read);
    }
}

/// Generates bytes that resemble the layouts often enough to get past the first character.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "[",
            "]",
            "{",
            "}",
            "\"",
            "'",
            ",",
            ":",
            "\\",
            "\n",
            "\r\n",
            "text",
            "\"text\":",
            "history,q,a\n",
            "[['a','b']]",
            "{\"text\":\"a\"}",
            "{\"conversations\":[",
            "{\"role\":\"user\",\"content\":\"q\"}",
            "null",
            "你"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in bytes()) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "a.json", "a.csv", "a.txt", "a"] {
            never_panics(name, &bytes, dir.path());
        }
        never_panics("a.jsonl.gz", &[&[0x1f, 0x8b], bytes.as_slice()].concat(), dir.path());
        never_panics("a.csv.zst", &[&[0x28, 0xb5, 0x2f, 0xfd], bytes.as_slice()].concat(), dir.path());
    }

    #[test]
    fn arbitrary_histories_never_panic(cell in "\\PC{0,40}", pieces in bytes()) {
        for pairs in [Pairs::Exact, Pairs::Minimind] {
            let _ = history(&cell, pairs);
            let _ = history(&format!("[[{}", String::from_utf8_lossy(&pieces)), pairs);
        }
    }

    #[test]
    fn texts_survive_every_layout(texts in proptest::collection::vec("[^\u{feff}]{0,9}[a-z山水][^\u{feff}]{0,9}", 1..8)) {
        let expected: Vec<Row> = texts.iter().cloned().map(Row::Text).collect();
        let objects: Vec<String> = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
        prop_assert_eq!(&good(Kind::Pretrain, "a.jsonl", objects.join("\n").as_bytes()), &expected);
        prop_assert_eq!(&good(Kind::Pretrain, "a.json", format!("[{}]", objects.join(", ")).as_bytes()), &expected);
        let mut csv = ::csv::Writer::from_writer(Vec::new());
        csv.write_record(["text"]).unwrap();
        texts.iter().for_each(|text| csv.write_record([text]).unwrap());
        prop_assert_eq!(&good(Kind::Pretrain, "a.csv", &csv.into_inner().unwrap()), &expected);
    }
}
