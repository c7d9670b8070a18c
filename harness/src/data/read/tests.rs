//! What readers accept and how they say no.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::shared;
use proptest::prelude::*;
use std::io::Write;

fn read_with(files: &[PathBuf], kind: Kind, config: &DataConfig) -> Result<Vec<Row>> {
    rows(files, kind, &ReadOptions::new(config)).collect()
}

fn read(name: &str, content: &[u8], kind: Kind) -> std::result::Result<Vec<Row>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    let rows = read_with(&[path], kind, &DataConfig::default());
    rows.map_err(|e| format!("{e:#}").replace(&format!("{}/", dir.path().display()), ""))
}

fn chat(turns: &[(&str, &str)]) -> Row {
    Row::Chat(turns.iter().map(|(role, text)| Message::new(role, *text)).collect())
}

#[test]
fn every_layout_is_read() {
    let text = |t: &str| vec![Row::Text(t.into())];
    assert_eq!(read("a.jsonl", "{\"text\": \"你\\n好\"}\n\n".as_bytes(), Kind::Pretrain), Ok(text("你\n好")));
    assert_eq!(
        read("a.csv", b"id,text\r\n1,\"a,\"\"b\"\"\r\nc\"\r\n", Kind::Pretrain),
        Ok(text("a,\"b\"\r\nc"))
    );
    let paragraphs = vec![Row::Text("one\ntwo".into()), Row::Text("three".into())];
    assert_eq!(read("a.txt", b"\none\ntwo\n\n\nthree\n", Kind::Pretrain), Ok(paragraphs));
    let asked = |q: &str, a: &str| vec![chat(&[("user", q), ("assistant", a)])];
    assert_eq!(read("a.csv", b"history,q,a\n[],q,a\n", Kind::Conversations), Ok(asked("q", "a")));
    let alpaca = br#"[ {"instruction": "i", "input": "x", "output": "]o"} ,
        {"instruction": "i", "output": "p"}]"#;
    assert_eq!(
        read("a.json", alpaca, Kind::Conversations),
        Ok([asked("i\nx", "]o"), asked("i", "p")].concat())
    );
    let shared_gpt =
        br#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;
    assert_eq!(read("a.jsonl", shared_gpt, Kind::Conversations), Ok(asked("q", "a")));
    let pair = vec![Row::Preference {
        prompt: vec![Message::new("user", "p")],
        chosen: "c".into(),
        rejected: "r".into(),
    }];
    assert_eq!(
        read("a.json", br#"[{"prompt": "p", "chosen": "c", "rejected": "r"}]"#, Kind::Preferences),
        Ok(pair.clone())
    );
    let lists = br#"{"chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
        "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]}"#;
    let one_line: Vec<u8> = lists.iter().copied().filter(|b| *b != b'\n').collect();
    assert_eq!(read("a.jsonl", &one_line, Kind::Preferences), Ok(pair));
}

#[test]
fn packed_files_equal_plain_ones() {
    let plain = "{\"text\": \"春\"}\n{\"text\": \"秋\"}\n".as_bytes();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(plain).unwrap();
    let want = read("a.jsonl", plain, Kind::Pretrain);
    assert_eq!(read("a.jsonl.gz", &gzip.finish().unwrap(), Kind::Pretrain), want);
    assert_eq!(read("a.jsonl.zst", &zstd::encode_all(plain, 1).unwrap(), Kind::Pretrain), want);
    assert!(read("a.jsonl.gz", plain, Kind::Pretrain).unwrap_err().contains("cannot be read"));
}

