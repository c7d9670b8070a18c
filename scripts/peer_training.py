#!/usr/bin/env python3
"""Trains transformers' Llama and Mindscale on the same text and compares their validation losses.

    python -m venv venv
    venv/bin/pip install torch transformers scipy
    cargo build --release
    venv/bin/python scripts/peer_training.py --text rows.jsonl        # JSON lines with the key text

Both sides get the same documents, the same held-out documents, the same shape, the same initial distribution of
weights, and the same optimizer, schedule and number of steps; each seed draws its own weights and its own order of
rows. The PyTorch side shares no code with Mindscale: it tokenizes the text itself with the trained tokenizer.json,
pads its rows and takes the mean cross-entropy over all real targets, and thereby also checks the reading of the text and
the split of held-out documents. The programs agree if zero is within the 99 % interval of the difference of their mean
validation losses over seeds (Welch's t); exit code 1 if they do not.
"""

import argparse
import glob
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

SWEEP = """
name = "peer"
[base]
threads = {threads}
[base.model]
d_model = {d_model}
n_layers = {n_layers}
n_heads = {n_heads}
n_kv_heads = {n_kv_heads}
vocab_size = {vocab_size}
init = "{init}"
[base.data]
source = "files"
pretrain = [{text}]
val_share = 0.05
[base.pretrain]
packing = "single"
steps = {steps}
seq_len = {seq_len}
batch_size = {batch_size}
lr = {lr}
warmup_steps = {warmup}
val_tokens = 1_000_000_000
checkpoint_every = 0
[base.sft]
enabled = false
[base.dpo]
enabled = false
[base.exam]
enabled = false
[axes]
seed = {seeds}
"""


def mindscale(args, folder):
    """Trains every seed with Mindscale; returns the validation losses, and the folders of the data and of one model."""
    sweep = os.path.join(folder, "peer.toml")
    settings = {**vars(args), "text": json.dumps(os.path.abspath(args.text)), "seeds": list(seeds(args))}
    with open(sweep, "w", encoding="utf-8") as file:
        file.write(SWEEP.format(**settings))
    subprocess.run([os.path.abspath(args.mindscale), "run", sweep, "--jobs", "1"], cwd=folder, check=True)
    losses = {}
    for path in glob.glob(f"{folder}/runs/pretrain-*/manifest.json"):
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        losses[dict(manifest["seeds"])["trial"]] = manifest["results"]["val_loss"]
    (data,) = glob.glob(f"{folder}/runs/data-*/pretrain")
    return [losses[seed] for seed in seeds(args)], data, os.path.dirname(path)


def seeds(args):
    return range(1, args.seeds + 1)


def documents(store):
    """Returns the ids of every document of a token store."""
    import numpy

    with open(f"{store}/store.json", encoding="utf-8") as file:
        width = json.load(file)["id_bytes"]
    ids = numpy.fromfile(f"{store}/tokens.bin", dtype=f"<u{width}").tolist()
    offsets = numpy.fromfile(f"{store}/offsets.bin", dtype="<u8").tolist()
    return [ids[start:end] for start, end in zip(offsets, offsets[1:])]


def tokenized(args, tokenizer):
    """Returns the documents of the text, tokenized by the tokenizers library only."""
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    with open(args.text, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file if line.strip()]
    bos, eos = fast.token_to_id("<s>"), fast.token_to_id("</s>")
    return [[bos, *encoding.ids, eos] for encoding in fast.encode_batch(texts, add_special_tokens=False)]


def split(args, data, tokenizer):
    """Checks that both sides read the text alike; returns training and held-out documents."""
    found = tokenized(args, tokenizer)
    held_out = sorted(documents(f"{data}/val"))
    ours = sorted(documents(f"{data}/train") + held_out)
    if ours != sorted(found):
        raise SystemExit("the documents of Mindscale's store are not those that the tokenizers library makes")
    held_out = {tuple(ids) for ids in held_out}
    cut = lambda ids: ids[: args.seq_len]
    train = [cut(ids) for ids in found if tuple(ids) not in held_out]
    return train, [cut(ids) for ids in found if tuple(ids) in held_out]


