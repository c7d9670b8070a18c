#!/usr/bin/env python3
"""Checks `mindscale serve` with the openai package: complete answers, streams, log-probabilities, several texts, errors.

    python -m venv venv
    venv/bin/pip install openai
    mindscale serve MODEL --port 8000 &
    venv/bin/python scripts/check_openai.py [--base-url http://127.0.0.1:8000/v1] [--model NAME] [--api-key KEY]

The model needs a chat template. Exit code 1 if anything differs from what the package expects.
"""

import argparse

import openai

QUESTION = [{"role": "system", "content": "你是助手"}, {"role": "user", "content": "天空是什么颜色？"}]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


@check
def whole_answers(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, seed=1, max_tokens=24)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length") and 0 <= answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = client.chat.completions.create(model=model, messages=QUESTION, seed=1, max_completion_tokens=24)
    assert again.choices[0].message.content == choice.message.content, "one seed, one answer"
    parts = [{"role": "developer", "content": "你是助手"}, {"role": "user", "content": [{"type": "text", "text": QUESTION[1]["content"]}]}]
    same = client.chat.completions.create(model=model, messages=parts, seed=1, max_tokens=24)
    assert same.choices[0].message.content == choice.message.content, "parts of text are text"


@check
def streams(client, model):
    for extra in ({}, {"logprobs": True, "top_logprobs": 4}):
        options = dict(model=model, messages=QUESTION, seed=3, max_tokens=24, **extra)
        whole = client.chat.completions.create(**options)
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
        assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
        said = [chunk.choices[0] for chunk in chunks[:-1]]
        assert said[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in said) == whole.choices[0].message.content
        assert said[-1].finish_reason == whole.choices[0].finish_reason
        assert all(choice.finish_reason is None for choice in said[:-1])
        if extra:
            streamed = [token for choice in said if choice.logprobs for token in choice.logprobs.content]
            assert streamed == whole.choices[0].logprobs.content
    # MiniMind's own example requests no limit in this way.
    assert list(client.chat.completions.create(model=model, messages=QUESTION, max_tokens=-1, stream=True))


@check
def log_probabilities(client, model):
    options = dict(model=model, messages=QUESTION, temperature=0, max_tokens=16)
    answer = client.chat.completions.create(**options, logprobs=True, top_logprobs=5).choices[0]
    tokens = answer.logprobs.content
    for token in tokens:
        top = [other.logprob for other in token.top_logprobs]
        assert len(top) == 5 and top == sorted(top, reverse=True)
        assert token.logprob == top[0], "the likeliest token was taken"
    assert b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace") == answer.message.content


@check
def several_texts(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, n=4, seed=5, max_tokens=16, temperature=1.2)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3] and len(set(texts)) > 1
    streamed = ["", "", "", ""]
    for chunk in client.chat.completions.create(model=model, messages=QUESTION, n=4, seed=5, max_tokens=16, temperature=1.2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    long = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=30).choices[0].message.content
    if len(long) > 6:
        stop = long[4:6]
        cut = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=30, stop=[stop, "\x01"])
        assert cut.choices[0].message.content == long[: long.index(stop)] and cut.choices[0].finish_reason == "stop"


@check
def continuations(client, model):
    answer = client.completions.create(model=model, prompt="天空是", max_tokens=8, temperature=0, logprobs=3, echo=True)
    choice = answer.choices[0]
    assert choice.text.startswith("天空是")
    found = choice.logprobs
    assert found.token_logprobs[0] is None and len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    for token, own, top in list(zip(found.tokens, found.token_logprobs, found.top_logprobs))[1:]:
        assert top[token] == own and own <= max(top.values())
    scored = client.completions.create(model=model, prompt="天空是", max_tokens=0, logprobs=1, echo=True).choices[0].logprobs
    prompt = answer.usage.prompt_tokens
    assert scored.token_logprobs == found.token_logprobs[:prompt]
    many = client.completions.create(model=model, prompt=["天", "地", "人"], max_tokens=5, temperature=0)
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    ids = client.completions.create(model=model, prompt=[[1, 300, 301], [1, 302]], max_tokens=5, temperature=0)
    assert len(ids.choices) == 2 and ids.usage.prompt_tokens == 5
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(model=model, prompt="天", max_tokens=5, temperature=0, stream=True))
    assert text == many.choices[0].text


@check
def models(client, model):
    assert model in [known.id for known in client.models.list()]
    assert client.models.retrieve(model).id == model


@check
def errors(client, model):
    def fails(error, param, **options):
        try:
            client.chat.completions.create(**{"model": model, "messages": QUESTION, **options})
        except error as found:
            assert type(found) is error and found.param == param and found.message, (found, found.param)
            return found
        raise AssertionError(f"{options} is no error")

    fails(openai.NotFoundError, "model", model="nowhere")
    fails(openai.BadRequestError, "temperature", temperature=-1)
    fails(openai.BadRequestError, "n", n=0)
    fails(openai.BadRequestError, "messages", messages=[])
    fails(openai.BadRequestError, "tools", tools=[{"type": "function", "function": {"name": "f"}}])
    fails(openai.BadRequestError, "topp", extra_body={"topp": 1})
    too_long = fails(openai.BadRequestError, None, messages=[{"role": "user", "content": "天" * 100_000}])
    assert too_long.code == "context_length_exceeded"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--model")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.base_url, api_key=options.api_key, max_retries=0, timeout=120)
    model = options.model or client.models.list().data[0].id
    for one in CHECKS:
        one(client, model)
        print(f"{one.__name__.replace('_', ' ')}: as expected")
    if options.api_key != "none":
        try:
            client.with_options(api_key="wrong").models.list()
        except openai.AuthenticationError as error:
            print(f"a wrong key: {error.code}")
        else:
            raise AssertionError("a wrong key was let in")


if __name__ == "__main__":
    main()
