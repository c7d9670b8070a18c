#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::AnswerLoss;
use crate::data::Kind;
use crate::data::loss::mark;
use crate::data::store::tests::store_of;

fn store(documents: &[Vec<u32>]) -> (tempfile::TempDir, Arc<Store>) {
    store_as(Kind::Pretrain, documents)
}

fn store_as(kind: Kind, documents: &[Vec<u32>]) -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
    let store = Arc::new(store_of(dir.path(), kind, 10_000, &documents));
    (dir, store)
}

fn options(packing: Packing, seq_len: usize) -> BatchOptions {
    BatchOptions { seq_len, packing, loss: RowLoss::Text, seed: 3, shares: None }
}

#[test]
fn packed_rows_hold_whole_documents_and_every_target_once() {
    let documents: Vec<Vec<u32>> =
        (0..20u32).map(|d| (0..3 + d).map(|i| 10 + d * 100 + i).collect()).collect();
    let (_dir, store) = store(&documents);
    let mut batches = Batches::new(store, options(Packing::Separated, 16)).unwrap();
    let mut targets = vec![];
    for _ in 0..batches.row_sizes(0, None).len() {
        let row = batches.next_row().sequence;
        assert!(row.len() <= 16);
        assert_eq!(row.documents.iter().sum::<u32>() as usize, row.len());
        let mut start = 0;
        for &len in &row.documents {
            let span = start..start + len as usize;
            // Ids of one document are consecutive.
            assert!(row.ids[span.clone()].iter().zip(&row.targets[span]).all(|(i, t)| i + 1 == *t));
            start += len as usize;
        }
        targets.extend(row.targets);
    }
    targets.sort_unstable();
    let mut want: Vec<u32> = documents.iter().flat_map(|d| d[1..].to_vec()).collect();
    want.sort_unstable();
    assert_eq!(targets, want);
    assert_eq!(batches.row_sizes(0, None).into_iter().sum::<RowSize>().tokens, want.len() as u64);
}

#[test]
fn a_place_is_found_again() {
    let documents: Vec<Vec<u32>> = (0..7u32).map(|d| vec![1, d + 3, 2]).collect();
    let (_dir, store) = store(&documents);
    let mut batches = Batches::new(store.clone(), options(Packing::Single, 8)).unwrap();
    (0..5).for_each(|_| drop(batches.next_batch(2))); // into the second pass
    let place = batches.position();
    assert_eq!(place, Position { epoch: 1, row: 3 });
    let want: Vec<_> = (0..4).map(|_| batches.next_batch(2)).collect();
    let mut again = Batches::new(store, options(Packing::Single, 8)).unwrap();
    again.seek(place);
    assert_eq!((0..4).map(|_| again.next_batch(2)).collect::<Vec<_>>(), want);
}

#[test]
fn batches_of_another_seed_are_those_of_data_opened_with_it() {
    let documents: Vec<Vec<u32>> =
        (0..24u32).map(|d| (0..4 + d % 5).map(|i| 10 + d * 10 + i).collect()).collect();
    let (_dir, rows) = store(&documents);
    let mut batches = Batches::new(rows.clone(), options(Packing::Separated, 16)).unwrap();
    batches.next_batch(3);
    batches.reseed(4);
    let mut other = Batches::new(rows, BatchOptions { seed: 4, ..options(Packing::Separated, 16) }).unwrap();
    assert_eq!(batches.row_sizes(1, None), other.row_sizes(1, None));
    let batch = batches.next_batch(9);
    assert_eq!(batch, other.next_batch(9));
    batches.reseed(3);
    assert_ne!(batch, batches.next_batch(9));
    let pairs = (0..30).flat_map(|pair| [7, 8].map(|answer| vec![10 + pair, 5, answer]));
    let (_dir, pairs) = store_as(Kind::Preferences, &pairs.collect::<Vec<_>>());
    let mut preferences = PreferenceBatches::new(&pairs, 8, 3, None).unwrap();
    preferences.next_batch(5);
    preferences.reseed(4);
    let mut other = PreferenceBatches::new(&pairs, 8, 4, None).unwrap();
    let batch = preferences.next_batch(20);
    assert_eq!(batch, other.next_batch(20));
    preferences.reseed(3);
    assert_ne!(batch, preferences.next_batch(20));
}

