//! The cases: optimizer steps, exam questions, generated tokens, tokenized texts.

use super::{Case, Compute, DeviceWork, ExamCase, OPTIONS, Rate, Report, Sharing, synthetic_ids, time_steps};
use crate::config::{TrainStage, TrialConfig, WorldConfig};
use crate::data::chat::ChatTemplate;
use crate::data::world::World;
use crate::data::{Tokenizer, TrainRow};
use crate::fsutil::read_text;
use crate::system::peak_rss_mb;
use crate::train::{next_tokens, optimizer};
use anyhow::Result;
use model::cost::attention_pairs_x2;
use model::inference::NextToken;
use model::{
    Backend, Continuation, Continuations, Cost, Event, GenerateOptions, GenerationBatch, LaneConfig,
    ReadCounts, Recompute, Sampling, Sequence, Trainer, Transformer, Work,
};
use std::path::Path;
use std::time::Instant;

/// Learning rate of the training case, whose result is discarded.
const LR: f64 = 1e-4;

/// Work of a model.
enum Job {
    Train,
    Exam(ExamCase),
    Generate,
}

struct Measured<'a>(&'a Case, Job);

impl Work for Measured<'_> {
    type Outcome = Result<Report>;

    fn run<B: Backend>(self, backend: &B) -> Result<Report> {
        let Self(case, job) = self;
        let Done { report, flops_per_token, threads } = match job {
            Job::Train => train_on(case, backend),
            Job::Exam(exam) => exam_on(case, exam, backend),
            Job::Generate => generate_on(case, backend),
        }?;
        // Before the GPU's peak speed is measured, which takes more memory than many models.
        let peak_device_mb = backend.peak_bytes().map(|bytes| bytes as f64 / f64::from(1 << 20));
        let rate = report.tokens_per_second;
        let compute = match backend.about()? {
            Some(about) => Compute::beside(rate, flops_per_token, about.gflops),
            None => Compute::new(rate, flops_per_token, threads)?,
        };
        Ok(Report { compute: Some(compute), peak_device_mb, ..report })
    }
}

/// Result of a job, without its arithmetic throughput.
struct Done {
    report: Report,
    /// Floating-point operations per token that `tokens_per_second` counts.
    flops_per_token: f64,
    /// Number of CPU threads that had work; 0 means all.
    threads: usize,
}

/// Measures optimizer steps on full rows: forward, backward, clipping, AdamW.
///
/// # Errors
/// If the model cannot be built, or a step fails.
pub fn train(case: &Case) -> Result<Report> {
    case.device.run(case.precision, Measured(case, Job::Train))?
}

fn train_on<B: Backend>(case: &Case, backend: &B) -> Result<Done> {
    let trial = TrialConfig::default();
    let optimizer = optimizer(TrainStage::Pretrain.training(&trial));
    let lanes = LaneConfig { lanes: case.lanes, recompute: Recompute::None, seed: 1 };
    let mut trainer = Trainer::new(Transformer::new(&case.model, 1, backend)?, None, optimizer, lanes)?;
    let rows: Vec<TrainRow> = (0..case.batch_size).map(|i| row(case, i as u64).into()).collect();
    let mut step = || -> Result<_> { Ok((next_tokens(&mut trainer, &rows)?, trainer.step(LR)?)) };
    // As in training, the results of a step that a device computes are read once the next one is queued.
    let mut unread = if B::QUEUES { Some(step()?) } else { None };
    let before = backend.activity();
    let seconds = time_steps(case, || {
        let results = step()?;
        let (losses, norm) = match &mut unread {
            Some(unread) => std::mem::replace(unread, results),
            None => results,
        };
        losses.read()?;
        norm.read()?;
        Ok(())
    })?;
    let steps = case.warmup + seconds.len();
    let device_work =
        before.zip(backend.activity()).map(|(before, after)| DeviceWork::between(before, after, steps));
    let peak_rss_mb = peak_rss_mb();
    let rate = Rate::new((case.batch_size * case.seq_len) as f64, seconds);
    // Threads in excess of the lanes have no work.
    let threads = if case.threads == 0 { 0 } else { case.threads.min(case.lanes) };
    let flops_per_token = Cost::training(&case.model).per_token(case.seq_len);
    let report = Report { device_work, ..report("train", case, rate, peak_rss_mb) };
    Ok(Done { report, flops_per_token, threads })
}

