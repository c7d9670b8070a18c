"""An exam taken with Hugging Face's tokenizer and minimind.py. For make_references.py.

Writes a model folder, sheets with questions and with solved examples, and `answers.json`: for each way of asking, the
probabilities of the options of every question. Prompts are worded and cut as docs/exams.md describes.
"""

import csv
import json
import math

import tokenizers
import torch
import transformers
from minimind import draw, document, trainable
from safetensors.torch import save_file
from torch.nn.functional import log_softmax

SYSTEM = "开始回答问题"
LETTERS = "ABCD"
CONFIG = dict(
    d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=None, qk_norm=False, window=None, vocab_size=320,
    tie_embeddings=True, hidden_dim=24, norm_eps=1e-5, rope_theta=10000.0, n_experts=0, max_seq_len=190,
)  # fmt: skip
TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<s>user\\n' + m['content'] + '</s>\\n<s>assistant\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '</s>\\n' }}{% endif %}{% endfor %}"
)
LONG = "".join(chr(0x4E00 + 37 * i) for i in range(60))  # characters without tokens of their own
QUESTIONS = {
    "colours": [
        ("0", "晴天的天空是什么颜色", "蓝色", "红", "绿色的", "black", "A"),
        ("1", "What colour is grass", "blue", "green", "red", "very dark blue", "B"),
        ("2", "雪是什么颜色", "黑", "红", "白", "蓝", "C"),
    ],
    "numbers": [
        ("0", "2 + 3", "4", "5", "6", "23", "B"),
        ("7", "一年有几个月", "十", "十一", "十二", "12 + 1", "C"),
        ("8", LONG, "一", "二", "三", "四", "D"),
    ],
}
SOLVED = {
    "colours": [("0", "血是什么颜色", "红", "绿", "蓝", "白", "A"), ("1", "The sea", "red", "blue", "white", "green", "B")],
    "numbers": [("0", "1 + 1", "1", "3", "2", "4", "C"), ("1", "一天有几个小时", "10", "12", "20", "24", "D")],
}
WAYS = {
    "letter": dict(answer="letter", shots=0),
    "letter_shots": dict(answer="letter", shots=2),
    "cloze": dict(answer="cloze", shots=0),
    "cloze_shots": dict(answer="cloze", shots=1),
    "letter_rotated": dict(answer="letter", shots=0, rotate=True),
    "cloze_raw": dict(answer="cloze", shots=0, norm="raw"),
    "cloze_pmi": dict(answer="cloze", shots=1, norm="pmi"),
    "continuation": dict(answer="continuation", shots=0),
    "continuation_token": dict(answer="continuation", shots=2, norm="token"),
    "continuation_pmi": dict(answer="continuation", shots=0, norm="pmi"),
}


