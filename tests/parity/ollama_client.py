"""`ounce serve` as the `ollama` package sees it: list, show, chat, generate, streams, errors. It knows nothing of how the
server works.
"""

import json
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import ollama

from _check import check, close
from _server import server

MESSAGES = [{"role": "user", "content": "Name three rivers of Europe."}]


def fails(name, status, says, call):
    try:
        call()
        check(name, False, "no exception")
    except ollama.ResponseError as e:
        check(name, e.status_code == status and says in e.error, f"{e.status_code} {e.error}")


def models(client, name):
    listed = client.list().models
    check("one model is listed", [m.model for m in listed] == [name], listed[0].model)
    age = datetime.now(timezone.utc) - listed[0].modified_at
    check("it has been there since the start", 0 <= age.total_seconds() < 600, age)
    check("its size is that of its weights", 50e6 < listed[0].size < 150e6, listed[0].size.human_readable())
    shown = client.show(name)
    check("it is what it is", shown.modelinfo["llama.block_count"] == 30, shown.modelinfo)
    check("it has a size and a storage", (shown.details.parameter_size, shown.details.quantization_level) == ("134.5M", "Q4_1"),
          f"{shown.details.parameter_size} {shown.details.quantization_level}")
    check("it has its template", "im_start" in shown.template and shown.capabilities == ["completion", "tools"])


def chat(client, name):
    ask = dict(model=name, messages=MESSAGES, options={"temperature": 0, "num_predict": 24})
    whole = client.chat(**ask)
    check("chat answers", len(whole.message.content) > 10 and whole.message.role == "assistant", repr(whole.message.content))
    check("it says why it ended", whole.done and whole.done_reason == "length", whole.done_reason)
    check("it counts", whole.eval_count == 24 and whole.prompt_eval_count > 10, whole.prompt_eval_count)
    total = whole.prompt_eval_duration + whole.eval_duration
    check("durations are nanoseconds", 1e6 < total <= whole.total_duration < 600e9, whole.total_duration)
    pieces = list(client.chat(**ask, stream=True))
    text = "".join(p.message.content for p in pieces)
    check("a stream is the same answer", text == whole.message.content, f"{len(pieces)} pieces")
    check("only its last piece is done", [p.done for p in pieces] == [False] * (len(pieces) - 1) + [True])
    more = {"temperature": 1.0, "seed": 7, "num_predict": 24, "top_k": 40, "top_p": 0.95, "repeat_penalty": 1.1, "min_p": 0.01}
    texts = [client.chat(**{**ask, "options": more}).message.content for _ in range(2)]
    check("the same seed gives the same answer", texts[0] == texts[1] != whole.message.content, repr(texts[0]))
    word = whole.message.content.split()[3]
    stopped = client.chat(**{**ask, "options": {**ask["options"], "stop": [word]}})
    check("a stop string ends it", stopped.done_reason == "stop" and word not in stopped.message.content, repr(word))
    check("no messages load the model", client.chat(model=name).done_reason == "load")


def generate(client, name):
    ask = dict(model=name, prompt="The capital of France is", options={"temperature": 0, "num_predict": 8})
    raw = client.generate(**ask, raw=True)
    check("a raw prompt is continued", "Paris" in raw.response, repr(raw.response))
    pieces = list(client.generate(**ask, raw=True, stream=True))
    check("a stream is the same text", "".join(p.response for p in pieces) == raw.response, len(pieces))
    asked = client.generate(**ask, system="Answer in one word.")
    check("a prompt is answered", asked.response and asked.response != raw.response, repr(asked.response))
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"],
              "additionalProperties": False}
    formed = client.generate(**{**ask, "options": {"temperature": 0, "num_predict": 40}}, format=schema)
    check("a schema is kept to", list(json.loads(formed.response)) == ["city"], formed.response)
    check("no prompt loads the model", client.generate(model=name).done_reason == "load")


def temperature(city: str, unit: str = "celsius") -> int:
    """The temperature in a city now.

    Args:
        city: Its name
        unit: celsius or kelvin
    """
    return 21 if unit == "celsius" else 294


def tools(client, name):
    # Only the form's one word or a call: so small a model would hardly call by itself.
    ask = dict(model=name, tools=[temperature], format={"const": "no"}, messages=[
        {"role": "user", "content": "How warm is it in Rome? Call the function temperature."}])
    called = None
    for seed in range(30):
        options = {"temperature": 1.0, "seed": seed, "num_predict": 80}
        answer = client.chat(**ask, options=options)
        if answer.message.tool_calls and answer.done_reason == "stop":
            called = answer
            break
    check("a Python function is called", called is not None, f"seed {seed}")
    call = called.message.tool_calls[0].function
    check("by its name, with its arguments", call.name == "temperature" and isinstance(call.arguments["city"], str), call)
    pieces = list(client.chat(**ask, options=options, stream=True))
    calls = [c.function for p in pieces for c in p.message.tool_calls or []]
    check("a stream has the same calls", calls == [c.function for c in called.message.tool_calls], calls)
    result = {"role": "tool", "content": "21", "tool_name": "temperature"}
    more = client.chat(model=name, messages=[*ask["messages"], called.message, result], tools=[temperature],
                       options={"temperature": 0, "num_predict": 24})
    check("its result is answered", more.message.content and more.prompt_eval_count > called.prompt_eval_count,
          repr(more.message.content))


def errors(client, name, url):
    fails("no such model", 404, "there is no model `other`", lambda: client.chat(model="other", messages=MESSAGES))
    fails("too hot", 400, "options.temperature", lambda: client.chat(name, MESSAGES, options={"temperature": 3}))
    fails("a prompt beyond the context", 400, "512 positions", lambda: client.generate(name, "word " * 600))
    fails("a stream that cannot begin", 400, "context", lambda: list(client.generate(name, "x", context=[1], stream=True)))
    stranger = ollama.Client(host=url, headers={"Authorization": "Bearer wrong"})
    fails("a wrong key", 401, "API key", stranger.list)


def body():
    with tempfile.TemporaryDirectory() as place:
        keys = Path(place) / "keys"
        keys.write_text("secret\n")
        with server("--api-key-file", keys) as ready:
            url = ready["url"].removesuffix("/v1")
            client = ollama.Client(host=url, headers={"Authorization": "Bearer secret"})
            models(client, ready["model"])
            chat(client, ready["model"])
            generate(client, ready["model"])
            tools(client, ready["model"])
            errors(client, ready["model"], url)


close("the ollama client", body)
