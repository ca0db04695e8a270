"""Tuning a 4-bit file is tuning the weights it stands for: from SmolLM2's Q4_1 GGUF, Ounce's logits with an adapter and its
losses in training are those of transformers and PEFT on the dequantised copy, in f32. Adapters go both ways.
"""

import json
import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from _check import check, close

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ["OUNCE_ASSETS"])
OUNCE = Path(os.environ["OUNCE"])
GGUF = ASSETS / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
COPY = ASSETS / "reference/smollm2-hf"
LENGTH, STEPS = 64, 10
# Relative, in f32: of a loss, and of logits to the largest of them.
TOLERANCE = 1e-4


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def trainer():
    """The example that trains on raw token ids; cargo gave the binary its place beside it."""
    run(os.environ.get("CARGO", "cargo"), "build", "--locked", "--release", "-q", "--manifest-path", ROOT / "Cargo.toml",
        "-p", "ounce-train", "--example", "bench_train")
    return OUNCE.parent / "examples/bench_train"


def token_ids(folder):
    """What both sides train on: the referral notes of the examples, as raw ids."""
    tokenizer = AutoTokenizer.from_pretrained(COPY)
    rows = (ROOT / "examples/referral/train.jsonl").read_text().splitlines()[:40]
    text = "\n".join(message["content"] for row in rows for message in json.loads(row)["messages"])
    ids = np.array(tokenizer(text).input_ids, dtype=np.uint16)[: LENGTH * STEPS]
    assert len(ids) == LENGTH * STEPS, len(ids)
    (folder / "ids.u16").write_bytes(ids.tobytes())
    return torch.from_numpy(ids.astype(np.int64)).view(STEPS, 1, LENGTH)


def base_model():
    return AutoModelForCausalLM.from_pretrained(COPY, dtype=torch.float32, attn_implementation="eager").eval()


def check_logits(name, bench, folder, base, adapter, theirs):
    out = folder / "logits.f32"
    run(bench, base, folder / "ids.u16", "--compute", "f32", "--length", LENGTH, "--init", adapter, "--logits", out)
    ours = np.fromfile(out, dtype=np.float32).reshape(LENGTH, -1)
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    check(name, error < TOLERANCE, f"{ours.size} logits, relative {error:.1e}")


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=ids[0]).logits[0].numpy()


def their_losses(model, ids, lr):
    """The steps of `bench_train`: AdamW without decay, gradients clipped to norm 1, one row a step."""
    model.train()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for row in ids:
        loss = model(input_ids=row, labels=row, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def check_losses(name, bench, folder, theirs, *more):
    # One step is done before the counted ones.
    out = run(bench, GGUF, folder / "ids.u16", "--compute", "f32", "--batch", 1, "--length", LENGTH, "--steps", STEPS - 1, *more)
    ours = json.loads(out)["losses"]
    worst = max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
    check(name, worst < TOLERANCE and len(ours) == STEPS, f"{ours[0]:.4f} to {ours[-1]:.4f}, relative {worst:.1e}")


def adapter_of_ours(bench, folder, ids):
    """Tuned on the 4-bit file, read by PEFT beside the copy."""
    out = folder / "ours"
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps({"text": f"A snow leopard is also called an ounce, {n} times."}) + "\n" for n in range(30)))
    more = ["--compute", "f32", "--max-length", LENGTH, "--batch-size", "1", "--max-steps", "3", "--lr", "2e-3", "-q"]
    run(OUNCE, "tune", GGUF, "--data", data, "--out", out, *more)
    model = peft.PeftModel.from_pretrained(base_model(), out).eval()
    theirs = logits_of(model, ids)
    with model.disable_adapter():
        moved = float(np.abs(logits_of(model, ids) - theirs).max())
    check("the adapter moves the logits", moved > 0.1, f"by up to {moved:.2f}")
    check_logits("our adapter on the 4-bit file, PEFT on the copy", bench, folder, GGUF, out, theirs)
    check_logits("our adapter on the copy", bench, folder, COPY, out, theirs)


def adapter_of_theirs(bench, folder, ids):
    """Made by PEFT with fresh matrices, trained by both sides; and with a B that is not zero, read by Ounce."""
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base_model(), config)
    model.save_pretrained(folder / "fresh")
    theirs = their_losses(model, ids, 1e-3)
    check_losses("ten losses of LoRA", bench, folder, theirs, "--init", folder / "fresh", "--lr", "1e-3")

    model.eval().save_pretrained(folder / "trained")
    check_logits("the adapter that PEFT trained", bench, folder, GGUF, folder / "trained", logits_of(model, ids))


def full(bench, folder, ids):
    theirs = their_losses(base_model(), ids, 2e-5)
    check_losses("ten losses of full tuning", bench, folder, theirs, "--method", "full", "--lr", "2e-5")


def body():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    bench = trainer()
    folder = Path(tempfile.mkdtemp())
    try:
        ids = token_ids(folder)
        adapter_of_ours(bench, folder, ids)
        adapter_of_theirs(bench, folder, ids)
        full(bench, folder, ids)
    finally:
        shutil.rmtree(folder)


close("tuning", body)
