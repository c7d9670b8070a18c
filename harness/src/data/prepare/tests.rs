#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::{AnswerLoss, DataConfig, Packing};
use crate::data::RowLoss;
use crate::data::batches::{BatchOptions, Batches, PreferenceBatches, sequential};
use crate::data::read::{Pairs, ReadOptions, history, rows};
use crate::data::store::Store;
use crate::stop::Stopped;
use crate::testing::shared;
use model::Sequence;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn minimind() -> Option<Tokenizer> {
    Some(Tokenizer::load(&shared("data/minimind_tokenizer")?).unwrap())
}

fn small() -> Tokenizer {
    Tokenizer::train(std::iter::once("从前有座山".to_owned()), 270).unwrap()
}

/// Prepares rows in the folder `data`.
fn made(
    rows: Vec<Row>,
    kind: Kind,
    config: &DataConfig,
    tokenizer: &Tokenizer,
    dir: &Path,
) -> Result<Prepared> {
    let (log, stop) = (ReadLog::default(), AtomicBool::new(false));
    let preparation = Preparation::new(kind, tokenizer, config, &log);
    prepare(Part::all(rows.into_iter().map(Ok)), &preparation, &dir.join("data"), &stop, &|_| ())
}

fn held_out(val_share: f64) -> DataConfig {
    DataConfig { val_share, ..DataConfig::default() }
}

fn from_rows(rows: Vec<Row>, kind: Kind, val_share: f64, tokenizer: &Tokenizer, dir: &Path) -> Prepared {
    made(rows, kind, &held_out(val_share), tokenizer, dir).unwrap()
}

fn store(dir: &Path, side: &str) -> Arc<Store> {
    Arc::new(Store::open(&dir.join("data").join(side)).unwrap())
}

/// Returns the rows of a store in its order, one document each.
fn single_rows(store: &Arc<Store>, seq_len: usize) -> Vec<Sequence> {
    let loss = RowLoss::of(store, AnswerLoss::Last);
    let options = BatchOptions { seq_len, packing: Packing::Single, loss, seed: 1, shares: None };
    sequential(store, 0..store.len(), &options, u64::MAX).0.into_iter().map(|(row, _)| row).collect()
}

fn matrix(tensors: &SafeTensors, name: &str, width: usize) -> Vec<Vec<u32>> {
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.shape(), [20, width]);
    let size = tensor.data().len() / (20 * width);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
    let numbers: Vec<u32> = tensor.data().chunks(size).map(number).collect();
    numbers.chunks(width).map(<[u32]>::to_vec).collect()
}

/// Compares our rows, padded with zeros, with X, Y and loss_mask of golden/dataset.
fn assert_golden(store: &Arc<Store>, name: &str, seq_len: usize) {
    let file = shared(&format!("golden/dataset/{name}_len{seq_len}.safetensors")).unwrap();
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let width = seq_len - 1;
    let [x, y, mask] = ["X", "Y", "loss_mask"].map(|name| matrix(&tensors, name, width));
    let rows = single_rows(store, seq_len);
    assert_eq!(rows.len(), 20);
    for (index, row) in rows.iter().enumerate() {
        let padded = |ids: &[u32]| {
            let mut ids = ids.to_vec();
            // If nothing was cut, MiniMind's X keeps the last id, at a position whose target is padding.
            ids.resize(width, 0);
            ids
        };
        let mut ids = padded(&row.ids);
        if row.len() < width {
            ids[row.len()] = *row.targets.last().unwrap();
        }
        assert_eq!(ids, x[index], "X of {name} row {index}");
        assert_eq!(padded(&row.targets), y[index], "Y of {name} row {index}");
        assert_eq!(row.counted as u32, mask[index].iter().sum::<u32>(), "mask of {name} row {index}");
        let weights: Vec<u32> = row.weights.iter().map(|&weight| weight as u32).collect();
        let ignoring_unknown =
            mask[index].iter().zip(&y[index]).map(|(&on, &id)| if id == 0 { 0 } else { on });
        assert_eq!(padded(&weights), ignoring_unknown.collect::<Vec<_>>(), "loss_mask of {name} row {index}");
    }
}

