#!/usr/bin/env python3
"""Load test of `mindscale serve` with many clients: no text is lost, memory is bounded, and bad clients do no harm.

    mindscale serve MODEL --port 8000 &
    python scripts/load_serve.py --pid $! [--port 8000] [--clients 64] [--seconds 60] [--model NAME]

Needs only Python. First one client streams for a few seconds, then all of them, while others disconnect, send garbage,
bodies that are too long, or bodies byte by byte. Every text is compared with the complete answer for the same seed, to
detect tokens that are lost, repeated or from another text. Prints one line of JSON; exit code 1 if there is an error, a
text differs, the memory of the server keeps growing, or throughput is below `--ratio` times that of one client.
"""

import argparse
import asyncio
import json
import os
import random
import re
import selectors
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

PROMPTS = ["天空是什么颜色？", "你好", "请介绍一下你自己", "What is the sky?", "一加一等于几？", "水在多少度结冰？", "讲一个故事", "谁写了这本书？"]

# Seconds between two polls of the streams, if there are several. The clients share the server's cores, so they wake up no
# more often than they must; pieces wait in the sockets meanwhile.
POLL_EVERY = 0.005

# Seconds without any piece after which the streams count as stuck.
STUCK = 60

# The content of an event, a JSON string.
CONTENT = re.compile(rb'"content":"((?:[^"\\]|\\.)*)"')


class Client:
    """A connection that sends one request after another and keeps the responses unread."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.key, self.data = None, []

    def ask(self, key, request):
        self.key, self.data = key, []
        self.socket.sendall(request)

    def read(self):
        """Reads what has arrived; returns the response once it is complete."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError(f"closed behind {b''.join(self.data)[-200:]}")
        self.data.append(data)
        return b"".join(self.data) if data.endswith(b"0\r\n\r\n") else None


def read_events(data):
    """Returns the text of a chunked event stream, and its number of tokens as counted by the server."""
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert status == 200 and b'"error"' not in body, f"{status}: {body[-500:]}"
    assert body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "no end"
    last = json.loads(b"{" + body.rpartition(b"data: {")[2].partition(b"\n\n")[0])
    assert b'"finish_reason":"' in body and last.get("usage"), "no end"
    return json.loads(b'"%b"' % b"".join(CONTENT.findall(body))), last["usage"]["completion_tokens"]


