"""Times optimizer steps of PyTorch + transformers (+ PEFT) on a model directory: one setting per process, so that the peak
memory is its own. Prints one line of JSON; `cargo xtask bench train` reads it.

    peer_train.py MODEL TOKENS.u16 --mode lora|full --dtype f32|bf16|bf16amp [--ckpt] [--compile] [--batch 4] [--length 512]
                  [--steps 4] [--threads 2] [--init ADAPTER]
    peer_train.py MODEL --save-init ADAPTER

f32      weights f32, no autocast
bf16amp  weights f32, autocast to bf16
bf16     weights bf16 (LoRA: adapters f32, PEFT's default), autocast to bf16

The tokens are those of our side (crates/train/examples/bench_train.rs): step s, row b takes tokens
[(s * batch + b) * length, ...). One more step than asked for runs first and is not counted. With --init the adapter's first
weights are read from a folder, so that both sides begin at the same point; --save-init writes one.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

import numpy as np
import peft
import torch
import transformers

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE = {"lora": 2e-4, "full": 2e-5}


def arguments():
    parser = argparse.ArgumentParser(description="one training setting of PyTorch, timed")
    parser.add_argument("model")
    parser.add_argument("tokens", nargs="?")
    parser.add_argument("--mode", choices=["lora", "full"], default="lora")
    parser.add_argument("--dtype", choices=["f32", "bf16", "bf16amp"], default="bf16")
    parser.add_argument("--ckpt", action="store_true", help="gradient checkpointing")
    parser.add_argument("--compile", action="store_true")
    for name, default in [("batch", 4), ("length", 512), ("steps", 4), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--init")
    parser.add_argument("--save-init")
    args = parser.parse_args()
    if not args.tokens and not args.save_init:
        parser.error("give a file of tokens, or --save-init")
    return args


def with_lora(model, init):
    if init:
        return peft.PeftModel.from_pretrained(model, init, is_trainable=True)
    config = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                             target_modules=LINEARS)
    return peft.get_peft_model(model, config)


def build(args):
    weights = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=weights, attn_implementation="sdpa")
    model.config.use_cache = False
    if args.mode == "lora":
        model = with_lora(model, args.init)
    if args.ckpt:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if args.mode == "lora":
            # The input of the first layer needs no gradient by itself, and checkpointing then stops short of the adapters.
            model.enable_input_require_grads()
    return model.train()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.save_init:
        args.dtype, args.mode, args.init = "f32", "lora", None
        build(args).save_pretrained(args.save_init)
        return
    model = build(args)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE[args.mode], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    run = torch.compile(model) if args.compile else model

    rows = np.fromfile(args.tokens, dtype="<u2")
    a_step = args.batch * args.length
    if len(rows) < (args.steps + 1) * a_step:
        sys.exit(f"{args.tokens} has {len(rows)} tokens, but {args.steps + 1} steps of {args.batch} x {args.length} "
                 f"need {(args.steps + 1) * a_step}")
    seconds, losses = [], []
    for step in range(args.steps + 1):
        ids = torch.from_numpy(rows[step * a_step : (step + 1) * a_step].astype(np.int64)).view(args.batch, args.length)
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype != "f32"):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    step_s = statistics.median(seconds[1:])
    print(json.dumps({
        "tok_s": round(a_step / step_s, 1),
        "step_s": round(step_s, 4),
        "first_step_s": round(seconds[0], 3),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "losses": losses,
        "trained": sum(p.numel() for p in trained),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
    }))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
