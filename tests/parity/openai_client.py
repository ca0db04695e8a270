"""`ounce serve` as the `openai` package sees it: chat, streams, completions, log probabilities, JSON schemas, calls of functions,
and the exception that each error becomes. It knows nothing of how the server works.
"""

import json
import math
import tempfile
from pathlib import Path

import openai
from pydantic import BaseModel, Field

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


class River(BaseModel):
    name: str = Field(max_length=12)
    km: int = Field(ge=1, le=9999)


class Rivers(BaseModel):
    rivers: list[River] = Field(min_length=2, max_length=2)
    sure: bool


def schemas(client, name):
    ask = dict(model=name, messages=MESSAGES, temperature=1.5, seed=3, max_completion_tokens=200)
    parsed = client.chat.completions.parse(**ask, response_format=Rivers).choices[0].message.parsed
    check("a parsed answer is of its class", isinstance(parsed, Rivers) and len(parsed.rivers) == 2, repr(parsed))
    with client.chat.completions.stream(**ask, response_format=Rivers) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.parsed
    check("a stream is parsed to the same", streamed == parsed, repr(streamed))
    loose = client.chat.completions.create(**ask, response_format={"type": "json_object"}).choices[0]
    text = loose.message.content
    whole = loose.finish_reason == "stop"
    check("an object is an object", text[0] == "{" and (not whole or isinstance(json.loads(text), dict)), repr(text))
    chosen = client.completions.create(model=name, prompt="Yes or no?", extra_body={"guided_choice": ["yes", "no"]})
    check("a choice is one of its texts", chosen.choices[0].text in ("yes", "no"), chosen.choices[0].text)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def is_call(call):
    arguments = json.loads(call.function.arguments)
    right = call.function.name == "get_weather" and set(arguments) == {"city", "unit"} and arguments["unit"] in "CF"
    return right and call.type == "function" and bool(call.id)


def tools(client, name):
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    ask = dict(model=name, messages=messages, temperature=0, max_completion_tokens=120, tools=[WEATHER])
    ask["parallel_tool_calls"] = False
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ["required", named]:
        whole = client.chat.completions.create(**ask, tool_choice=choice).choices[0]
        calls = whole.message.tool_calls or []
        check("a call that is required is made", len(calls) == 1 and is_call(calls[0]), repr(calls))
        check("and nothing is said", whole.finish_reason == "tool_calls" and whole.message.content is None)
    with client.chat.completions.stream(**ask, tool_choice="required") as stream:
        pieces = [e for e in stream if e.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion().choices[0]
    call = final.message.tool_calls[0]
    check("a streamed call comes in pieces", len(pieces) > 3, len(pieces))
    check("and is the same call", call.function.arguments == calls[0].function.arguments, call.function.arguments)
    check("and ends the same way", final.finish_reason == "tool_calls", final.finish_reason)

    # What a program does next: the call and its result go back.
    result = {"role": "tool", "tool_call_id": calls[0].id, "content": '{"celsius": 3, "sky": "rain"}'}
    messages = messages + [whole.message.model_dump(), result]
    after = client.chat.completions.create(**{**ask, "messages": messages}).choices[0]
    check("a result is taken up", bool(after.message.content or after.message.tool_calls), repr(after.message.content))
    free = client.chat.completions.create(**ask, tool_choice="none").choices[0].message
    check("no call where none may be made", free.tool_calls is None and bool(free.content))
    # A small model calls nothing by itself until it has seen how: two earlier turns show it.
    shown = []
    for city in ["Rome", "Lima"]:
        function = {"name": "get_weather", "arguments": json.dumps({"city": city, "unit": "C"})}
        called = {"role": "assistant", "tool_calls": [{"id": "123456789", "type": "function", "function": function}]}
        result = {"role": "tool", "tool_call_id": "123456789", "content": '{"celsius": 20}'}
        question = {"role": "user", "content": f"What is the weather in {city}?"}
        shown += [question, called, result, {"role": "assistant", "content": "20 degrees."}]
    free = {**ask, "messages": shown + messages[:1], "temperature": 0.7, "n": 4, "tool_choice": "auto"}
    choices = [c for seed in range(0, 16, 4) for c in client.chat.completions.create(**free, seed=seed).choices]
    calls = [c for choice in choices if choice.finish_reason == "tool_calls" for c in choice.message.tool_calls]
    check("a model that is free to call does", len(calls) > 0, len(calls))
    check("and what it calls is a call", all(map(is_call, calls)), repr(calls[:1]))


def errors(client, name):
    create = client.chat.completions.create
    fails("no such model", openai.NotFoundError, lambda: create(model="other", messages=MESSAGES), "model")
    fails("too hot", openai.BadRequestError, lambda: create(model=name, messages=MESSAGES, temperature=3), "temperature")
    long = [{"role": "user", "content": "word " * 600}]
    fails("a prompt beyond the context", openai.BadRequestError, lambda: create(model=name, messages=long), "messages")
    odd = {"type": "json_schema", "json_schema": {"name": "odd", "schema": {"type": "odd"}}}
    param = "response_format.json_schema.schema"
    fails("no schema", openai.BadRequestError, lambda: create(model=name, messages=MESSAGES, response_format=odd), param)
    fails("no tool", openai.BadRequestError, lambda: create(model=name, messages=MESSAGES, tools=[{}]), "tools[0].type")
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
            schemas(client, name)
            tools(client, name)
            errors(client, name)


if __name__ == "__main__":
    close("the openai client", body)
