"""A mock of `mindscale serve` for work on its web page: same paths, made-up answers. Needs only Python.

    python scripts/mock_server.py [--port 8700] [--key SECRET] [--pace 1.0]

The answer depends on words in the prompt: `markdown`, `attack` (HTML in the answer), `long`, `error`, `broken`
(the connection ends early). The sweep `running` progresses with time; `--pace` speeds it up.
"""

import argparse
import json
import math
import random
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

PAGE = Path(__file__).parent.parent / "harness/src/serve/page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
         ".csv": "text/csv; charset=utf-8"}  # fmt: skip
MODELS = [
    ("pretrain-0b1c2d3e", "pretrain", 96_448, 128),
    ("sft-cedd4909", "sft", 96_448, 128),
    ("dpo-77aa10fe", "dpo", 104_640, 128),
    ("宽而浅的混合专家模型-第三次实验-sft", "sft", 26_878_464, 512),
    ("minimind-v1-small", "sft", 26_878_464, 512),
    ("deep-narrow-8x512-qk-norm-muon-lr-0.02-seed-1", "lora", 27_100_000, 512),
    ("wide", "sft", 25_300_000, 512),
]
PLAIN = "我是一个小型语言模型，由研究者训练。The sky is blue because air scatters short waves more than long ones."
MARKDOWN = """## 光速

光在**真空**中的速度是 `299792458` m/s，*约* 30 万公里每秒。见 [SI](https://www.bipm.org) &amp; ~~旧定义~~。

1. 先测距离
2. 再测时间
   - 用镜子
   - 用脉冲

| 介质 | 速度 (km/s) |
|:-----|-----------:|
| 真空 | 299 792 |
| 水   | 225 000 |

> 没有比它更快的了。

```python
def speed(n):
    return 299_792_458 / n  # <b>not bold</b>
```
"""
ATTACK = """<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2"> text

<div onclick="window.hacked = 3">block</div>

[link](javascript:window.hacked=4) ![image](https://example.com/tracker.png) <a href="javascript:alert(5)">a</a> &lt;b&gt;

<svg onload="window.hacked = 6"></svg> [good](https://example.com/?a=1&b=2)
"""
STAGES = ["tokenizer", "data", "pretrain", "sft", "dpo", "exam"]
STEPS = {"pretrain": 400, "sft": 200, "dpo": 50}
CSP = "default-src 'self'"


def pieces(words):
    """Returns the tokens of a text as bytes: Chinese characters are split in two, other text into short runs."""
    run = ""
    for sign in words:
        if ord(sign) < 0x2E80:
            run += sign
            if len(run) < 4 and sign not in " \n":
                continue
        if run:
            yield run.encode()
            run = ""
        if ord(sign) >= 0x2E80:
            data = sign.encode()
            yield from [data[:2], data[2:]] if ord(sign) % 3 == 0 else [data]
    if run:
        yield run.encode()