/// Returns the golden texts, and the golden conversations with the history truncated as for rows of `seq_len`.
fn golden_texts() -> Option<(Vec<Row>, impl Fn(usize) -> Vec<Row>)> {
    let meta = shared("golden/dataset/meta.json")?;
    let meta: Value = serde_json::from_slice(&fs::read(meta).unwrap()).unwrap();
    let cell = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let texts = meta["pretrain_columns_as_str"].as_array().unwrap();
    let texts: Vec<Row> = texts.iter().map(|row| Row::Text(cell(row, "text"))).collect();
    let chats = move |seq_len: usize| {
        let chat = |row: &Value| {
            // Row 9 has a history that no parser accepts; MiniMind ignores it, while our reader refuses the file.
            let mut messages = history(&cell(row, "history"), Pairs::Minimind).unwrap_or_default();
            for message in &mut messages {
                message.content = message.content.chars().take(seq_len / 2).collect();
            }
            messages.push(Message::new("user", cell(row, "q")));
            messages.push(Message::new("assistant", cell(row, "a")));
            Row::Chat(messages)
        };
        meta["sft_columns_as_str"].as_array().unwrap().iter().map(chat).collect()
    };
    Some((texts, chats))
}

fn minimind_config() -> DataConfig {
    DataConfig { rows: RowStyle::Minimind, ..held_out(0.0) }
}

