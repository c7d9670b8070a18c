"""MiniMind v1's model and the variants that Mindscale adds, in plain PyTorch and with transformers.

For make_references.py. Takes token ids and named weights, returns logits and balancing losses; one document at a time,
not optimized. A configuration is a dictionary with the keys of Mindscale's `[model]`; `multipliers` are those of a
parametrization in the forward pass, with the keys `attention`, `residual`, `router` and `logits`.
"""

import math

import torch
import transformers
from torch.nn.functional import cross_entropy, linear, silu



def shapes(config):
    """Returns the shape of every parameter by MiniMind's name."""
    d, hidden, vocab = config["d_model"], config["hidden_dim"], config["vocab_size"]
    width = config["head_dim"] or d // config["n_heads"]
    q, kv = config["n_heads"] * width, config["n_kv_heads"] * width

    def feed_forward(prefix, hidden):
        return {f"{prefix}w1": (hidden, d), f"{prefix}w3": (hidden, d), f"{prefix}w2": (d, hidden)}

    found = {"tok_embeddings": (vocab, d)}
    for layer in range(config["n_layers"]):
        block = {"attention_norm": (d,), "ffn_norm": (d,)}
        block |= {"attention.wq": (q, d), "attention.wk": (kv, d), "attention.wv": (kv, d), "attention.wo": (d, q)}
        if config["qk_norm"]:
            block |= {"attention.q_norm": (width,), "attention.k_norm": (width,)}
        if config["n_experts"]:
            block["feed_forward.gate"] = (config["n_experts"], d)
            for expert in range(config["n_experts"]):
                block |= feed_forward(f"feed_forward.experts.{expert}.", hidden)
            if config["n_shared_experts"]:
                block |= feed_forward("feed_forward.shared_experts.", hidden * config["n_shared_experts"])
        else:
            block |= feed_forward("feed_forward.", hidden)
        found |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
    found["norm"] = (d,)
    if not config["tie_embeddings"]:
        found["output"] = (vocab, d)
    return {f"{name}.weight": shape for name, shape in found.items()}


def draw(config, seed):
    """Draws large weights, so that every part of the model matters; norm scales are around 1."""
    random = torch.Generator().manual_seed(seed)

    def one(shape):
        x = torch.randn(shape, generator=random)
        return 1.0 + 0.2 * x if len(shape) == 1 else 0.35 * x

    return {name: one(shape) for name, shape in shapes(config).items()}


def multiplier(config, of):
    return config.get("multipliers", {}).get(of, 1.0)


def trainable(weights):
    return {name: weight.double().requires_grad_() for name, weight in weights.items()}


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """Rotates adjacent pairs as complex numbers by the position: MiniMind's precompute_pos_cis. x: (n, heads, width)"""
    width = x.shape[-1]
    frequencies = 1.0 / (theta ** (torch.arange(0, width, 2).float() / width))
    angles = torch.outer(torch.arange(x.shape[0]).float(), frequencies).double()  # (n, width / 2)
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(turned).flatten(-2)


