#!/usr/bin/env python3
"""Checks exported models in other programs: same logits, same text.

    python -m venv venv
    venv/bin/pip install torch transformers safetensors
    venv/bin/pip install llama-cpp-python               # builds llama.cpp; needs a C++ compiler and some minutes
    cargo build && cargo build -p mindscale-model --example logits
    venv/bin/python scripts/check_exports.py                       # all formats
    venv/bin/python scripts/check_exports.py hf pth                # without llama.cpp
    venv/bin/python scripts/check_exports.py gguf --model FOLDER   # a trained model, for which q8_0 is meaningful

Without --model, models are drawn at random, one for each variant of the architecture. Logits of transformers, and of
llama.cpp with f32 (keys and values in f32 as well), must agree with Mindscale's within 1e-4 of the range of these, and the
greedy text must be the same. For f16 and q8_0 the mean KL divergence of the next-token distributions from Mindscale's must
be below 1e-4 and 1e-1 nats: in a random mixture of experts the least rounding changes routing. Exit code 1 if a check fails.

Made with torch 2.15, transformers 5.24 and llama-cpp-python 0.3.36: all within 2e-6; KL up to 6e-6 (f16) and 4e-2 (q8_0,
without experts 5e-3).
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).parent))
ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
TOKENIZER = ROOT / "harness/tests/references/model"
TEXTS = ["<s>他喜欢读书、下棋和唱歌，住在第3个城市。", "<s>user\n你好 world, it's 1234!  ok?\n\n\ttabs</s>\n<s>assistant\n"]
PROMPT = "他喜欢 chess"
TOKENS = 24

SMALL = dict(
    d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=None, qk_norm=False, window=None, vocab_size=320,
    tie_embeddings=True, hidden_dim=96, norm_eps=1e-5, rope_theta=10000.0, n_experts=0, top_k=2, n_shared_experts=1,
    max_seq_len=190,
)  # fmt: skip
MOE = dict(n_experts=4)
CASES = {
    "dense, tied": {},
    "dense, untied": dict(tie_embeddings=False),
    "dense, heads of their own width": dict(head_dim=32, rope_theta=500.0),
    "dense, heads that do not divide the width": dict(n_heads=6, n_kv_heads=3, head_dim=32),
    "dense, one head, many layers": dict(n_heads=2, n_kv_heads=1, n_layers=5),
    "window": dict(window=5),
    "window, untied": dict(window=3, tie_embeddings=False, head_dim=32),
    "QK-norm": dict(qk_norm=True),
    "QK-norm, untied": dict(qk_norm=True, tie_embeddings=False, head_dim=32),
    "QK-norm, window": dict(qk_norm=True, window=5),
    "MoE, top 2, one shared": MOE,
    "MoE, top 2, one shared, untied": MOE | dict(tie_embeddings=False),
    "MoE, top 2, none shared": MOE | dict(n_shared_experts=0),
    "MoE, top 2, two shared": MOE | dict(n_shared_experts=2),
    "MoE, top 1, one shared": MOE | dict(top_k=1),
    "MoE, top 1, none shared": MOE | dict(top_k=1, n_shared_experts=0),
    "MoE, window": MOE | dict(window=5),
    "MoE, QK-norm, none shared": MOE | dict(qk_norm=True, n_shared_experts=0),
    "MoE, QK-norm, top 1": MOE | dict(qk_norm=True, n_shared_experts=0, top_k=1),
    "MoE, QK-norm, window": MOE | dict(qk_norm=True, n_shared_experts=0, window=5),
    "MoE, QK-norm, two shared": MOE | dict(qk_norm=True, n_shared_experts=2),
}


def draw(config, folder):
    """Writes a Mindscale model folder with random weights."""
    from minimind import draw
    from safetensors.torch import save_file

    folder.mkdir()
    weights = draw(config, 7)
    # Smaller weights than for gradient references, so that rounding does not change the most likely token.
    small = {name: w if w.dim() == 1 else 0.5 * w for name, w in weights.items()}
    save_file(small, folder / "model.safetensors")
    keys = dict(
        dim=config["d_model"], n_layers=config["n_layers"], n_heads=config["n_heads"], n_kv_heads=config["n_kv_heads"],
        head_dim=config["head_dim"], qk_norm=config["qk_norm"], sliding_window=config["window"],
        vocab_size=config["vocab_size"], tie_word_embeddings=config["tie_embeddings"], hidden_dim=config["hidden_dim"],
        norm_eps=config["norm_eps"], rope_theta=config["rope_theta"], max_seq_len=config["max_seq_len"],
        use_moe=config["n_experts"] > 0, n_routed_experts=config["n_experts"], num_experts_per_tok=config["top_k"],
        n_shared_experts=config["n_shared_experts"],
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(keys))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(TOKENIZER / name, folder / name)


def run(program, *words):
    done = subprocess.run([str(TARGET / program), *map(str, words)], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None, done.stderr.strip()


def ours(folder, ids):
    out, error = run("examples/logits", folder, "--ids", ",".join(map(str, ids)), "--greedy", TOKENS)
    assert out, error
    found = json.loads(out)
    return numpy.array(found["logits"]), found["greedy"]


def off(theirs, mine):
    """Returns the largest difference, relative to the range of Mindscale's logits."""
    return float(numpy.abs(theirs - mine).max() / (mine.max() - mine.min()))


