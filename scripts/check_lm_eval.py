#!/usr/bin/env python3
"""Checks that lm-evaluation-harness, through `mindscale serve`, and `mindscale exam` score the same accuracy on an exam.

    python -m venv venv
    venv/bin/pip install "lm-eval[api]" transformers datasets
    cargo build --release
    venv/bin/python scripts/check_lm_eval.py MODEL_FOLDER --sheets DIR [--format lm_eval] [--shots N --dev DIR]
        [--mindscale target/release/mindscale] [--limit N]

Sheets are C-Eval's: <subject>_val.csv, and <subject>_dev.csv for shots. Two formats of prompts:

    minimind   a task of this script words each question as MiniMind does, in the chat template
    lm_eval    the package's own tasks ceval-valid_<subject>, which read the local sheets instead of the hub's

Both score the letters after the prompt and take the most probable one (`local-completions`: echo and logprobs). The
evaluation harness sends token ids of the model's own tokenizer. Questions that do not fit the context are left out, as
the two programs cut them differently. If the programs choose different letters, these must be tied to within 1e-4. Exit
code 1 if accuracies differ.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

COLUMNS = ["id", "question", "A", "B", "C", "D", "answer"]

CHAT_TASK = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {val}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""

PACKAGE_TASK = """\
include: {package}/tasks/ceval/ceval-valid_{subject}.yaml
task: {task}
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    val: {val}
    dev: {dev}
"""


def read_sheet(file, limit=None):
    with open(file, newline="", encoding="utf-8-sig") as rows:
        return [{name: row[name] for name in COLUMNS} for row in csv.DictReader(rows)][:limit]


def chat_prompt(tokenizer, row, system):
    text = "{question}。选择 A: {A}, B: {B}, C: {C}, D: {D}".format(**row)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def plain_prompt(row, description, shots):
    def asked(row):
        return "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\n答案：".format(**{**row, "question": row["question"].strip()})

    return description + "".join(f"{asked(shot)} {shot['answer']}\n\n" for shot in shots) + asked(row)


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sheets", required=True, type=Path)
    parser.add_argument("--format", choices=["minimind", "lm_eval"], default="minimind")
    parser.add_argument("--shots", type=int, default=0, help="with --format lm_eval")
    parser.add_argument("--dev", type=Path, help="folder of <subject>_dev.csv, for --shots")
    parser.add_argument("--mindscale", default="target/release/mindscale")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--limit", type=int, help="questions of each sheet")
    options = parser.parse_args()
    is_chat = options.format == "minimind"
    if options.shots and (is_chat or options.dev is None):
        parser.error("--shots needs --format lm_eval and --dev")

    import lm_eval
    import yaml
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    package = Path(lm_eval.__file__).parent
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    context = json.loads(Path(options.model, "config.json").read_text())["max_seq_len"]
    system = "开始回答问题"

    def prompt_of(subject, row, shots):
        if is_chat:
            return chat_prompt(tokenizer, row, system)
        task = yaml.safe_load((package / f"tasks/ceval/ceval-valid_{subject}.yaml").read_text(encoding="utf-8"))
        return plain_prompt(row, task["description"], shots)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        asked, found, tasks = 0, {}, {}
        for file in sorted(options.sheets.glob("*_val.csv")):
            subject = file.name.removesuffix("_val.csv")
            shots = read_sheet(options.dev / f"{subject}_dev.csv", options.shots) if options.shots else []
            rows = read_sheet(file, options.limit)
            asked += len(rows)
            # After prompt and letter, of two tokens at most, the evaluation harness requests one more, which it discards.
            fits = [row for row in rows if len(tokenizer.encode(prompt_of(subject, row, shots), add_special_tokens=False)) + 3 <= context]
            if not fits:
                continue
            found[subject], task = fits, f"sheets_{subject}"
            val, dev = folder / f"{task}_val_rows.jsonl", folder / f"{task}_dev_rows.jsonl"
            write_csv(folder / f"{subject}_val.csv", fits)
            write_csv(folder / f"{subject}_dev.csv", shots)
            prompts = [{**row, "prompt": prompt_of(subject, row, shots), "answer": "ABCD".index(row["answer"])} for row in fits]
            write_jsonl(val, prompts if is_chat else fits)
            write_jsonl(dev, shots or fits[:1])
            text = (CHAT_TASK if is_chat else PACKAGE_TASK).format(task=task, val=val, dev=dev, package=package, subject=subject)
            (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
            tasks[task] = subject
        fitting = sum(map(len, found.values()))
        print(f"{fitting} of {asked} questions fit the context of {context}")

        own = [options.mindscale, "exam", options.model, "--sheets", str(folder), "--out", str(folder / "answers.csv")]
        if not is_chat:
            own += ["--format", "lm_eval"]
        if options.shots:
            own += ["--shots", str(options.shots), "--dev", str(folder)]
        subprocess.run(own, check=True, stdout=subprocess.DEVNULL)
        with open(folder / "answers.csv", newline="", encoding="utf-8") as file:
            ours = {(row["subject"], row["id"]): row for row in csv.DictReader(file)}

        server = subprocess.Popen([options.mindscale, "serve", f"exam={options.model}", "--port", str(options.port)], stdout=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{options.port}"
            for _ in range(100):
                try:
                    urllib.request.urlopen(f"{url}/health")
                    break
                except OSError:
                    time.sleep(0.1)
            model = lm_eval.api.registry.get_model("local-completions")(
                model="exam", base_url=f"{url}/v1/completions", tokenizer=options.model, tokenizer_backend="huggingface",
                num_concurrent=8, batch_size=8, max_length=context, max_retries=1,
            )  # fmt: skip
            manager = TaskManager(include_path=str(folder), include_defaults=False)
            shots = None if is_chat else options.shots
            evaluated = lm_eval.simple_evaluate(
                model, tasks=list(tasks), task_manager=manager, num_fewshot=shots, log_samples=True, bootstrap_iters=0
            )
        finally:
            server.terminate()
            server.wait()

    theirs = right = differ = 0
    for task, subject in tasks.items():
        samples = evaluated["samples"][task]
        assert len(samples) == len(found[subject]), (task, len(samples))
        for sample in samples:
            row = ours[subject, str(sample["doc"]["id"])]
            scores = [float(answer[0]) for answer in sample["filtered_resps"]]
            best = "ABCD"[scores.index(max(scores))]
            theirs += sample["acc"]
            right += row["prediction"] == row["answer"]
            p = {letter: float(row[f"p_{letter.lower()}"]) for letter in "ABCD"}
            if best != row["prediction"]:
                differ += 1
                assert abs(p[best] - p[row["prediction"]]) < 1e-4 * p[best], (subject, row["id"], scores, p)
    print(json.dumps({"questions": fitting, "lm_eval": theirs / fitting, "mindscale": right / fitting, "differ_in_ties": differ}))
    sys.exit(abs(theirs - right) > differ)


if __name__ == "__main__":
    main()