#[test]
fn golden_rows_are_minimind_rows() {
    let (Some((texts, chats)), Some(tokenizer)) = (golden_texts(), minimind()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    made(texts, Kind::Pretrain, &minimind_config(), &tokenizer, dir.path()).unwrap();
    for seq_len in [96, 512] {
        assert_golden(&store(dir.path(), TRAIN), "pretrain", seq_len);
    }
    for seq_len in [96, 512] {
        made(chats(seq_len), Kind::Conversations, &minimind_config(), &tokenizer, dir.path()).unwrap();
        assert_golden(&store(dir.path(), TRAIN), "sft", seq_len);
    }
}

#[test]
fn golden_rows_by_turns_are_minimind_s_where_those_are_right() {
    let (Some((texts, chats)), Some(tokenizer)) = (golden_texts(), minimind()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let rows = |config: &DataConfig, rows: Vec<Row>, kind| {
        let prepared = made(rows, kind, config, &tokenizer, dir.path()).unwrap();
        (prepared, store(dir.path(), TRAIN))
    };
    let is_special = |row: &Row| row.texts().any(|text| tokenizer.spelled(text) > 0);
    let special = texts.iter().filter(|row| is_special(row)).count() as u64;
    let (prepared, v1) = rows(&minimind_config(), texts.clone(), Kind::Pretrain);
    let (by_turns, ours) = rows(&held_out(0.0), texts.clone(), Kind::Pretrain);
    assert_eq!((prepared.special, by_turns.special), (special, special));
    for (index, row) in texts.iter().enumerate() {
        assert_eq!(v1.document(index) == ours.document(index), !is_special(row), "{row:?}");
    }
    for seq_len in [96, 512] {
        let chats = chats(seq_len);
        let (prepared, v1) = rows(&minimind_config(), chats.clone(), Kind::Conversations);
        assert_eq!(prepared.special, 2);
        let v1 = single_rows(&v1, seq_len);
        let ours = rows(&held_out(0.0), chats, Kind::Conversations).1;
        // Rows 13 and 14 have a marker in their text; row 15 loses its answer to the cut.
        let ours = single_rows(&ours, seq_len);
        let expected: Vec<usize> = (0..20).filter(|row| *row != 15).collect();
        assert_eq!(ours.len(), expected.len());
        for (row, &index) in ours.iter().zip(&expected) {
            let whole = &v1[index];
            let on = |row: &Sequence| -> String {
                let on = row.targets.iter().zip(&row.weights).filter(|(_, weight)| **weight > 0.0);
                tokenizer.decode(&on.map(|(&id, _)| id).collect::<Vec<_>>(), false).unwrap()
            };
            match index {
                13 => assert_eq!(on(row), "\n真正的答案</s>\n"),
                14 => assert_eq!(on(row), "\n答案里有<s>assistant标记，之后才算</s>\n"),
                // The last answer is cut away: v1 also trains on the question after the previous answer.
                17 | 18 if seq_len == 96 => {
                    assert_eq!(row.ids, whole.ids);
                    let (ours, theirs) = (on(row), on(whole));
                    assert!(theirs.starts_with(&format!("{ours}<s>us")), "{ours} {theirs}");
                    assert!(ours.ends_with("</s>\n"));
                }
                _ => assert_eq!(row, whole, "row {index}"),
            }
        }
    }
}

#[test]
fn real_files_become_stores_whatever_the_threads() {
    let (Some(data), Some(tokenizer)) = (shared("data"), minimind()) else {
        return;
    };
    for (kind, file, count) in [
        (Kind::Pretrain, "pretrain/pretrain-00.jsonl", 4000),
        (Kind::Conversations, "sft/sft_conversations.jsonl", 990),
        (Kind::Preferences, "dpo/train_data.json", 798),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let files = [data.join(file)];
        let max_rows = if kind == Kind::Pretrain { 4000 } else { 0 };
        let config = DataConfig { max_rows, ..held_out(0.1) };
        let mut prepared = Vec::new();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (out, done) = (dir.path().join("data"), std::sync::Mutex::new(0));
            let options = ReadOptions::new(&config);
            let rows = rows(&files, kind, &options);
            let progress = |rows: u64| *done.lock().unwrap() = rows;
            let preparation = Preparation::new(kind, &tokenizer, &config, &options.log);
            let stop = AtomicBool::new(false);
            pool.install(|| prepare(Part::all(rows), &preparation, &out, &stop, &progress)).unwrap();
            assert_eq!(*done.lock().unwrap(), count);
            let sides = [TRAIN, VAL].map(|side| {
                let store = store(dir.path(), side);
                store.verify().unwrap();
                store.info().clone()
            });
            prepared.push(sides);
        }
        assert_eq!(prepared[0], prepared[1], "{file}");
        let per_row = if kind == Kind::Preferences { 2 } else { 1 };
        let [train, val] = prepared[0].each_ref().map(|info| info.documents / per_row);
        assert_eq!(train + val, count, "{file}");
        let share = val as f64 / count as f64;
        assert!((0.05..0.15).contains(&share), "{share} held out of {file}");
    }
}

#[test]
fn equal_texts_are_on_one_side_and_bytes_are_those_of_the_text() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let row = |n: usize| Row::Text(format!("第{}座山", n % 100));
    let prepared = from_rows((0..300).map(row).collect(), Kind::Pretrain, 0.3, &tokenizer, dir.path());
    // Of 100 texts with three rows each, 30 texts are expected, with a standard deviation of 4.6.
    assert!((60..120).contains(&prepared.val_rows), "{} held out", prepared.val_rows);
    assert_eq!(prepared.train_rows + prepared.val_rows, 300);
    let documents = |side: &str| {
        let store = store(dir.path(), side);
        (0..store.len()).map(|index| store.document(index)).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(documents(TRAIN).is_disjoint(&documents(VAL)));
    let store = store(dir.path(), VAL);
    for (index, row) in single_rows(&store, 512).iter().enumerate() {
        let text = tokenizer.decode(&store.document(index), true).unwrap();
        assert_eq!(u64::from(store.bytes(index)), text.len() as u64);
        assert_eq!(store.target_bytes(row), text.len() as u64);
    }
}

#[test]
fn a_conversation_has_loss_on_its_answers() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let turns = [("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")];
    let chat = Row::Chat(turns.map(|(role, content)| Message::new(role, content)).into());
    from_rows(vec![chat], Kind::Conversations, 0.0, &tokenizer, dir.path());
    let store = store(dir.path(), TRAIN);
    let under_loss = |answers| {
        let loss = RowLoss::of(&store, answers);
        let options = BatchOptions { seq_len: 512, packing: Packing::Separated, loss, seed: 1, shares: None };
        let mut batches = Batches::new(store.clone(), options).unwrap();
        let row = batches.next_batch(1).remove(0);
        assert_eq!(
            batches.row_sizes(0, None).iter().map(|size| size.tokens).collect::<Vec<_>>(),
            [row.counted as u64]
        );
        let ids =
            row.targets.iter().zip(&row.weights).filter(|(_, weight)| **weight > 0.0).map(|(&id, _)| id);
        tokenizer.decode(&ids.collect::<Vec<_>>(), false).unwrap()
    };
    assert_eq!(under_loss(AnswerLoss::Last), "\na2</s>\n");
    assert_eq!(under_loss(AnswerLoss::Every), "\na1</s>\n\na2</s>\n");
}

