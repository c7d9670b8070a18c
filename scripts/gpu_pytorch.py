#!/usr/bin/env python3
"""Measures PyTorch's training steps on a GPU, with the shapes of `mindscale bench train --device cuda`.

    python3 scripts/gpu_pytorch.py --out pytorch.jsonl                   # every shape in every form; needs torch, transformers
    python3 scripts/gpu_pytorch.py --shapes 512x8 --at-once 1            # one program at a time, compilation included
    python3 scripts/gpu_pytorch.py --device cpu --shapes tiny moe-tiny --warmup 1 --steps 2      # tests the script itself

A step is forward, backward, gradient norm clipping and fused AdamW on a batch of full rows, with SDPA attention.
Dense models are transformers' Llama. Mixtures of experts are MiniMind's implementation (a loop over experts that selects
their tokens by a mask), put into the same Llama, and transformers' Qwen2-MoE, the most similar model with a shared expert
(it adds a gate to it), with grouped matrix products. Forms:

    autocast  f32 weights, gradients and moments, products in bf16 under autocast: what Mindscale's bf16 does
    bf16      everything in bf16, including weights and moments: faster and smaller, but updates are lost to rounding

Each program is a separate process: compiled ones start side by side, as compiling takes longest, and are then measured
in turn, each alone on the GPU. Each prints one line of JSON: tokens per second (the median step, by CUDA
events), peak memory allocated and reserved while steps were timed, and the fraction of the GPU's bf16 matrix-product
throughput (8192 x 8192 x 8192, measured first), with the operations that Mindscale counts (model/src/cost.rs).
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Shape:
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_experts: int = 0
    seq_len: int = 512
    batch_size: int = 64
    vocab_size: int = 6400
    top_k: int = 2
    n_shared_experts: int = 1

    @property
    def hidden(self):
        """Returns MiniMind's hidden size of the feed-forward layer and of each expert."""
        return -(-(8 * self.d_model // 3) // 64) * 64

    @property
    def feed_forwards(self):
        """Returns the number of feed-forward networks that a token passes through in a layer."""
        return self.top_k + self.n_shared_experts if self.n_experts else 1

    @property
    def tokens(self):
        """Returns the number of tokens per step."""
        return self.batch_size * self.seq_len

    def flops(self):
        """Returns the floating-point operations of a training step, as counted by model/src/cost.rs: causal attention at half."""
        d, width = self.d_model, self.d_model // self.n_heads
        attention = 2 * d * d + 2 * d * self.n_kv_heads * width
        block = attention + self.n_experts * d + self.feed_forwards * 3 * d * self.hidden
        products = self.n_layers * block + self.vocab_size * d
        return 3 * self.tokens * (2 * products + 2 * self.n_layers * d * self.seq_len)


SHAPES = {
    "512x8": Shape(512, 8, 16, 8),
    "768x16": Shape(768, 16, 16, 8),
    "moe-512x8": Shape(512, 8, 16, 8, n_experts=4),
    "moe-768x16": Shape(768, 16, 16, 8, n_experts=4),
    "tiny": Shape(64, 2, 4, 2, seq_len=32, batch_size=4, vocab_size=320),
    "moe-tiny": Shape(64, 2, 4, 2, n_experts=4, seq_len=32, batch_size=4, vocab_size=320),
}


@dataclass(frozen=True)
class Program:
    shape: str
    model: str  # llama, minimind-moe, qwen2-moe
    form: str  # autocast, bf16
    compiled: bool

    @property
    def name(self):
        return f"{self.shape}, {self.model}, {self.form}, {'compiled' if self.compiled else 'eager'}"


def programs(shapes):
    """Yields the programs to measure. MiniMind's loop over experts is not compiled, as the sizes of its products keep changing."""
    for shape in shapes:
        if not SHAPES[shape].n_experts:
            yield from (Program(shape, "llama", form, True) for form in ("autocast", "bf16"))
        else:
            yield Program(shape, "minimind-moe", "autocast", False)
            yield from (Program(shape, "qwen2-moe", form, True) for form in ("autocast", "bf16"))


# The worker: one program in its own process.


def minimind_moe(config, shape):
    """Builds MiniMind v1's MOEFeedForward for training; it keeps its balancing loss for the step to add."""
    import torch
    from torch import nn
    from torch.nn.functional import one_hot
    from transformers.models.llama.modeling_llama import LlamaMLP

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(shape.d_model, shape.n_experts, bias=False)
            self.experts = nn.ModuleList(LlamaMLP(config) for _ in range(shape.n_experts))
            self.shared = nn.ModuleList(LlamaMLP(config) for _ in range(shape.n_shared_experts))

        def forward(self, x):
            batch, seq, d = x.shape
            scores = self.gate(x).float().softmax(-1)  # (batch, seq, experts)
            weights, chosen = scores.topk(shape.top_k, dim=-1, sorted=False)
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
            load = one_hot(chosen.flatten(1), shape.n_experts).float().mean(1) * shape.n_experts  # (batch, experts)
            self.balance = 0.01 * (load * scores.mean(1)).sum(1).mean()
            chosen = chosen.flatten()
            each = x.view(-1, d).repeat_interleave(shape.top_k, dim=0)
            y = torch.empty_like(each)
            for i, expert in enumerate(self.experts):
                y[chosen == i] = expert(each[chosen == i]).to(y.dtype)
            y = (y.view(-1, shape.top_k, d) * weights.view(-1, shape.top_k, 1).to(y.dtype)).sum(1).view(batch, seq, d)
            for expert in self.shared:
                y = y + expert(x)
            return y

    return Experts()


def build(program, shape):
    """Returns the model, and the modules whose balancing loss is to be added."""
    import transformers

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
    if program.model == "qwen2-moe":
        config = transformers.Qwen2MoeConfig(
            **common,
            qkv_bias=False,
            num_experts=shape.n_experts,
            num_experts_per_tok=shape.top_k,
            moe_intermediate_size=shape.hidden,
            shared_expert_intermediate_size=shape.n_shared_experts * shape.hidden,
            norm_topk_prob=True,
            output_router_logits=True,
            router_aux_loss_coef=0.01,
            experts_implementation="grouped_mm",
        )
        return transformers.Qwen2MoeForCausalLM(config), []
    config = transformers.LlamaConfig(**common)
    model = transformers.LlamaForCausalLM(config)
    balanced = []
    if program.model == "minimind-moe":
        for layer in model.model.layers:
            layer.mlp = minimind_moe(config, shape)
            balanced.append(layer.mlp)
    return model, balanced


def stepper(program, shape, device):
    """Returns a function that takes one optimizer step, and the number of parameters."""
    import torch

    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model, balanced = build(program, shape)
    model.to(device=device, dtype=torch.bfloat16 if program.form == "bf16" else torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if program.compiled else model
    ids = torch.randint(shape.vocab_size, (shape.batch_size, shape.seq_len), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=program.form == "autocast"):
            loss = forward(input_ids=ids, labels=ids).loss
        for module in balanced:
            loss = loss + module.balance
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step, sum(parameter.numel() for parameter in model.parameters())


def retry_when_out_of_memory(step, tries=20):
    """Takes a step, and retries while other programs hold the memory that it needs; compiled code is kept."""
    import torch

    for left in reversed(range(tries)):
        try:
            return step()
        except RuntimeError as error:
            text = str(error)
            if not left or ("out of memory" not in text and "ALLOC_FAILED" not in text):
                raise
        torch.cuda.empty_cache()
        time.sleep(3)


def timed(step, steps, device):
    """Returns the seconds of each step."""
    import torch

    if device == "cpu":
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        return seconds
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in zip(events, events[1:])]


def worker(task):
    import torch

    program, device = Program(**task["program"]), task["device"]
    shape = SHAPES[program.shape]
    on_gpu = device == "cuda"
    step, params = stepper(program, shape, device)
    for _ in range(2):
        retry_when_out_of_memory(step)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    print("ready", flush=True)
    sys.stdin.readline()
    # Fewer steps where these would take more than 20 seconds.
    [each] = timed(step, 1, device)
    for _ in range(min(task["warmup"], int(8 / each))):
        step()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(step, min(task["steps"], max(3, int(12 / each))), device)
    mib = lambda of: of() / 2**20 if on_gpu else None
    found = {
        "params": params,
        "seconds": statistics.median(seconds),
        "tokens_per_second": shape.tokens / statistics.median(seconds),
        "slowest": shape.tokens / max(seconds),
        "fastest": shape.tokens / min(seconds),
        "tflops": shape.flops() / statistics.median(seconds) / 1e12,
        "peak_allocated_mib": mib(torch.cuda.max_memory_allocated),
        "peak_reserved_mib": mib(torch.cuda.max_memory_reserved),
        "loss": float(step()),
    }
    print(json.dumps(found), flush=True)


def measure_machine(device):
    """Prints the throughput of the machine: medians of bf16 products and of copies."""
    import torch
    import transformers

    on_gpu = device == "cuda"
    size, copied = (8192, 2**28) if on_gpu else (512, 2**20)
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    products = timed(lambda: a @ b, 25, device)[5:]
    from_, to = (torch.zeros(copied, device=device) for _ in range(2))
    copies = timed(lambda: to.copy_(from_), 15, device)[5:]
    found = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "memory_bytes": torch.cuda.mem_get_info()[0] if on_gpu else None,
        "peak_tflops": 2 * size**3 / statistics.median(products) / 1e12,
        "copy_gb_per_second": 2 * 4 * copied / statistics.median(copies) / 1e9,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(found), flush=True)


# The parent: starts workers and measures them in turn.


class Worker:
    """The process of one program; `problem` says what went wrong, if anything did."""

    def __init__(self, program, args):
        self.program, self.args = program, args
        self.problem = None

    def prepare(self):
        """Starts the process and waits until it has taken its first steps."""
        task = {key: getattr(self.args, key) for key in ("device", "warmup", "steps")}
        task["program"] = asdict(self.program)
        command = [sys.executable, os.path.abspath(__file__), "worker", json.dumps(task)]
        more = {"TORCHINDUCTOR_COMPILE_THREADS": "4", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        self.said = tempfile.TemporaryFile("w+")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, start_new_session=True)
        self.process = subprocess.Popen(command, env={**os.environ, **more}, **pipes)
        self.answer(self.args.prepare_limit)

    def answer(self, limit):
        """Returns the next line of its output; kills it after `limit` seconds."""
        # The whole group, since its compiler processes would keep its output open.
        timer = threading.Timer(limit, os.killpg, [self.process.pid, signal.SIGKILL])
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            code = self.process.wait()
            self.said.seek(0)
            lines = [line.strip() for line in self.said if line.strip()]
            errors = [line for line in lines if "Error" in line]
            slow = f"not done within {limit} s" if code == -9 else f"ended with {code}"
            self.problem = ((code != -9 and (errors or lines)) or [slow])[-1][:300]
        return line

    def measure(self):
        """Returns its measurements, or None."""
        self.process.stdin.write("go\n")
        self.process.stdin.close()
        line = self.answer(self.args.measure_limit)
        self.process.wait()
        return json.loads(line) if line else None


def prepare(workers, at_once):
    """Prepares workers, `at_once` of them at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(Worker.prepare, workers))


def measure(workers, machine, show):
    """Measures the workers that are ready, in turn, and passes every result to `show`."""
    for worker in workers:
        found = None if worker.problem else worker.measure()
        line = {**asdict(worker.program), "name": worker.program.name}
        if found:
            line |= found | {"mfu": found["tflops"] / machine["peak_tflops"]}
        else:
            line["problem"] = worker.problem
        show(line)


def run(args):
    def show(line):
        text = json.dumps(line)
        print(text, flush=True)
        if args.out:
            with open(args.out, "a", encoding="utf-8") as file:
                file.write(text + "\n")

    command = [sys.executable, os.path.abspath(__file__), "gpu", args.device]
    machine = json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=120, check=True).stdout)
    show(machine)
    workers = [Worker(program, args) for program in programs(args.shapes)]
    together = [worker for worker in workers if worker.program.compiled and args.at_once > 1]
    # Those that take longest to compile go first.
    prepare(sorted(together, key=lambda worker: -SHAPES[worker.program.shape].n_layers), args.at_once)
    # Those out of memory next to others are tried again alone.
    together = [worker for worker in together if "memory" not in (worker.problem or "")]
    measure(together, machine, show)
    for worker in workers:
        if worker not in together:
            worker.problem = None
            worker.prepare()
            measure([worker], machine, show)


def main():
    if sys.argv[1:2] == ["worker"]:
        return worker(json.loads(sys.argv[2]))
    if sys.argv[1:2] == ["gpu"]:
        return measure_machine(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ["512x8", "768x16", "moe-512x8", "moe-768x16"]
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=usual, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--warmup", type=int, default=10, help="most steps before those that are timed")
    parser.add_argument("--steps", type=int, default=20, help="most steps that are timed")
    parser.add_argument("--at-once", type=int, default=8, help="programs that compile side by side")
    parser.add_argument("--prepare-limit", type=float, default=150, help="seconds that a program has to start and compile")
    parser.add_argument("--measure-limit", type=float, default=60, help="seconds that it then has for its steps")
    parser.add_argument("--out", help="a file that the lines are added to as well")
    args = parser.parse_args()
    if min(args.steps, args.at_once) < 1 or args.warmup < 0:
        parser.error("--steps and --at-once are at least 1, --warmup at least 0")
    run(args)


if __name__ == "__main__":
    main()
