//! Which tokens of a conversation carry loss.

use super::*;

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
    let notices = |config: &DataConfig| {
        let preparation = Preparation::new(Kind::Conversations, &tokenizer, config, &log);
        prepared.notices("sft", &preparation).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(notices(&config), ["sft: 2 of 2 texts hold special tokens, encoded as characters"]);
    let as_control = DataConfig { special_tokens_in_text: true, ..config };
    assert_eq!(notices(&as_control), ["sft: 2 of 2 texts hold special tokens, encoded as control tokens"]);
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