#[test]
fn histories_are_parsed_not_executed() {
    let parsed = |cell: &str| history(cell).map_err(|e| e.to_string());
    let pair = |q: &str, a: &str| vec![q.to_string(), a.to_string()];
    assert_eq!(parsed(""), Ok(vec![]));
    assert_eq!(parsed("[]"), Ok(vec![]));
    assert_eq!(parsed(r#"[["a\"b", "你\u4f60\n"]]"#), Ok(vec![pair("a\"b", "你你\n")]));
    assert_eq!(parsed("[['it\\'s', \"b\"], ('c', 'd'),]"), Ok(vec![pair("it's", "b"), pair("c", "d")]));
    assert_eq!(parsed("['ab', 'cd']"), Ok(vec![pair("a", "b"), pair("c", "d")]));
    assert!(parsed("__import__('os')").unwrap_err().contains("unexpected"));
    assert!(parsed("[['a', 'b'").unwrap_err().contains("ends in the middle"));
    assert!(parsed(&"[".repeat(1000)).unwrap_err().contains("nested deeper"));
}

#[test]
fn bad_rows_say_where_and_what() {
    let error = |name: &str, content: &[u8], kind| read(name, content, kind).unwrap_err();
    let half = error("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b", Kind::Pretrain);
    assert!(half.starts_with("a.jsonl:2: not JSON: EOF"), "{half}");
    assert!(half.ends_with("mend the row or set data.on_bad_row = \"skip\""), "{half}");
    let utf8 = error("a.jsonl", b"{\"text\": \"a\"}\n\xff\n", Kind::Pretrain);
    assert!(utf8.starts_with("a.jsonl:2: not UTF-8"), "{utf8}");
    let keys = error("a.jsonl", b"{\"txt\": \"a\"}\n", Kind::Pretrain);
    assert!(keys.starts_with("a.jsonl:1: has the keys [\"txt\"], expected JSONL {\"text\"}"), "{keys}");
    let columns = error("a.csv", b"q,a\n1,2\n", Kind::Conversations);
    assert!(
        columns.starts_with("a.csv: has the columns [\"q\", \"a\"], expected CSV history,q,a"),
        "{columns}"
    );
    let cells = error("a.csv", b"history,q,a\n[],2\n", Kind::Conversations);
    assert!(cells.starts_with("a.csv:2: has 2 cells, expected 3"), "{cells}");
    assert!(error("a.jsonl", b"", Kind::Pretrain).starts_with("a.jsonl: is empty"));
    assert!(error("a.parquet", b"x", Kind::Pretrain).starts_with("a.parquet: expected JSONL"));
    let cut = error("a.json", b"[{\"prompt\": \"p\"", Kind::Preferences);
    assert!(cut.starts_with("a.json:1: the file ends in the middle of its array"), "{cut}");
}

#[test]
fn bad_rows_are_counted_where_they_may_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, b"{\"text\": \"a\"}\n{\n\xff\n{\"text\": \"b\"}\n").unwrap();
    let options = ReadOptions::new(&DataConfig { on_bad_row: BadRow::Skip, ..DataConfig::default() });
    let files = [path];
    let kept: Vec<Row> = rows(&files, Kind::Pretrain, &options).collect::<Result<_>>().unwrap();
    assert_eq!(kept, [Row::Text("a".into()), Row::Text("b".into())]);
    let (count, listed) = options.skipped.summary();
    assert_eq!(count, 2);
    assert!(listed[1].ends_with("a.jsonl:3: not UTF-8"), "{listed:?}");
}

#[test]
fn filters_leave_rows_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, "{\"text\":\"你好\"}\n{\"text\":\"你好吗朋友\"}\n{\"text\":\"hi 你\"}\n").unwrap();
    let kept =
        |config: DataConfig| read_with(std::slice::from_ref(&path), Kind::Pretrain, &config).unwrap().len();
    assert_eq!(kept(DataConfig { min_chars: 3, ..DataConfig::default() }), 2);
    assert_eq!(kept(DataConfig { max_chars: 4, ..DataConfig::default() }), 2);
    assert_eq!(kept(DataConfig { min_chinese_share: 0.5, ..DataConfig::default() }), 2);
    assert_eq!(kept(DataConfig { max_rows: 1, ..DataConfig::default() }), 1);
}

#[test]
fn real_files_have_the_rows_they_say() {
    for (file, kind, want) in [
        ("pretrain/pretrain-00.jsonl", Kind::Pretrain, None),
        ("sft/sft_data_single.csv", Kind::Conversations, Some(21_183)),
        ("sft/sft_conversations.jsonl", Kind::Conversations, Some(990)),
        ("dpo/train_data.json", Kind::Preferences, Some(798)),
        ("dpo/dpo.jsonl", Kind::Preferences, Some(798)),
    ] {
        let Some(path) = shared(&format!("data/{file}")) else { return };
        let rows = read_with(&[path], kind, &DataConfig::default()).unwrap();
        assert_eq!(want.unwrap_or(rows.len()), rows.len(), "{file}");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_a_reader(content in prop::collection::vec(any::<u8>(), 1..200), layout in 0..6usize) {
        let (name, kind) = [
            ("a.jsonl", Kind::Pretrain), ("a.txt", Kind::Pretrain), ("a.csv", Kind::Conversations),
            ("a.json", Kind::Preferences), ("a.jsonl.gz", Kind::Pretrain), ("a.csv.zst", Kind::Pretrain),
        ][layout];
        let _ = read(name, &content, kind);
    }

    #[test]
    fn no_cell_breaks_the_history_parser(cell in "[\\[\\]()'\"\\\\nux0-9a-f, ]{0,40}") {
        let _ = history(&cell);
    }
}
