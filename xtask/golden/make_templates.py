"""Writes crates/formats/tests/templates.json: what Hugging Face renders with every chat template of the assets folder.

    python make_templates.py ASSETS/templates OUT.json

Each template renders seven conversations with transformers' own Jinja environment (sandboxed, its filters and functions,
the clock stopped). The file keeps the conversations and, for each render, the first 16 hex digits of the text's SHA-256 or
"error": the templates are fetched, not kept, and their texts would fill megabytes.
"""

import datetime
import hashlib
import json
import sys
from pathlib import Path

from transformers.utils import chat_template_utils

NOW = 1767322984  # 2026-01-02 03:03:04 UTC
BOS, EOS = "<s>", "</s>"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a place, in °C & mm; \"now\" or later.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name"},
                "days": {"type": "integer", "minimum": 1, "default": 1},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "scale": {"type": ["number", "null"], "default": 0.5},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
    },
}
TIME = {
    "type": "function",
    "function": {"name": "get_time", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "scale": 1.0, "tags": ["a", "<b>"]}},
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


CONVERSATIONS = {
    "one question": {"messages": [user("Hello, who are you?")], "add_generation_prompt": True},
    "system and history": {
        "messages": [system("Be brief."), user("1+1?"), assistant("2"), user("And 2+2?")],
        "add_generation_prompt": True,
    },
    "training example": {
        "messages": [system("Be kind."), user("Hi"), assistant("Hello!"), user("Bye"), assistant("See you.\n")],
        "add_generation_prompt": False,
    },
    "tools offered": {
        "messages": [system("Use tools."), user("Weather in Zürich?")],
        "tools": [WEATHER, TIME],
        "add_generation_prompt": True,
    },
    "tool called": {
        "messages": [
            user("Weather in Zürich?"),
            assistant("", tool_calls=[CALL]),
            {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"temp": 3.5, "sky": "<grey>"}'},
        ],
        "tools": [WEATHER],
        "add_generation_prompt": True,
    },
    "thoughts": {
        "messages": [
            user("7*8?"),
            assistant("56", reasoning_content="Seven times eight.\nThat is 56."),
            user("And 7*9?"),
        ],
        "add_generation_prompt": True,
        "enable_thinking": False,
    },
    "odd text": {
        "messages": [
            user("  <b>'q' & \"d\"</b> {{ x }} {% y %}\n\n漢字 👍🏽 é\u0301 \t"),
            assistant("ok <|im_end|> </s>"),
            user([{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]),
        ],
        "add_generation_prompt": True,
    },
}


def render(template, conversation):
    arguments = {"tools": None, "documents": None, "bos_token": BOS, "eos_token": EOS, **conversation}
    arguments["messages"] = chat_template_utils._alias_reasoning_fields(arguments["messages"])
    try:
        text = template.render(**arguments)
    except Exception:
        return "error"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def main(folder, out):
    stopped = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)
    expected = {}
    for path in sorted(Path(folder).glob("*.jinja")):
        template = chat_template_utils._compile_jinja_template(path.read_text(encoding="utf-8"))
        template.environment.globals["strftime_now"] = stopped.strftime
        expected[path.stem] = [render(template, conversation) for conversation in CONVERSATIONS.values()]
    assert len(expected) == 71, f"{len(expected)} templates in {folder}"
    data = {"now": NOW, "bos_token": BOS, "eos_token": EOS, "conversations": CONVERSATIONS, "expected": expected}
    lines = json.dumps({k: v for k, v in data.items() if k != "expected"}, ensure_ascii=False, indent=1)[:-2]
    renders = ",\n".join(f"  {json.dumps(name)}: {json.dumps(hashes)}" for name, hashes in expected.items())
    Path(out).write_text(f"{lines},\n \"expected\": {{\n{renders}\n }}\n}}\n", encoding="utf-8")
    rendered = sum(h != "error" for hashes in expected.values() for h in hashes)
    print(f"{len(expected)} templates, {rendered} of {7 * len(expected)} renders succeed")


if __name__ == "__main__":
    main(*sys.argv[1:])