#[test]
fn every_pass_has_an_order_of_its_own() {
    let documents: Vec<Vec<u32>> = (0..30).map(|d| vec![10 + d, 50, 51]).collect();
    let (_dir, rows) = store(&documents);
    let mut batches = Batches::new(rows, options(Packing::Single, 8)).unwrap();
    // In each pair the chosen answer is 7 and the rejected one 8.
    let pairs = (0..30).flat_map(|pair| [7, 8].map(|answer| vec![10 + pair, 5, answer]));
    let (_dir, pairs) = store_as(Kind::Preferences, &pairs.collect::<Vec<_>>());
    let mut preferences = PreferenceBatches::new(&pairs, 8, 3, None).unwrap();
    let of_rows =
        [(); 2].map(|()| (0..30).map(|_| batches.next_row().sequence.ids[0] as usize - 10).collect());
    let of_pairs = [(); 2].map(|()| preferences.next_batch(30));
    let all: Vec<usize> = (0..30).collect();
    for [first, second] in [of_rows, of_pairs] as [[Vec<usize>; 2]; 2] {
        assert_ne!(first, second);
        for mut pass in [first, second] {
            assert_ne!(pass, all);
            pass.sort_unstable();
            assert_eq!(pass, all);
        }
    }
}

#[test]
fn long_pairs_keep_their_answers() {
    let documents = [vec![1, 2, 3, 4, 6, 5, 7, 8], vec![1, 2, 3, 4, 6, 5, 9]];
    let (_dir, store) = store_as(Kind::Preferences, &documents);
    let batches = PreferenceBatches::new(&store, 4, 1, None).unwrap();
    let pair = &batches.pairs()[0];
    assert_eq!(
        (pair.chosen.ids.as_slice(), pair.chosen.targets.as_slice()),
        ([6, 5, 7].as_slice(), [5, 7, 8].as_slice())
    );
    assert_eq!(pair.chosen.weights, [0.0, 1.0, 1.0]);
    assert_eq!(
        (pair.rejected.ids.as_slice(), pair.rejected.weights.as_slice()),
        ([6, 5].as_slice(), [0.0, 1.0].as_slice())
    );
    assert_eq!(*batches.dropped(), Dropped { of: 1, seq_len: 4, cut: 1, ..Dropped::default() });
}

#[test]
fn pairs_that_are_equal_once_cut_are_left_out() {
    let (same, other) = (vec![1, 5, 7, 8, 9], vec![1, 5, 7, 8, 10]);
    let (_dir, store) = store_as(Kind::Preferences, &[same.clone(), other.clone(), other, vec![1, 5, 3]]);
    let kept = |seq_len| {
        let batches = PreferenceBatches::new(&store, seq_len, 1, None).unwrap();
        let kept: Vec<usize> = batches.pairs().iter().map(|pair| pair.index).collect();
        (kept, batches.dropped().equal)
    };
    assert_eq!(kept(5), (vec![0, 1], 0));
    assert_eq!(kept(3), (vec![1], 1));
    let (_dir, store) = store_as(Kind::Preferences, &[same.clone(), same]);
    let batches = PreferenceBatches::new(&store, 8, 1, None).unwrap();
    assert_eq!(
        batches.ensure_any().unwrap_err().to_string(),
        "no preference pairs to train on: 1 of 1 pairs left out: chosen and rejected are equal within \
         seq_len = 8 tokens; raise seq_len or shorten the rows"
    );
}

