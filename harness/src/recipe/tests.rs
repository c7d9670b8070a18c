//! Tests of stages on small data, and of what equal names guarantee.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{KeySpec, Kind, get, keys, set};
use crate::data::Message;
use crate::fsutil::files_below;
use crate::plan::testing::{plan, trial};
use crate::records::Routing;
use crate::track::Silent;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

#[test]
fn tokenizers_and_data_are_given_up_when_somebody_asks_to_stop() {
    let runs = tempfile::tempdir().unwrap();
    let graph = plan(&[trial(|_| {})], runs.path());
    let work = |index: usize, is_asked: bool| {
        let request = crate::execute::pool::request_of(&graph, index, 1).unwrap();
        let config = request.trial_config().unwrap();
        create_dir(&request.dir).unwrap();
        Recipe.run(&request, &config, &AtomicBool::new(is_asked), &Silent).unwrap()
    };
    assert_eq!(graph.nodes[0].stage, Stage::Tokenizer);
    assert_eq!(work(0, true), None);
    assert!(!graph.nodes[0].dir.join("model/tokenizer.json").exists());
    assert!(work(0, false).is_some());
    assert_eq!(graph.nodes[1].stage, Stage::Data);
    assert_eq!(work(1, true), None);
    assert_eq!(std::fs::read_dir(&graph.nodes[1].dir).unwrap().count(), 0, "nothing half-made is left");
    assert!(work(1, false).is_some());
}

#[test]
fn files_that_change_after_the_plan_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    write("a.jsonl", "{\"text\":\"one\"}\n");
    std::fs::create_dir(at("sheets")).unwrap();
    write("sheets/law_val.csv", "id,question,A,B,C,D,answer\n0,q,a,b,c,d,A\n");
    let graph = plan(
        &[trial(|config| {
            config.data.source = Source::Files;
            config.data.pretrain = vec![at("*.jsonl")].into();
            (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
            config.exam.sheets = Some(at("sheets"));
        })],
        dir.path(),
    );
    let error = |index: usize| {
        let request = crate::execute::pool::request_of(&graph, index, 1).unwrap();
        let config = request.trial_config().unwrap();
        create_dir(&request.dir).unwrap();
        let ended = Recipe.run(&request, &config, &AtomicBool::new(false), &Silent);
        ended.map_or_else(|error| format!("{error:#}"), |_| String::new())
    };
    let stages: Vec<Stage> = graph.nodes.iter().map(|node| node.stage).collect();
    assert_eq!(stages, [Stage::Tokenizer, Stage::Data, Stage::Train(TrainStage::Pretrain), Stage::Exam]);
    assert_eq!(error(0), "");
    write("b.jsonl", "{\"text\":\"two\"}\n");
    for index in [0, 1] {
        assert_eq!(
            error(index),
            format!(
                "{}: was not there when the run was planned; run again, with what the files hold now",
                at("b.jsonl")
            )
        );
    }
    std::fs::remove_file(at("b.jsonl")).unwrap();
    write("a.jsonl", "{\"text\":\"two\"}\n");
    assert!(error(1).contains("a.jsonl: has changed since the run was planned (SHA-256 "), "{}", error(1));
    write("sheets/law_val.csv", "id,question,A,B,C,D,answer\n0,q,a,b,c,d,B\n");
    assert!(error(3).contains("law_val.csv: has changed since the run was planned"), "{}", error(3));
}

mod probes;

/// Returns the content of every file of a stage run, by its relative path.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(dir).unwrap().into_iter();
    files.map(|(path, _)| (path.strip_prefix(dir).unwrap().into(), std::fs::read(&path).unwrap())).collect()
}

/// Returns another value of a key, if there is one to try.
fn another(key: &KeySpec, now: &Value) -> Option<Value> {
    Some(match (&key.kind, now) {
        (Kind::Bool, Value::Bool(is)) => json!(!is),
        (Kind::Whole, Value::Null) => json!(7),
        (Kind::Whole, now) => json!(now.as_u64()? + 1),
        (Kind::Number, Value::Null) => json!(1e9),
        (Kind::Number, now) => json!(now.as_f64()? * 0.75 + 0.1),
        (Kind::Choice(words), Value::String(now)) => json!(words.iter().find(|word| *word != now)?),
        _ => return None,
    })
}

/// Returns the configuration with another value of a key, if that is valid.
fn changed(config: &TrialConfig, key: &KeySpec) -> Option<TrialConfig> {
    let mut tree = json!(config);
    let value = another(key, get(&tree, &key.path)?)?;
    set(&mut tree, &key.path, value);
    let config: TrialConfig = serde_json::from_value(tree).ok()?;
    config.validate().is_empty().then_some(config)
}

