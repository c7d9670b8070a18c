#!/usr/bin/env python3
"""Computes the small reference values for tests on every machine, without any code of Mindscale.

    python scripts/make_references.py          # writes model/tests/references and harness/tests/references

Needs torch and transformers (the files name the versions that they were made with). The model is that of
minimind.py, in plain PyTorch; shapes that transformers knows (Llama, Qwen3, Qwen2-MoE, Qwen3-MoE) are first checked
against it. Weights are float32 and everything is computed from them in float64, so that the tolerances of the tests
cover only Mindscale's rounding. Numbers are in JSON files, arrays in safetensors.
"""

import json
import pathlib

import torch
import transformers
from exam_reference import write_exam
from minimind import by_transformers, draw, logits_of, losses, shapes, trainable
from safetensors.torch import save_file
from torch.nn.functional import log_softmax, logsigmoid

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = f"scripts/make_references.py, torch {torch.__version__}, transformers {transformers.__version__}"

SMALL = dict(
    d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=None, qk_norm=False, window=None, vocab_size=13,
    tie_embeddings=True, hidden_dim=10, norm_eps=1e-5, rope_theta=10000.0, n_experts=0, top_k=2, n_shared_experts=1,
    aux_loss_alpha=0.0, aux_loss_per="sequence", max_seq_len=512,
)  # fmt: skip
MOE = dict(n_experts=4, aux_loss_alpha=0.3)
CASES = {
    "dense": {},
    "qk_norm": dict(qk_norm=True, head_dim=6, window=3, tie_embeddings=False),
    "moe": MOE,
    "moe_batch": {**MOE, "n_shared_experts": 2, "aux_loss_per": "batch"},
    "single_expert": {**MOE, "top_k": 1, "n_shared_experts": 0, "qk_norm": True},
}
# Shapes relative to their base: twice as wide with heads of twice the size, and for completep twice as deep.
BASE = dict(base_width=8, base_head_dim=2, base_depth=1)
PARAMETRIZED = {
    "mup": dict(parametrization="mup", tie_embeddings=False, **BASE),
    "completep": dict(parametrization="completep", **BASE),
    "completep_experts": dict(parametrization="completep", qk_norm=True, **BASE, **MOE),
}


def rows_of(random, lengths):
    """Draws a row of random tokens for each list of document lengths; about a third of the positions carry no loss."""
    rows = []
    for documents in lengths:
        n = sum(documents)
        ids, targets = torch.randint(13, (2, n), generator=random).tolist()
        weights = (torch.rand(n, generator=random) > 0.3).double().tolist()
        rows.append(dict(ids=ids, targets=targets, weights=weights, documents=documents))
    return rows


def gradients(loss, weights):
    found = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in zip(weights.items(), found)}


def adamw(weights, decay):
    """Returns PyTorch's AdamW configured as Mindscale's: no weight decay on norm scales."""
    matrices, norms = [[w for w in weights.values() if (w.dim() == 1) == is_norm] for is_norm in (False, True)]
    groups = [dict(params=matrices, weight_decay=decay), dict(params=norms, weight_decay=0.0)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)


def step(optimizer, weights, loss, lr):
    """Takes one update, with gradients clipped to norm 1; returns the norm before clipping."""
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return float(norm)


def add(arrays, prefix, tensors):
    arrays.update({f"{prefix}/{name}": t.detach().float().contiguous() for name, t in tensors.items()})


def case(name, changes, arrays):
    """Computes logits, losses and gradients of one pass over two rows, one of which has two documents."""
    config = SMALL | changes
    rows = rows_of(torch.Generator().manual_seed(11), [[7, 5], [6]])
    drawn = draw(config, 1 + len(name))
    weights = trainable(drawn)
    theirs = by_transformers(config, {name: w.double() for name, w in drawn.items()}, rows[1]["ids"])
    if theirs is not None:
        off = (theirs - logits_of(config, weights, rows[1])[0]).abs().max().item()
        assert off < 2e-5, f"{name}: transformers' logits differ by {off}"
    loss, auxiliary, loads, margin = losses(config, weights, rows)
    assert margin > 1e-3, f"{name}: a token is as near to one expert as to another ({margin})"
    add(arrays, f"{name}/weights", drawn)
    add(arrays, f"{name}/gradients", gradients(loss + sum(auxiliary), weights))
    add(arrays, name, {"logits": torch.cat([logits_of(config, weights, row)[0] for row in rows])})
    found = dict(config=config, rows=rows, loss=loss.item(), aux_losses=[a.item() for a in auxiliary], loads=loads)
    return found | {"transformers": theirs is not None}


