#!/usr/bin/env python3
"""Benchmarks Mindscale against PyTorch on the same shapes, in turn on the same machine.

    python -m venv venv
    venv/bin/pip install torch transformers
    cargo build --release
    venv/bin/python scripts/bench_pytorch.py train                   # forward, backward, clipping, AdamW
    venv/bin/python scripts/bench_pytorch.py train --compile         # also with torch.compile
    venv/bin/python scripts/bench_pytorch.py train --shapes 128x4 --threads 1 --copies 2    # two trials side by side
    venv/bin/python scripts/bench_pytorch.py epoch --tokenizer DIR --text rows.jsonl        # real rows, useful tokens
    venv/bin/python scripts/bench_pytorch.py exam                    # the probability of a letter after a prompt
    venv/bin/python scripts/bench_pytorch.py generate                # greedy, 1 and 8 texts at a time
    venv/bin/python scripts/bench_pytorch.py tokenize --tokenizer DIR --text lines.txt

The models are those of transformers: Llama, and for mixtures of experts Qwen2-MoE, whose router and shared expert
are the most similar (it adds biases to q, k, v and a gate to the shared expert: under 1 % of the work). Each round
measures every program once, one after the other; ratios are taken within a round, and the table shows medians over
the rounds. On a shared machine, trust the ratios, not the speeds.
"""

import argparse
import csv
import glob
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    seq_len: int
    batch_size: int
    n_experts: int = 0
    vocab_size: int = 6400

    @property
    def name(self):
        experts = f", {self.n_experts} experts (2) + 1" if self.n_experts else ""
        return f"{self.d_model} x {self.n_layers}{experts}"

    @property
    def hidden(self):
        """Returns MiniMind's hidden size of the feed-forward layer."""
        return -(-(8 * self.d_model // 3) // 64) * 64

    def flags(self):
        pairs = {**self.__dict__, "top_k": 2, "n_shared_experts": 1}
        return [part for key, value in pairs.items() for part in (f"--{key.replace('_', '-')}", str(value))]


SHAPES = {
    "128x4": Shape(128, 4, 4, 2, 256, 16),
    "128x12": Shape(128, 12, 4, 2, 256, 16),
    "256x6": Shape(256, 6, 8, 4, 256, 16),
    "512x8": Shape(512, 8, 16, 8, 512, 8),
    "moe": Shape(512, 8, 16, 8, 512, 8, n_experts=4),
}


# The worker: one PyTorch program in its own process, which takes a measurement for each line of its input.


def build(shape):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

    common = dict(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=shape.seq_len,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    if not shape.n_experts:
        return LlamaForCausalLM(LlamaConfig(**common))
    return Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **common,
            num_experts=shape.n_experts,
            num_experts_per_tok=2,
            moe_intermediate_size=shape.hidden,
            shared_expert_intermediate_size=shape.hidden,
            norm_topk_prob=True,
            output_router_logits=True,
            router_aux_loss_coef=0.01,
        )
    )


def trainer(shape, compiled):
    """Returns a function that takes one optimizer step on a batch of ids and labels."""
    import torch

    model = build(shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if compiled else model

    def train(ids, labels):
        forward(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return train


def train_step(shape, compiled):
    import torch

    train = trainer(shape, compiled)
    ids = torch.randint(shape.vocab_size, (shape.batch_size, shape.seq_len))
    return lambda: train(ids, ids), shape.batch_size * shape.seq_len


def exam_step(shape, compiled):
    import torch

    model = build(shape).eval()
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(shape.vocab_size, (1, shape.seq_len))

    @torch.inference_mode()
    def step():
        logits = forward(input_ids=ids, logits_to_keep=1).logits[0, -1]
        return torch.softmax(logits, -1)[:4].tolist()

    return step, 1


def generate_times(shape, tokens, bare):
    """Returns a function that generates `tokens` + 1 tokens greedily for a batch of prompts and returns the seconds of each but the first."""
    import torch

    model = build(shape).eval()
    model.generation_config.eos_token_id = None
    ids = torch.randint(shape.vocab_size, (1, shape.seq_len)).repeat(shape.batch_size, 1)
    times = []

    def seen(ids, scores, **_):
        times.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool)

    @torch.inference_mode()
    def loop():
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for _ in range(tokens + 1):
            times.append(time.perf_counter())
            following = out.logits[:, -1].argmax(-1, keepdim=True)
            out = model(input_ids=following, past_key_values=out.past_key_values, use_cache=True)

    def write():
        times.clear()
        if bare:
            loop()
        else:
            more = dict(max_new_tokens=tokens + 1, do_sample=False, use_cache=True, stopping_criteria=[seen])
            model.generate(ids, attention_mask=torch.ones_like(ids), **more)
        return [after - before for before, after in itertools.pairwise(times)]

    return write


def epoch_step(shape, tokenizer, text):
    """Returns a function that trains on the next batch of real rows, padded to `seq_len` as MiniMind does, and the useful tokens per batch."""
    import torch
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=os.path.join(tokenizer, "tokenizer.json"))
    with open(text, encoding="utf-8") as file:
        rows = [json.loads(line)["text"] for line in itertools.islice(file, 40 * shape.batch_size)]
    rows = [[1, *ids[: shape.seq_len - 2], 2] for ids in fast(rows, add_special_tokens=False)["input_ids"]]
    useful = sum(len(row) - 1 for row in rows) / len(rows) * shape.batch_size
    padded = torch.zeros(len(rows), shape.seq_len, dtype=torch.long)
    labels = torch.full_like(padded, -100)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = labels[i, : len(row)] = torch.tensor(row)
    batches = itertools.cycle(zip(padded.split(shape.batch_size), labels.split(shape.batch_size)))
    train = trainer(shape, False)
    return lambda: train(*next(batches)), useful


def tokenize_step(tokenizer, text, batch_size):
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=os.path.join(tokenizer, "tokenizer.json"))
    with open(text, encoding="utf-8") as file:
        texts = file.read().splitlines()[:batch_size]
    tokens = sum(len(ids) for ids in fast(texts, add_special_tokens=False)["input_ids"])
    return lambda: fast(texts, add_special_tokens=False), tokens