/// Files of a stage run; `None` if it failed.
type Content = Option<BTreeMap<PathBuf, Vec<u8>>>;

/// Runs the tokenizer and data stages and returns their names and results.
fn made(config: &TrialConfig, runs: &Path) -> [(Uuid, Content); 2] {
    let graph = plan(&[trial(|fresh| *fresh = config.clone())], runs);
    [0, 1].map(|index| {
        let request = crate::execute::pool::request_of(&graph, index, 1).unwrap();
        create_dir(&request.dir).unwrap();
        let config = request.trial_config().unwrap();
        let is_done = Recipe.run(&request, &config, &AtomicBool::new(false), &Silent).is_ok();
        (request.uuid, is_done.then(|| content(&request.dir)))
    })
}

/// Changes each key in turn and runs the tokenizer and data stages, each time in a new folder: other content needs another
/// name, and another name other content. Keys in `read_in_vain` have an effect only on other data than this.
fn names_tell_contents_apart(config: &TrialConfig, read_in_vain: &[&str]) {
    let runs = || tempfile::tempdir().unwrap();
    let first = runs();
    let base = made(config, first.path());
    assert!(base.iter().all(|(_, made)| made.is_some()));
    let (mut tried, mut in_vain) = (0, Vec::new());
    // The keys of one training stage represent those of all.
    let is_tried = |key: &&KeySpec| match key.path.split_once('.') {
        Some((section, _)) => section == "sft" || TrainStage::named(section).is_none(),
        None => true,
    };
    for key in keys().filter(is_tried) {
        let Some(config) = changed(config, key) else { continue };
        tried += 1;
        let folder = runs();
        let made = made(&config, folder.path());
        for ((name, now), (old_name, old)) in made.iter().zip(&base) {
            assert!(name != old_name || now == old, "{} makes other data under the same name", key.path);
        }
        if made[1].0 != base[1].0 && made.iter().zip(&base).all(|(now, old)| now.1 == old.1) {
            in_vain.push(key.path.clone());
        }
    }
    assert!(tried > 60, "{tried} keys");
    in_vain.retain(|key| !read_in_vain.contains(&key.as_str()));
    assert_eq!(in_vain, Vec::<String>::new(), "keys that rename what they do not change");
}

fn small() -> TrialConfig {
    let mut config = TrialConfig { threads: 1, ..TrialConfig::default() };
    config.model.vocab_size = 300;
    (config.world.people, config.world.questions_per_subject) = (8, 4);
    (config.world.pretrain_rows, config.world.sft_rows) = (40, 24);
    (config.world.sft_multi_rows, config.world.dpo_pairs) = (12, 12);
    config.data.val_share = 0.2;
    (config.sft_multi.training.enabled, config.lora.training.enabled) = (true, true);
    config
}

#[test]
fn data_of_the_world_has_another_name_exactly_where_it_is_other_data() {
    let read_in_vain = [
        "data.special_tokens_in_text",
        "tokenizer.train_chars",
        "world.seen_share",
        "world.paraphrases",
        "world.sft_drills",
        "world.questions_per_subject",
    ];
    names_tell_contents_apart(&small(), &read_in_vain);
}

#[test]
fn data_of_files_has_another_name_exactly_where_it_is_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(&small().world);
    let mut config = small();
    config.data.source = Source::Files;
    config.exam.enabled = false;
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        vec![path.to_string_lossy().into_owned()]
    };
    let chat = |row: Row| match row {
        Row::Chat(turns) => format!("{}\n", json!({ "conversations": turns })),
        _ => String::new(),
    };
    // Some texts are at the limit of the filters in length or in Chinese characters, and some have a special token.
    let text = |i: usize| {
        let text = match i % 8 {
            0 => format!("一 english {i}"),
            1 => format!("第{i}篇文章，</s>"),
            _ => format!("第{i}篇文章，{}", "陈明 的 家乡 是 青石 。".repeat(i % 5)),
        };
        format!("{}\n", json!({ "text": text }))
    };
    config.data.pretrain = write("pretrain.jsonl", (0..60).map(text).collect()).into();
    config.data.sft = write("sft.jsonl", world.sft_rows().map(chat).collect()).into();
    config.data.sft_multi = write("multi.jsonl", world.sft_multi_rows().map(chat).collect()).into();
    let pair = |row: Row| match row {
        Row::Preference { prompt, chosen, rejected } => {
            let with = |answer: String| [prompt.clone(), vec![Message::new("assistant", answer)]].concat();
            format!("{}\n", json!({ "chosen": with(chosen), "rejected": with(rejected) }))
        }
        _ => String::new(),
    };
    config.data.dpo = write("dpo.jsonl", world.dpo_rows().map(pair).collect()).into();
    (config.data.min_chars, config.data.max_chars, config.data.max_rows) = (7, 4000, 20);
    (config.data.min_chinese_share, config.data.history_chars) = (0.05, 5);
    let read_in_vain = [
        "data.max_chars",
        "data.on_bad_row",
        "data.unknown_keys",
        "tokenizer.train_chars",
        "model.vocab_size",
    ];
    names_tell_contents_apart(&config, &read_in_vain);
}

