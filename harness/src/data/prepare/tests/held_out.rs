//! Held-out rows: by share, from validation files, and by named set.

use super::*;

/// Makes a part of texts.
fn part(name: Option<&str>, is_held_out: bool, texts: &[String]) -> Part<'static> {
    let rows: Vec<Result<Row>> = texts.iter().cloned().map(Row::Text).map(Ok).collect();
    let key = format!("data.{}", name.unwrap_or("val"));
    Part { key, name: name.map(Into::into), is_held_out, rows: Box::new(rows.into_iter()) }
}

#[test]
fn where_nothing_is_held_out_it_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = small();
    for (share, expected) in [
        (0.01, vec!["x: 0 of 1 rows held out (data.val_share = 0.01): there is no validation loss"]),
        (0.0, vec![]),
    ] {
        let row = Row::Text("山".into());
        let out = dir.path().join(share.to_string());
        fs::create_dir(&out).unwrap();
        let prepared = from_rows(vec![row], Kind::Pretrain, share, &tokenizer, &out);
        let (config, log) = (held_out(share), ReadLog::default());
        let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &log);
        let notices: Vec<String> =
            prepared.notices("x", &preparation).iter().map(ToString::to_string).collect();
        assert_eq!(notices, expected);
    }
}

fn parted(parts: Vec<Part>, val_share: f64, dir: &Path) -> Result<Prepared> {
    let (log, stop, tokenizer, config) =
        (ReadLog::default(), AtomicBool::new(false), small(), held_out(val_share));
    let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &log);
    prepare(parts, &preparation, &dir.join("data"), &stop, &|_| ())
}

fn numbered(word: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|i| format!("{word} {i}")).collect()
}

#[test]
fn validation_files_take_the_place_of_the_share_and_rows_in_both_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let parts = vec![
        part(Some("code"), true, &numbered("code", 0..3)),
        part(
            Some("wiki"),
            true,
            &[numbered("text", 0..3), numbered("text", 0..1), numbered("wiki", 0..6)].concat(),
        ),
        part(None, false, &numbered("text", 0..50)),
    ];
    let prepared = parted(parts, 0.5, dir.path()).unwrap();
    assert_eq!((prepared.train_rows, prepared.val_rows), (50, 13));
    let overlap = |set: &str, rows, of| Overlap { set: set.into(), rows, of, equal: 0 };
    // The first text appears twice in the set, and both count.
    assert_eq!(prepared.overlaps, [overlap("code", 0, 3), overlap("wiki", 4, 10)]);
    let (log, tokenizer, config) = (ReadLog::default(), small(), held_out(0.5));
    let notices = prepared.notices("pretrain", &Preparation::new(Kind::Pretrain, &tokenizer, &config, &log));
    let notices: Vec<String> = notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "pretrain: 13 of 63 rows are for validation, too few to compare models by their losses; give more of them",
            "pretrain, held out (wiki): 4 of 10 validation rows also occur in the training rows"
        ]
    );
    let (train, val) = (store(dir.path(), "train"), store(dir.path(), "val"));
    assert_eq!((train.len(), train.info().ranges()), (50, vec![]));
    assert_eq!(val.info().ranges(), [("code", 0..3), ("wiki", 3..13)]);
}

#[test]
fn a_share_is_held_out_of_every_source_and_is_its_own_set() {
    let dir = tempfile::tempdir().unwrap();
    let parts = || {
        vec![
            part(Some("books"), false, &numbered("book", 0..100)),
            part(Some("web"), false, &numbered("web", 0..200)),
        ]
    };
    let prepared = parted(parts(), 0.2, dir.path()).unwrap();
    let (train, val) = (store(dir.path(), "train"), store(dir.path(), "val"));
    for (name, rows) in [("books", 100), ("web", 200)] {
        let documents = |store: &Store| {
            let range = store.info().ranges().into_iter().find(|(of, _)| *of == name).unwrap().1;
            range.len()
        };
        assert_eq!(documents(&train) + documents(&val), rows);
        assert!((rows / 10..rows * 3 / 10).contains(&documents(&val)), "{}", documents(&val));
    }
    assert_eq!(prepared.overlaps, []);
    // The same rows in a single list give the same documents in the same order.
    let one = tempfile::tempdir().unwrap();
    let texts = [numbered("book", 0..100), numbered("web", 0..200)].concat();
    parted(vec![part(None, false, &texts)], 0.2, one.path()).unwrap();
    for side in ["train", "val"] {
        assert_eq!(store(one.path(), side).info().sha256, store(dir.path(), side).info().sha256);
    }
    parted(parts(), 0.0, one.path()).unwrap();
    assert_eq!(store(one.path(), "val").info().ranges(), []);
}

#[test]
fn sources_and_sets_without_rows_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let error = |parts| parted(parts, 0.1, dir.path()).unwrap_err().to_string();
    let full = || part(Some("full"), false, &numbered("a", 0..20));
    assert_eq!(
        error(vec![part(Some("wiki"), true, &[]), full()]),
        "data.wiki: no pretraining text to validate on"
    );
    assert_eq!(error(vec![part(None, true, &[]), full()]), "data.val: no pretraining text to validate on");
    assert_eq!(
        error(vec![full(), part(Some("web"), false, &[])]),
        "data.web: no pretraining text to train on"
    );
}