def training(name, cases, arrays):
    """Takes ten steps of AdamW with a rising and falling learning rate and clipped gradients."""
    config, random = cases[name]["config"], torch.Generator().manual_seed(12)
    weights = trainable({key.removeprefix(f"{name}/weights/"): w for key, w in arrays.items() if key.startswith(f"{name}/weights/")})
    optimizer, steps = adamw(weights, 0.1), []
    for lr in [1e-3, 3e-3, 5e-3, 5e-3, 4e-3, 4e-3, 3e-3, 2e-3, 1e-3, 5e-4]:
        rows = rows_of(random, [[6, 4], [8], [5]])
        loss, auxiliary, _, margin = losses(config, weights, rows)
        assert margin > 1e-4, f"{name}: a token is as near to one expert as to another ({margin})"
        norm = step(optimizer, weights, loss + sum(auxiliary), lr)
        steps.append(dict(rows=rows, lr=lr, loss=loss.item(), norm=norm))
    add(arrays, f"{name}/trained", weights)
    return dict(case=name, weight_decay=0.1, steps=steps)


def multipliers(config):
    """Returns the multipliers of the forward pass by the papers, relative to the base shape."""
    m, depth = config["d_model"] / config["base_width"], config["n_layers"] / config["base_depth"]
    head = config["d_model"] // config["n_heads"] / config["base_head_dim"]
    residual = 1 / depth if config["parametrization"] == "completep" else 1.0
    return dict(attention=head**-0.5, residual=residual, router=1 / m, logits=1 / m)


def groups(config, weights, lr, decay, eps):
    """Returns parameter groups as in EleutherAI/nanoGPT-mup, branch completep, with its depth scaling for alpha = 1."""
    m, residual = config["d_model"] / config["base_width"], multipliers(config)["residual"]
    found = []
    for name, weight in weights.items():
        is_hidden = ".attention.w" in name or ".w1." in name or ".w2." in name or ".w3." in name
        is_outer = name in ("tok_embeddings.weight", "output.weight", "norm.weight")
        group = dict(params=[weight], lr=lr / m if is_hidden else lr, eps=eps / m * (1.0 if is_outer else residual))
        group["weight_decay"] = 0.0 if weight.dim() == 1 else decay * m if is_hidden else decay
        found.append(group)
    return found


def parametrized(name, changes, arrays):
    """Takes six steps of AdamW with multipliers in the forward pass, a non-negligible epsilon and clipped gradients."""
    config, random = SMALL | changes, torch.Generator().manual_seed(15)
    drawn = draw(config, 40)
    weights = trainable(drawn)
    found = dict(config=config, lr=5e-3, weight_decay=0.3, eps=1e-3, clip=0.5, steps=[])
    optimizer = torch.optim.AdamW(groups(config, weights, found["lr"], found["weight_decay"], found["eps"]), betas=(0.9, 0.95))
    for _ in range(6):
        rows = rows_of(random, [[6, 4], [8], [5]])
        loss, auxiliary, _, margin = losses(config | {"multipliers": multipliers(config)}, weights, rows)
        assert margin > 1e-4, f"{name}: a token is as near to one expert as to another ({margin})"
        optimizer.zero_grad()
        (loss + sum(auxiliary)).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), found["clip"])
        optimizer.step()
        found["steps"].append(dict(rows=rows, loss=loss.item(), norm=float(norm)))
    add(arrays, f"{name}/weights", drawn)
    add(arrays, f"{name}/trained", weights)
    return found


def answer(prompt, words):
    ids = prompt + words
    weights = [float(i + 1 >= len(prompt)) for i in range(len(ids) - 1)]
    return dict(ids=ids[:-1], targets=ids[1:], weights=weights, documents=[len(ids) - 1])


def log_prob(config, weights, row):
    log_probs = log_softmax(logits_of(config, weights, row)[0], -1)
    return (log_probs.gather(1, torch.tensor(row["targets"])[:, None])[:, 0] * torch.tensor(row["weights"])).sum()


def preference(config, policy, reference, pairs, beta, kind, normalised):
    """Returns the losses of preference pairs: DPO (Rafailov et al. 2023, eq. 7) or IPO (Azar et al. 2023, eq. 17)."""
    found = []
    for pair in pairs:
        each = [[log_prob(config, model, row) / (sum(row["weights"]) if normalised else 1.0) for row in pair] for model in (policy, reference)]
        margin = (each[0][0] - each[0][1]) - (each[1][0] - each[1][1]).detach()
        found.append(-logsigmoid(beta * margin) if kind == "sigmoid" else (margin - 1 / (2 * beta)) ** 2)
    return found