/// Returns one document that fills a row; every position carries loss.
fn row(case: &Case, salt: u64) -> Sequence {
    let ids = synthetic_ids(case.seq_len + 1, case.model.vocab_size, salt);
    Sequence {
        targets: ids[1..].to_vec(),
        weights: vec![1.0; case.seq_len],
        counted: case.seq_len as f32,
        ..Sequence::document(&ids[..case.seq_len])
    }
}

/// Measures questions with [`OPTIONS`] answers each, `batch_size` at a time: as exams read them, then without sharing.
///
/// # Errors
/// If the model cannot be built, or a step fails.
pub fn exam(case: &Case, exam: ExamCase) -> Result<Report> {
    case.device.run(case.precision, Measured(case, Job::Exam(exam)))?
}

fn exam_on<B: Backend>(case: &Case, exam: ExamCase, backend: &B) -> Result<Done> {
    let transformer = Transformer::new(&case.model, 1, backend)?;
    let vocab = case.model.vocab_size;
    let shared = synthetic_ids(exam.shared, vocab, u64::MAX >> 32);
    let prompts: Vec<Vec<u32>> = (0..case.batch_size)
        .map(|i| [&shared[..], &synthetic_ids(case.seq_len - exam.shared, vocab, i as u64)].concat())
        .collect();
    let answers: Vec<Vec<u32>> = (0..(case.batch_size * OPTIONS) as u64)
        .map(|i| synthetic_ids(exam.answer_len, vocab, i | 1 << 31))
        .collect();
    let asked: Vec<Continuation> = answers
        .iter()
        .enumerate()
        .map(|(i, ids)| Continuation { prompt: &prompts[i / OPTIONS], ids })
        .collect();
    let by_letter = exam.answer_len == 1;
    let rows: Vec<Sequence> = asked.iter().map(|c| Sequence::answered(c.prompt, c.ids)).collect();
    let letters: Vec<Vec<u32>> = answers.chunks_exact(OPTIONS).map(<[Vec<u32>]>::concat).collect();
    let next: Vec<NextToken> =
        prompts.iter().zip(&letters).map(|(prompt, ids)| NextToken { prompt, ids }).collect();
    let alone = match by_letter {
        true => prompts.iter().map(Vec::len).sum(),
        false => rows.iter().map(Sequence::len).sum(),
    };
    let laid_out = Continuations::new(&asked)?;
    let ReadCounts { distinct, read } = laid_out.read_counts();
    let mut by_themselves = vec![];
    let seconds = time_steps(case, || {
        transformer.log_probs(&Continuations::new(&asked)?, &|_| true)?;
        // Measured alternately, so that other load on the machine affects both.
        let began = Instant::now();
        match by_letter {
            true => drop(transformer.next_token_probabilities(&next)?),
            false => drop(transformer.token_log_probs(&rows)?),
        }
        by_themselves.push(began.elapsed().as_secs_f64());
        Ok(())
    })?;
    by_themselves.drain(..case.warmup);
    let seconds: Vec<f64> = seconds.iter().zip(&by_themselves).map(|(both, alone)| both - alone).collect();
    let peak_rss_mb = peak_rss_mb();
    let questions = Rate::new(case.batch_size as f64, seconds.clone());
    let tokens = Rate::new(read as f64, seconds);
    let alone_questions = Rate::new(case.batch_size as f64, by_themselves);
    let speedup = questions.median / alone_questions.median;
    let ceiling = alone as f64 / distinct as f64;
    // Only the last position of a prompt reaches the head, and all but the last of an answer.
    let head = 2.0 * (case.model.vocab_size * case.model.d_model) as f64;
    let logits = case.batch_size * (1 + OPTIONS * (exam.answer_len - 1));
    let cost = Cost::forward(&case.model);
    let flops_per_token = cost.per_token(case.seq_len) - head * (1.0 - logits as f64 / read as f64);
    let operations = |tokens: usize, squares: u64, logits: usize| {
        cost.of(tokens as u64, squares) - head * (tokens as f64 - logits as f64)
    };
    let square = |len: usize| attention_pairs_x2(len as u64, case.model.window);
    let (prompts, answers) = (case.batch_size as u64, (case.batch_size * OPTIONS) as u64);
    let with_answer = square(case.seq_len + exam.answer_len - 1);
    let (squares_alone, logits_alone) = match by_letter {
        true => (prompts * square(case.seq_len), case.batch_size),
        false => (answers * with_answer, case.batch_size * OPTIONS * exam.answer_len),
    };
    let squares = square(exam.shared)
        + prompts * (square(case.seq_len) - square(exam.shared))
        + answers * (with_answer - square(case.seq_len));
    let operations_ceiling =
        operations(alone, squares_alone, logits_alone) / operations(distinct, squares, logits);
    let report = Report {
        questions_per_second: Some(questions),
        sharing: Some(Sharing {
            exam,
            tokens_alone: alone,
            tokens_distinct: distinct,
            tokens_read: read,
            ceiling,
            operations_ceiling,
            speedup,
            of_ceiling: speedup / ceiling,
            of_operations_ceiling: speedup / operations_ceiling,
        }),
        ..report("exam", case, tokens, peak_rss_mb)
    };
    Ok(Done { report, flops_per_token, threads: case.threads })
}

