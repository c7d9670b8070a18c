//! Preference pairs.

use super::*;

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
