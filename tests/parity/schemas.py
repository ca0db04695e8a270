"""Random JSON schemas over HTTP, and another program's word on the answers: whatever `ounce serve` says to the end is what the
`jsonschema` package takes. It knows nothing of how answers are held to a schema.
"""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai

from _check import check, close
from openai_client import server

SCHEMAS = 60


def schema(dice, depth):
    kinds = ["boolean", "integer", "number", "string", "pattern", "enum", "const", "nullable"]
    kind = dice.choice(kinds + ["array", "object", "object", "anyOf"] * (depth > 0))
    if kind == "integer":
        low = dice.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + dice.randint(0, 1000)}
    if kind == "number":
        return {"type": "number", "exclusiveMinimum": -1.5, "maximum": dice.randint(0, 99)}
    if kind == "string":
        return {"type": "string", "minLength": dice.randint(0, 4), "maxLength": dice.randint(4, 12)}
    if kind == "pattern":
        return {"type": "string", "pattern": dice.choice([r"^[A-Z]{2,5}$", r"^\d{4}-\d{2}$", r"^(a|b)+c?$"])}
    if kind == "enum":
        return {"enum": dice.sample(["red", "grün", 7, 2.5, None, True, ["x"], {"k": 1}], dice.randint(1, 5))}
    if kind == "const":
        return {"const": dice.choice(["fixed", 0, {"a": [1, 2]}])}
    if kind == "nullable":
        return {"type": ["null", "boolean"]}
    if kind == "array":
        low = dice.randint(0, 2)
        return {"type": "array", "items": schema(dice, depth - 1), "minItems": low, "maxItems": low + dice.randint(0, 2)}
    if kind == "object":
        return thing(dice, depth)
    if kind == "anyOf":
        return {"anyOf": [schema(dice, depth - 1) for _ in range(2)]}
    return {"type": kind}


def thing(dice, depth):
    names = dice.sample(["name", "age", "größe", "a b", "id"], dice.randint(1, 4))
    required = [name for name in names if dice.random() < 0.6]
    properties = {name: schema(dice, depth - 1) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": dice.random() < 0.2}


def body():
    with server("--parallel", "4") as ready:
        client = openai.OpenAI(base_url=ready["url"], api_key="none", max_retries=0)

        def answer(seed):
            asked = thing(random.Random(seed), 2)
            choice = client.chat.completions.create(
                model=ready["model"],
                messages=[{"role": "user", "content": "Say something in JSON."}],
                response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": asked}},
                temperature=2.0,
                seed=seed,
                max_completion_tokens=160,
            ).choices[0]
            return asked, choice.message.content, choice.finish_reason

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(answer, range(SCHEMAS)))
    wrong, ended = [], 0
    for asked, text, finish in answers:
        if finish != "stop":
            continue
        ended += 1
        try:
            jsonschema.Draft202012Validator(asked).validate(json.loads(text))
        except (ValueError, jsonschema.ValidationError) as e:
            wrong.append(f"{text!r} for {json.dumps(asked)}: {e}")
    check("every answer that ended is what its schema takes", not wrong, "; ".join(wrong[:3]) or ended)
    check("most answers ended", ended > SCHEMAS * 0.6, f"{ended} of {SCHEMAS}")


if __name__ == "__main__":
    close("random schemas", body)