#[test]
fn a_preference_pair_is_prompt_and_answers_in_the_chat_template() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let pair = Row::Preference {
        prompt: vec![Message::new("user", "问")],
        chosen: "好".into(),
        rejected: "坏坏".into(),
    };
    let prepared = from_rows(vec![pair], Kind::Preferences, 0.0, &tokenizer, dir.path());
    assert_eq!(prepared.train_rows, 1);
    let store = store(dir.path(), TRAIN);
    assert_eq!([0, 1].map(|index| store.bytes(index)), [6, 9]);
    let pair = PreferenceBatches::new(&store, 512, 1, None).unwrap().pairs()[0].clone();
    for (row, answer) in [(&pair.chosen, "好"), (&pair.rejected, "坏坏")] {
        let mut ids = vec![row.ids[0]];
        ids.extend(&row.targets);
        assert_eq!(
            tokenizer.decode(&ids, false).unwrap(),
            format!("<s>user\n问</s>\n<s>assistant\n{answer}</s>\n")
        );
        let answer = tokenizer.encode(&format!("{answer}</s>\n")).unwrap();
        assert_eq!(row.counted as usize, answer.len());
        assert!(row.targets.ends_with(&answer));
    }
}

#[test]
fn a_failed_preparation_leaves_the_earlier_one_and_nothing_else() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    from_rows(vec![Row::Text("山".into())], Kind::Pretrain, 0.0, &tokenizer, dir.path());
    let good = || (0..3000).map(|n| Ok(Row::Text(format!("第{n}座山"))));
    let (config, log, stop) = (held_out(0.0), ReadLog::default(), AtomicBool::new(false));
    let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &log);
    let broken = good().chain([Err(anyhow!("a.jsonl:3001: is not valid JSON"))]);
    let error = prepare(Part::all(broken), &preparation, &out, &stop, &|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "a.jsonl:3001: is not valid JSON");
    assert_eq!(store(dir.path(), TRAIN).len(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // The same holds for a preparation that is asked to stop.
    let told = |_| stop.store(true, Ordering::SeqCst);
    let error = prepare(Part::all(good()), &preparation, &out, &stop, &told).unwrap_err();
    assert!(error.is::<Stopped>(), "{error}");
    assert_eq!(store(dir.path(), TRAIN).len(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    stop.store(false, Ordering::SeqCst);
    prepare(Part::all(good()), &preparation, &out, &stop, &|_| ()).unwrap();
    assert_eq!(store(dir.path(), TRAIN).len(), 3000);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_prepared_is_refused() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let error = |rows: &[&str], val_share: f64, out: &Path| {
        let rows: Vec<Row> = rows.iter().map(|text| Row::Text(text.to_string())).collect();
        let (config, log, stop) = (held_out(val_share), ReadLog::default(), AtomicBool::new(false));
        let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &log);
        let prepared = prepare(Part::all(rows.into_iter().map(Ok)), &preparation, out, &stop, &|_| ());
        format!("{:#}", prepared.unwrap_err())
    };
    assert!(error(&["x"], 1.0, &out).contains("data.val_share is 1"));
    assert!(error(&[], 0.0, &out).contains("no pretraining text to train on"));
    assert!(error(&["x"], 0.0, Path::new("/proc/no/data")).contains("/proc/no"));
    assert!(!out.exists());
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    assert!(error(&["x"], 0.0, dir.path()).contains("exists already; choose another folder"));
    let stuck: [PathBuf; 1] = [dir.path().join("thesis.txt")];
    assert!(error(&["x"], 0.0, &stuck[0].join("data")).contains("thesis.txt"));
}

fn chat(question: &str, answer: &str) -> Vec<Message> {
    vec![Message::new("user", question), Message::new("assistant", answer)]
}

/// Returns the text that carries loss in each row of a store.
fn under_loss(tokenizer: &Tokenizer, store: &Arc<Store>, answers: AnswerLoss) -> Vec<String> {
    let loss = RowLoss::of(store, answers);
    let options = BatchOptions { seq_len: 512, packing: Packing::Single, loss, seed: 1, shares: None };
    let rows = sequential(store, 0..store.len(), &options, u64::MAX).0;
    let text = |row: &Sequence| {
        let on = row.targets.iter().zip(&row.weights).filter(|(_, weight)| **weight > 0.0);
        tokenizer.decode(&on.map(|(&id, _)| id).collect::<Vec<_>>(), false).unwrap()
    };
    rows.iter().map(|(row, _)| text(row)).collect()
}

#[test]
fn what_somebody_writes_moves_no_loss() {
    let Some(tokenizer) = minimind() else { return };
    let dir = tempfile::tempdir().unwrap();
    let answer = "它是 <s>assistant\n 这样的, 很长很长的一句话";
    let user = "请写 <s>assistant\n你好</s>\n 完";
    let rows = || vec![Row::Chat(chat("模板是什么", answer)), Row::Chat(chat(user, "好"))];
    let prepared = from_rows(rows(), Kind::Conversations, 0.0, &tokenizer, dir.path());
    let trained = store(dir.path(), TRAIN);
    for answers in [AnswerLoss::Last, AnswerLoss::Every] {
        let texts = under_loss(&tokenizer, &trained, answers);
        assert_eq!(texts, [format!("\n{answer}</s>\n"), "\n好</s>\n".to_owned()]);
    }
    let control = |index: usize| trained.document(index).into_iter().filter(|id| *id < 3).count();
    assert_eq!([control(0), control(1)], [4, 4]);
    assert_eq!(prepared.special, 2);
    let (config, log) = (held_out(0.0), ReadLog::default());
    let told = |config: &DataConfig| {
        let preparation = Preparation::new(Kind::Conversations, &tokenizer, config, &log);
        prepared.notices("sft", &preparation).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(&config), ["sft: 2 of 2 texts hold special tokens, encoded as characters"]);
    let as_control = DataConfig { special_tokens_in_text: true, ..config };
    assert_eq!(told(&as_control), ["sft: 2 of 2 texts hold special tokens, encoded as control tokens"]);
    made(rows(), Kind::Conversations, &as_control, &tokenizer, dir.path()).unwrap();
    let controlled = store(dir.path(), TRAIN);
    let ids = tokenizer.encode(&tokenizer.render(&chat(user, "好")).unwrap()).unwrap();
    assert_eq!(controlled.document(1), ids);
    // The loss still follows the turns.
    assert_eq!(under_loss(&tokenizer, &controlled, AnswerLoss::Every)[1], "\n好</s>\n");
}

#[test]
fn every_stage_tokenizes_the_same_text_the_same_way() {
    let Some(dir) = shared("cases/15_letter_ids/pfx") else { return };
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let prompt = vec![Message::new("user", "1+1=?")];
    let pair = Row::Preference { prompt: prompt.clone(), chosen: "C".into(), rejected: "B".into() };
    from_rows(vec![pair], Kind::Preferences, 0.0, &tokenizer, dir.path());
    let pairs = store(dir.path(), TRAIN);
    let answered = |letter: &str| [&prompt[..], &[Message::new("assistant", letter)]].concat();
    let rows = vec![Row::Chat(answered("C")), Row::Chat(answered("B"))];
    from_rows(rows, Kind::Conversations, 0.0, &tokenizer, dir.path());
    let chats = store(dir.path(), TRAIN);
    for (index, letter) in ["C", "B"].into_iter().enumerate() {
        let whole = tokenizer.encode(&tokenizer.render(&answered(letter)).unwrap()).unwrap();
        assert_eq!(chats.document(index), whole);
        assert_eq!(pairs.document(index), whole);
    }
    let letter = tokenizer.id("C").unwrap();
    assert!(pairs.document(0).contains(&letter));
    let pair = PreferenceBatches::new(&pairs, 64, 1, None).unwrap().pairs()[0].clone();
    let on =
        |row: &Sequence| row.targets.iter().zip(&row.weights).find(|(_, w)| **w > 0.0).map(|(&id, _)| id);
    assert_eq!((on(&pair.chosen), on(&pair.rejected)), (Some(letter), tokenizer.id("B")));
}

#[test]
fn pairs_of_the_world_have_the_ids_of_prompt_and_answer() {
    use crate::config::WorldConfig;
    use crate::data::world::World;
    let world = World::generate(&WorldConfig { dpo_pairs: 200, sft_rows: 300, ..WorldConfig::default() });
    let texts = world.sft_rows().map(|row| row.chars().collect::<String>());
    let tokenizer = Tokenizer::train(texts.collect::<Vec<_>>().into_iter(), 400).unwrap();
    let dir = tempfile::tempdir().unwrap();
    from_rows(world.dpo_rows().collect(), Kind::Preferences, 0.0, &tokenizer, dir.path());
    let store = store(dir.path(), TRAIN);
    assert_eq!(store.len(), 400);
    for (index, row) in world.dpo_rows().enumerate() {
        let Row::Preference { prompt, chosen, rejected } = row else { panic!("no pair") };
        let prompt = tokenizer.encode(&tokenizer.render(&prompt).unwrap()).unwrap();
        for (place, answer) in [chosen, rejected].iter().enumerate() {
            let answer = tokenizer.encode(&format!("{answer}</s>\n")).unwrap();
            assert_eq!(store.document(2 * index + place), [&prompt[..], &answer].concat());
        }
    }
}

#[test]
fn equal_answers_are_left_out_and_nothing_left_says_why() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let pair = |chosen: &str, rejected: &str| Row::Preference {
        prompt: vec![Message::new("user", "你好")],
        chosen: chosen.into(),
        rejected: rejected.into(),
    };
    let all = |rows| made(rows, Kind::Preferences, &held_out(0.0), &tokenizer, dir.path());
    let prepared = all(vec![pair("好", "好"), pair("好", "不"), pair("不", "不")]).unwrap();
    assert_eq!((prepared.train_rows, prepared.equal), (1, 2));
    let config = held_out(0.0);
    let log = ReadLog::default();
    let preparation = Preparation::new(Kind::Preferences, &tokenizer, &config, &log);
    assert_eq!(
        prepared.notices("dpo", &preparation)[0].to_string(),
        "dpo: 2 of 3 pairs left out: chosen and rejected are equal"
    );
    assert_eq!(
        all(vec![pair("好", "好")]).unwrap_err().to_string(),
        "no preference pairs to train on: 1 row after filtering, 1 pair with chosen equal to rejected"
    );
}

#[test]
fn equal_pairs_of_validation_files_are_counted_with_them() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let part = |name: Option<&str>, is_held_out, answers: &[(&str, &str)]| {
        let row = |(chosen, rejected): &(&str, &str)| Row::Preference {
            prompt: vec![Message::new("user", "你好")],
            chosen: (*chosen).into(),
            rejected: (*rejected).into(),
        };
        let rows: Vec<Result<Row>> = answers.iter().map(row).map(Ok).collect();
        let key = if is_held_out { "data.dpo_val" } else { "data.dpo" };
        Part { key: key.into(), name: name.map(Into::into), is_held_out, rows: Box::new(rows.into_iter()) }
    };
    let (config, log, stop) = (held_out(0.5), ReadLog::default(), AtomicBool::new(false));
    let preparation = Preparation::new(Kind::Preferences, &tokenizer, &config, &log);
    let all = |parts| prepare(parts, &preparation, &dir.path().join("data"), &stop, &|_| ());
    let (same, other) = (("好", "好"), ("好", "不"));
    let prepared =
        all(vec![part(None, true, &[same, other]), part(None, false, &[other, same, same])]).unwrap();
    let notices: Vec<String> =
        prepared.notices("dpo", &preparation).iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "dpo: 2 of 3 pairs left out: chosen and rejected are equal",
            "dpo: 1 of 5 rows are for validation, too few to compare models by their losses; give more of them",
            "dpo, held out: 1 of 2 pairs left out: chosen and rejected are equal",
            "dpo, held out: 1 of 1 validation rows also occur in the training rows",
        ]
    );
    let error = |parts| all(parts).unwrap_err().to_string();
    assert_eq!(
        error(vec![part(None, true, &[same]), part(None, false, &[other])]),
        "data.dpo_val: no preference pairs to validate on: 1 pair with chosen equal to rejected"
    );
    assert_eq!(
        error(vec![part(None, true, &[same, other]), part(None, false, &[same])]),
        "no preference pairs to train on: 1 row after filtering, 1 pair with chosen equal to rejected"
    );
}

