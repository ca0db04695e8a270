"""The directory that `ounce convert --to hf` makes of a GGUF file is whole for transformers: AutoTokenizer loads it and gives
the ids and texts that Ounce's own tokenizer gives from the file, the chat template included; and the model loads, too.
"""

import json
import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import transformers
from transformers import AutoTokenizer, GenerationConfig

from _check import check, close

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ["OUNCE_ASSETS"])
OUNCE = Path(os.environ["OUNCE"])

TEXTS = [
    "",
    " ",
    "Hello, world! It's 12345.678 degrees, isn't it?",
    "  two  spaces,   three, and a tab\there \n\n\n  ",
    "\r\nCRLF\r\n\u00a0no-break\u3000ideographic space",
    "Die Würde des Menschen ist unantastbar.",
    "Il était une fois, à l'orée d'une forêt…",
    "En un lugar de la Mancha, ¿de cuyo nombre no quiero acordarme?",
    "Быть или не быть, вот в чём вопрос",
    "Η ζωή είναι ωραία",
    "吾輩は猫である。名前はまだ無い。",
    "天地玄黄,宇宙洪荒。",
    "나는 학생입니다",
    "كل إنسان حر",
    "כל בני האדם נולדו בני חורין",
    "सभी मनुष्यों को गौरव",
    "สวัสดีชาวโลก",
    "🙂🚀👩‍👩‍👧‍👦🏳️‍🌈 and ligatures ﬁ",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)  # 0b1010\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x';",
    '{"name": "Ada", "born": 1815, "tags": [1, 2.5e-3, null]}',
    "<table><tr><td>1</td></tr></table> &amp; <h1>",
    "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n",
    "<start_of_turn>user\nWhat?<end_of_turn>\n<start_of_turn>model\n",
    "a<|endoftext|>b<bos>c<eos> <unused7> [multimodal] <0x41><unk>",
    "e\u0301 combining, \ufb03, \u200bzero width, \u0000 nul, \ufffd",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0000000000000",
]
MESSAGES = [
    {"role": "user", "content": "What is gravity?"},
    {"role": "assistant", "content": "A force."},
    {"role": "user", "content": "Why?"},
]


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def reader():
    """The example that prints Ounce's ids; cargo gave the binary its place beside it."""
    run(os.environ.get("CARGO", "cargo"), "build", "--locked", "--release", "-q", "--manifest-path", ROOT / "Cargo.toml",
        "-p", "ounce-formats", "--example", "tokenize")
    return OUNCE.parent / "examples/tokenize"


def ours(example, gguf):
    """For each text: ids as the model is configured to see it, ids without anything around it, and its text again."""
    done = subprocess.run([example, gguf], input=json.dumps(TEXTS), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def compare(name, gguf, example, folder):
    out = folder / name
    run(OUNCE, "convert", gguf, "--to", "hf", "--dtype", "bf16", "--out", out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    wrong = []
    for text, (framed, bare, again) in zip(TEXTS, ours(example, gguf), strict=True):
        theirs = tokenizer(text).input_ids, tokenizer(text, add_special_tokens=False).input_ids
        if theirs != (framed, bare):
            wrong.append(f"{text!r}\n    ours   {bare}\n    theirs {theirs[1]}")
        if tokenizer.decode(bare) != again:
            wrong.append(f"decoded {tokenizer.decode(bare)!r}, not {again!r}")
    check(f"{name}: ids and texts", not wrong, f"{len(TEXTS)} texts" + "".join("\n  " + w for w in wrong))

    metadata = json.loads((out / "tokenizer_config.json").read_text())
    roles = {role: getattr(tokenizer, f"{role}_id") for role in ("bos_token", "eos_token", "pad_token") if role in metadata}
    config = transformers.AutoConfig.from_pretrained(out)
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    right = roles["bos_token"] == config.bos_token_id and roles["eos_token"] in stops and roles["pad_token"] == config.pad_token_id
    check(f"{name}: special ids as in config.json", right and len(roles) == 3, f"{roles}, stops {stops}")
    generation = GenerationConfig.from_pretrained(out)
    check(f"{name}: generation stops at the same", generation.eos_token_id == config.eos_token_id and generation.bos_token_id == config.bos_token_id)
    return tokenizer, out


def body():
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    example = reader()
    folder = Path(tempfile.mkdtemp())
    try:
        smollm2 = ASSETS / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
        tokenizer, out = compare("SmolLM2", smollm2, example, folder)
        text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        want = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
        check("SmolLM2: the chat template goes along", text.endswith(want) and text.count("<|im_start|>") == 5, repr(text[-60:]))
        # Round: the written directory as a GGUF file again has the same tokenizer.
        run(OUNCE, "convert", out, "--to", "gguf", "--out", folder / "again.gguf")
        check("SmolLM2: and back to GGUF", ours(example, folder / "again.gguf") == ours(example, smollm2))
        compare("Gemma 3", ASSETS / "models/gemma-3-270m-q4_k_m.gguf", example, folder)
    finally:
        shutil.rmtree(folder)


close("directories", body)