def named(data):
    """Returns a token in OpenAI's notation."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def item(data, logprob):
    """Returns a token in the format of the log-probabilities of chat completions."""
    return {"token": named(data), "logprob": logprob, "bytes": list(data)}


def answer_to(prompt):
    for word, answer in [("markdown", MARKDOWN), ("attack", ATTACK), ("long", PLAIN * 20), ("broken", PLAIN)]:
        if word in prompt.lower():
            return answer
    return PLAIN


def draw(data, rng):
    """Draws the log-probability of a token and the five most likely alternatives."""
    p = rng.choice([0.999, 0.97, 0.8, 0.55, 0.3, 0.12, 0.03, 0.004])
    rest, top = 1 - p, [(data, p)]
    for other in rng.sample(["的", "是", " the", "\n", "，", " of", "了", "<s>", "a"], 4):
        share = rest * rng.uniform(0.3, 0.7)
        rest -= share
        top.append((other.encode(), share))
    return math.log(p), sorted(((d, math.log(max(q, 1e-9))) for d, q in top), key=lambda one: -one[1])


def sweep(clock, title="running"):
    """Returns six trials that run their stages one after the other; the fourth fails."""
    trials = []
    for i in range(6):
        layers, experts = 3 + i % 3, 4 * (i // 3)
        stages, failed, left = [], False, max(0.0, clock - 6 * i) * 40
        for stage in STAGES:
            name = uuid.uuid5(uuid.NAMESPACE_URL, f"{title} {stage} {i if stage not in ('tokenizer', 'data') else ''}")
            total = STEPS.get(stage)
            done = 0 if failed else min(left, total or 10)
            state = "pending" if failed or done <= 0 else "done" if done >= (total or 10) else "running"
            one = {"stage": stage, "uuid": str(name), "dir": f"runs/{stage}-{name}", "state": state, "detail": None,
                   "last": None, "total_steps": total, "seconds_left": None, "log": []}  # fmt: skip
            if i == 3 and stage == "sft" and done > 60:
                one |= {"state": "failed", "detail": "loss is not finite at step 60; lower sft.lr", "log": [
                    "step 40  loss 2.913  lr 2.0e-3", "step 50  loss 7.871  lr 2.0e-3", "error: loss is not finite at step 60; lower sft.lr"]}  # fmt: skip
                failed, done = True, 60
            left -= done
            if total and done > 0:
                step = int(done)
                one["last"] = {"step": step, "tokens": step * 1536, "loss": round(2 + 4 / (1 + step / 40), 4), "tokens_per_second": 51234.5, "elapsed_seconds": done / 40}
                if one["state"] == "running":
                    one |= {"seconds_left": (total - done) / 40, "detail": "pid 4711 on node-3"}
            stages.append(one)
        status = "failed" if failed else "done" if all(s["state"] == "done" for s in stages) else "stopped" if stages[2]["state"] != "pending" else "pending"
        trials.append({"trial": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{title} trial {i}")), "sweep": title,
                       "label": f"d_model={64 - 8 * (i % 3)} n_layers={layers} n_experts={experts} tokenizer=中文词表-第二版",
                       "status": status, "reason": "sft: loss is not finite at step 60; lower sft.lr" if failed else None, "stages": stages})  # fmt: skip
    counts = dict.fromkeys(["done", "running", "failed", "stopped", "pending"], 0)
    for one in trials:
        counts["running" if one["status"] != "failed" and any(s["state"] == "running" for s in one["stages"]) else one["status"]] += 1
    return {"counts": counts, "trials": trials, "seconds_left": max(0.0, 53 - clock)}


def table(trials):
    names = ["trial", "sweep", "seed", "model.n_layers", "model.d_model", "model.n_experts", "params", "train_tokens", "train_flops",
             "val_loss", "val_bpb", "exam_accuracy", "exam_low", "exam_high", "status", "reason"]  # fmt: skip
    rows = []
    for i, one in enumerate(trials):
        done = one["status"] == "done"
        rows.append([one["trial"], one["sweep"], 1, 3 + i % 3, 64 - 8 * (i % 3), 4 * (i // 3), 96_448 + 12_345 * i, 1_536_000 if done else 0,
                     1.25e12 * (i + 1), 2.1 - 0.05 * i if done else None, 1.4 - 0.03 * i if done else None, 0.31 + 0.04 * i if done else None,
                     0.25 + 0.04 * i if done else None, 0.37 + 0.04 * i if done else None, one["status"], one["reason"]])  # fmt: skip
    # A trial of an earlier version of the sweep, which its status no longer has.
    rows.insert(0, [str(uuid.uuid5(uuid.NAMESPACE_DNS, "gone")), "running", 1, 2, 48, 0, *[None] * (len(names) - 8), "done", None])
    return {"columns": names, "rows": rows}


def metrics(run, status):
    for one in (s for t in status["trials"] for s in t["stages"]):
        if run == f"{one['stage']}-{one['uuid'][:8]}" and one["last"]:
            rng, last = random.Random(run), one["last"]["step"]
            floor, steps = rng.uniform(1.5, 2.5), range(1, last + 1)
            loss = [floor + 4 / (1 + s / 40) + rng.gauss(0, 0.06) for s in steps]
            val = range(50, last + 1, 50)
            return {"train": {"step": list(steps), "loss": loss, "lr": [2e-3 * min(1, s / 50) for s in steps], "tokens_per_second": [51000 + rng.gauss(0, 900) for _ in steps]},
                    "val": {"step": list(val), "loss": [floor + 0.1 + 4 / (1 + s / 40) for s in val], "bpb": [floor / 1.5 + 2 / (1 + s / 40) for s in val]}}  # fmt: skip
    return None


def figure(title):
    bars = "".join(f'<rect x="{60 + 90 * i}" y="{220 - 30 * i}" width="50" height="{40 + 30 * i}" fill="#2468b0"/>' for i in range(5))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 300"><rect width="560" height="300" fill="#fff"/><text x="20" y="30" font-family="sans-serif" font-size="16">{title}</text>{bars}</svg>'


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", CSP)
        self.end_headers()
        self.wfile.write(data)

    def error(self, status, message, code=None):
        self.reply(status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}})

    def is_let_in(self, path):
        key = self.server.key
        if not key or not path.startswith(("/v1/", "/api/")) or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.error(401, "a key is needed", "invalid_api_key")
        return False

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if not self.is_let_in(path):
            return
        status = sweep((time.monotonic() - self.server.start) * self.server.pace)
        finished = sweep(1e6, "finished")
        sweeps = {"running": ("Deep and wide, dense and mixture of experts", status), "参数相等时深与宽的比较": ("参数量相等时，窄而深的模型是否优于宽而浅的模型？", finished)}
        parts = path.strip("/").split("/")
        if path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name, *_ in MODELS]})
        elif path == "/api/models":
            self.reply(200, [{"name": n, "stage": s, "params": p, "context": c, "source": f"runs/{n}"} for n, s, p, c in MODELS])
        elif path == "/api/sweeps":
            self.reply(200, [{"name": n, "title": t, "trials": 6, "counts": s["counts"]} for n, (t, s) in sweeps.items()])
        elif path.startswith("/api/sweeps/") and parts[2] in sweeps:
            name, (title, now) = parts[2], sweeps[parts[2]]
            files = {"report": None, "figures": [], "tables": []}
            if now["counts"]["done"] > 2:
                files = {"report": f"results/{name}/report.html", "figures": [f"results/{name}/figures/{f}.svg" for f in ("accuracy_by_depth", "bpb_by_flops")],
                         "tables": [f"results/{name}/tables/shapes.csv", f"results/{name}/tables/shapes.tex"]}  # fmt: skip
            self.reply(200, {"name": name, "title": title, "status": now, "trials": table(now["trials"]), "files": files})
        elif path.startswith("/api/runs/"):
            found = metrics(parts[2], status) or metrics(parts[2], finished)
            self.reply(200, found) if found else self.error(404, f"there is no stage run {parts[2]}")
        elif path.startswith("/results/"):
            name = parts[-1]
            text = figure(name) if name.endswith(".svg") else 'setting,"val, loss",n\n"deep, 3",1.25,3\nwide,1.5,3\n'
            self.reply(200, text, TYPES.get(Path(name).suffix, "text/html; charset=utf-8"))
        else:
            file = PAGE / (path.strip("/") or "index.html")
            if path == "/questions.js":
                questions = (PAGE.parent.parent / "models/questions.json").read_text()
                self.reply(200, f"export const QUESTIONS = {questions};".encode(), TYPES[".js"])
            elif file.parent == PAGE and file.is_file():
                self.reply(200, file.read_bytes(), TYPES.get(file.suffix, "text/plain; charset=utf-8"))
            else:
                self.error(404, f"there is nothing at {path}")

    def do_POST(self):
        path = urlsplit(self.path).path
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if not self.is_let_in(path):
            return
        is_chat = path == "/v1/chat/completions"
        prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
        if body["model"] not in [name for name, *_ in MODELS]:
            return self.error(404, f"there is no model {body['model']}", "model_not_found")
        if "error" in prompt:
            return self.error(400, "the prompt has 300 tokens, the model's context 128: shorten it")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.stream(body, prompt, is_chat)
        except (BrokenPipeError, ConnectionResetError):
            self.server.gone += 1

    def send(self, data):
        self.wfile.write(f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def stream(self, body, prompt, is_chat):
        rng = random.Random(f"{body['model']} {body.get('seed')} {prompt}")
        wanted = bool(body.get("logprobs"))
        limit = body.get("max_tokens", 10_000)
        held, count, finish = b"", 0, "stop"
        for data in pieces(answer_to(prompt)):
            if count >= limit:
                finish = "length"
                break
            if "broken" in prompt and count == 5:
                return
            logprob, top = draw(data, rng)
            count += 1
            held += data
            try:
                words, held = held.decode(), b""
            except UnicodeDecodeError:
                words = ""
            chosen = {**item(data, logprob), "top_logprobs": [item(d, q) for d, q in top]}
            legacy = {"tokens": [named(data)], "token_logprobs": [logprob], "top_logprobs": [{named(d): q for d, q in top}]}
            if is_chat:
                choice = {"index": 0, "delta": {"content": words}, "logprobs": {"content": [chosen]} if wanted else None}
            else:
                choice = {"index": 0, "text": words, "logprobs": legacy if wanted else None}
            self.send({"choices": [choice | {"finish_reason": None}]})
            time.sleep(0.02)
        self.send({"choices": [{"index": 0, "finish_reason": finish} | ({"delta": {}} if is_chat else {"text": ""})]})
        self.send({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count}})
        self.send("[DONE]")


def serve(port=0, key=None, pace=1.0):
    server = ThreadingHTTPServer(("127.0.0.1", port), Server)
    server.daemon_threads = True
    server.key, server.pace, server.start = key, pace, time.monotonic()
    server.asked, server.gone = [], 0  # bodies of requests; streams that were closed early
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--key")
    parser.add_argument("--pace", type=float, default=1.0)
    options = parser.parse_args()
    server = serve(options.port, options.key, options.pace)
    print(f"http://127.0.0.1:{server.server_address[1]}")
    server.serve_forever()