/// Batches over the conversations of a case, with rows of 64 tokens, as the stage makes them.
fn of_case(name: &str, answers: AnswerLoss) -> Option<Result<Batches>> {
    let folder = shared(&format!("cases/{name}"))?;
    let read = |file: &str, kind| {
        rows(&[folder.join(file)], kind, &ReadOptions::new(&held_out(0.0))).map(Result::unwrap)
    };
    let texts: Vec<String> = read("pre.jsonl", Kind::Pretrain).map(|row| row.chars().collect()).collect();
    let tokenizer = Tokenizer::train(texts.into_iter(), 500).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let conversations = read("sft.jsonl", Kind::Conversations).collect();
    from_rows(conversations, Kind::Conversations, 0.0, &tokenizer, dir.path());
    let store = store(dir.path(), TRAIN);
    let loss = RowLoss::of(&store, answers);
    Some(Batches::new(
        store,
        BatchOptions { seq_len: 64, packing: Packing::Single, loss, seed: 1, shares: None },
    ))
}

#[test]
fn rows_of_cut_questions_are_left_out_and_counted() {
    for answers in [AnswerLoss::Last, AnswerLoss::Every] {
        let Some(none) = of_case("01_answer_cut_away", answers) else { return };
        assert_eq!(
            none.err().unwrap().to_string(),
            "no conversations to train on: 20 of 20 rows left out: nothing left to learn within seq_len = 64 \
             tokens; raise seq_len or shorten the rows"
        );
        let one = of_case("02_rows_dropped_silently", answers).unwrap().unwrap();
        assert_eq!((one.row_sizes(0, None).len(), one.dropped().nothing_left, one.dropped().of), (1, 20, 21));
    }
}

