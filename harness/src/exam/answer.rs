//! What a model answers.

use super::prompt::{LETTERS, Prompt};
use super::sheet::{Sheet, SheetQuestion};
use crate::config::Answer;
use crate::records::QuestionRecord;
use crate::stop::{Stopped, check};
use anyhow::{Result, ensure};
use model::{Backend, Continuation, Continuations, Transformer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Has a model answer every question, by the prompts made of `sheets`; `progress` is told the number answered.
///
/// What prompts have in common, and the prompt that the answers to a question have in common, is read once.
///
/// # Errors
/// Where a probability is not a finite number; [`Stopped`] once `stop` is set, which is looked at between groups of
/// prompts that go through the model together.
pub fn sit<B: Backend>(
    transformer: &Transformer<B>,
    sheets: &[Sheet],
    prompts: &[Prompt],
    answer: Answer,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<QuestionRecord>> {
    let questions: Vec<(&Sheet, &SheetQuestion)> =
        sheets.iter().flat_map(|sheet| sheet.questions.iter().map(move |q| (sheet, q))).collect();
    ensure!(questions.len() == prompts.len(), "{} questions and {} prompts", questions.len(), prompts.len());
    let asked = continuations(prompts);
    let read = Mutex::new(0);
    let go_on = |done: usize| {
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        *read += done;
        if done > 0 {
            progress((*read * questions.len() / asked.len().max(1)) as u64);
        }
        !stop.load(Ordering::SeqCst)
    };
    check(stop)?;
    let found = transformer.log_probs(&Continuations::new(&asked)?, &go_on)?.ok_or(Stopped)?;
    let records = questions.iter().zip(found.chunks_exact(4)).map(|((sheet, question), found)| {
        let probabilities = std::array::from_fn(|i| {
            let sum: f64 = found[i].iter().sum();
            match answer {
                Answer::Letter => sum.exp(),
                // By bytes and not by tokens, so that a word counts the same whether the tokenizer has learned it
                // whole or not.
                Answer::Cloze => (sum / question.options[i].len() as f64).exp(),
            }
        });
        QuestionRecord {
            subject: sheet.subject.clone(),
            id: question.id.clone(),
            probabilities,
            prediction: best(&probabilities),
            answer: question.answer,
            contaminated: None,
        }
    });
    Ok(records.collect())
}

/// The four answers behind each prompt.
fn continuations(prompts: &[Prompt]) -> Vec<Continuation<'_>> {
    let of = |prompt| {
        let Prompt { ids, answers, .. }: &Prompt = prompt;
        answers.iter().map(|answer| Continuation { prompt: ids, ids: answer })
    };
    prompts.iter().flat_map(of).collect()
}

/// The letter of the highest probability, the first of equals.
fn best(probabilities: &[f64; 4]) -> char {
    let mut best = 0;
    for i in 1..4 {
        if probabilities[i] > probabilities[best] {
            best = i;
        }
    }
    LETTERS[best]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use model::inference::NextToken;
    use model::{Cpu, ModelConfig, Weights};

    fn model() -> Transformer {
        let config = ModelConfig {
            d_model: 16,
            n_layers: 1,
            n_heads: 2,
            n_kv_heads: 1,
            vocab_size: 40,
            ..ModelConfig::default()
        };
        Transformer::new(&config, 1, &Cpu).unwrap()
    }

    /// Questions of the subject `s`, each with its options.
    fn sheet(questions: Vec<[&str; 4]>) -> Sheet {
        let question = |(i, options): (usize, [&str; 4])| SheetQuestion {
            id: i.to_string(),
            question: "q".into(),
            options: options.map(String::from),
            answer: 'A',
        };
        Sheet { subject: "s".into(), questions: questions.into_iter().enumerate().map(question).collect() }
    }

    fn prompt(ids: &[u32], answers: [&[u32]; 4]) -> Prompt {
        let answers = answers.map(<[u32]>::to_vec);
        Prompt { ids: ids.to_vec(), answers, has_fewer_shots: false, is_cut: false }
    }

    /// p of `next` behind `ids`, by a pass of its own.
    fn p(model: &Transformer, ids: &[u32], next: u32) -> f64 {
        model.next_token_probabilities(&[NextToken { prompt: ids, ids: &[next] }]).unwrap()[0][0]
    }

    fn answers(model: &Transformer, sheet: Sheet, prompts: &[Prompt], answer: Answer) -> Vec<QuestionRecord> {
        sit(model, &[sheet], prompts, answer, &AtomicBool::new(false), &|_| ()).unwrap()
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(best(&[0.1, 0.3, 0.3, 0.2]), 'B');
        assert_eq!(best(&[0.0; 4]), 'A');
        assert_eq!(best(&[0.0, 0.0, 0.0, 1e-9]), 'D');
    }

    #[test]
    fn letters_of_each_question_are_its_own() {
        let model = model();
        let prompts =
            [prompt(&[3, 4, 5], [&[7], &[8], &[9], &[10]]), prompt(&[6], [&[17], &[18], &[19], &[20]])];
        let found = answers(&model, sheet(vec![["a", "b", "c", "d"]; 2]), &prompts, Answer::Letter);
        for (record, prompt) in found.iter().zip(&prompts) {
            for (got, id) in record.probabilities.iter().zip(&prompt.answers) {
                let want = p(&model, &prompt.ids, id[0]);
                assert!((got - want).abs() < 1e-7, "{got} instead of {want}");
            }
        }
    }

    #[test]
    fn cloze_takes_the_mean_over_the_bytes_of_an_option() {
        let model = model();
        // Options of one, two, three and one token, and of as many bytes as their texts have.
        let options = ["青", "ab", "青石 x", "longer"];
        let prompt = prompt(&[3, 4, 5], [&[7], &[8, 9], &[10, 11, 12], &[13]]);
        let found = answers(&model, sheet(vec![options]), std::slice::from_ref(&prompt), Answer::Cloze);
        let mut want = [0.0; 4];
        for (want, (answer, option)) in want.iter_mut().zip(prompt.answers.iter().zip(options)) {
            let mut read = prompt.ids.clone();
            let mut log_prob = 0.0;
            for &id in answer {
                log_prob += p(&model, &read, id).ln();
                read.push(id);
            }
            *want = (log_prob / option.len() as f64).exp();
        }
        for (got, want) in found[0].probabilities.iter().zip(want) {
            assert!((got - want).abs() < 1e-6 * want, "{got} instead of {want}");
        }
        assert_eq!(found[0].prediction, best(&want));
        // One token in six bytes against one in three: by bytes it is the longer word that is likelier.
        assert_eq!(found[0].prediction, 'D');
    }

    #[test]
    fn a_model_that_is_not_finite_answers_nothing() {
        let whole = model();
        let prompt = prompt(&[3, 4, 5], [&[7], &[8], &[9], &[10]]);
        for broken in [f32::NAN, f32::INFINITY] {
            let mut weights: Weights = whole.to_weights().unwrap();
            *weights.flat.last_mut().unwrap() = broken;
            let model = Transformer::from_weights(&whole.config, weights, &Cpu).unwrap();
            for answer in [Answer::Letter, Answer::Cloze] {
                let stop = AtomicBool::new(false);
                let sheets = [sheet(vec![["a", "b", "c", "d"]])];
                let error = sit(&model, &sheets, std::slice::from_ref(&prompt), answer, &stop, &|_| ());
                let error = error.unwrap_err().to_string();
                assert!(error.starts_with("the model's probabilities are not finite"), "{error}");
            }
        }
    }

    #[test]
    fn an_exam_stops_between_groups_of_questions() {
        let model = model();
        // They begin differently: each is read by itself.
        let long = |first: u32| (0..600).map(|i| 3 + (first + i) % 30).collect::<Vec<_>>();
        let prompts: Vec<Prompt> = (0..20).map(|i| prompt(&long(i), [&[7], &[8], &[9], &[10]])).collect();
        let stop = AtomicBool::new(false);
        let answered = Mutex::new(0);
        // Asked to stop once the first of 20 groups is through.
        let progress = |done| {
            *answered.lock().unwrap() = done;
            stop.store(true, Ordering::SeqCst);
        };
        let sheets = [sheet(vec![["a", "b", "c", "d"]; 20])];
        let sat = || sit(&model, &sheets, &prompts, Answer::Letter, &stop, &progress);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        assert!(pool.install(sat).unwrap_err().is::<Stopped>());
        assert!((1..=2).contains(&*answered.lock().unwrap()), "{answered:?}");
    }
}
