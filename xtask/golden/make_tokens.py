"""Writes crates/formats/tests/tokens.json: token ids that transformers gives for two hundred texts.

    python make_tokens.py ASSETS/models OUT.json

The tokenizers are those inside the two GGUF files of the assets folder. For each text the file keeps, by model, the first
16 hex digits of the SHA-256 of the ids written with commas, once bare and once with what the model adds.
"""

import hashlib
import json
import random
import sys

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

MODELS = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m-q4_k_m.gguf"}

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Don't you think it's 3,141.59 or 10^-5? They'll've said so!",
    "Ein Bär fährt Straßenbahn; Äpfel, Öl und Übermut.",
    "L'été dernier, j'ai mangé des crêpes à 4 €.",
    "我想在苹果公司工作，每天1314151分钟。",
    "東京の天気は晴れです。カタカナとひらがな。",
    "한국어 문장도 하나 있습니다.",
    "Быстрая коричневая лиса прыгает.",
    "مرحبا بالعالم، كيف حالك؟",
    "שלום עולם",
    "नमस्ते दुनिया, यह एक परीक्षण है।",
    "ភាសាខ្មែរ កាន់តែពិសេសអាច",
    "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 😶‍🌫️",
    "def f(x):\n    return {k: v for k, v in x.items() if v != None}\n",
    "for (int i = 0; i < n; ++i) {\n\t\ta[i] += b[i] * 2.5e-3f;\n\t}\r\n",
    "<div class=\"a\">&nbsp;</div><br/>",
    "SELECT * FROM t WHERE id IN (1, 22, 333, 4444);",
    "https://example.org/a?b=c&d=%20#e",
    "e\u0301 versus \u00e9, \ufb01 versus fi, \u212b versus \u00c5",
    "\u200b\u00a0\u3000\ufeff invisible",
    "  leading, trailing  ",
    "tabs\t\tand\n\n\nlines \n \n\n  \n",
    "ALL CAPS AND camelCaseWords_with_underscores-and-dashes",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...---===***///\\\\\\",
]
EDGES = ["", " ", "  ", "\n", "\t", "a", "é", "漢", "👍", "\u0000", "\u0007bell", "▁", "a▁b", "<0x41>", "<s>", "</s>", "\ufffd"]
MARKS = ["<|im_start|>user\nHi<|im_end|>\n", "<start_of_turn>user\nHi<end_of_turn>\n", "<bos>a<eos> b", "x<|endoftext|>y"]


def texts():
    rng = random.Random(20261124)
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE00), (0x2000, 0x2C00)]
    ranges += [(0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A0), (0x1F300, 0x1FAFF)]
    out = SENTENCES + EDGES + MARKS
    while len(out) < 140:
        out.append(rng.choice(["", " ", "\n"]).join(rng.choice(SENTENCES + EDGES) for _ in range(rng.randint(2, 5))))
    while len(out) < 170:
        words = [w for s in SENTENCES for w in s.split(" ")]
        out.append(" ".join(rng.choice(words) for _ in range(rng.randint(3, 30))))
    while len(out) < 200:
        low, high = rng.choice(ranges)
        out.append("".join(chr(rng.randrange(*rng.choice([(low, high), (low, high), (0x20, 0x7F)]))) for _ in range(40)))
    return out


def digest(ids):
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:16]


def main(folder, out):
    data = {"texts": texts()}
    for name, file in MODELS.items():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        if name == "smollm2":
            # transformers' GGUF reader leaves out what tokenizer.ggml.pre says: SmolLM's tokenizer.json cuts digits first.
            words = pre_tokenizers.ByteLevel(add_prefix_space=False)
            digits = pre_tokenizers.Digits(individual_digits=True)
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
        encode = lambda text, special: tokenizer.encode(text, add_special_tokens=special)
        data[name] = [[digest(encode(text, False)), digest(encode(text, True))] for text in data["texts"]]
    with open(out, "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(v) for v in value) + "\n]" for key, value in data.items()) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