def attention(config, w, x):
    """x: (n, d_model), one document."""
    n, heads, kv = x.shape[0], config["n_heads"], config["n_kv_heads"]
    q, k, v = (linear(x, w[f"attention.{name}.weight"]).view(n, h, -1) for name, h in [("wq", heads), ("wk", kv), ("wv", kv)])
    if config["qk_norm"]:
        q = rms_norm(q, w["attention.q_norm.weight"], config["norm_eps"])
        k = rms_norm(k, w["attention.k_norm.weight"], config["norm_eps"])
    q, k = rotate(q, config["rope_theta"]), rotate(k, config["rope_theta"])
    k, v = (x.repeat_interleave(heads // kv, dim=1) for x in (k, v))
    scores = torch.einsum("qhw,khw->hqk", q, k) / math.sqrt(q.shape[-1]) * multiplier(config, "attention")
    back = torch.arange(n)[:, None] - torch.arange(n)
    unseen = (back < 0) | (back >= (config["window"] or n))
    probabilities = scores.masked_fill(unseen, -torch.inf).softmax(-1)
    return linear(torch.einsum("hqk,khw->qhw", probabilities, v).flatten(1), w["attention.wo.weight"])


def feed_forward(w, prefix, x):
    w1, w2, w3 = (w[f"feed_forward.{prefix}{name}.weight"] for name in ["w1", "w2", "w3"])
    return linear(silu(linear(x, w1)) * linear(x, w3), w2)


def experts(config, w, x, routing):
    """MiniMind's MOEFeedForward; appends scores and choices of the tokens to `routing`."""
    k = config["top_k"]
    scores = (linear(x, w["feed_forward.gate.weight"]) * multiplier(config, "router")).softmax(-1)  # (n, experts)
    best, chosen = scores.topk(k)
    shares = best / (best.sum(-1, keepdim=True) + 1e-20) if k > 1 else best
    visits = torch.zeros_like(scores).scatter(1, chosen, 1.0)
    y = torch.zeros_like(x)
    for expert in range(config["n_experts"]):
        share = (shares * (chosen == expert)).sum(-1, keepdim=True)
        y = y + share * feed_forward(w, f"experts.{expert}.", x)
    if config["n_shared_experts"]:
        y = y + feed_forward(w, "shared_experts.", x)
    ordered = scores.detach().sort(-1, descending=True).values
    routing.append((scores, visits, float((ordered[:, k - 1] - ordered[:, k]).min())))
    return y


def document(config, weights, ids):
    """Returns the logits of one document, (n, vocab), and the routing of each layer."""
    routing, x = [], weights["tok_embeddings.weight"][torch.tensor(ids)]
    for layer in range(config["n_layers"]):
        prefix = f"layers.{layer}."
        w = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
        branch = multiplier(config, "residual")
        x = x + branch * attention(config, w, rms_norm(x, w["attention_norm.weight"], config["norm_eps"]))
        inner = rms_norm(x, w["ffn_norm.weight"], config["norm_eps"])
        x = x + branch * (experts(config, w, inner, routing) if config["n_experts"] else feed_forward(w, "", inner))
    head = weights["tok_embeddings.weight" if config["tie_embeddings"] else "output.weight"]
    logits = linear(rms_norm(x, weights["norm.weight"], config["norm_eps"]), head)
    return logits * multiplier(config, "logits"), routing


def logits_of(config, weights, row):
    """Returns the logits of the documents of a row, (n, vocab), and the routing of each layer over the whole row."""
    parts, start = [], 0
    for length in row["documents"]:
        parts.append(document(config, weights, row["ids"][start : start + length]))
        start += length
    layers = zip(*(routing for _, routing in parts))
    routing = [(torch.cat([p[0] for p in layer]), torch.cat([p[1] for p in layer]), min(p[2] for p in layer)) for layer in layers]
    return torch.cat([logits for logits, _ in parts]), routing


def balance(config, scores, visits):
    """Returns MoEGate's balancing loss without its alpha: 1 if experts are used evenly."""
    share = visits.sum(0) * config["n_experts"] / (len(visits) * config["top_k"])
    return (share * scores.mean(0)).sum()


def losses(config, weights, rows):
    """Returns the mean cross-entropy of rows, the balancing loss of each layer, the visits of each expert, the smallest margin of a choice."""
    total, all_routing = 0.0, []
    for row in rows:
        logits, routing = logits_of(config, weights, row)
        each = cross_entropy(logits, torch.tensor(row["targets"]), reduction="none")
        total = total + (each * torch.tensor(row["weights"])).sum()
        all_routing.append(routing)
    auxiliary, loads, margin = [], [], math.inf
    for layer in zip(*all_routing):
        spans = [(torch.cat([r[0] for r in layer]), torch.cat([r[1] for r in layer]))]
        loads.append(spans[0][1].sum(0).int().tolist())
        if config["aux_loss_per"] == "sequence":
            spans = [r[:2] for r in layer]
        auxiliary.append(config["aux_loss_alpha"] * sum(balance(config, *span) for span in spans) / len(spans))
        margin = min(margin, *(r[2] for r in layer))
    return total / sum(sum(row["weights"]) for row in rows), auxiliary, loads, margin


# The same with transformers, where rotation pairs the first half of a head with the second.


def halves(x, heads):
    """Reorders adjacent pairs into halves within each head, along the first dimension."""
    return x.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def by_transformers(config, weights, ids):
    """Returns the logits of one document, or None if transformers has no such model."""
    shared, experts = config["n_shared_experts"], config["n_experts"]
    if config["window"] and not config["qk_norm"] or shared > 1 or (shared and experts and config["qk_norm"]):
        return None
    keys = dict(
        vocab_size=config["vocab_size"], hidden_size=config["d_model"], num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"], num_key_value_heads=config["n_kv_heads"],
        intermediate_size=config["hidden_dim"], rms_norm_eps=config["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        tie_word_embeddings=config["tie_embeddings"], attn_implementation="eager", pad_token_id=None,
    )  # fmt: skip
    if experts:
        keys |= dict(
            num_experts=experts, num_experts_per_tok=config["top_k"], norm_topk_prob=config["top_k"] > 1,
            moe_intermediate_size=config["hidden_dim"], decoder_sparse_step=1, experts_implementation="eager",
        )  # fmt: skip
    if config["qk_norm"]:
        keys["head_dim"] = config["head_dim"] or config["d_model"] // config["n_heads"]
        if config["window"]:
            keys |= dict(use_sliding_window=True, sliding_window=config["window"], max_window_layers=0)
        family = "Qwen3Moe" if experts else "Qwen3"
    elif experts:
        keys |= dict(qkv_bias=False, shared_expert_intermediate_size=config["hidden_dim"])
        family = "Qwen2Moe"
    else:
        family = "Llama"
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**keys)).double()
    theirs = {"model.embed_tokens.weight": "tok_embeddings", "model.norm.weight": "norm", "lm_head.weight": "output"}
    parts = dict(input_layernorm="attention_norm", post_attention_layernorm="ffn_norm")
    parts |= {f"self_attn.{x}_proj": f"attention.w{x}" for x in "qkvo"}
    parts |= {f"self_attn.{x}_norm": f"attention.{x}_norm" for x in "qk"} | {"mlp.gate": "feed_forward.gate"}
    for place in ["mlp", "mlp.shared_expert"]:
        ours = "feed_forward." if place == "mlp" else "feed_forward.shared_experts."
        parts |= {f"{place}.{x}_proj": f"{ours}w{w}" for x, w in [("gate", 1), ("down", 2), ("up", 3)]}
    for name, parameter in model.named_parameters():
        *_, layer, part = ["", *name.removeprefix("model.layers.").split(".", 1)]
        prefix = f"layers.{layer}."

        def expert(w):
            return torch.stack([weights[f"{prefix}feed_forward.experts.{e}.w{w}.weight"] for e in range(experts)])

        if part == "mlp.experts.gate_up_proj":
            value = torch.cat([expert(1), expert(3)], 1)
        elif part == "mlp.experts.down_proj":
            value = expert(2)
        elif part == "mlp.shared_expert_gate.weight":
            value = torch.zeros_like(parameter)  # the gate is then 0.5
        else:
            value = weights[f"{theirs[name] if name in theirs else prefix + parts[part.removesuffix('.weight')]}.weight"]
        if ".q_" in name or ".k_" in name:
            heads = 1 if "norm" in name else config["n_heads" if ".q_" in name else "n_kv_heads"]
            value = halves(value, heads)
        if "shared_expert.down" in name:
            value = 2.0 * value
        assert parameter.shape == value.shape, (name, parameter.shape, value.shape)
        parameter.data.copy_(value)
    return model(torch.tensor([ids])).logits[0]
