#!/usr/bin/env python3
"""Checks that lm-evaluation-harness, through `mindscale serve`, and `mindscale exam` score the same accuracy on an exam.

    python -m venv venv
    venv/bin/pip install "lm-eval[api]" transformers datasets
    cargo build --release
    venv/bin/python scripts/check_lm_eval.py MODEL_FOLDER --sheets DIR [--mindscale target/release/mindscale] [--limit N]

Sheets are C-Eval's: <subject>_val.csv. The task words each question as MiniMind does, applies the chat template, scores
the letters A to D after it and takes the most probable one (`local-completions`: echo and logprobs). The evaluation
harness sends token ids of the model's own tokenizer. If the two programs choose different letters, these must be tied to
within 1e-4. Exit code 1 if accuracies differ.
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

TASK = """\
task: sheets
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
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


def questions(sheets, limit):
    for file in sorted(Path(sheets).glob("*_val.csv")):
        with open(file, newline="", encoding="utf-8-sig") as rows:
            for i, row in enumerate(csv.DictReader(rows)):
                if limit is None or i < limit:
                    yield file.name.removesuffix("_val.csv"), row


def prompt_of(tokenizer, row, system):
    text = "{question}。选择 A: {A}, B: {B}, C: {C}, D: {D}".format(**row)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sheets", required=True)
    parser.add_argument("--mindscale", default="target/release/mindscale")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--limit", type=int, help="questions of each sheet")
    parser.add_argument("--system", default="开始回答问题")
    options = parser.parse_args()

    import lm_eval
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        asked = list(questions(options.sheets, options.limit))
        context = json.loads(Path(options.model, "config.json").read_text())["max_seq_len"]
        # After prompt and letter the evaluation harness requests one more token, which it discards.
        fits = [(s, r) for s, r in asked if len(tokenizer.encode(prompt_of(tokenizer, r, options.system), add_special_tokens=False)) + 2 <= context]
        print(f"{len(fits)} of {len(asked)} questions fit the context of {context}")
        subjects = {}
        for subject, row in fits:
            subjects.setdefault(subject, []).append(row)
        for subject, rows in subjects.items():
            with open(folder / f"{subject}_val.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["id", "question", "A", "B", "C", "D", "answer"], extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
        own = [options.mindscale, "exam", options.model, "--sheets", str(folder), "--system", options.system]
        subprocess.run([*own, "--out", str(folder / "answers.csv")], check=True, stdout=subprocess.DEVNULL)
        with open(folder / "answers.csv", newline="", encoding="utf-8") as file:
            ours = {(row["subject"], row["id"]): row for row in csv.DictReader(file)}

        rows = [{"prompt": prompt_of(tokenizer, r, options.system), "answer": "ABCD".index(r["answer"]), "subject": s, "id": r["id"]} for s, r in fits]
        (folder / "sheets.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        (folder / "sheets.yaml").write_text(TASK.format(data=folder / "sheets.jsonl"))
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
            found = lm_eval.simple_evaluate(model, tasks=["sheets"], task_manager=manager, log_samples=True, bootstrap_iters=0)
        finally:
            server.terminate()
            server.wait()

    theirs = found["results"]["sheets"]["acc,none"]
    right = sum(row["prediction"] == row["answer"] for row in ours.values())
    differ = 0
    for sample in found["samples"]["sheets"]:
        row = ours[sample["doc"]["subject"], sample["doc"]["id"]]
        scores = [float(answer[0]) for answer in sample["filtered_resps"]]
        best = "ABCD"[scores.index(max(scores))]
        p = {letter: float(row[f"p_{letter.lower()}"]) for letter in "ABCD"}
        if best != row["prediction"]:
            differ += 1
            assert abs(p[best] - p[row["prediction"]]) < 1e-4 * p[best], (sample["doc"]["id"], scores, p)
    print(json.dumps({"questions": len(ours), "lm_eval": theirs, "mindscale": right / len(ours), "differ_in_ties": differ}))
    sys.exit(abs(theirs - right / len(ours)) > differ / len(ours) + 1e-9)


if __name__ == "__main__":
    main()