#[test]
fn a_copy_of_a_file_is_the_same_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    for name in ["a.jsonl", "b.JSONL", "c.txt"] {
        std::fs::write(path(name), "{\"text\":\"one\"}\n").unwrap();
    }
    let names = |name: &str| {
        let trial = trial(|config| {
            *config = small();
            (config.data.source, config.exam.enabled) = (Source::Files, false);
            for stage in TrainStage::all().filter(|stage| *stage != TrainStage::Pretrain) {
                (stage.spec().training_mut)(config).enabled = false;
            }
            config.data.pretrain = vec![path(name)].into();
        });
        let graph = plan(&[trial], dir.path());
        (graph.trials[0].uuid, graph.trials[0].setting)
    };
    assert_eq!(names("a.jsonl"), names("b.JSONL"));
    assert_ne!(names("a.jsonl"), names("c.txt"), "lines of text are read otherwise");
}

#[test]
fn a_setting_is_a_trial_without_its_seed() {
    let named = |seed: u64, lr: f64| {
        let trial = trial(|config| (config.seed, config.sft.training.lr) = (seed, lr));
        let graph = plan(&[trial], Path::new("nowhere"));
        (graph.trials[0].uuid, graph.trials[0].setting)
    };
    let (one, two, other) = (named(1, 1e-3), named(2, 1e-3), named(1, 2e-3));
    assert!(one.0 != two.0 && one.1 == two.1 && one.1 != other.1);
}

#[test]
fn names_follow_sources_sets_and_mixes_where_a_stage_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    for name in ["a", "b", "v"] {
        std::fs::write(path(&format!("{name}.txt")), format!("{name} of it")).unwrap();
    }
    let named = |names: &[(&str, &str)]| {
        let files = names.iter().map(|(name, file)| (name.to_string(), vec![path(file)]));
        crate::config::Sources::Named(files.collect())
    };
    // Tokenizer, data, pretraining.
    let names = |change: &dyn Fn(&mut DataConfig)| -> Vec<Uuid> {
        let trial = trial(|config| {
            *config = small();
            config.exam.enabled = false;
            for stage in TrainStage::all().filter(|stage| *stage != TrainStage::Pretrain) {
                (stage.spec().training_mut)(config).enabled = false;
            }
            config.data.source = Source::Files;
            config.data.pretrain = vec![path("a.txt"), path("b.txt")].into();
            change(&mut config.data);
        });
        plan(&[trial], dir.path()).nodes.iter().map(|node| node.uuid).collect()
    };
    let same = |a: &[Uuid], b: &[Uuid]| a.iter().zip(b).map(|(a, b)| a == b).collect::<Vec<_>>();
    let plain = names(&|_| {});
    let sources = |data: &mut DataConfig| data.pretrain = named(&[("x", "a.txt"), ("y", "b.txt")]);
    let by_name = names(&sources);
    assert_eq!(same(&plain, &by_name), [true, false, false]);
    let other = |data: &mut DataConfig| data.pretrain = named(&[("x", "a.txt"), ("z", "b.txt")]);
    assert_eq!(same(&names(&other), &by_name), [true, false, false]);
    let mixed = |x: f64, y: f64| {
        names(&move |data| {
            data.pretrain = named(&[("x", "a.txt"), ("y", "b.txt")]);
            data.mix = [("x".to_string(), x), ("y".to_string(), y)].into();
        })
    };
    assert_eq!(same(&mixed(1.0, 3.0), &by_name), [true, true, false]);
    assert_eq!(same(&mixed(1.0, 3.0), &mixed(2.0, 3.0)), [true, true, false]);
    assert_eq!(mixed(1.0, 3.0), mixed(0.5, 1.5));
    let validated = |share: f64, file: &'static str| {
        names(&move |data| (data.val_share, data.pretrain_val) = (share, vec![path(file)].into()))
    };
    assert_eq!(same(&validated(0.1, "v.txt"), &plain), [true, false, false]);
    assert_eq!(same(&validated(0.1, "v.txt"), &validated(0.1, "a.txt")), [true, false, false]);
    assert_eq!(validated(0.1, "v.txt"), validated(0.2, "v.txt"), "nothing is held out by a share");
    // Files for a stage that is not run do not matter.
    assert_eq!(names(&|data| data.sft_val = vec![path("v.txt")].into()), plain);
}