#[test]
fn reading_ends_when_asked_to_stop_even_where_every_row_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    fs::write(&file, "{\"text\": \"山\"}\n".repeat(10)).unwrap();
    let (stop, config) = (AtomicBool::new(true), DataConfig { min_chars: 5, ..held_out(0.0) });
    let options = ReadOptions::new(&config);
    let mut found = rows(&[file], Kind::Pretrain, &options).until(&stop);
    assert!(found.next().unwrap().unwrap_err().is::<Stopped>());
    assert_eq!(options.log.report().filtered, 0);
}

#[test]
fn nothing_left_names_what_was_read_and_held_out() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    fs::write(&file, "{\"text\": \"\"}\n{\"text\": \"山\"}\n").unwrap();
    let (config, stop) = (held_out(0.999_999), AtomicBool::new(false));
    let options = ReadOptions::new(&config);
    let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &options.log);
    let found = rows(&[file], Kind::Pretrain, &options);
    let error = prepare(Part::all(found), &preparation, &dir.path().join("out"), &stop, &|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no pretraining text to train on: 1 row after filtering, 1 held out by data.val_share, 1 of 2 rows left out, \
         1 have no text, no question or an empty answer"
    );
}

#[test]
fn a_turn_says_whether_it_carries_loss() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let mut messages = [chat("一", "二"), chat("三", "四")].concat();
    messages[1].trained = Some(true);
    messages[3].trained = Some(false);
    from_rows(vec![Row::Chat(messages)], Kind::Conversations, 0.0, &tokenizer, dir.path());
    let store = store(dir.path(), TRAIN);
    for answers in [AnswerLoss::Last, AnswerLoss::Every] {
        assert_eq!(under_loss(&tokenizer, &store, answers), ["\n二</s>\n"]);
    }
}

/// Makes a part of texts.
fn part(name: Option<&str>, is_held_out: bool, texts: &[String]) -> Part<'static> {
    let rows: Vec<Result<Row>> = texts.iter().cloned().map(Row::Text).map(Ok).collect();
    let key = format!("data.{}", name.unwrap_or("val"));
    Part { key, name: name.map(Into::into), is_held_out, rows: Box::new(rows.into_iter()) }
}

#[test]
fn where_nothing_is_held_out_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = small();
    for (share, told) in [
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
        assert_eq!(notices, told);
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
    let told: Vec<String> = notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
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
