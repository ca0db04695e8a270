"""lm-eval over the API: a multiple choice task by its `local-completions` on `ounce serve` gives the log probabilities that
`ounce eval` finds with its own pass, and chooses alike. It knows nothing of how either computes.
"""

import functools
import json
import os
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from _check import check, close
from _server import MODEL, OUNCE, server

# Log probabilities of whole choices, some of -30: both come from the same pass, and lm-eval adds them up in another order.
TOLERANCE = 1e-5
QUESTIONS = [
    ("What is the capital of France?", ["Paris", "Rome", "Berlin", "Madrid"], 0),
    ("Which animal barks?", ["A cat", "A dog", "A fish", "A horse"], 1),
    ("How many legs does a spider have?", ["Six legs", "Four legs", "Eight legs", "Ten legs"], 2),
    ("What do bees make?", ["Milk", "Honey", "Silk", "Bread and butter"], 1),
    ("Which planet is closest to the sun?", ["Mars", "Venus", "Jupiter", "Mercury"], 3),
    ("What is frozen water called?", ["Steam", "Ice", "Sand", "Oil"], 1),
    ("Who wrote Hamlet?", ["William Shakespeare", "Charles Dickens", "Jane Austen"], 0),
    ("Which colour do you get from blue and yellow?", ["Red", "Green", "Purple"], 1),
    ("How many minutes are in an hour?", ["60", "24", "100", "12"], 0),
    ("Which ocean lies between Europe and America?", ["The Pacific", "The Atlantic", "The Indian Ocean"], 1),
]
TASK = """task: quiz
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def ours(rows):
    command = [OUNCE, "eval", MODEL, "--exact", "--context", "512", "--task", rows, "--json", "-q"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["models"][0]["tasks"][0]


def theirs(place, rows, ready):
    # Read before the imports: everything stays in this place, and nothing is looked up elsewhere.
    os.environ.update(HF_HOME=str(place / "hf"), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OPENAI_API_KEY="none")
    import lm_eval
    from lm_eval.tasks import TaskManager

    (place / "quiz.yaml").write_text(TASK.format(rows=rows))
    model = dict(
        model=ready["model"],
        base_url=ready["url"] + "/completions",
        tokenizer=str(place / "model"),
        tokenizer_backend="huggingface",
        num_concurrent=1,
        max_retries=1,
        max_length=512,
    )
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=model,
        tasks=["quiz"],
        task_manager=TaskManager(include_path=str(place), include_defaults=False),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["quiz"], key=lambda sample: sample["doc_id"])
    sums = [[float(r[0]) - moved(place, ready["url"], c) for r, c in zip(s["filtered_resps"], contexts(s))] for s in samples]
    return found["results"]["quiz"]["acc,none"], sums


def contexts(sample):
    arguments = sample["arguments"]
    return [a["arg_0"] if isinstance(a, dict) else a[0] for a in (arguments.values() if isinstance(arguments, dict) else arguments)]


@functools.cache
def moved(place, ready, context):
    """lm-eval scores white space at the end of a context, here the line break after the role, with the choice: how likely it is."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    whole, kept = (tokenizer.encode(text, add_special_tokens=False) for text in (context, context.rstrip()))
    assert whole[: len(kept)] == kept and len(whole) > len(kept), context
    body = dict(prompt=whole, max_tokens=1, echo=True, logprobs=1)
    request = urllib.request.Request(ready + "/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        scores = json.load(answer)["choices"][0]["logprobs"]["token_logprobs"]
    return sum(scores[len(kept) : len(whole)])


def body():
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        rows = place / "quiz.jsonl"
        rows.write_text("".join(json.dumps(dict(question=q, choices=c, answer=a)) + "\n" for q, c, a in QUESTIONS))
        # For its tokenizer and chat template, which are all that lm-eval reads of it.
        subprocess.run([OUNCE, "convert", MODEL, "--to", "hf", "--dtype", "bf16", "--out", place / "model", "-q"], check=True)
        with server() as ready:
            accuracy, over_api = theirs(place, rows, ready)
        own = ours(rows)
    direct = [record["choices"] for record in own["results"]]
    shapes = [len(r) for r in over_api] == [len(r) for r in direct] == [len(c) for _, c, _ in QUESTIONS]
    check("every choice is scored by both", shapes, sum(len(r) for r in direct))
    apart = max(abs(a - b) / max(1, abs(b)) for x, y in zip(over_api, direct) for a, b in zip(x, y))
    check(f"log probabilities agree to {TOLERANCE}", apart <= TOLERANCE, f"{apart:.1e} at most, relative beyond 1")
    check("accuracies are the same", abs(accuracy - own["records"]["value"]) < 1e-12, f"{accuracy}")
    check("the model knows more than chance", accuracy > 0.35, accuracy)


close("lm-eval over the API", body)