def encode(folder, text):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def check_hf(folder, out):
    """Fails if transformers computes different logits or text."""
    import torch
    import transformers

    ids = encode(folder, TEXTS[0])
    mine, greedy = ours(folder, ids)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    for key in ["missing_keys", "unexpected_keys", "mismatched_keys"]:
        assert not loading[key], (key, loading[key])
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer(TEXTS[1], add_special_tokens=False).input_ids == encode(folder, TEXTS[1])
    assert tokenizer.apply_chat_template([{"role": "user", "content": "你好"}], tokenize=False).count("你好") == 1
    with torch.inference_mode():
        theirs = model(torch.tensor([ids])).logits[0].double().numpy()
        written = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=TOKENS, eos_token_id=None, pad_token_id=0)
        text = model.generate(
            torch.tensor([encode(folder, "<s>" + PROMPT)]), do_sample=False, max_new_tokens=TOKENS, pad_token_id=0
        )
    distance = off(theirs, mine)
    assert distance < 1e-4, f"logits are off by {distance:.1e} of their range"
    assert written[0, len(ids) :].tolist() == greedy, "another greedy text"
    out_text, error = run("mindscale", "generate", folder, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", TOKENS, "--json")
    assert out_text, error
    new = text[0, len(encode(folder, "<s>" + PROMPT)) :]
    assert tokenizer.decode(new, skip_special_tokens=True) == json.loads(out_text)["text"], "another text of `generate`"
    return f"{type(model).__name__}, logits within {distance:.1e}"


def check_pth(folder, out):
    """Fails if torch reads weights other than those of the model folder."""
    import torch
    from safetensors.torch import load_file

    state, mine = torch.load(out / "model.pth", weights_only=True), load_file(folder / "model.safetensors")
    assert state["output.weight"].data_ptr() == state["tok_embeddings.weight"].data_ptr(), "the head is not tied"
    del state["output.weight"]
    assert set(state) == set(mine) and all(torch.equal(state[name], w) for name, w in mine.items())
    return f"{len(state)} tensors, equal in every bit"


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - numpy.log(numpy.exp(x).sum(-1, keepdims=True))


def llama(path):
    """Loads a model in llama.cpp, with keys and values in f32."""
    import llama_cpp

    return llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1, seed=1)


def check_gguf(folder, out, precision):
    """Fails if llama.cpp reads other token ids, or computes other logits or text (f32) or too different a distribution (f16, q8_0)."""
    (path,) = out.glob("*.gguf")
    model = llama(path)
    for text in TEXTS:
        found = model.tokenize(text.encode(), add_bos=False, special=True)
        assert found == encode(folder, text), f"{text!r} has other ids"
    ids = encode(folder, TEXTS[0])
    mine, greedy = ours(folder, ids)
    model.eval(ids)
    theirs = numpy.array(model.scores[: len(ids)], dtype=numpy.float64)
    log_p, log_q = log_softmax(mine), log_softmax(theirs)
    divergence = float((numpy.exp(log_p) * (log_p - log_q)).sum(-1).mean())
    written = []
    for _ in range(TOKENS):
        written.append(int(model.scores[model.n_tokens - 1].argmax()))
        model.eval(written[-1:])
    arch = model.metadata["general.architecture"]
    if precision == "f32":
        distance = off(theirs, mine)
        assert distance < 1e-4, f"logits are off by {distance:.1e} of their range"
        assert written == greedy, f"another greedy text: {written} where ours is {greedy}"
        return f"{arch}, logits within {distance:.1e}"
    assert divergence < {"f16": 1e-4, "q8_0": 1e-1}[precision], f"KL {divergence:.1e} nats"
    same = next((i for i, (a, b) in enumerate(zip(written, greedy)) if a != b), TOKENS)
    return f"{arch}, KL {divergence:.1e} nats, {same} of {TOKENS} greedy tokens the same"


def comes_back(folder, out, back):
    """Fails if an export has other weights after it is imported again."""
    from safetensors.torch import load_file

    done, error = run("mindscale", "import", out, back)
    assert done, error
    before, after = (load_file(f / "model.safetensors") for f in (folder, back))
    assert set(before) == set(after)
    for name, weight in before.items():
        assert (weight.float().numpy().view("u4") == after[name].numpy().view("u4")).all(), f"{name} comes back changed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=["hf", "pth", "gguf"], help="hf, pth, gguf; unset: all")
    parser.add_argument("--model", type=pathlib.Path, help="a model folder, in place of random ones")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as parent:
        parent = pathlib.Path(parent)
        for number, (name, changes) in enumerate({"model": {}}.items() if arguments.model else CASES.items()):
            folder = arguments.model or parent / str(number)
            if not arguments.model:
                draw(SMALL | changes, folder)
            for form in arguments.formats:
                for precision in ["f32", "f16", "q8_0"] if form == "gguf" else [None]:
                    out = parent / f"{number}-{form}-{precision}"
                    words = ["--type", precision] if precision else []
                    done, error = run("mindscale", "export", folder, "--to", form, "--out", out, *words)
                    try:
                        if not done:
                            assert error.startswith("error: ") and "panicked" not in error, error
                            outcome = f"refused: {error.removeprefix('error: ').removeprefix(f'{folder}: ')}"
                        elif form == "hf":
                            outcome = check_hf(folder, out)
                            comes_back(folder, out, parent / f"{number}-back")
                        elif form == "pth":
                            outcome = check_pth(folder, out)
                            comes_back(folder, out, parent / f"{number}-again")
                        else:
                            outcome = check_gguf(folder, out, precision)
                    except Exception as problem:  # report it and go on with the others
                        failed += 1
                        outcome = f"FAILED: {type(problem).__name__}: {problem}"
                    print(f"{name} | {form}{f' {precision}' if precision else ''} | {outcome}", flush=True)
                    shutil.rmtree(out, ignore_errors=True)
    print(f"{failed} failed" if failed else "all is well")
    sys.exit(failed > 0)


main()
