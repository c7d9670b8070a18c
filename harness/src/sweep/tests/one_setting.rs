//! Trials that are one setting, because they differ only in keys without effect.

use super::*;

#[test]
fn trials_that_are_one_setting_are_refused_with_the_reason() {
    assert_eq!(
        errors("[axes]\nseed = [1, 2]\nthreads = [1, 2]\n"),
        "a.toml:4: threads: has no effect, as results do not depend on the number of threads: \
         trials 1 (seed = 1, threads = 1) and 2 (seed = 1, threads = 2) are one setting, and 1 more pair; \
         vary it only where it has one, with [[zip]] or [[exclude]]"
    );
    assert_eq!(
        errors("[[zip]]\nseed = [1, 2, 1]\n"),
        "a.toml: trials 1 (seed = 1) and 3 (seed = 1) are one setting, expected each once"
    );
    let world = "";
    let files = "[base]\nexam.enabled = false\ntokenizer.path = 't'\n[base.data]\nsource = 'files'\npretrain = ['a']\n\
                 sft = ['b']\ndpo = ['c']\n[base.lora]\nenabled = true\n";
    for (base, key, values, reason) in [
        (world, "model.top_k", "[1, 2]", "model.n_experts = 0 is a dense model"),
        (world, "model.aux_loss_alpha", "[0.0, 0.1]", "model.n_experts = 0 is a dense model"),
        (world, "model.hidden_dim", "['unset', 384]", "the effective width of the feed-forward is 384"),
        (world, "model.multiple_of", "[64, 128]", "the effective width of the feed-forward is 384"),
        (world, "pretrain.decay_share", "[0.1, 0.2]", "only pretrain.schedule = \"wsd\" has a decay phase"),
        (
            world,
            "dpo.packing",
            "['single', 'separated']",
            "preference pairs are never packed, and validation uses all of them",
        ),
        (world, "sft.log_every", "[1, 2]", "it sets how the stage is monitored and recorded"),
        (world, "lora.rank", "[8, 16]", "lora.enabled = false leaves the stage out"),
        (world, "data.max_rows", "[8, 16]", "data.source = \"world\" is not read from files"),
        (world, "exam.dev_sheets", "['a', 'b']", "exam.shots = 0 shows no solved question"),
        (world, "exam.after", "[[], ['dpo']]", "the exam is taken after dpo in any case"),
        (world, "device", "['cuda', 'cuda:1']", "results are the same on every cuda device"),
        (world, "slurm.partition", "['a', 'b']", "it sets where a trial runs"),
        ("[base.model]\nn_experts = 4\n", "model.hidden_dim", "[64, 96]", ""),
        ("[base.sft]\nsteps = 3\n", "sft.epochs", "[1, 2]", "sft.steps = 3 sets the length of the stage"),
        ("[base.sft]\ntokens = 30\n", "sft.epochs", "[1, 2]", "sft.tokens = 30 sets the length of the stage"),
        (
            "[base.sft]\nschedule = 'constant'\n",
            "sft.min_lr_ratio",
            "[0, 1]",
            "sft.schedule = \"constant\" never falls",
        ),
        (
            "[base.sft]\noptimizer = 'adam'\n",
            "sft.weight_decay",
            "[0, 1]",
            "sft.optimizer = \"adam\" decays no weights",
        ),
        ("[base.data]\nval_share = 0\n", "sft.val_tokens", "[8, 9]", "data.val_share = 0 holds nothing out"),
        (
            "[base.sft]\nweight_decay = 0\n",
            "sft.embedding_decay",
            "[1, 2]",
            "sft.weight_decay = 0 decays no weights",
        ),
        (
            "[base.sft]\nhidden_lr = 0\n",
            "sft.hidden_decay",
            "[1, 2]",
            "sft.hidden_lr = 0 leaves these weights as they are",
        ),
        (
            "[base.sft]\nembedding_decay = 0\nhidden_decay = 0\n",
            "sft.weight_decay",
            "[0.1, 0.2]",
            "its multipliers are all 0",
        ),
        (
            "[base.lora]\nenabled = true\n",
            "lora.norm_lr",
            "[1, 2]",
            "adapters take only the multipliers of the matrices in the blocks",
        ),
        (world, "model.window", "['unset', 512]", "no row or prompt is longer than 512 positions"),
        (
            "[base.pretrain]\nseq_len = 64\n[base.sft]\nenabled = false\n[base.dpo]\nseq_len = 96\n[base.exam]\nenabled = false\n",
            "model.window",
            "[96, 128]",
            "no row is longer than 96 positions",
        ),
        (
            world,
            "world.practice",
            "[{ one_hop = 1, reading = 0.2 }, { one_hop = 10, two_hop = 0, reading = 2 }]",
            "its weights are relative to their sum",
        ),
        ("[base.world]\npractice = { one_hop = 1 }\n", "world.practice.two_hop", "[1, 2]", ""),
        (world, "exam.samples", "[0, 2]", "it sets what is recorded, not the score"),
        (
            world,
            "data.special_tokens_in_text",
            "[true, false]",
            "the texts of the built-in world spell no special token",
        ),
        (
            files,
            "tokenizer.train_chars",
            "[8, 9]",
            "tokenizer.path names a tokenizer that is trained already",
        ),
        (files, "world.people", "[8, 9]", "data.source = \"files\" has no world"),
        (files, "data.lora", "[[], ['b']]", "data.sft is used if it is empty"),
        (files, "exam.answer", "['letter', 'cloze']", "exam.enabled = false leaves the exam out"),
    ] {
        let text = format!("{base}[axes]\n\"{key}\" = {values}\n");
        match reason {
            // Each expert is as wide as the feed-forward unless its own width is set; another weight changes the mix.
            "" => assert_eq!(trials(&text).len(), 2),
            _ => {
                let line = 3 + base.lines().count();
                let expected = format!("a.toml:{line}: {key}: has no effect, as {reason}");
                assert!(errors(&text).starts_with(&expected), "{}", errors(&text));
            }
        }
    }
}

