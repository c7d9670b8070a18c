//! Tests of probes, from their keys to the answers of a trained model.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::PROBES;
use crate::config::Packing;
use crate::data::batches::{BatchOptions, sequential};
use crate::data::{RowLoss, Store};

/// Makes the configuration of a small trial on a probe.
fn probe(source: Source) -> TrialConfig {
    let mut config = small();
    config.data.source = source;
    for stage in TrainStage::all() {
        (stage.spec().training_mut)(&mut config).enabled = stage == TrainStage::Pretrain;
    }
    (config.hops.length, config.hops.hops, config.hops.rows, config.hops.questions) = (16, 2, 60, 8);
    (config.recall.vocabulary, config.recall.length, config.recall.pairs) = (40, 16, 3);
    (config.recall.rows, config.recall.questions) = (60, 8);
    (config.capacity.people, config.capacity.exposures, config.capacity.names) = (12, 3, 4);
    (config.capacity.attributes, config.capacity.values) = (3, 6);
    config
}

#[test]
fn data_of_probes_has_another_name_exactly_where_it_is_other_data() {
    for spec in &PROBES {
        names_tell_contents_apart(&probe(spec.source), &[]);
    }
}

#[test]
fn a_probe_trains_on_its_labels_and_nothing_else() {
    let runs = tempfile::tempdir().unwrap();
    let config = probe(Source::Hops);
    assert!(made(&config, runs.path()).iter().all(|(_, made)| made.is_some()));
    let graph = plan(&[trial(|fresh| *fresh = config.clone())], runs.path());
    let tokenizer = Tokenizer::load(&graph.nodes[0].dir.join("model")).unwrap();
    let words = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    for (folder, rows) in [("train", 60), ("val", 3 * 8)] {
        let store = Store::open(&graph.nodes[1].dir.join("pretrain").join(folder)).unwrap();
        store.verify().unwrap();
        let loss = RowLoss::of(&store, config.sft.answer_loss);
        let (seq_len, packing) = (18, Packing::Single);
        let options = BatchOptions { seq_len, packing, loss, seed: 1, shares: None };
        let (found, lost) = sequential(&store, 0..store.len(), &options, u64::MAX);
        assert_eq!((found.len(), lost.notices("")), (rows, vec![]));
        for (row, _) in found {
            let read: Vec<String> = words(&row.ids).split(' ').map(Into::into).collect();
            let hops: usize = read[0].parse().unwrap();
            assert_eq!((row.ids.len(), row.weights[0]), (17, 0.0));
            for at in 1..read.len() {
                // Found by searching the words read so far.
                let mut end = Some(at);
                for _ in 0..hops {
                    end = end.and_then(|end| {
                        read[1..end].iter().rposition(|letter| *letter == read[end]).map(|j| j + 2)
                    });
                }
                assert_eq!(row.weights[at] > 0.0, end.is_some(), "{read:?} at {at}");
                if let Some(end) = end {
                    assert_eq!(words(&[row.targets[at]]), read[end], "{read:?} at {at}");
                }
            }
            assert_eq!(f64::from(row.counted), row.weights.iter().map(|&w| f64::from(w)).sum::<f64>());
        }
    }
}

#[test]
fn a_model_that_is_trained_on_a_probe_answers_its_exam() {
    let runs = tempfile::tempdir().unwrap();
    let graph = run_all(
        |config| {
            *config = TrialConfig { threads: 1, model: config.model.clone(), ..probe(Source::Hops) };
            (config.model.vocab_size, config.hops.hops, config.hops.rows) = (16, 1, 2000);
            let training = &mut config.pretrain.training;
            (training.steps, training.seq_len, training.lr) = (Some(120), 32, 0.01);
        },
        runs.path(),
    );
    let exam = &graph.nodes.last().unwrap().dir;
    let records: Vec<crate::records::QuestionRecord> =
        serde_json::from_slice(&std::fs::read(exam.join("questions.json")).unwrap()).unwrap();
    let of = |subject: &str| records.iter().filter(|r| r.subject == subject).collect::<Vec<_>>();
    assert_eq!((of("hop_0").len(), of("hop_1").len()), (8, 8));
    // With zero hops the target is the letter itself, which one layer learns quickly if labels are aligned correctly.
    for record in of("hop_0") {
        assert!(record.is_right() && record.probabilities.iter().sum::<f64>() > 0.9, "{record:?}");
    }
}
