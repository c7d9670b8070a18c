//! Recipes drawn at random, of everything that a training can be made of.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::fmt::Write;

/// A sweep of two seeds through every training stage, small enough to be run in seconds and long enough to be
/// killed in the middle, with checkpoints, validations and rows of metrics all along.
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
    text += "questions_per_subject = 10\n[base.data]\nval_share = 0.1\n";
    for (stage, steps) in [("pretrain", 150), ("sft", 80), ("lora", 40), ("dpo", 40)] {
        text += &training(random, stage, steps);
    }
    text
}

/// One training stage of about so many steps.
fn training(random: &mut ChaCha8Rng, stage: &str, steps: u64) -> String {
    let mut keys = format!("[base.{stage}]\nseq_len = 64\nlog_every = 1\n");
    let (batch_size, accumulation) = (one_of(random, &[2, 4, 8]), one_of(random, &[1, 1, 2, 3]));
    // Conversations have about 30 tokens of answers, packed rows of text up to 64.
    let row = if stage == "pretrain" { 50 } else { 25 };
    let rows = steps * 4;
    let length = match random.random_range(0..3) {
        0 => format!("steps = {}", rows / (batch_size * accumulation)),
        1 => format!("tokens = {}", rows * row),
        // Several passes, whole or cut, over 60 to 180 rows.
        _ => format!("epochs = {:?}", one_of(random, &[1.0, 2.0, 2.3, 3.0])),
    };
    let schedule = one_of(random, &["cosine", "linear", "constant", "wsd"]);
    let packing = one_of(random, &["separated", "single"]);
    let warmup = one_of(random, &[0, 2]);
    let optimizer = one_of(random, &["adamw", "adam", "muon"]);
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