#[test]
fn a_weight_is_found_in_its_table() {
    let message = "has no effect, as its weights are relative to their sum: trials 1 (world.practice.two_hop = 1.0) and 2";
    let found = errors("[axes]\n\"world.practice.two_hop\" = [1, 2]\n");
    assert!(found.starts_with(&format!("a.toml:3: world.practice: {message}")), "{found}");
    let sources = "{ web = ['a'], books = ['b'] }";
    let mixed = |stages: &str, web: &str| {
        let base =
            format!("[base.data]\nsource = 'files'\npretrain = {sources}\nmix = {{ books = 1 }}\n{stages}");
        format!("[base]\nexam.enabled = false\n{base}[axes]\n\"data.mix.web\" = {web}\n")
    };
    let only = "[base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n";
    assert_eq!(trials(&mixed(only, "[1, 2]")).len(), 2);
    let text =
        mixed(only, "[1, 2]").replace("\"data.mix.web\"", "\"data.mix.books\" = [1, 2]\n\"data.mix.web\"");
    let found = errors(&text);
    let message = "data.mix: has no effect, as the stages mix their sources in the same proportions: trials 1 \
                (data.mix.books = 1.0, data.mix.web = 1.0) and 4 (data.mix.books = 2.0, data.mix.web = 2.0)";
    assert!(found.contains(message), "{found}");
}

#[test]
fn keys_may_vary_where_they_have_an_effect() {
    let letters = "[base.exam]\nanswer = 'cloze'\n";
    for (base, key, values) in [
        ("[base.sft]\nweight_decay = 0.1\n", "sft.embedding_decay", "[1, 2]"),
        ("[base.sft]\nembedding_decay = 0\n", "sft.weight_decay", "[0.1, 0.2]"),
        ("[base.lora]\nenabled = true\n", "lora.hidden_lr", "[1, 2]"),
        ("", "model.window", "[511, 512]"),
        // The texts of options may be longer than the rows.
        (letters, "model.window", "[512, 513]"),
        ("", "world.practice", "[{ one_hop = 1, two_hop = 1 }, { one_hop = 4, two_hop = 1 }]"),
        // Another tokenizer may have special tokens that the world spells.
        ("[base]\ntokenizer.path = 't'\n", "data.special_tokens_in_text", "[true, false]"),
        // At the base shape both train the same model, beside which the others of a grid stand.
        (
            "[base.model]\nbase_width = 128\nbase_head_dim = 32\n",
            "model.parametrization",
            "['standard', 'mup']",
        ),
    ] {
        assert_eq!(trials(&format!("{base}[axes]\n\"{key}\" = {values}\n")).len(), 2, "{key}");
    }
    let experts = "\"model.n_experts\" = [0, 4]\n";
    assert_eq!(trials(&format!("[[zip]]\n{experts}\"model.top_k\" = [0, 2]\n")).len(), 2);
    assert_eq!(trials("[axes]\ndevice = ['cpu', 'cuda']\n").len(), 2);
    // A full grid contains the dense model twice.
    let grid = format!("[axes]\n{experts}\"model.top_k\" = [1, 2]\n");
    assert!(errors(&grid).starts_with("a.toml:4: model.top_k: has no effect, as model.n_experts = 0"));
    let left_out = "[[exclude]]\n\"model.n_experts\" = 0\n\"model.top_k\" = 1\n";
    assert_eq!(trials(&format!("{grid}{left_out}")).len(), 3);
    // A draw of a setting that was drawn before is repeated.
    let drawn = "model.n_experts = { choice = [0, 4] }\nmodel.top_k = { choice = [1, 2, 3] }\n";
    assert_eq!(trials(&format!("[sample]\ncount = 4\n{drawn}")).len(), 4);
    assert!(errors(&format!("[sample]\ncount = 5\n{drawn}")).contains("draws gave 4 different trials only"));
}