def timed(step):
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def worker(task):
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    shape, threads = Shape(**task["shape"]), task["threads"]
    if task["case"] == "tokenize":
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        step, units = tokenize_step(task["tokenizer"], task["text"], shape.batch_size)
    else:
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(1)
        if task["case"] == "epoch":
            step, units = epoch_step(shape, task["tokenizer"], task["text"])
        elif task["case"] == "generate":
            step, units = generate_times(shape, task["steps"], task["bare"]), shape.batch_size
        else:
            make = train_step if task["case"] == "train" else exam_step
            step, units = make(shape, task["compile"])
    for _ in range(task["warmup"]):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        # Generating one text measures all of its tokens.
        seconds = step() if task["case"] == "generate" else [timed(step) for _ in range(task["steps"])]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"rate": units / statistics.median(seconds), "peak_rss_mb": peak}), flush=True)


class PyTorch:
    """Workers in separate processes, so that memory is measured separately; `copies` of them run at once."""

    def __init__(self, copies=1, **task):
        command = [sys.executable, __file__, "worker", json.dumps(task)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.processes = [subprocess.Popen(command, **pipes) for _ in range(copies)]
        if any(process.stdout.readline().strip() != "ready" for process in self.processes):
            raise SystemExit(f"the PyTorch program did not start; run it by hand: {command}")

    def measure(self):
        for process in self.processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [json.loads(process.stdout.readline()) for process in self.processes]
        return {key: sum(each[key] for each in found) for key in found[0]}

    def stop(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()


def mindscale(args, case, shape, *more):
    command = [args.mindscale, "bench", case, *shape.flags(), "--threads", str(args.threads)]
    command += ["--steps", str(args.steps), "--warmup", str(args.warmup), *more]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = [subprocess.Popen(command, **pipes) for _ in range(args.copies)]
    reports = []
    for process in processes:
        out, problem = process.communicate()
        if process.returncode:
            raise SystemExit(problem)
        reports.append(json.loads(out))
    total = reports[0]
    for report in reports[1:]:
        total["tokens_per_second"]["median"] += report["tokens_per_second"]["median"]
        total["peak_rss_mb"] += report["peak_rss_mb"]
    return total


def in_turn(args, ours, programs):
    """Measures Mindscale and every program once per round."""
    rounds = []
    for _ in range(args.rounds):
        rounds.append((ours(), {name: program.measure() for name, program in programs.items()}))
    for program in programs.values():
        program.stop()
    return rounds


def table(headers):
    print("| " + " | ".join(headers) + " |\n|" + "---|" * len(headers), flush=True)


def row(cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def compare(name, rounds, rate, unit_digits=0):
    """Prints one row per program: median speeds over the rounds, the median ratio with its range, memory in the last round."""
    for program in rounds[0][1]:
        pairs = [(rate(ours), theirs[program]["rate"]) for ours, theirs in rounds]
        ratios = sorted(a / b for a, b in pairs)
        report = rounds[-1][0]
        mfu = statistics.median(ours.get("mfu", 0.0) for ours, _ in rounds)
        cells = [name, program]
        cells += [f"{statistics.median(side):,.{unit_digits}f}" for side in zip(*pairs)]
        cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")
        cells.append(f"{100 * mfu:.0f} %" if mfu else "")
        theirs = rounds[-1][1][program]
        cells.append(f"{report['peak_rss_mb']:,.0f} / {theirs['peak_rss_mb']:,.0f}")
        row(cells)


def forms(args):
    return {"eager": False, **({"compiled": True} if args.compile else {})}


def torch_programs(args, case, shape):
    task = dict(case=case, shape=shape.__dict__, threads=args.threads, steps=args.steps, warmup=args.warmup)
    task["copies"] = args.copies
    return {name: PyTorch(**task, compile=compiled) for name, compiled in forms(args).items()}


def train(args):
    table(["shape", "PyTorch", "Mindscale, tokens/s", "PyTorch, tokens/s", "ratio", "MFU", "MiB, both"])
    for name in args.shapes:
        shape = SHAPES[name]
        programs = torch_programs(args, "train", shape)
        # PyTorch has a single gradient buffer; one lane per thread is the closest match.
        lanes = ["--lanes", str(args.threads)]
        rounds = in_turn(args, lambda: mindscale(args, "train", shape, *lanes), programs)
        name = shape.name if args.copies == 1 else f"{args.copies} of {shape.name} side by side"
        compare(name, rounds, lambda ours: ours["tokens_per_second"]["median"])


SWEEP = """
name = "epoch"
[base]
threads = {threads}
[base.model]
d_model = {d_model}
n_layers = {n_layers}
n_heads = {n_heads}
n_kv_heads = {n_kv_heads}
vocab_size = {vocab_size}
[base.tokenizer]
path = {tokenizer}
[base.data]
source = "files"
pretrain = [{text}]
[base.pretrain]
seq_len = {seq_len}
batch_size = {batch_size}
lanes = {threads}
log_every = {steps}
steps = {total}
[base.sft]
enabled = false
[base.dpo]
enabled = false
[base.exam]
enabled = false
"""


def epoch(args):
    """Compares useful tokens per second on real rows: packed by the harness, padded for PyTorch."""
    table(["shape", "PyTorch", "Mindscale, tokens/s", "PyTorch, tokens/s", "ratio", "MFU", "MiB, both"])
    for name in args.shapes:
        shape = Shape(**{**SHAPES[name].__dict__, "seq_len": 512, "batch_size": 16})
        paths = {key: json.dumps(os.path.abspath(getattr(args, key))) for key in ("tokenizer", "text")}
        total = args.steps * 5

        def ours():
            with tempfile.TemporaryDirectory() as folder:
                sweep = os.path.join(folder, "epoch.toml")
                with open(sweep, "w", encoding="utf-8") as file:
                    settings = {**shape.__dict__, **paths, "threads": args.threads}
                    file.write(SWEEP.format(**settings, steps=args.steps, total=total))
                command = [os.path.abspath(args.mindscale), "run", sweep]
                subprocess.run(command, cwd=folder, capture_output=True, check=True)
                (run,) = glob.glob(f"{folder}/runs/pretrain-*")
                with open(f"{run}/manifest.json", encoding="utf-8") as file:
                    peak = json.load(file)["peak_rss_mb"]
                with open(f"{run}/metrics.csv", encoding="utf-8") as file:
                    rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
                # The first row covers the first step only.
                rates = [float(row["tokens_per_second"]) for row in rows[1:]]
                return {"tokens_per_second": {"median": statistics.median(rates)}, "peak_rss_mb": peak}

        task = dict(case="epoch", shape=shape.__dict__, threads=args.threads, steps=args.steps, warmup=args.warmup)
        programs = {"eager, padded": PyTorch(**task, tokenizer=args.tokenizer, text=args.text)}
        compare(shape.name, in_turn(args, ours, programs), lambda ours: ours["tokens_per_second"]["median"])


def exam(args):
    table(["shape", "PyTorch", "Mindscale, questions/s", "PyTorch, questions/s", "ratio", "MFU", "MiB, both"])
    for name in args.shapes:
        shape = Shape(**{**SHAPES[name].__dict__, "seq_len": args.prompt})
        for label, batch in [("one at a time", 1), ("64 at a time", 64)]:
            asked = Shape(**{**shape.__dict__, "batch_size": batch})
            programs = torch_programs(args, "exam", shape)
            rounds = in_turn(args, lambda: mindscale(args, "exam", asked), programs)
            compare(f"{shape.name}, ours {label}", rounds, lambda ours: ours["questions_per_second"]["median"], 1)


def generate(args):
    table(["shape", "transformers", "Mindscale, tokens/s", "transformers, tokens/s", "ratio", "MFU", "MiB, both"])
    for name in args.shapes:
        for batch in [1, 8]:
            shape = Shape(**{**SHAPES[name].__dict__, "seq_len": args.prompt, "batch_size": batch})
            task = dict(case="generate", shape=shape.__dict__, threads=args.threads, steps=args.steps, warmup=args.warmup)
            programs = {"generate": PyTorch(**task, bare=False), "forward in a loop": PyTorch(**task, bare=True)}
            rounds = in_turn(args, lambda: mindscale(args, "generate", shape), programs)
            label = f"{shape.name}, {batch} at a time"
            compare(label, rounds, lambda ours: ours["tokens_per_second"]["median"])


def tokenize(args):
    table(["texts", "PyTorch", "Mindscale, tokens/s", "transformers, tokens/s", "ratio", "MFU", "MiB, both"])
    shape = Shape(**{**SHAPES["128x4"].__dict__, "batch_size": args.texts})
    files = dict(tokenizer=args.tokenizer, text=args.text)
    task = dict(case="tokenize", shape=shape.__dict__, threads=args.threads, steps=args.steps, **files)
    programs = {"fast tokenizer, one call": PyTorch(**task, warmup=args.warmup)}
    more = ["--tokenizer", args.tokenizer, "--text", args.text]
    rounds = in_turn(args, lambda: mindscale(args, "tokenize", shape, *more), programs)
    compare(f"{rounds[0][0]['batch_size']:,} lines", rounds, lambda ours: ours["tokens_per_second"]["median"])


def main():
    if sys.argv[1:2] == ["worker"]:
        return worker(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["train", "epoch", "exam", "generate", "tokenize"])
    parser.add_argument("--mindscale", default="target/release/mindscale", help="the program")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps of a round")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--copies", type=int, default=1, help="programs side by side, for train")
    parser.add_argument("--prompt", type=int, default=96, help="tokens of a prompt, for exam and generate")
    parser.add_argument("--tokenizer", help="a folder with tokenizer.json")
    parser.add_argument("--text", help="a file of one text a line; for epoch, of JSON lines with the key text")
    parser.add_argument("--texts", type=int, default=20000, help="lines to tokenize at a time")
    args = parser.parse_args()
    if args.case in ("epoch", "tokenize") and not (args.tokenizer and args.text):
        parser.error(f"{args.case} needs --tokenizer and --text")
    if args.case != "train" and args.copies != 1:
        parser.error("--copies is for train")
    {"train": train, "epoch": epoch, "exam": exam, "generate": generate, "tokenize": tokenize}[args.case](args)


if __name__ == "__main__":
    main()
