//! Tests of the scheduler with a tiny random model, without network.
#![allow(clippy::unwrap_used)]

use super::scheduler::PIECE_EVERY;
use super::*;
use crate::data::Tokenizer;
use model::{Cpu, GenerateOptions, ModelConfig, Sampling, Transformer, Weights};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// Much longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);

/// More tokens than are generated before a test ends.
const ENDLESS: usize = 200_000;

fn config() -> ModelConfig {
    ModelConfig {
        d_model: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: 280,
        ..ModelConfig::default()
    }
}

pub(super) fn transformer() -> Transformer {
    Transformer::new(&config(), 3, &Cpu).unwrap()
}

pub(super) fn tokenizer() -> Tokenizer {
    let tokenizer = Tokenizer::train(std::iter::once("abcd 你好 ".repeat(40)), 280).unwrap();
    assert!(tokenizer.vocab_size() <= 280);
    tokenizer
}

fn start_with(transformer: Transformer, texts: usize, waiting: usize) -> Scheduler {
    let limits = Limits { texts, waiting };
    Scheduler::start(Arc::new(transformer), Arc::new(tokenizer()), limits, 2).unwrap()
}

fn start(texts: usize, waiting: usize) -> Scheduler {
    start_with(transformer(), texts, waiting)
}

pub(super) fn request(seed: u64, max_tokens: usize) -> Request {
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    // Ids below 259 are bytes, which every vocabulary has.
    Request {
        prompt: vec![1, 70, 71 + (seed % 50) as u32],
        options: vec![GenerateOptions { max_tokens, sampling, seed, ..GenerateOptions::default() }],
        prompt_log_probs: None,
        stop: vec![],
        deadline: Instant::now() + LONG,
        first_choice: 0,
    }
}

/// Collects all events of a request; adjacent pieces of a text are joined, as it depends on time where they end.
fn all(mut updates: UnboundedReceiver<Update>) -> Vec<Update> {
    let mut all: Vec<Update> = vec![];
    while let Some(update) = updates.blocking_recv() {
        match (all.last_mut(), update) {
            (
                Some(Update::Piece { choice, text, tokens }),
                Update::Piece { choice: next, text: more, tokens: more_tokens },
            ) if *choice == next => {
                *text += &more;
                tokens.extend(more_tokens);
            }
            (_, update) => all.push(update),
        }
    }
    all
}

/// Returns the text of one choice, and how it ended.
fn text_of(updates: &[Update], which: usize) -> (String, Option<(Ending, usize)>) {
    let (mut all, mut end) = (String::new(), None);
    for update in updates {
        match update {
            Update::Piece { choice, text, .. } if *choice == which => all += text,
            Update::End { choice, ending, tokens, .. } if *choice == which => end = Some((*ending, *tokens)),
            _ => {}
        }
    }
    (all, end)
}

#[test]
fn an_answer_does_not_depend_on_what_else_is_written() {
    let requests: Vec<Request> = (0..12)
        .map(|i| {
            let mut request = request(i, 3 + 7 * i as usize);
            request.options[0].log_probs = Some(2);
            if i % 3 == 0 {
                request.prompt_log_probs = Some(1);
                request.prompt.extend((0..300).map(|t| 3 + (t * 7 + i as u32) % 250));
            }
            request
        })
        .collect();
    let alone = start(1, 100);
    let want: Vec<Vec<Update>> =
        requests.iter().map(|request| all(alone.submit(vec![request.clone()]).unwrap())).collect();
    assert!(
        want.iter().all(|updates| matches!(updates.last(), Some(Update::End { ending: Ending::Length, .. })))
    );
    let together = start(5, 100);
    let waiting: Vec<_> =
        requests.iter().map(|request| together.submit(vec![request.clone()]).unwrap()).collect();
    let found: Vec<Vec<Update>> = waiting.into_iter().map(all).collect();
    assert!(found == want);
    let counts = together.counts();
    assert_eq!(counts.requests.load(Ordering::Relaxed), 12);
    assert_eq!(counts.tokens.load(Ordering::Relaxed), (0..12).map(|i| 3 + 7 * i).sum::<u64>());
    assert_eq!(counts.abandoned.load(Ordering::Relaxed), 0);
}

