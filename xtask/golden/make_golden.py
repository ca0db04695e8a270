"""Writes tests/golden/<family>: tiny random models and what PyTorch + transformers + PEFT compute with them.

    python make_golden.py OUT [FAMILY]

Each folder is a normal model directory (config.json, model.safetensors, all f32) and beside it

golden.safetensors
    ids.S            [t]        token ids of sequence S (two sequences, of 13 and 29 tokens, run without padding)
    hidden.S.0       [t, c]     input of the first layer (after embedding scale or learned positions)
    hidden.S.K       [t, c]     output of layer K, counted from 1, before the final norm
    logits.S         [t, v]
    grad.NAME                   d loss / d NAME for each parameter, loss = mean over the next-token targets of both sequences
golden.json
    loss, the losses of ten AdamW steps on both sequences as one batch (losses[0] is before the first update), versions

llama/lora holds a PEFT adapter with nonzero B, its logits and its own ten losses (only the adapter is trained).
The sizes are odd on purpose (24 channels, 36 hidden, 97 tokens): not one is a multiple of a vector register, and all
families together stay under 1 MB.
"""

import json
import math
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers import AutoModelForCausalLM

LENGTHS = (13, 29)
STEPS = 10
ADAMW = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
LORA_ADAMW = {**ADAMW, "lr": 5e-3}

SIZES = dict(
    hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    vocab_size=97, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)  # fmt: skip


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


FAMILIES = {
    "llama": (11, lambda: LlamaConfig(**SIZES, rope_parameters=rope(5000.0), rms_norm_eps=1e-5, tie_word_embeddings=False)),
    # One rotary frequency in each regime of the Llama 3 scaling: kept, blended, divided.
    "llama3_rope": (12, lambda: LlamaConfig(
        **{**SIZES, "num_hidden_layers": 1, "max_position_embeddings": 256},
        rope_parameters=rope(10000.0, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=64),
        rms_norm_eps=1e-6, tie_word_embeddings=True)),
    "mistral": (13, lambda: MistralConfig(**SIZES, rope_parameters=rope(1000.0), sliding_window=5, tie_word_embeddings=True)),
    "qwen2": (14, lambda: Qwen2Config(**SIZES, rope_parameters=rope(20000.0), tie_word_embeddings=True)),
    "qwen3": (15, lambda: Qwen3Config(**SIZES, rope_parameters=rope(20000.0), tie_word_embeddings=True)),
    # head_dim and query_pre_attn_scalar both differ from hidden / heads.
    "gemma3_text": (16, lambda: Gemma3TextConfig(
        **{**SIZES, "head_dim": 16, "num_key_value_heads": 1}, query_pre_attn_scalar=20, sliding_window=7,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": rope(100.0), "full_attention": rope(10000.0, rope_type="linear", factor=2.0)},
        tie_word_embeddings=True)),
    "gpt2": (17, lambda: GPT2Config(
        vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=3, n_inner=36, bos_token_id=1, eos_token_id=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)),
}  # fmt: skip


