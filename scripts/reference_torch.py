#!/usr/bin/env python3
"""Computes model/tests/reference_torch.json: what transformers' Qwen3 and Qwen3-MoE make of small models.

    python scripts/reference_torch.py > model/tests/reference_torch.json

Needs torch and transformers. Weights are a formula that the test repeats. transformers rotates the first half of a head
against the second, Mindscale neighbours against each other: rows of query and key weights are put in that order.
"""

import json

import numpy
import torch
import transformers

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
TARGETS = [1, 4, 1, 5, 9, 2, 6, 5]
SHARED = dict(d_model=12, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=11, hidden_dim=10, n_shared_experts=0)
CASES = {
    "dense": dict(head_dim=6, qk_norm=True, tie_embeddings=False, window=3),
    "single expert": dict(head_dim=4, qk_norm=True, n_experts=3, top_k=1),
    "experts": dict(head_dim=2, qk_norm=True, n_experts=4, top_k=2, tie_embeddings=False),
}


def values(number, shape):
    """The weights of parameter `number` of the layout; scales of norms lie about one."""
    i = numpy.arange(numpy.prod(shape), dtype=numpy.float64)
    x = 0.5 * numpy.sin(0.7 * i + 0.3 * i * i / 7.0 + number)
    if len(shape) == 1:
        x = 1.0 + 0.5 * x
    return torch.tensor(x.astype(numpy.float32).reshape(shape))


def halves(x, heads):
    """From neighbouring pairs to halves, within each head, along the first dimension."""
    width = x.shape[0] // heads
    order = [head * width + i for head in range(heads) for i in [*range(0, width, 2), *range(1, width, 2)]]
    return x[torch.tensor(order)]


def neighbours(x, heads):
    """The way back."""
    return x[torch.argsort(halves(torch.arange(x.shape[0]), heads))]


def parameters(config):
    """Names and shapes of Mindscale's layout, each with its place in transformers' model."""
    d, heads, kv, width, hidden = (config[k] for k in ["d_model", "n_heads", "n_kv_heads", "head_dim", "hidden_dim"])
    vocab, experts = config["vocab_size"], config.get("n_experts", 0)
    yield "tok_embeddings", (vocab, d), "model.embed_tokens.weight", None
    for layer in range(config["n_layers"]):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        yield ours + "attention_norm", (d,), theirs + "input_layernorm.weight", None
        yield ours + "attention.wq", (heads * width, d), theirs + "self_attn.q_proj.weight", heads
        yield ours + "attention.wk", (kv * width, d), theirs + "self_attn.k_proj.weight", kv
        yield ours + "attention.wv", (kv * width, d), theirs + "self_attn.v_proj.weight", None
        yield ours + "attention.wo", (d, heads * width), theirs + "self_attn.o_proj.weight", None
        yield ours + "attention.q_norm", (width,), theirs + "self_attn.q_norm.weight", 1
        yield ours + "attention.k_norm", (width,), theirs + "self_attn.k_norm.weight", 1
        yield ours + "ffn_norm", (d,), theirs + "post_attention_layernorm.weight", None
        inner = theirs + "mlp."
        if not experts:
            for name, shape, part in [("w1", (hidden, d), "gate"), ("w3", (hidden, d), "up"), ("w2", (d, hidden), "down")]:
                yield f"{ours}feed_forward.{name}", shape, f"{inner}{part}_proj.weight", None
            continue
        yield ours + "feed_forward.gate", (experts, d), inner + "gate.weight", None
        for expert in range(experts):
            prefix = f"{ours}feed_forward.experts.{expert}."
            yield prefix + "w1", (hidden, d), (inner + "experts.gate_up_proj", expert, 0, hidden), None
            yield prefix + "w3", (hidden, d), (inner + "experts.gate_up_proj", expert, hidden, 2 * hidden), None
            yield prefix + "w2", (d, hidden), (inner + "experts.down_proj", expert, 0, d), None
    yield "norm", (d,), "model.norm.weight", None
    if not config.get("tie_embeddings", True):
        yield "output", (vocab, d), "lm_head.weight", None


def build(config):
    window = config.get("window")
    shape = dict(
        vocab_size=config["vocab_size"],
        hidden_size=config["d_model"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"],
        num_key_value_heads=config["n_kv_heads"],
        head_dim=config["head_dim"],
        intermediate_size=config["hidden_dim"],
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=config.get("tie_embeddings", True),
        attn_implementation="eager",
        experts_implementation="eager",
        pad_token_id=None,
    )
    if config.get("n_experts"):
        moe = dict(
            num_experts=config["n_experts"],
            num_experts_per_tok=config["top_k"],
            norm_topk_prob=config["top_k"] > 1,
            moe_intermediate_size=config["hidden_dim"],
            decoder_sparse_step=1,
        )
        return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**shape, **moe))
    sliding = dict(use_sliding_window=True, sliding_window=window, max_window_layers=0) if window else {}
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, **sliding))


def part(tensors, place):
    if isinstance(place, str):
        return tensors[place]
    name, expert, first, last = place
    return tensors[name][expert, first:last]


def run(config):
    config = {**SHARED, **config}
    model = build(config)
    weights = dict(model.named_parameters())
    rows = list(parameters(config))
    with torch.no_grad():
        for number, (_, shape, place, heads) in enumerate(rows):
            x = values(number, shape)
            target = part(weights, place)
            assert target.shape == x.shape, (place, target.shape, x.shape)
            target.copy_(x if heads is None else halves(x, heads))
    assert sum(p.numel() for p in weights.values()) == sum(int(numpy.prod(shape)) for _, shape, _, _ in rows)
    logits = model(torch.tensor([IDS])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS))
    loss.backward()
    grads = {name: weight.grad for name, weight in weights.items()}
    projected = {}
    for name, shape, place, heads in rows:
        grad = part(grads, place)
        grad = grad if heads is None else neighbours(grad, heads)
        along = torch.cos(torch.arange(grad.numel(), dtype=torch.float64))
        projected[name] = round(float((grad.double().flatten() * along).sum()), 9)
    last = [round(x, 7) for x in logits[-1].tolist()]
    return {"config": config, "loss": loss.item(), "logits_of_last": last, "gradient_along_cosines": projected}


if __name__ == "__main__":
    source = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
    cases = {name: run(config) for name, config in CASES.items()}
    print(json.dumps({"source": source, "ids": IDS, "targets": TARGETS, "cases": cases}, indent=1))