#[test]
fn conversations_with_nothing_left_to_learn_are_left_out_and_counted() {
    // The answer of the second begins at its sixth id; the third has none.
    let documents = [vec![1, 4, 5, 7, 8, 2], vec![1, 4, 4, 4, 5, 7, 2], vec![1, 4, 4, 2]];
    let (_dir, store) = store_as(Kind::Conversations, &documents);
    let last = RowLoss::Answers(AnswerLoss::Last);
    let made = |packing, seq_len| {
        Batches::new(store.clone(), BatchOptions { loss: last.clone(), ..options(packing, seq_len) })
    };
    let dropped = Dropped { of: 3, seq_len: 5, nothing_left: 1, no_loss: 1, cut: 1, ..Dropped::default() };
    let batches = made(Packing::Single, 5).unwrap();
    assert_eq!(*batches.dropped(), dropped);
    assert_eq!(batches.row_sizes(0, None), [RowSize::document(2, 4, None)]);
    let wider = Dropped { nothing_left: 0, ..dropped.clone() };
    assert_eq!(*made(Packing::Separated, 5).unwrap().dropped(), Dropped { cut: 1, ..wider });
    assert_eq!(
        made(Packing::Single, 3).err().unwrap().to_string(),
        "no conversations to train on: 2 of 3 rows left out: nothing left to learn within seq_len = 3 tokens, \
         1 of 3 rows left out: no turn carries loss; raise seq_len or shorten the rows"
    );
    let single = BatchOptions { loss: last, ..options(Packing::Single, 5) };
    let (rows, held_out) = sequential(&store, 0..store.len(), &single, u64::MAX);
    assert_eq!((rows.len(), held_out), (1, dropped.clone()));
    assert_eq!(
        dropped.notices("sft").iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "sft: 1 of 3 rows left out: nothing left to learn within seq_len = 5 tokens",
            "sft: 1 of 3 rows left out: no turn carries loss",
            "sft: 1 of 3 rows cut to stay within seq_len = 5 tokens",
        ]
    );
}

#[test]
fn where_no_turn_carries_loss_no_longer_row_is_advised() {
    let (_dir, store) = store_as(Kind::Conversations, &[vec![1, 4, 4, 2]]);
    let loss = RowLoss::Answers(AnswerLoss::Last);
    assert_eq!(
        Batches::new(store, BatchOptions { loss, ..options(Packing::Single, 8) }).err().unwrap().to_string(),
        "no conversations to train on: 1 of 1 rows left out: no turn carries loss; let an answer carry loss \
         (weight = 1 on its turn)"
    );
}

#[test]
fn minimind_rows_with_loss_on_their_question_are_counted() {
    // The answer of the first begins after its sixth id, that of the second at its fifth; the third is not cut.
    let documents =
        [vec![1, 4, 9, 9, 2, 1, 5, 8, 2], vec![1, 4, 1, 5, 7, 7, 7, 7, 2], vec![1, 4, 1, 5, 7, 2]];
    let (_dir, store) = store(&documents);
    let loss = RowLoss::Minimind { marker: vec![1, 5] };
    let options = BatchOptions { loss, ..options(Packing::Single, 6) };
    let dropped = Dropped { of: 3, seq_len: 6, cut: 2, on_question: 1, ..Dropped::default() };
    assert_eq!(*Batches::new(store.clone(), options.clone()).unwrap().dropped(), dropped);
    assert_eq!(sequential(&store, 0..store.len(), &options, u64::MAX).1, dropped);
    assert_eq!(
        dropped.notices("sft").iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "sft: 2 of 3 rows cut to stay within seq_len = 6 tokens",
            "sft: 1 of 3 rows have loss on a question whose answer is not within seq_len = 6 tokens",
        ]
    );
}

#[test]
fn a_long_conversation_is_cut_and_a_long_text_goes_on() {
    let document: Vec<u32> = [1, 4, 9, 2, 1, 5].into_iter().chain(10..30).collect();
    let pieces = |kind, loss| {
        let (_dir, store) = store_as(kind, std::slice::from_ref(&document));
        let mut batches =
            Batches::new(store, BatchOptions { loss, ..options(Packing::Separated, 8) }).unwrap();
        (0..batches.row_sizes(0, None).len()).map(|_| batches.next_row().sequence.ids[0]).collect::<Vec<_>>()
    };
    assert_eq!(pieces(Kind::Conversations, RowLoss::Answers(AnswerLoss::Last)), [1]);
    let mut starts = pieces(Kind::Pretrain, RowLoss::Text);
    starts.sort_unstable();
    assert_eq!(starts, [1, 12, 20, 28]);
}