def fill(model, generator):
    """Random weights under which a mistake shows: no norm is all ones, no bias is zero, attention is not flat."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() == 2:
            fan_in = p.shape[0] if "Conv1D" in type(model.get_submodule(name.rpartition(".")[0])).__name__ else p.shape[1]
            scale = 0.7 if "emb" in name or "wte" in name or "wpe" in name else 1.3 / math.sqrt(fan_in)
            p.data.copy_(noise * scale)
        elif "bias" in name:
            p.data.copy_(0.2 * noise)
        else:
            # Gemma multiplies by 1 + weight, the others by weight.
            center = 0.0 if "gemma" in model.config.model_type else 1.0
            p.data.copy_(center + 0.3 * noise)


def sequences(vocab, generator):
    return [torch.randint(0, vocab, (n,), generator=generator) for n in LENGTHS]


def loss_of(model, seqs):
    """Mean over the targets of all sequences, not the mean of their means."""
    total, count = 0.0, 0
    for ids in seqs:
        logits = model(input_ids=ids[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
        count += len(ids) - 1
    return total / count


def layers_of(model):
    return model.transformer.h if model.config.model_type == "gpt2" else model.model.layers


def hidden_states(model, ids):
    """The input of layer 0 and the output of each layer, and the logits. (transformers' own list ends after the final norm.)"""
    seen = []
    layers = layers_of(model)
    hooks = [layers[0].register_forward_pre_hook(lambda _, args, kw: seen.append((args[0] if args else kw["hidden_states"])[0]), with_kwargs=True)]
    for layer in layers:
        hooks.append(layer.register_forward_hook(lambda _, args, out: seen.append((out[0] if isinstance(out, tuple) else out)[0])))
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    for hook in hooks:
        hook.remove()
    return seen, logits


def adamw_losses(model, seqs, options):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options["lr"], betas=tuple(options["betas"]), eps=options["eps"], weight_decay=options["weight_decay"])
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, seqs)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return losses


def save_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def save_tensors(path, tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def versions():
    return {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__}


def write_family(name, out):
    seed, make_config = FAMILIES[name]
    generator = torch.Generator().manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    config = make_config()
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    fill(model, generator)
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    reload = lambda: AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    model = reload()
    seqs = sequences(config.vocab_size, generator)

    tensors = {}
    for s, ids in enumerate(seqs):
        tensors[f"ids.{s}"] = ids
        hidden, logits = hidden_states(model, ids)
        assert len(hidden) == 1 + len(layers_of(model))
        tensors |= {f"hidden.{s}.{k}": h for k, h in enumerate(hidden)}
        tensors[f"logits.{s}"] = logits
    loss = loss_of(model, seqs)
    loss.backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, parameter
        tensors[f"grad.{parameter}"] = p.grad
    save_tensors(out / "golden.safetensors", tensors)
    save_json(out / "golden.json", {
        "family": name, "seed": seed, "versions": versions(), "loss": loss.item(),
        "adamw": {**ADAMW, "decays": "every parameter", "losses": adamw_losses(reload(), seqs, ADAMW)},
    })  # fmt: skip
    if name == "llama":
        write_lora(reload(), seqs, out / "lora", generator)


def write_lora(model, seqs, out, generator):
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config).eval()
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.data.copy_(torch.randn(p.shape, generator=generator) * (0.3 if "lora_A" in name else 0.1))
    config.base_model_name_or_path = ".."
    # A set is written in an order that changes from run to run.
    config.target_modules = sorted(config.target_modules)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    tensors = {}
    for s, ids in enumerate(seqs):
        with torch.no_grad():
            tensors[f"logits.{s}"] = model(input_ids=ids[None]).logits[0]
    loss = loss_of(model, seqs)
    loss.backward()
    prefix = ".default.weight"
    for name, p in model.named_parameters():
        if p.requires_grad:
            # The name in adapter_model.safetensors: PEFT leaves the adapter's own name out.
            tensors[f"grad.{name.replace(prefix, '.weight')}"] = p.grad
    save_tensors(out / "golden.safetensors", tensors)
    model.zero_grad()
    losses = adamw_losses(model, seqs, LORA_ADAMW)
    save_json(out / "golden.json", {
        "family": "llama", "versions": versions(), "loss": loss.item(),
        "adamw": {**LORA_ADAMW, "decays": "every adapter parameter", "losses": losses},
    })  # fmt: skip


def main():
    out = Path(sys.argv[1])
    wanted = sys.argv[2:] or list(FAMILIES)
    unknown = [name for name in wanted if name not in FAMILIES]
    if unknown:
        sys.exit(f"error: no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in wanted:
        write_family(name, out / name)
        size = sum(f.stat().st_size for f in (out / name).rglob("*") if f.is_file())
        print(f"golden: {name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