/// Runs every stage of a trial, in order, and returns the graph.
fn run_all(change: impl Fn(&mut TrialConfig), runs: &Path) -> crate::plan::StageGraph {
    let graph = plan(
        &[trial(|config| {
            (config.model.vocab_size, config.model.d_model, config.model.n_layers) = (300, 16, 1);
            (config.model.n_heads, config.model.n_kv_heads) = (2, 1);
            (config.world.people, config.world.questions_per_subject) = (6, 3);
            (config.world.pretrain_rows, config.world.sft_rows) = (60, 60);
            for training in [&mut config.pretrain.training, &mut config.sft.training] {
                (training.steps, training.seq_len, training.lr) = (Some(6), 64, 0.01);
            }
            config.dpo.training.enabled = false;
            change(config);
        })],
        runs,
    );
    for index in 0..graph.nodes.len() {
        let request = crate::execute::pool::request_of(&graph, index, 1).unwrap();
        create_dir(&request.dir).unwrap();
        let config = request.trial_config().unwrap();
        let results = Recipe.run(&request, &config, &AtomicBool::new(false), &Silent).unwrap().unwrap();
        let exam_tokens = results.exam_at.and_then(|examined| examined.tokens);
        let results =
            json!({ "tokens": results.tokens, "exam_tokens": exam_tokens, "routing": results.routing });
        std::fs::write(request.dir.join("results.json"), results.to_string()).unwrap();
    }
    graph
}

#[test]
fn exams_are_sat_on_the_way_of_a_stage() {
    let runs = tempfile::tempdir().unwrap();
    let plain = run_all(|_| {}, runs.path());
    // The end of a stage is examined anyway, under the same name; and a mean of one is the last model.
    let same = run_all(|config| (config.exam.at, config.exam.average_last) = (vec![1.0], 1), runs.path());
    let names =
        |graph: &crate::plan::StageGraph| graph.nodes.iter().map(|node| node.uuid).collect::<Vec<_>>();
    assert_eq!(names(&plain), names(&same));

    let on_the_way =
        run_all(|config| (config.exam.at, config.exam.average_last) = (vec![1.0, 0.5], 2), runs.path());
    let [before, after] = [&plain, &on_the_way].map(|graph| {
        let of =
            |stage: Stage| graph.nodes.iter().filter(move |node| node.stage == stage).collect::<Vec<_>>();
        (of(Stage::Train(TrainStage::Pretrain)), of(Stage::Train(TrainStage::Sft)), of(Stage::Exam))
    });
    assert_eq!((before.0[0].uuid, before.2.len(), after.2.len()), (after.0[0].uuid, 1, 3));
    let read = |dir: &Path, name: &str| std::fs::read(dir.join(name)).unwrap();
    // Taking snapshots does not change the final weights.
    let [old, new] = [&before.1[0].dir, &after.1[0].dir];
    assert_ne!(old, new);
    assert_eq!(read(old, "model/model.safetensors"), read(new, "model/model.safetensors"));
    let exam = |at: usize| &after.2[at].dir;
    assert_eq!(read(&before.2[0].dir, "questions.json"), read(exam(1), "questions.json"));
    assert_ne!(read(exam(0), "questions.json"), read(exam(1), "questions.json"));
    let results = |dir: &Path| serde_json::from_slice::<Value>(&read(dir, "results.json")).unwrap();
    let (half, all) =
        (results(exam(0))["exam_tokens"].as_u64().unwrap(), results(new)["tokens"].as_u64().unwrap());
    assert!(half > 0 && half < all, "{half} of {all}");
    assert!(results(exam(1))["exam_tokens"].is_null());

    // The mean computed by hand, as a separate model.
    let folders = [new.join("snapshots/0.5"), new.join("model")];
    let parts = folders.clone().map(|dir| model::folder::read(&dir).unwrap().1);
    let (config, mean) = model::folder::read_mean(&folders).unwrap();
    let halfway = |i: usize| ((f64::from(parts[0].flat[i]) + f64::from(parts[1].flat[i])) / 2.0) as f32;
    assert!((0..mean.flat.len()).all(|i| mean.flat[i] == halfway(i)));
    assert!(mean.flat != parts[0].flat && mean.flat != parts[1].flat);
    let by_hand = runs.path().join("by-hand");
    crate::export::import(&config, mean, &folders[1], &by_hand.join("model")).unwrap();
    let index = on_the_way.nodes.iter().rposition(|node| node.stage == Stage::Exam).unwrap();
    let mut request = crate::execute::pool::request_of(&on_the_way, index, 1).unwrap();
    assert_eq!(request.at.shares, [0.5, 1.0]);
    (request.model, request.at, request.dir) = (Some(by_hand.clone()), Default::default(), by_hand.clone());
    Recipe.run(&request, &request.trial_config().unwrap(), &AtomicBool::new(false), &Silent).unwrap();
    assert_eq!(read(&by_hand, "questions.json"), read(exam(2), "questions.json"));
}