class Load:
    def __init__(self, options, model):
        self.options, self.model = options, model
        self.known = {}  # (prompt, seed) -> (text, tokens)
        self.errors = []
        self.bad = 0

    def body(self, prompt, seed, stream):
        more = {"stream_options": {"include_usage": True}} if stream else {}
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], "seed": seed, "stream": stream,
                "temperature": 1.0, "max_tokens": self.options.max_tokens, "ignore_eos": True, **more}  # fmt: skip

    async def open(self):
        return await asyncio.open_connection("127.0.0.1", self.options.port)

    def request(self, method, path, data=b"", more=""):
        return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data

    async def head(self, reader):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        return int(lines[0].split()[1]), {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}

    async def ask(self, method, path, body=None):
        """Requests a complete answer, as JSON or text."""
        reader, writer = await self.open()
        writer.write(self.request(method, path, json.dumps(body).encode() if body else b"", "Connection: close\r\n"))
        status, _ = await self.head(reader)
        data = await reader.read()
        writer.close()
        assert status == 200, f"{status}: {data[:200]}"
        return data

    async def learn(self):
        for prompt in PROMPTS:
            for seed in range(self.options.seeds):
                answer = json.loads(await self.ask("POST", "/v1/chat/completions", self.body(prompt, seed, False)))
                self.known[prompt, seed] = answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    def stream(self, clients, until):
        """Lets clients request one stream after another; the answers are read once nothing is measured."""
        draw, keys, answers = random.Random(0), list(self.known), []
        selector = selectors.DefaultSelector()

        def ask(client):
            key = draw.choice(keys)
            body = json.dumps(self.body(*key, True)).encode()
            client.ask(key, self.request("POST", "/v1/chat/completions", body))

        for client in [Client(self.options.port) for _ in range(clients)]:
            ask(client)
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            ready = [key.data for key, _ in selector.select(STUCK)]
            if not ready:
                left = selector.get_map().values()
                self.errors += [f"{key.data.key}: nothing for {STUCK} s" for key in left]
                break
            for client in ready:
                try:
                    answer = client.read()
                    if answer is None:
                        continue
                    answers.append((client.key, answer))
                    if time.monotonic() < until:
                        ask(client)
                        continue
                except OSError as error:
                    self.errors.append(f"{client.key}: {error!r}")
                selector.unregister(client.socket)
                client.socket.close()
            if clients > 1:
                time.sleep(POLL_EVERY)
        return answers

    def check(self, answers):
        """Compares answers with the known ones; returns their number of tokens."""
        tokens = 0
        for key, data in answers:
            try:
                found = read_events(data)
                tokens += found[1]
                assert found == self.known[key], f"{found} instead of {self.known[key]}"
            except Exception as error:
                self.errors.append(f"{key}: {error!r}")
        return tokens

    async def nuisance(self, until):
        """Misbehaving clients, one after the other."""
        draw, number = random.Random(0), 0
        slow = [asyncio.create_task(self.slow(until)) for _ in range(8)]
        while time.monotonic() < until:
            number += 1
            reader, writer = await self.open()
            good = json.dumps(self.body("讲一个故事", draw.randrange(1000), number % 2 == 0) | {"max_tokens": -1}).encode()
            kind = number % 4
            if kind == 0:  # disconnects in the middle of a stream
                writer.write(self.request("POST", "/v1/chat/completions", good))
                await reader.read(200)
            elif kind == 1:  # disconnects before the answer
                writer.write(self.request("POST", "/v1/chat/completions", good))
                await asyncio.sleep(0.02)
            elif kind == 2:  # garbage, in the head or in the body
                data = draw.randbytes(2000)
                writer.write(data if number % 8 == 2 else self.request("POST", "/v1/completions", data))
                await reader.read(100)
            else:  # too long
                try:
                    writer.write(self.request("POST", "/v1/completions", b" " * 8_000_000))
                    await writer.drain()
                    await reader.read(100)
                except ConnectionError:
                    pass  # the server need not read the whole body
            writer.transport.abort()
            self.bad += 1
            await asyncio.sleep(0.05)
        for task in slow:
            task.cancel()

    async def slow(self, until):
        """Sends a body byte by byte."""
        while time.monotonic() < until:
            _, writer = await self.open()
            data = self.request("POST", "/v1/completions", b" " * 10_000)
            try:
                for byte in data:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.5)
            except ConnectionError:
                pass  # the server's time limit was reached
            finally:
                writer.transport.abort()

    def run(self, clients, seconds, with_bad):
        began, cpu = time.monotonic(), processor(self.options.pid)
        until = began + seconds
        with ThreadPoolExecutor(1) as pool:
            bad = pool.submit(asyncio.run, self.nuisance(until)) if with_bad else None
            answers = self.stream(clients, until)
            if bad:
                bad.result()  # raises what went wrong there
        took, cpu = time.monotonic() - began, processor(self.options.pid) - cpu
        tokens = self.check(answers)
        # What the server itself needs, while the clients use the rest of the machine.
        return {"clients": clients, "answers": len(answers), "tokens_per_second": round(tokens / took, 1),
                "server_us_per_token": round(1e6 * cpu / max(tokens, 1), 1)}  # fmt: skip


def processor(pid):
    """Seconds of processor time that a process has used."""
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024 if pid else None


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--pid", type=int, help="the server's process, to look at its memory and processor time")
    parser.add_argument("--model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=8, help="answers for each prompt")
    parser.add_argument("--ratio", type=float, default=4, help="throughput of all clients over that of one")
    options = parser.parse_args()
    load = Load(options, options.model)
    load.model = load.model or json.loads(await load.ask("GET", "/v1/models"))["data"][0]["id"]
    await load.learn()
    one = load.run(1, 8, False)
    quiet = load.run(options.clients, 10, False)
    early = memory(options.pid) if options.pid else None
    many = load.run(options.clients, options.seconds, True)
    late = memory(options.pid) if options.pid else None
    await asyncio.sleep(1)
    metrics = (await load.ask("GET", "/metrics")).decode().splitlines()
    writing = [float(line.split()[-1]) for line in metrics if line.startswith("mindscale_texts_writing{")]
    health = json.loads(await load.ask("GET", "/health"))
    ratio = max(quiet["tokens_per_second"], many["tokens_per_second"]) / max(one["tokens_per_second"], 1e-9)
    grows = bool(early and late > 1.3 * early + 32)
    print(json.dumps({"one": one, "many": quiet, "many_with_bad_clients": many, "bad_clients": load.bad, "ratio": round(ratio, 2),
                      "errors": len(load.errors), "memory_mib": [early and round(early), late and round(late)],
                      "still_writing": sum(writing), "health": health["status"]}))  # fmt: skip
    for error in load.errors[:5]:
        print(error, file=sys.stderr)
    sys.exit(bool(load.errors) or grows or ratio < options.ratio or sum(writing) > 0)


if __name__ == "__main__":
    asyncio.run(main())