#[test]
fn short_requests_pass_by_a_long_one() {
    let scheduler = start(2, 100);
    let mut long = scheduler.submit(vec![request(1, ENDLESS)]).unwrap();
    long.blocking_recv().unwrap();
    for seed in 0..5 {
        let updates = all(scheduler.submit(vec![request(seed, 4)]).unwrap());
        assert_eq!(text_of(&updates, 0).1, Some((Ending::Length, 4)));
    }
    assert!(long.blocking_recv().is_some(), "the long one goes on");
}

#[test]
fn who_goes_away_frees_the_place() {
    let scheduler = start(1, 100);
    let mut first = scheduler.submit(vec![request(1, ENDLESS)]).unwrap();
    first.blocking_recv().unwrap();
    let gone = scheduler.submit(vec![request(2, ENDLESS)]).unwrap();
    let last = scheduler.submit(vec![request(3, 4)]).unwrap();
    drop((first, gone));
    assert_eq!(text_of(&all(last), 0).1, Some((Ending::Length, 4)));
    // The request that still waited was never started.
    assert_eq!(scheduler.counts().abandoned.load(Ordering::Relaxed), 1);
    assert_eq!(scheduler.counts().prompt_tokens.load(Ordering::Relaxed), 6);
}

#[test]
fn the_first_token_is_sent_at_once_and_later_ones_together() {
    let scheduler = start(1, 100);
    let began = Instant::now();
    let mut updates = scheduler.submit(vec![request(1, 3000)]).unwrap();
    let mut sizes = vec![];
    while let Some(update) = updates.blocking_recv() {
        if let Update::Piece { tokens, .. } = update {
            sizes.push(tokens.len());
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 3000);
    // A piece may hold tokens of incomplete characters, so the first is one token or a few.
    assert!(sizes[0] < 10, "{sizes:?}");
    let most = 2 + began.elapsed().as_millis() / PIECE_EVERY.as_millis();
    assert!(sizes.len() as u128 <= most, "{} pieces, {most} at most", sizes.len());
}

#[test]
fn a_receiver_that_does_not_read_holds_nobody_up() {
    let scheduler = start(2, 100);
    let slow = scheduler.submit(vec![request(1, 500)]).unwrap();
    for seed in 0..20 {
        all(scheduler.submit(vec![request(seed, 40)]).unwrap());
    }
    let tokens = |update: &Update| if let Update::Piece { tokens, .. } = update { tokens.len() } else { 0 };
    let updates = all(slow);
    assert_eq!(updates.iter().map(tokens).sum::<usize>(), 500);
    assert_eq!(text_of(&updates, 0).1, Some((Ending::Length, 500)));
}

#[test]
fn a_full_queue_refuses() {
    let scheduler = start(1, 2);
    let mut running = scheduler.submit(vec![request(1, ENDLESS)]).unwrap();
    running.blocking_recv().unwrap();
    let waiting =
        [scheduler.submit(vec![request(2, 4)]).unwrap(), scheduler.submit(vec![request(3, 4)]).unwrap()];
    assert_eq!(scheduler.submit(vec![request(4, 4)]).unwrap_err(), Refusal::Full);
    drop(running);
    for updates in waiting {
        assert_eq!(text_of(&all(updates), 0).1, Some((Ending::Length, 4)));
    }
    assert!(scheduler.submit(vec![request(4, 4)]).is_ok());
}

#[test]
fn time_ends_what_is_written_and_what_waits() {
    let scheduler = start(1, 100);
    let soon = Instant::now() + Duration::from_millis(300);
    let running = scheduler.submit(vec![Request { deadline: soon, ..request(1, ENDLESS) }]).unwrap();
    let waiting = scheduler.submit(vec![Request { deadline: soon, ..request(2, 4) }]).unwrap();
    let last = scheduler.submit(vec![request(3, 4)]).unwrap();
    let (text, end) = text_of(&all(running), 0);
    assert!(matches!(end, Some((Ending::Time, 1..))) && !text.is_empty(), "{end:?}");
    assert_eq!(all(waiting), [Update::Failed(Failure::DeadlineInQueue)]);
    assert_eq!(text_of(&all(last), 0).1, Some((Ending::Length, 4)));
}

#[test]
fn what_was_taken_is_written_before_the_end() {
    let scheduler = start(1, 100);
    let taken: Vec<_> = (0..4).map(|seed| scheduler.submit(vec![request(seed, 50)]).unwrap()).collect();
    scheduler.close();
    assert_eq!(scheduler.submit(vec![request(9, 4)]).unwrap_err(), Refusal::Closed);
    for updates in taken {
        assert_eq!(text_of(&all(updates), 0).1, Some((Ending::Length, 50)));
    }
    assert!(!scheduler.has_failed());
    drop(scheduler); // joins the thread
}

#[test]
fn several_texts_of_a_request_end_each_by_itself() {
    let scheduler = start(8, 100);
    let mut several = request(5, 60);
    several.options = (0..3).map(|choice| GenerateOptions { choice, ..several.options[0].clone() }).collect();
    let updates = all(scheduler.submit(vec![several.clone()]).unwrap());
    let texts: Vec<String> = (0..3).map(|choice| text_of(&updates, choice).0).collect();
    assert_eq!(texts[0], text_of(&all(scheduler.submit(vec![request(5, 60)]).unwrap()), 0).0);
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    // A stop string of the second text ends it, and is not part of it.
    let at = texts[1].char_indices().nth(10).unwrap().0;
    let stop: String = texts[1][at..].chars().take(3).collect();
    several.stop = vec![stop.clone()];
    let updates = all(scheduler.submit(vec![several]).unwrap());
    let (text, end) = text_of(&updates, 1);
    assert_eq!(text, texts[1][..texts[1].find(&stop).unwrap()]);
    assert!(matches!(end, Some((Ending::Stop, 1..60))), "{end:?}");
}

#[test]
fn requests_that_come_together_are_taken_together_or_not_at_all() {
    let scheduler = start(1, 4);
    let batch = |count: u64| -> Vec<Request> {
        (0..count).map(|i| Request { first_choice: i as usize, ..request(i, 5) }).collect()
    };
    assert_eq!(scheduler.submit(batch(5)).unwrap_err(), Refusal::Full);
    let updates = all(scheduler.submit(batch(4)).unwrap());
    for choice in 0..4 {
        let alone = all(scheduler.submit(vec![request(choice, 5)]).unwrap());
        assert_eq!(text_of(&updates, choice as usize), text_of(&alone, 0));
    }
}

#[test]
fn more_texts_than_there_is_room_for_go_alone() {
    let scheduler = start(2, 100);
    let mut several = request(5, 10);
    several.options = (0..5).map(|choice| GenerateOptions { choice, ..several.options[0].clone() }).collect();
    let updates = all(scheduler.submit(vec![several]).unwrap());
    assert!((0..5).all(|choice| text_of(&updates, choice).1 == Some((Ending::Length, 10))));
}

#[test]
fn a_fault_is_its_own_request_s() {
    // An embedding of NaN for one token; with an untied head it breaks only the texts that read it.
    let broken = ModelConfig { tie_embeddings: false, ..config() };
    let mut weights = Weights::random(&broken, 3);
    weights.flat[7 * broken.d_model] = f32::NAN;
    let scheduler = start_with(Transformer::from_weights(&broken, weights, &Cpu).unwrap(), 4, 100);
    let cases = [
        (Request { prompt: vec![1, 7], ..request(1, 4) }, "logits are not finite"),
        (Request { prompt: vec![9999], ..request(1, 4) }, "outside the model's vocabulary"),
        (Request { prompt: vec![], ..request(1, 4) }, "at least one token"),
    ];
    for (request, problem) in cases {
        let updates = all(scheduler.submit(vec![request]).unwrap());
        let [Update::Failed(Failure::Model(message))] = updates.as_slice() else { panic!("{updates:?}") };
        assert!(message.contains(problem), "{message}");
    }
    let greedy =
        Request { options: vec![GenerateOptions { max_tokens: 0, ..Default::default() }], ..request(1, 4) };
    assert_eq!(text_of(&all(scheduler.submit(vec![greedy]).unwrap()), 0).1, Some((Ending::Length, 0)));
}