def llama(args, config):
    """Returns a Llama of the shape, with initial weights from the distribution that `model.init` names."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=args.d_model,
            intermediate_size=-(-int(8 * args.d_model / 3) // 64) * 64,
            num_hidden_layers=args.n_layers,
            num_attention_heads=args.n_heads,
            num_key_value_heads=args.n_kv_heads,
            max_position_embeddings=args.seq_len,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    # MiniMind scales the up projection where the down projection was intended; `width` scales the down projection.
    scaled = ("o_proj", "up_proj") if args.init == "minimind" else ("o_proj", "down_proj")
    deviation = 0.02 if args.init == "minimind" else args.d_model**-0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                is_scaled = any(part in name for part in scaled)
                weight.normal_(0.0, deviation / math.sqrt(2 * args.n_layers) if is_scaled else deviation)
    return model


def batches(rows, args):
    """Yields padded batches endlessly, in a new order for every epoch."""
    import torch

    order = []
    while True:
        while len(order) < args.batch_size:
            order += torch.randperm(len(rows)).tolist()
        batch, order = [rows[i] for i in order[: args.batch_size]], order[args.batch_size :]
        yield padded(batch)


def padded(rows):
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = labels[i, : len(row)] = torch.tensor(row)
    return ids, labels


def pytorch(args, config, train, held_out, seed):
    """Trains one seed with PyTorch; returns its validation loss."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(args.threads or os.cpu_count())
    model = llama(args, config)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), eps=1e-8)
    stream = batches(train, args)
    for step in range(1, args.steps + 1):
        rate = learning_rate(args, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, labels = next(stream)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"  PyTorch, seed {seed}: step {step}, loss {loss.item():.4f}", file=sys.stderr, flush=True)
    model.eval()
    total, targets = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(held_out), 32):
            ids, labels = padded(held_out[start : start + 32])
            count = int((labels[:, 1:] != -100).sum())
            total += model(input_ids=ids, labels=labels).loss.item() * count
            targets += count
    return total / targets


def learning_rate(args, step):
    """Linear warm-up, then a cosine to a tenth at the last step."""
    if step <= args.warmup:
        return args.lr * step / args.warmup
    progress = (step - 1 - args.warmup) / max(args.steps - 1 - args.warmup, 1)
    return args.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def compare(ours, theirs):
    """Prints both sides; returns whether they agree."""
    from scipy import stats

    print("| seed | Mindscale | PyTorch |\n|---|---|---|")
    for seed, (a, b) in enumerate(zip(ours, theirs), 1):
        print(f"| {seed} | {a:.4f} | {b:.4f} |")
    for name, losses in [("Mindscale", ours), ("PyTorch", theirs)]:
        print(f"{name}: {statistics.mean(losses):.4f}, standard deviation {statistics.stdev(losses):.4f}")
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval(0.99)
    difference = statistics.mean(ours) - statistics.mean(theirs)
    agree = low <= 0.0 <= high
    verdict = "they agree" if agree else "THEY DIFFER"
    print(f"difference {difference:+.4f}, 99 % interval {low:+.4f} to {high:+.4f}, p = {test.pvalue:.3f}: {verdict}")
    return agree


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="JSON lines with the key text")
    parser.add_argument("--mindscale", default="target/release/mindscale", help="the program")
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--n-layers", type=int, default=4)
    parser.add_argument("--n-heads", type=int, default=4)
    parser.add_argument("--n-kv-heads", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--init", choices=["minimind", "width"], default="minimind")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=50, help="steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of each program; 0 takes all cores")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, data, run = mindscale(args, folder)
        with open(f"{run}/model/config.json", encoding="utf-8") as file:
            config = json.load(file)
        train, held_out = split(args, data, f"{run}/model")
        print(f"{len(train):,} documents to train on, {len(held_out):,} held out", file=sys.stderr)
        theirs = [pytorch(args, config, train, held_out, seed) for seed in seeds(args)]
    sys.exit(0 if compare(ours, theirs) else 1)


if __name__ == "__main__":
    main()