/// Measures greedy generation after one prompt of `seq_len` tokens: a step adds a token to each of `batch_size` texts.
///
/// # Errors
/// If the model cannot be built, or its logits are not finite.
pub fn generate(case: &Case) -> Result<Report> {
    case.device.run(case.precision, Measured(case, Job::Generate))?
}

fn generate_on<B: Backend>(case: &Case, backend: &B) -> Result<Done> {
    let transformer = Transformer::new(&case.model, 1, backend)?.for_generation();
    let mut batch = GenerationBatch::new(&transformer);
    let options = GenerateOptions {
        max_tokens: 1 + case.warmup + case.steps.max(1),
        sampling: Sampling::default(),
        seed: 1,
        choice: 0,
        stop: vec![],
        log_probs: None,
    };
    let prompt = synthetic_ids(case.seq_len, case.model.vocab_size, 1);
    batch.begin(&prompt, &vec![options; case.batch_size], None)?;
    let mut step = || -> Result<usize> {
        let events = batch.step();
        let tokens = events.len();
        for (_, event) in events {
            if let Event::Failed(problem) = event {
                return Err(problem.into());
            }
        }
        Ok(tokens)
    };
    // The first token comes with the last chunk of the prompt.
    while step()? == 0 {}
    let seconds = time_steps(case, || step().map(drop))?;
    let peak_rss_mb = peak_rss_mb();
    let rate = Rate::new(case.batch_size as f64, seconds);
    // A token attends to everything before it, whereas the mean token of a document attends to half of the document.
    let seen = case.seq_len + case.warmup + case.steps / 2;
    let flops_per_token = Cost::forward(&case.model).per_token(2 * seen);
    Ok(Done { report: report("generate", case, rate, peak_rss_mb), flops_per_token, threads: case.threads })
}

/// Measures parallel tokenization of `batch_size` texts: lines of a file, or texts of the built-in world.
///
/// Without a tokenizer, one of `vocab_size` entries is trained on the texts.
///
/// # Errors
/// If the tokenizer or the text cannot be read, or there is no text.
pub fn tokenize(case: &Case, tokenizer: Option<&Path>, text: Option<&Path>) -> Result<Report> {
    let mut texts: Vec<String> = match text {
        Some(path) => read_text(path)?.lines().map(str::to_owned).collect(),
        None => {
            let world = World::generate(&WorldConfig::default());
            let template = ChatTemplate::minimind()?;
            world.pretrain_rows().map(|row| template.text(&row)).collect::<Result<_>>()?
        }
    };
    let tokenizer = match tokenizer {
        Some(path) => Tokenizer::load(path)?,
        None => Tokenizer::train(texts.clone().into_iter(), case.model.vocab_size)?,
    };
    texts.truncate(case.batch_size);
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut tokens = 0;
    let seconds = time_steps(case, || {
        tokens = tokenizer.encode_batch(&texts)?.iter().map(Vec::len).sum();
        Ok(())
    })?;
    let case = Case { batch_size: texts.len(), ..case.clone() };
    let rate = Rate::new(tokens as f64, seconds.clone());
    Ok(Report {
        shape: None,
        params: None,
        megabytes_per_second: Some(Rate::new(bytes as f64 / 1e6, seconds)),
        ..report("tokenize", &case, rate, peak_rss_mb())
    })
}

fn report(name: &'static str, case: &Case, tokens_per_second: Rate, peak_rss_mb: f64) -> Report {
    Report {
        case: name,
        shape: Some(case.model.clone()),
        settings: case.clone(),
        params: Some(case.model.params()),
        tokens_per_second,
        questions_per_second: None,
        sharing: None,
        megabytes_per_second: None,
        compute: None,
        peak_device_mb: None,
        device_work: None,
        peak_rss_mb,
    }
}
