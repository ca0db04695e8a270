"""`ounce serve` as the `openai` package sees it: chat, streams, completions, log probabilities, and the exception that each
error becomes. It knows nothing of how the server works.
"""

import math
import tempfile
from pathlib import Path

import openai

from _check import check, close
from _server import server

MESSAGES = [{"role": "user", "content": "Name three rivers of Europe."}]


def fails(name, kind, call, param=None):
    try:
        call()
        check(name, False, "no exception")
    except openai.APIStatusError as e:
        ok = type(e) is kind and e.param == param
        check(name, ok, f"{type(e).__name__} {e.status_code}, param {e.param}")


def chat(client, name):
    ask = dict(model=name, messages=MESSAGES, temperature=0, max_completion_tokens=24)
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    choice, text = whole.choices[0], whole.choices[0].message.content
    check("chat answers", len(text) > 10 and choice.finish_reason in ("stop", "length"), repr(text))
    tokens = choice.logprobs.content
    check("tokens make the text", "".join(t.token for t in tokens) == text, len(tokens))
    check("greedy takes the likeliest", all(t.logprob == t.top_logprobs[0].logprob for t in tokens))
    check("usage adds up", whole.usage.total_tokens == whole.usage.prompt_tokens + len(tokens), whole.usage.total_tokens)

    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    check("a stream is the same answer", "".join(pieces) == text, f"{len(chunks)} chunks")
    check("a stream ends with its usage", chunks[-1].usage.completion_tokens == len(tokens))

    several = client.chat.completions.create(**{**ask, "temperature": 1.0}, n=3, seed=5)
    again = client.chat.completions.create(**{**ask, "temperature": 1.0}, n=3, seed=5)
    texts = [c.message.content for c in several.choices]
    check("three answers to one prompt", len(set(texts)) == 3, repr(texts))
    check("the same seed gives them again", texts == [c.message.content for c in again.choices])
    word = text.split()[3]
    stopped = client.chat.completions.create(**ask, stop=[word])
    check("a stop string ends it", text.startswith(stopped.choices[0].message.content + word), repr(word))


def completions(client, name):
    ask = dict(model=name, prompt="The capital of France is", temperature=0)
    whole = client.completions.create(**ask, max_tokens=8)
    streamed = client.completions.create(**ask, max_tokens=8, stream=True)
    text = whole.choices[0].text
    check("a text is continued", "Paris" in text, repr(text))
    check("a stream is the same text", "".join(c.choices[0].text for c in streamed) == text)
    # As lm-eval asks: the whole text as a prompt, with one token more, which it leaves out.
    scored = client.completions.create(**{**ask, "prompt": ask["prompt"] + text}, max_tokens=1, logprobs=1, echo=True)
    each, top = scored.choices[0].logprobs.token_logprobs, scored.choices[0].logprobs.top_logprobs
    check("the first token has no score", each[0] is None)
    check("every other has one", all(p <= 0 and math.isfinite(p) for p in each[1:]), len(each))
    greedy = [p == max(t.values()) for p, t in zip(each[-7:-1], top[-7:-1])]
    check("what was chosen greedily scores highest, as one float", all(greedy), greedy)


def errors(client, name):
    create = client.chat.completions.create
    fails("no such model", openai.NotFoundError, lambda: create(model="other", messages=MESSAGES), "model")
    fails("too hot", openai.BadRequestError, lambda: create(model=name, messages=MESSAGES, temperature=3), "temperature")
    long = [{"role": "user", "content": "word " * 600}]
    fails("a prompt beyond the context", openai.BadRequestError, lambda: create(model=name, messages=long), "messages")
    stranger = client.with_options(api_key="wrong")
    fails("a wrong key", openai.AuthenticationError, stranger.models.list)


def body():
    with tempfile.TemporaryDirectory() as place:
        keys = Path(place) / "keys"
        keys.write_text("# of this test\nsecret\n")
        with server("--api-key-file", keys) as ready:
            client = openai.OpenAI(base_url=ready["url"], api_key="secret", max_retries=0)
            name = client.models.list().data[0].id
            check("the model is listed", name == ready["model"], name)
            chat(client, name)
            completions(client, name)
            errors(client, name)


close("the openai client", body)