def dpo(cases, arrays):
    """Computes losses and gradients of a policy and its reference, and five steps of a policy that starts from the reference."""
    config, random, beta = cases["dense"]["config"], torch.Generator().manual_seed(13), 0.3
    drawn = {name: arrays[f"dense/weights/{name}"] for name in shapes(config)}
    policy = {name: w + 0.1 * torch.randn(w.shape, generator=random) for name, w in drawn.items()}
    words = [torch.randint(13, (n,), generator=random).tolist() for n in (5, 3, 6, 4, 2, 1, 3, 4, 5)]
    pairs = [[answer(*words[i : i + 2]), answer(words[i], words[i + 2])] for i in (0, 3, 6)]
    add(arrays, "dpo/policy", policy)
    found = dict(beta=beta, pairs=pairs, kinds=[], lr=3e-3, steps=[])
    for kind in ["sigmoid", "ipo"]:
        for normalised in [False, True]:
            weights = trainable(policy)
            each = preference(config, weights, trainable(drawn), pairs, beta, kind, normalised)
            name = kind + ("_normalised" if normalised else "")
            add(arrays, f"dpo/{name}", gradients(sum(each) / len(each), weights))
            found["kinds"].append(dict(name=name, losses=[loss.item() for loss in each]))
    weights = trainable(drawn)
    optimizer = adamw(weights, 0.0)
    for _ in range(5):
        each = preference(config, weights, trainable(drawn), pairs, beta, "sigmoid", False)
        norm = step(optimizer, weights, sum(each) / len(each), found["lr"])
        found["steps"].append(dict(losses=[loss.item() for loss in each], norm=norm))
    add(arrays, "dpo/trained", weights)
    return found


def lora(cases, arrays):
    """Takes three steps of the adapters of three projections (Hu et al. 2021): W + (alpha / rank) B A."""
    config, random = cases["dense"]["config"], torch.Generator().manual_seed(14)
    drawn = {name: arrays[f"dense/weights/{name}"] for name in shapes(config)}
    found, adapters = dict(rank=3, alpha=6.0, targets=["wq", "wv", "w2"], weight_decay=0.1, lr=1e-2, steps=[]), {}
    for name, w in drawn.items():
        if name.split(".")[-2] in found["targets"]:
            name = name.removesuffix(".weight")
            for part, shape in [("A", (found["rank"], w.shape[1])), ("B", (w.shape[0], found["rank"]))]:
                adapters[f"{name}.lora_{part}.weight"] = 0.3 * torch.randn(shape, generator=random)
    add(arrays, "lora/adapters", adapters)
    adapters = trainable(adapters)
    optimizer = adamw(adapters, found["weight_decay"])
    for _ in range(3):
        weights = trainable(drawn)
        for name in [name.removesuffix(".lora_A.weight") for name in adapters if "lora_A" in name]:
            a, b = (adapters[f"{name}.lora_{part}.weight"] for part in "AB")
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + found["alpha"] / found["rank"] * (b @ a)
        rows = rows_of(random, [[6, 4], [8]])
        loss = losses(config, weights, rows)[0]
        if not found["steps"]:
            add(arrays, "lora/gradients", gradients(loss, adapters))
        found["steps"].append(dict(rows=rows, loss=loss.item(), norm=step(optimizer, adapters, loss, found["lr"])))
    add(arrays, "lora/trained", adapters)
    return found


def write(folder, name, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"source": SOURCE} | numbers, ensure_ascii=False) + "\n", encoding="utf-8")


def model_references():
    arrays = {}
    cases = {name: case(name, changes, arrays) for name, changes in CASES.items()}
    trainings = [training(name, cases, arrays) for name in ["dense", "moe"]]
    numbers = dict(cases=cases, trainings=trainings, dpo=dpo(cases, arrays), lora=lora(cases, arrays))
    folder = ROOT / "model/tests/references"
    write(folder, "numbers.json", numbers)
    save_file(arrays, folder / "arrays.safetensors")


def parametrization_references():
    arrays = {}
    cases = {name: parametrized(name, changes, arrays) for name, changes in PARAMETRIZED.items()}
    folder = ROOT / "model/tests/references"
    write(folder, "parametrizations.json", dict(cases=cases))
    save_file(arrays, folder / "parametrizations.safetensors")


if __name__ == "__main__":
    model_references()
    parametrization_references()
    write_exam(ROOT / "harness/tests/references", SOURCE)
