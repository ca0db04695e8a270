"""Writes what transformers computes with real models, in f32, for the tests that compare whole models.

    python make_reference.py ASSETS

For each model ASSETS/reference/NAME.safetensors holds, for each of twenty texts I,

    ids.I      [t]       token ids of the text, as transformers' tokenizer made from the GGUF file gives them
    logits.I   [p, v]    logits at the last p positions
    greedy.I   [64]      the greedy continuation, end-of-text tokens included as any other
    margin.I   [64]      how far the best logit was above the second: a small one makes a difference forgivable

and NAME.json the texts. SmolLM2 is also saved as a Hugging Face directory, ASSETS/reference/smollm2-hf, with the f32 weights
that its 4-bit file stands for. None of it is committed: it takes some minutes to make and 650 MB.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW = 64
# name, file, positions kept: Gemma's vocabulary is five times as large
MODELS = [("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", 8), ("gemma3", "gemma-3-270m-q4_k_m.gguf", 2)]

TEXTS = [
    "The capital of France is",
    "Water boils at a lower temperature in the mountains because",
    "Once upon a time, in a village at the edge of the forest, there lived",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    if n < 2:\n        return n\n",
    "SELECT name, count(*) FROM visits WHERE year = 2024 GROUP BY",
    '{"name": "Ada Lovelace", "born": 1815, "known_for": [',
    "Dear Dr. Meyer,\n\nthank you for referring this 67-year-old patient with a three-week history of",
    "Q: If a train leaves at 14:05 and arrives at 16:50, how long did it travel?\nA:",
    "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist",
    "Il était une fois, dans un petit village de Bretagne, une vieille femme qui",
    "En un lugar de la Mancha, de cuyo nombre no quiero acordarme,",
    "吾輩は猫である。名前はまだ",
    "Быть или не быть, вот в чём",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "    \t  indented text   with   odd   spaces\n\n\nand blank lines",
    "🙂🚀 Emoji are made of several bytes 👩‍👩‍👧‍👦, and so are ligatures ﬁ",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "The following is a list of the planets, in order of their distance from the sun: Mercury, Venus,",
    "x",
    "In information theory, the entropy of a random variable is the average level of surprise inherent in its outcomes. "
    "Claude Shannon introduced the idea in 1948, in a paper that founded the field. A fair coin has an entropy of one bit; "
    "a coin that always falls on the same side has none. The entropy of a language can be measured by asking people to guess",
]


def reference(model, tokenizer, keep):
    tensors = {}
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt").input_ids
        out = model(input_ids=ids, use_cache=True)
        tensors[f"ids.{i}"] = ids[0]
        tensors[f"logits.{i}"] = out.logits[0, -keep:].clone()  # fewer where the text is shorter
        tokens, margins = [], []
        for _ in range(NEW):
            best = out.logits[0, -1].topk(2)
            tokens.append(best.indices[0])
            margins.append(best.values[0] - best.values[1])
            out = model(input_ids=best.indices[:1][None], past_key_values=out.past_key_values, use_cache=True)
        tensors[f"greedy.{i}"], tensors[f"margin.{i}"] = torch.stack(tokens), torch.stack(margins)
    return tensors


def save_plain(model, tokenizer, out):
    """A copy without the mark of GGUF, which transformers refuses to save."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)(config)
    plain.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


@torch.no_grad()
def main():
    assets = Path(sys.argv[1])
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    out = assets / "reference"
    out.mkdir(exist_ok=True)
    for name, file, keep in MODELS:
        models = assets / "models"
        tokenizer = AutoTokenizer.from_pretrained(models, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(models, gguf_file=file, dtype=torch.float32).eval()
        if name == "smollm2":
            save_plain(model, tokenizer, out / "smollm2-hf")
        tensors = reference(model, tokenizer, keep)
        (out / f"{name}.json").write_text(json.dumps({"texts": TEXTS, "file": file}, ensure_ascii=False, indent=1) + "\n")
        temporary = out / f"{name}.tmp"
        save_file(tensors, temporary)
        # Last, so that a run that was cut off is made again.
        os.replace(temporary, out / f"{name}.safetensors")
        print(f"reference: {name}: {len(TEXTS)} texts", flush=True)


if __name__ == "__main__":
    main()
