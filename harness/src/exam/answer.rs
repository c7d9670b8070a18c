//! Answers of a model to the questions of an exam.

use super::prompt::{Prompt, TokenizedPrompt};
use super::sheet::{Sheet, SheetQuestion};
use crate::records::{Norm, OptionScore, QuestionRecord, Routing, best, letter};
use crate::stop::{Stopped, check};
use anyhow::{Result, ensure};
use model::{Backend, Continuation, Continuations, ReadCounts, Transformer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Has a model answer every question of `sheets` with the given prompts; `progress` receives the number answered so far.
/// `norm` determines how the texts of options are compared.
///
/// Common prefixes of prompts, and the common prompt of the answers to a question, are read once.
///
/// # Errors
/// If a probability is not finite; [`Stopped`] once `stop` is set, which is checked between groups of prompts that go
/// through the model together.
pub fn run_exam<B: Backend>(
    transformer: &Transformer<B>,
    sheets: &[Sheet],
    prompts: &[Prompt],
    norm: Norm,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<QuestionRecord>> {
    let questions: Vec<(&Sheet, &SheetQuestion)> =
        sheets.iter().flat_map(|sheet| sheet.questions.iter().map(move |q| (sheet, q))).collect();
    ensure!(questions.len() == prompts.len(), "{} questions and {} prompts", questions.len(), prompts.len());
    let asked = continuations(prompts);
    let answers = asked.len().max(1);
    let read = Mutex::new(0);
    let on_progress = |done: usize| {
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        *read += done;
        if done > 0 {
            progress((*read * questions.len() / answers) as u64);
        }
        !stop.load(Ordering::SeqCst)
    };
    check(stop)?;
    let asked = Continuations::new(&asked)?;
    let ReadCounts { distinct, read: tokens } = asked.read_counts();
    let alone: usize = prompts.iter().map(unshared_tokens).sum();
    tracing::info!(
        "exam: reading {tokens} tokens, at least {distinct} with all prefixes shared, {alone} with none"
    );
    let found = transformer.log_probs(&asked, &on_progress)?.ok_or(Stopped)?;
    let mut sums = found.into_iter().map(|log_probs| log_probs.into_iter().sum::<f64>());
    let mut records = vec![];
    for ((sheet, question), prompt) in questions.into_iter().zip(prompts) {
        let mut of = |asked: &TokenizedPrompt| sums.by_ref().take(asked.answers.len()).collect::<Vec<f64>>();
        let rotations: Vec<Vec<f64>> = prompt.rotations.iter().map(&mut of).collect();
        let unconditional = prompt.unconditional.as_ref().map(of);
        let options = match unconditional {
            Some(unconditional) => texts(question, &prompt.rotations[0], &rotations[0], &unconditional),
            None => vec![],
        };
        let (probabilities, chosen) = match options.is_empty() {
            true => {
                let probabilities = mean_over_rotations(&rotations);
                let chosen = best(&probabilities);
                (probabilities, chosen)
            }
            false => compare_texts(&options, norm),
        };
        records.push(QuestionRecord {
            subject: sheet.subject.clone(),
            id: question.id.clone(),
            prediction: letter(chosen),
            probabilities,
            answer: question.answer,
            contaminated: None,
            options,
        });
    }
    Ok(records)
}

/// Number of prompts per subject whose routing to experts is recorded.
const ROUTED: usize = 64;

/// Returns the expert routing of the tokens of each subject's first 64 prompts, in the order of the sheets; empty for a dense
/// model. Prompts are read without answers.
///
/// # Errors
/// If the device fails; [`Stopped`] once `stop` is set.
pub fn routing<B: Backend>(
    transformer: &Transformer<B>,
    sheets: &[Sheet],
    prompts: &[Prompt],
    stop: &AtomicBool,
) -> Result<Vec<Routing>> {
    let (mut subjects, mut prompts) = (vec![], prompts);
    if !transformer.config.is_moe() {
        return Ok(subjects);
    }
    for sheet in sheets {
        check(stop)?;
        let (own, others) = prompts.split_at(sheet.questions.len());
        prompts = others;
        let ids: Vec<&[u32]> =
            own.iter().take(ROUTED).map(|prompt| prompt.rotations[0].ids.as_slice()).collect();
        let layers = transformer.routes(&ids)?;
        let routed: u64 = layers.iter().map(|layer| layer.tokens).sum();
        subjects.push(Routing {
            subject: sheet.subject.clone(),
            tokens: ids.iter().map(|ids| ids.len() as u64).sum(),
            entropy: layers.iter().map(|layer| layer.entropy_sum).sum::<f64>() / routed.max(1) as f64,
            load: layers.into_iter().map(|layer| layer.load).collect(),
        });
    }
    Ok(subjects)
}

/// Returns all answers of each prompt: those of its rotations, then those to the empty question.
fn continuations(prompts: &[Prompt]) -> Vec<Continuation<'_>> {
    let asked = prompts.iter().flat_map(|prompt| prompt.rotations.iter().chain(&prompt.unconditional));
    let answers = |asked| {
        let TokenizedPrompt { ids, answers }: &TokenizedPrompt = asked;
        answers.iter().map(|answer| Continuation { prompt: ids, ids: answer })
    };
    asked.flat_map(answers).collect()
}

/// Returns the number of tokens read if a prompt shared nothing with others: once for all its answers if each is a single
/// token, otherwise once for each.
fn unshared_tokens(prompt: &Prompt) -> usize {
    let alone = |asked: &TokenizedPrompt| match asked.answers.iter().all(|ids| ids.len() == 1) {
        true => asked.ids.len(),
        false => asked.answers.iter().map(|ids| asked.ids.len() + ids.len() - 1).sum(),
    };
    prompt.rotations.iter().chain(&prompt.unconditional).map(alone).sum()
}

/// Returns the probability of each option, averaged over rotations, from the log-probability of each position.
fn mean_over_rotations(rotations: &[Vec<f64>]) -> Vec<f64> {
    let options = rotations[0].len();
    let of = |option: usize| {
        let at = |(by, found): (usize, &Vec<f64>)| found[(option + options - by) % options].exp();
        rotations.iter().enumerate().map(at).sum::<f64>() / rotations.len() as f64
    };
    (0..options).map(of).collect()
}

/// Returns the exponential of each option's score, and the index of the option with the highest score: the exponentials of low
/// scores underflow to 0 and do not differ.
fn compare_texts(options: &[OptionScore], norm: Norm) -> (Vec<f64>, usize) {
    let scores: Vec<f64> = options.iter().map(|option| norm.score(option)).collect();
    (options.iter().map(|option| norm.probability(option)).collect(), best(&scores))
}

fn texts(
    question: &SheetQuestion,
    asked: &TokenizedPrompt,
    log_probs: &[f64],
    unconditional: &[f64],
) -> Vec<OptionScore> {
    let option = |i: usize| OptionScore {
        log_prob: log_probs[i],
        unconditional: unconditional[i],
        tokens: asked.answers[i].len() as u32,
        bytes: question.options[i].len() as u32,
    };
    (0..log_probs.len()).map(option).collect()
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

    /// Makes a sheet of the subject `s` with questions of these options.
    fn sheet(questions: Vec<[&str; 4]>) -> Sheet {
        let question = |(i, options): (usize, [&str; 4])| SheetQuestion {
            id: i.to_string(),
            question: "q".into(),
            options: options.map(String::from).into(),
            answer: 'A',
        };
        Sheet { subject: "s".into(), questions: questions.into_iter().enumerate().map(question).collect() }
    }

    fn asked(ids: &[u32], answers: [&[u32]; 4]) -> TokenizedPrompt {
        TokenizedPrompt { ids: ids.to_vec(), answers: answers.map(<[u32]>::to_vec).into() }
    }

    fn prompt(ids: &[u32], answers: [&[u32]; 4]) -> Prompt {
        let rotations = vec![asked(ids, answers)];
        Prompt { rotations, ..Prompt::default() }
    }

    /// The same prompt answered by the texts of options, whose unconditional prompt is the id 31.
    fn with_texts(ids: &[u32], answers: [&[u32]; 4]) -> Prompt {
        Prompt { unconditional: Some(asked(&[31], answers)), ..prompt(ids, answers) }
    }

    /// Returns the probability of `next` after `ids`, by a separate pass.
    fn p(model: &Transformer, ids: &[u32], next: u32) -> f64 {
        model.next_token_probabilities(&[NextToken { prompt: ids, ids: &[next] }]).unwrap()[0][0]
    }

    fn log_p(model: &Transformer, ids: &[u32], answer: &[u32]) -> f64 {
        let mut read = ids.to_vec();
        let mut sum = 0.0;
        for &id in answer {
            sum += p(model, &read, id).ln();
            read.push(id);
        }
        sum
    }

    fn answers(model: &Transformer, sheet: Sheet, prompts: &[Prompt], norm: Norm) -> Vec<QuestionRecord> {
        run_exam(model, &[sheet], prompts, norm, &AtomicBool::new(false), &|_| ()).unwrap()
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(best(&[0.1, 0.3, 0.3, 0.2]), 1);
        assert_eq!(best(&[0.0; 4]), 0);
        assert_eq!(best(&[0.0, 0.0, 0.0, 1e-9]), 3);
    }

    #[test]
    fn letters_of_each_question_are_its_own() {
        let model = model();
        let prompts =
            [prompt(&[3, 4, 5], [&[7], &[8], &[9], &[10]]), prompt(&[6], [&[17], &[18], &[19], &[20]])];
        let found = answers(&model, sheet(vec![["a", "b", "c", "d"]; 2]), &prompts, Norm::Byte);
        for (record, prompt) in found.iter().zip(&prompts) {
            for (got, id) in record.probabilities.iter().zip(&prompt.rotations[0].answers) {
                let want = p(&model, &prompt.rotations[0].ids, id[0]);
                assert!((got - want).abs() < 1e-7, "{got} instead of {want}");
            }
        }
    }

    #[test]
    fn each_option_counts_as_the_mean_over_its_places() {
        let model = model();
        let letters: [&[u32]; 4] = [&[7], &[8], &[9], &[10]];
        let ids = [[3, 4, 5], [3, 4, 6], [3, 5, 6], [4, 5, 6]];
        let rotations = ids.iter().map(|ids| asked(ids, letters)).collect();
        let prompt = Prompt { rotations, ..prompt(&ids[0], letters) };
        let found = answers(&model, sheet(vec![["a", "b", "c", "d"]]), &[prompt], Norm::Byte).remove(0);
        for (option, found) in found.probabilities.iter().enumerate() {
            // In rotation r option i is at position i - r.
            let want =
                (0..4).map(|by| p(&model, &ids[by], letters[(option + 4 - by) % 4][0])).sum::<f64>() / 4.0;
            assert!((found - want).abs() < 1e-7, "{found} instead of {want}");
        }
        assert!(found.options.is_empty());
    }

    #[test]
    fn texts_of_options_are_compared_by_each_norm() {
        let model = model();
        // Options of one, two, three and one token; their bytes are those of their texts.
        let options = ["青", "ab", "青石 x", "longer"];
        let ids: [&[u32]; 4] = [&[7], &[8, 9], &[10, 11, 12], &[13]];
        let prompt = with_texts(&[3, 4, 5], ids);
        let log_prob = ids.map(|ids| log_p(&model, &[3, 4, 5], ids));
        let unconditional = ids.map(|ids| log_p(&model, &[31], ids));
        let of = |score: &dyn Fn(usize) -> f64| (0..4).map(score).collect::<Vec<f64>>();
        for (norm, want) in [
            (Norm::Raw, of(&|i| log_prob[i])),
            (Norm::Token, of(&|i| log_prob[i] / ids[i].len() as f64)),
            (Norm::Byte, of(&|i| log_prob[i] / options[i].len() as f64)),
            (Norm::Pmi, of(&|i| log_prob[i] - unconditional[i])),
        ] {
            let found = answers(&model, sheet(vec![options]), std::slice::from_ref(&prompt), norm).remove(0);
            for (got, want) in found.probabilities.iter().zip(&want) {
                assert!(
                    (got - want.exp()).abs() < 1e-6 * want.exp(),
                    "{norm:?}: {got} instead of {}",
                    want.exp()
                );
            }
            assert_eq!(found.prediction, letter(best(&want)), "{norm:?}");
            // One token of six bytes against one of three: per byte, the longer word is likelier.
            assert!(norm != Norm::Byte || found.prediction == 'D');
            for (i, option) in found.options.iter().enumerate() {
                assert_eq!((option.tokens as usize, option.bytes as usize), (ids[i].len(), options[i].len()));
                assert!((option.log_prob - log_prob[i]).abs() < 1e-5);
                assert!((option.unconditional - unconditional[i]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn options_whose_probabilities_underflow_are_compared_by_their_scores() {
        let option = |log_prob| OptionScore { log_prob, unconditional: -1.0, tokens: 300, bytes: 900 };
        let options = [-900.0, -800.0, -850.0].map(option);
        assert_eq!(compare_texts(&options, Norm::Raw), (vec![0.0; 3], 1));
        // Per token: -3, -8/3 and -17/6.
        let (probabilities, chosen) = compare_texts(&options, Norm::Token);
        assert_eq!((probabilities[0], chosen), ((-3f64).exp(), 1));
    }

    #[test]
    fn a_model_that_is_not_finite_answers_nothing() {
        let whole = model();
        let letters: [&[u32]; 4] = [&[7], &[8], &[9], &[10]];
        for broken in [f32::NAN, f32::INFINITY] {
            let mut weights: Weights = whole.to_weights().unwrap();
            *weights.flat.last_mut().unwrap() = broken;
            let model = Transformer::from_weights(&whole.config, weights, &Cpu).unwrap();
            for prompt in [prompt(&[3, 4, 5], letters), with_texts(&[3, 4, 5], letters)] {
                let stop = AtomicBool::new(false);
                let sheets = [sheet(vec![["a", "b", "c", "d"]])];
                let error = run_exam(&model, &sheets, &[prompt], Norm::Byte, &stop, &|_| ());
                let error = error.unwrap_err().to_string();
                assert!(error.starts_with("the model's probabilities are not finite"), "{error}");
            }
        }
    }

    #[test]
    fn an_exam_stops_between_groups_of_questions() {
        let model = model();
        // The prompts begin differently, so each is read separately.
        let long = |first: u32| (0..600).map(|i| 3 + (first + i) % 30).collect::<Vec<_>>();
        let prompts: Vec<Prompt> = (0..20).map(|i| prompt(&long(i), [&[7], &[8], &[9], &[10]])).collect();
        let stop = AtomicBool::new(false);
        let answered = Mutex::new(0);
        // Requests a stop once the first of 20 groups is done.
        let progress = |done| {
            *answered.lock().unwrap() = done;
            stop.store(true, Ordering::SeqCst);
        };
        let sheets = [sheet(vec![["a", "b", "c", "d"]; 20])];
        let run = || run_exam(&model, &sheets, &prompts, Norm::Byte, &stop, &progress);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        assert!(pool.install(run).unwrap_err().is::<Stopped>());
        assert!((1..=2).contains(&*answered.lock().unwrap()), "{answered:?}");
    }
}