#[test]
fn held_out_rows_come_with_the_bytes_of_their_targets() {
    // Every id from 3 on stands for three bytes.
    let (_dir, store) = store(&[vec![1, 7, 8, 2], vec![1], vec![1, 7, 8, 9, 10, 2], vec![1, 7, 2]]);
    let (rows, dropped) = sequential(&store, 0..store.len(), &options(Packing::Single, 4), 6);
    assert_eq!(dropped, Dropped { of: 3, seq_len: 4, nothing_left: 1, cut: 1, ..Dropped::default() });
    let found: Vec<(usize, f64)> = rows.iter().map(|(row, bytes)| (row.len(), *bytes)).collect();
    assert_eq!(found, [(3, 6.0), (3, 9.0)]);
}

/// Creates a store of sources `(name, documents, target tokens per document)`; the first id of a document is 10 plus its
/// index.
fn sources_of(kind: Kind, sources: &[(&str, usize, usize)]) -> (tempfile::TempDir, Arc<Store>) {
    use crate::data::store::{Document, StoreHead, StoreWriter};
    let dir = tempfile::tempdir().unwrap();
    let head =
        StoreHead { kind, token_bytes: vec![3; 10_000], marker: vec![], tokenizer: "hand-made".into() };
    let mut writer = StoreWriter::create(dir.path(), head).unwrap();
    let mut number = 0;
    for (name, documents, tokens) in sources {
        writer.begin(name);
        for _ in 0..*documents {
            let ids = std::iter::once(10 + number).chain(std::iter::repeat_n(5, *tokens)).collect();
            // In pairs all of it is the answer.
            let mark_of = |at| match at {
                0 => 0,
                1 => mark::ANSWER | mark::WORDS | mark::FIRST,
                _ => mark::ANSWER | mark::WORDS,
            };
            let marks = (0..=*tokens).filter(|_| kind == Kind::Preferences).map(mark_of).collect();
            writer.push(&Document { ids, marks, bytes: 3, ..Document::default() }).unwrap();
            number += 1;
        }
    }
    writer.finish().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    (dir, store)
}

fn mixed(shares: &[(&str, f64)]) -> BatchOptions {
    let shares = shares.iter().map(|(name, share)| (name.to_string(), *share)).collect();
    BatchOptions { shares: Some(shares), ..options(Packing::Single, 64) }
}

#[test]
fn sources_are_mixed_by_tokens_and_passed_as_often_as_that_takes() {
    // 400 tokens of books in long documents, 1,200 of web in short ones.
    let (_dir, store) = sources_of(Kind::Pretrain, &[("books", 10, 40), ("web", 300, 4)]);
    let batches = Batches::new(store.clone(), mixed(&[("books", 0.75), ("web", 0.25)])).unwrap();
    // A pass has 1,600 tokens: 1,200 of books, which are 30 documents, and 400 of web, 100 documents.
    let pass = batches.pass(0);
    assert_eq!(pass.order.len(), 130);
    let mut times = [0; 310];
    (0..3).flat_map(|epoch| batches.pass(epoch).order).for_each(|item| times[item as usize] += 1);
    // Three passes take each of the books nine times and all of the web once.
    assert!(times[..10].iter().all(|&count| count == 9) && times[10..].iter().all(|&count| count == 1));
    let used = batches.used(3 * 130);
    let shown: Vec<_> = used.iter().map(|s| (s.name.as_str(), s.tokens, s.passes)).collect();
    assert_eq!(shown, [("books", 3600, 9.0), ("web", 1200, 1.0)]);
    // The order within a pass is mixed: books are not adjacent.
    let place = |item: u32| pass.order.iter().position(|&of| of == item).unwrap();
    let firsts: Vec<usize> = (0..10).map(place).collect();
    assert!(firsts.iter().max().unwrap() - firsts.iter().min().unwrap() > 10, "{firsts:?}");
    // Weights in proportion to the data use every document once per pass.
    let even = Batches::new(store.clone(), mixed(&[("books", 0.25), ("web", 0.75)])).unwrap();
    let mut once = even.pass(4).order;
    once.sort_unstable();
    assert_eq!(once, (0..310).collect::<Vec<_>>());
    // Without weights every document occurs once, and the use of sources is reported.
    let plain = Batches::new(store, options(Packing::Single, 64)).unwrap();
    assert_eq!(plain.used(310).iter().map(|s| s.passes).collect::<Vec<_>>(), [1.0, 1.0]);
}