#[test]
fn an_exam_tells_where_the_tokens_of_each_subject_went() {
    let runs = tempfile::tempdir().unwrap();
    let results = |n_experts| -> Vec<Routing> {
        let graph =
            run_all(|config| (config.model.n_experts, config.model.top_k) = (n_experts, 2), runs.path());
        let exam = graph.nodes.iter().find(|node| node.stage == Stage::Exam).unwrap();
        let results: Value =
            serde_json::from_slice(&std::fs::read(exam.dir.join("results.json")).unwrap()).unwrap();
        serde_json::from_value(results["routing"].clone()).unwrap()
    };
    assert_eq!(results(0), []);
    let found = results(3);
    let subjects: Vec<&str> = found.iter().map(|of| of.subject.as_str()).collect();
    assert_eq!(subjects, ["arithmetic", "one_hop", "reading", "two_hop"]);
    for of in found {
        let routed: u64 = of.load[0].iter().sum();
        assert_eq!((of.load.len(), of.load[0].len(), routed), (1, 3, 2 * of.tokens), "{of:?}");
        assert!(of.tokens > 60 && of.entropy > 0.0 && of.entropy <= 3.0_f64.ln(), "{of:?}");
    }
}

#[test]
fn the_last_examined_model_answers_a_few_prompts() {
    let runs = tempfile::tempdir().unwrap();
    let exam = |graph: &crate::plan::StageGraph| {
        let mut exams = graph.nodes.iter().filter(|node| node.stage == Stage::Exam);
        exams.next_back().map(|node| (node.uuid, node.dir.clone())).unwrap()
    };
    let (name, dir) = exam(&run_all(|_| {}, runs.path()));
    let samples = crate::runs::manifest::samples(&dir).unwrap();
    let config = TrialConfig::from_toml("[world]\npeople = 6\nquestions_per_subject = 3").unwrap();
    let asked = World::generate(&config.world).first_questions(5);
    let wanted: Vec<(&str, Option<&str>)> =
        asked.iter().take(4).map(|asked| (asked.question.as_str(), Some(asked.right()))).collect();
    let found: Vec<(&str, Option<&str>)> =
        samples.iter().map(|sample| (sample.prompt.as_str(), sample.right.as_deref())).collect();
    assert_eq!(found, wanted);
    // One question of each subject, then the second of the first subject.
    let exam_asked = World::generate(&config.world).exam();
    assert_eq!((&asked[3], &asked[4]), (&exam_asked[3].1[0], &exam_asked[0].1[1]));
    assert!(samples.iter().any(|sample| !sample.text.is_empty()));
    // Decoding is greedy, so the samples are reproducible.
    let again = tempfile::tempdir().unwrap();
    let same = exam(&run_all(|_| {}, again.path())).1;
    assert_eq!(crate::runs::manifest::samples(&same).unwrap(), samples);

    // The key changes the name of the exam, and 0 disables samples.
    let (none, dir) = exam(&run_all(|config| config.exam.samples = 0, runs.path()));
    assert_ne!(none, name);
    assert_eq!(crate::runs::manifest::samples(&dir).unwrap(), []);
    // Exams before the end of a stage write no samples.
    let graph = run_all(|config| config.exam.at = vec![0.5, 1.0], runs.path());
    let written = graph.nodes.iter().filter(|node| node.dir.join("samples.json").exists()).count();
    assert_eq!(written, 1);
}
