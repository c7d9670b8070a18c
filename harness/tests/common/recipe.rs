//! Random recipes that cover all options of training.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Draws a sweep of two seeds through every training stage, small enough to run in seconds and long enough to be killed
/// in the middle, with checkpoints, validations and metrics throughout.
pub fn draw(random: &mut ChaCha8Rng) -> String {
    let mut text = "name = \"drawn\"\n[axes]\nseed = [1, 2]\n".to_owned();
    text += "[base.model]\nd_model = 32\nn_layers = 2\nn_heads = 2\nn_kv_heads = 1\nvocab_size = 300\n";
    let _ = writeln!(text, "dropout = {:?}", one_of(random, &[0.0, 0.1]));
    let (qk_norm, tied): (bool, bool) = (random.random(), random.random());
    let _ = writeln!(text, "qk_norm = {qk_norm}\ntie_embeddings = {tied}");
    text += one_of(random, &["", "window = 20\n", "head_dim = 10\n", "window = 7\nhead_dim = 18\n"]);
    if random.random() {
        let (top_k, per) = (one_of(random, &[1, 2]), one_of(random, &["sequence", "batch"]));
        let _ = writeln!(
            text,
            "n_experts = 3\nexpert_hidden_dim = 24\ntop_k = {top_k}\naux_loss_per = \"{per}\""
        );
    }
    text += "[base.world]\npeople = 8\npretrain_rows = 200\nsft_rows = 200\ndpo_pairs = 60\n";
    text += "questions_per_subject = 10\n";
    for (stage, steps) in [("pretrain", 150), ("sft", 80), ("lora", 40), ("dpo", 40)] {
        text += &training(random, stage, steps);
    }
    text + &data(random)
}

/// Draws the built-in world, or a mixture of the sources of [`write_files`].
fn data(random: &mut ChaCha8Rng) -> String {
    if random.random() {
        return "[base.data]\nval_share = 0.1\n".into();
    }
    let mut text = "[base.exam]\nsheets = \"sheets\"\n[base.data]\nsource = \"files\"\n".to_owned();
    text += "pretrain = { web = [\"web.jsonl\"], books = [\"books.jsonl\"] }\n";
    text += "sft = { one = [\"one.jsonl\"], two = [\"two.jsonl\"] }\n";
    text += "dpo = { good = [\"good.jsonl\"], bad = [\"bad.jsonl\"] }\n";
    text += one_of(random, &["val_share = 0.1\n", "pretrain_val = { wiki = [\"wiki.jsonl\"] }\n"]);
    text += "[base.data.mix]\n";
    for name in ["web", "books", "one", "two", "good", "bad"] {
        let _ = writeln!(text, "{name} = {}", one_of(random, &[0.1, 0.5, 2.0]));
    }
    text
}

/// Writes the files that a recipe may name.
pub fn write_files(dir: &Path) {
    let lines = |name: &str, count: usize, line: &dyn Fn(usize) -> serde_json::Value| {
        let text: String = (0..count).map(|i| format!("{}\n", line(i))).collect();
        fs::write(dir.join(name), text).unwrap();
    };
    let text = |word: &'static str, length: usize| move |i: usize| serde_json::json!({ "text": format!("{word} {i} {}", "of a text ".repeat(1 + i % length)) });
    lines("web.jsonl", 120, &text("web", 3));
    lines("books.jsonl", 30, &text("book", 12));
    lines("wiki.jsonl", 9, &text("wiki", 4));
    let turn = |role: &str, content: String| serde_json::json!({ "role": role, "content": content });
    let chat = |i: usize, answer: &str| {
        let answer = answer.repeat(1 + i % 4);
        serde_json::json!([turn("user", format!("{i} and {}?", i * 3)), turn("assistant", answer)])
    };
    for (name, count, answer) in [("one.jsonl", 90, "It is so. "), ("two.jsonl", 40, "No, by no means. ")] {
        lines(name, count, &|i| serde_json::json!({ "conversations": chat(i, answer) }));
    }
    for (name, count) in [("good.jsonl", 40), ("bad.jsonl", 25)] {
        lines(
            name,
            count,
            &|i| serde_json::json!({ "chosen": chat(i, "yes "), "rejected": chat(i, "never ") }),
        );
    }
    fs::create_dir(dir.join("sheets")).unwrap();
    let rows: String = (0..6).map(|i| format!("{i},what is {i} of it,one,two,three,four,A\n")).collect();
    fs::write(dir.join("sheets/art_val.csv"), format!("id,question,A,B,C,D,answer\n{rows}")).unwrap();
}

/// Draws a training stage of about `steps` steps.
fn training(random: &mut ChaCha8Rng, stage: &str, steps: u64) -> String {
    let mut keys = format!("[base.{stage}]\nseq_len = 64\nlog_every = 1\n");
    let (batch_size, accumulation) = (one_of(random, &[2, 4, 8]), one_of(random, &[1, 1, 2, 3]));
    // Conversations have about 30 tokens of answers, packed rows of text up to 64.
    let row = if stage == "pretrain" { 50 } else { 25 };
    let rows = steps * 4;
    let length = match random.random_range(0..3) {
        0 => format!("steps = {}", rows / (batch_size * accumulation)),
        1 => format!("tokens = {}", rows * row),
        // Several epochs, some of them partial, over 60 to 180 rows.
        _ => format!("epochs = {:?}", one_of(random, &[1.0, 2.0, 2.3, 3.0])),
    };
    let schedule = one_of(random, &["cosine", "linear", "constant", "wsd"]);
    let packing = one_of(random, &["separated", "single"]);
    let warmup = one_of(random, &[0, 2]);
    // Muon updates whole weights, not adapters.
    let optimizers = ["adamw", "adam", "muon"];
    let optimizer = one_of(random, if stage == "lora" { &optimizers[..2] } else { &optimizers });
    let recompute = one_of(random, &["none", "activations", "blocks"]);
    let _ = write!(
        keys,
        "{length}\nbatch_size = {batch_size}\naccumulation = {accumulation}\npacking = \"{packing}\"\n\
         optimizer = \"{optimizer}\"\nrecompute = \"{recompute}\"\nschedule = \"{schedule}\"\nwarmup_steps = {warmup}\ncheckpoint_every = {}\nkeep_every = {}\n\
         keep_best = {}\nval_every_tokens = {}\n",
        random.random_range(1..8),
        one_of(random, &[0, 16]),
        random.random::<bool>(),
        one_of(random, &[0, 3000]),
    );
    match stage {
        "sft" => keys += &format!("answer_loss = \"{}\"\n", one_of(random, &["last", "every"])),
        "lora" => keys += "enabled = true\n",
        "dpo" => {
            let (loss, normalised) = (one_of(random, &["sigmoid", "ipo"]), random.random::<bool>());
            keys += &format!("loss = \"{loss}\"\nlength_normalised = {normalised}\n");
        }
        _ => {}
    }
    keys
}

fn one_of<T: Copy>(random: &mut ChaCha8Rng, choices: &[T]) -> T {
    *choices.choose(random).unwrap()
}