#[test]
fn shares_hold_for_any_weights_and_a_place_is_found_again() {
    let (_dir, store) = sources_of(Kind::Pretrain, &[("a", 7, 30), ("b", 50, 6), ("c", 23, 11)]);
    for shares in [[0.5, 0.3, 0.2], [0.01, 0.98, 0.01], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]] {
        let options = mixed(&[("a", shares[0]), ("b", shares[1]), ("c", shares[2])]);
        let mut batches = Batches::new(store.clone(), options.clone()).unwrap();
        let rows = (0..40).map(|epoch| batches.row_sizes(epoch, None).len() as u64).sum();
        let used = batches.used(rows);
        let all: u64 = used.iter().map(|source| source.tokens).sum();
        for (source, share) in used.iter().zip(shares) {
            let found = source.tokens as f64 / all as f64;
            assert!((found - share).abs() < 0.005, "{}: {found} instead of {share}", source.name);
            assert!(share > 0.0 || source.tokens == 0);
        }
        // Shares also hold at any point of the first pass, up to the length of the longest rows.
        for rows in 1..batches.row_sizes(0, None).len() as u64 {
            let used = batches.used(rows);
            let all: u64 = used.iter().map(|source| source.tokens).sum();
            for (source, share) in used.iter().zip(shares) {
                let off = source.tokens as f64 - share * all as f64;
                assert!(off.abs() < 46.0, "{} after {rows} rows: {off} tokens", source.name);
            }
        }
        (0..50).for_each(|_| drop(batches.next_batch(3)));
        let place = batches.position();
        let want: Vec<_> = (0..20).map(|_| batches.next_batch(3)).collect();
        let mut again = Batches::new(store.clone(), options).unwrap();
        again.seek(place);
        assert_eq!((0..20).map(|_| again.next_batch(3)).collect::<Vec<_>>(), want);
    }
}

#[test]
fn a_source_with_a_share_and_nothing_to_learn_is_an_error() {
    let (_dir, store) = sources_of(Kind::Pretrain, &[("a", 7, 30), ("b", 5, 0)]);
    let error = Batches::new(store, mixed(&[("a", 0.5), ("b", 0.5)])).err().unwrap().to_string();
    assert_eq!(
        error,
        "data.mix.b: is 0.500 of the tokens, but no row of the source is left to train on: 5 of 5 rows left out: \
         nothing left to learn within seq_len = 64 tokens; raise seq_len or shorten the rows; or set its weight to 0"
    );
    let (_dir, store) = sources_of(Kind::Pretrain, &[("a", 7, 30), ("b", 0, 0)]);
    let error = Batches::new(store, mixed(&[("a", 0.5), ("b", 0.5)])).err().unwrap().to_string();
    assert!(
        error.ends_with("to train on: every row is held out; lower data.val_share; or set its weight to 0"),
        "{error}"
    );
    let (_dir, store) = sources_of(Kind::Preferences, &[("a", 4, 3), ("b", 6, 0)]);
    let shares = [("a".to_string(), 0.5), ("b".to_string(), 0.5)];
    let error = PreferenceBatches::new(&store, 4, 1, Some(&shares)).err().unwrap().to_string();
    assert_eq!(
        error,
        "data.mix.b: is 0.500 of the tokens, but no row of the source is left to train on: 3 of 3 rows left out: \
         nothing left to learn within seq_len = 4 tokens; raise seq_len or shorten the rows; or set its weight to 0"
    );
}
