"""The two-layer llama of the golden files as a directory to serve: answers cost nothing. Knows no server."""

import json
import shutil
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden/llama"
SPECIAL = ["<unk>", "<s>", "</s>"]
TEMPLATE = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


def make(folder):
    """Writes the model into `folder`: 97 tokens, the special ones and the printable characters from space to }."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, folder)
    characters = [chr(c) for c in range(ord(" "), ord("}") + 1)]
    # Byte-level tokenizers write the space as Ġ.
    vocab = {token: i for i, token in enumerate(SPECIAL + [c.replace(" ", "\u0120") for c in characters])}
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL)],
        "pre_tokenizer": level, "decoder": level, "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []}}
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TEMPLATE}
    Path(folder, "tokenizer.json").write_text(json.dumps(tokenizer))
    Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