def tokenizer():
    """Trains a byte-level BPE tokenizer on the questions."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [cell for rows in [*QUESTIONS.values(), *SOLVED.values()] for row in rows for cell in row if cell != LONG]
    found.train_from_iterator(["user\n", "assistant\n", "选择 A: , B: , C: , D: ", *texts], trainer)
    special = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, chat_template=TEMPLATE, **special)


def worded(row, answer):
    _, question, *options, _ = row
    if answer == "continuation":
        return question
    return question + "。选择 " + ", ".join(f"{letter}: {option}" for letter, option in zip(LETTERS, options))


def said(row, place, answer):
    return LETTERS[place] if answer == "letter" else row[2 + place]


def conversation(tokens, turns):
    """Returns the ids of a conversation, and the start and end of its last answer."""
    text = tokens.apply_chat_template([dict(role=role, content=content) for role, content in turns], tokenize=False)
    end = len(text) - len("</s>\n")
    start = end - len(turns[-1][1])
    assert text[start:end] == turns[-1][1]
    encoded = tokens(text, return_offsets_mapping=True, add_special_tokens=False)
    inside = [i for i, (first, _) in enumerate(encoded["offset_mapping"]) if start <= first < end]
    return encoded["input_ids"], inside[0], inside[-1] + 1


def asked(row, shots, answer):
    turns = [("system", SYSTEM)]
    for shot in shots:
        turns += [("user", worded(shot, answer)), ("assistant", said(shot, LETTERS.index(shot[-1]), answer))]
    return [*turns, ("user", worded(row, answer))]


def log_probs_of(tokens, weights, row, shots, answer):
    """Returns the log-probability and the number of tokens of each answer, and what was cut from the prompt to fit."""
    for first in range(len(shots) + 1):
        turns = asked(row, shots[first:], answer)
        found = [conversation(tokens, [*turns, ("assistant", said(row, place, answer))]) for place in range(4)]
        longest = max(end - start for _, start, end in found)
        excess = found[0][1] - (CONFIG["max_seq_len"] + 1 - longest)
        if excess <= 0:
            break
    sums = [sum_of(weights, *one, cut=max(excess, 0)) for one in found]
    return sums, [end - start for _, start, end in found], dict(fewer_shots=first > 0, cut=excess > 0)


def sum_of(weights, ids, start, end, cut=0):
    with torch.no_grad():
        log_probs = log_softmax(document(CONFIG, weights, ids[cut : end - 1])[0], -1)
    return sum(log_probs[i - 1 - cut, ids[i]] for i in range(start, end)).item()


def ask(tokens, weights, row, shots, answer, norm="byte", rotate=False):
    """Returns the probabilities of the four answers, and what was cut from the prompt to fit."""
    identity, question, *options, right = row
    sums, lengths, lost = log_probs_of(tokens, weights, row, shots, answer)
    if rotate:
        probabilities = [0.0] * 4
        for by in range(4):
            turned = (identity, question, *options[by:], *options[:by], right)
            found, _, more = log_probs_of(tokens, weights, turned, shots, answer)
            lost = {key: lost[key] or more[key] for key in lost}
            for place in range(4):
                probabilities[(place + by) % 4] += math.exp(found[place]) / 4
    elif answer == "letter":
        probabilities = [math.exp(log_prob) for log_prob in sums]
    else:
        alone = [sum_of(weights, *conversation(tokens, [("user", ""), ("assistant", option)])) for option in options]
        scores = {
            "raw": sums,
            "token": [log_prob / length for log_prob, length in zip(sums, lengths)],
            "byte": [log_prob / len(option.encode()) for log_prob, option in zip(sums, options)],
            "pmi": [log_prob - unconditional for log_prob, unconditional in zip(sums, alone)],
        }
        probabilities = [math.exp(score) for score in scores[norm]]
    best = sorted(probabilities)
    assert best[3] / best[2] > 1.001, "a near tie says nothing of predictions"
    prediction = LETTERS[probabilities.index(best[3])]
    return dict(id=row[0], probabilities=probabilities, prediction=prediction, answer=row[-1]) | lost


def write_sheets(folder, split, sheets):
    folder.mkdir(parents=True, exist_ok=True)
    for subject, rows in sheets.items():
        with open(folder / f"{subject}_{split}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["id", "question", *LETTERS, "answer"], *rows])


def write_exam(folder, source):
    tokens, weights = tokenizer(), draw(CONFIG, 21)
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    tokens.backend_tokenizer.save(str(model / "tokenizer.json"))
    described = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    (model / "tokenizer_config.json").write_text(json.dumps(described | {"chat_template": TEMPLATE}, indent=1) + "\n")
    keys = {"d_model": "dim", "tie_embeddings": "tie_word_embeddings", "window": "sliding_window"}
    shape = {keys.get(key, key): value for key, value in CONFIG.items() if value is not None and key != "n_experts"}
    (model / "config.json").write_text(json.dumps(shape, indent=1) + "\n")
    save_file(weights, model / "model.safetensors")
    write_sheets(folder / "sheets", "val", QUESTIONS)
    write_sheets(folder / "dev", "dev", SOLVED)
    weights, ways = trainable(weights), {}
    for way, how in WAYS.items():
        ways_to_ask = {key: value for key, value in how.items() if key != "shots"}
        answers = [
            dict(subject=subject) | ask(tokens, weights, row, SOLVED[subject][: how["shots"]], **ways_to_ask)
            for subject, rows in QUESTIONS.items()
            for row in rows
        ]
        ways[way] = how | {"answers": answers}
    (folder / "answers.json").write_text(json.dumps({"source": source, "ways": ways}, indent=1) + "\n")
