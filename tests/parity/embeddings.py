"""`/v1/embeddings` of SmolLM2 beside transformers: the hidden state after the final norm of the last token, the mean of all and
that of the first, through the `openai` package. The weights are those that `ounce convert` makes of the GGUF file, as f32.
"""

import subprocess
import tempfile
import warnings
from pathlib import Path

import openai
import torch
from transformers import AutoModel, AutoTokenizer

from _check import check, close
from _server import MODEL, OUNCE, server

TEXTS = [
    "The nurse wrote a short referral to the heart clinic.",
    "Die Würde des Menschen ist unantastbar.",
    "def area(r): return 3.14159 * r * r",
    "word " * 150,
]


def states(place):
    """Hidden states `[t, c]` of each text, after the final norm."""
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
    out = []
    with torch.no_grad():
        for text in TEXTS:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            out.append((ids[0].tolist(), model(input_ids=ids).last_hidden_state[0]))
    return out


def unit(v):
    return v / v.norm()


def body():
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        subprocess.run([OUNCE, "convert", MODEL, "--to", "hf", "--dtype", "f32", "--out", folder, "-q"], check=True)
        wanted = states(folder)
        pooled = {"last": lambda h: h[-1], "mean": lambda h: h.mean(0), "cls": lambda h: h[0]}
        for pooling, pool in pooled.items():
            with server("--pooling", pooling, model=folder, context=256) as ready:
                client = openai.OpenAI(base_url=ready["url"], api_key="none", max_retries=0)
                name = client.models.list().data[0].id
                answer = client.embeddings.create(model=name, input=TEXTS)
                for (ids, hidden), one in zip(wanted, answer.data):
                    far = (torch.tensor(one.embedding) - unit(pool(hidden))).abs().max().item()
                    check(f"{pooling} of {len(ids)} tokens", far < 1e-4, f"{far:.1e}")
                tokens = sum(len(ids) for ids, _ in wanted)
                check("usage counts the tokens", answer.usage.prompt_tokens == tokens, answer.usage.prompt_tokens)
                if pooling != "last":
                    continue
                plain = client.embeddings.create(
                    model=name, input=TEXTS[0], encoding_format="float", extra_body={"normalize": False}
                )
                hidden = wanted[0][1][-1]
                far = ((torch.tensor(plain.data[0].embedding) - hidden).abs().max() / hidden.abs().max()).item()
                check("the state itself", far < 1e-4, f"{far:.1e} of the largest")
                ids = [ids for ids, _ in wanted[:2]]
                by_ids = client.embeddings.create(model=name, input=ids, dimensions=64)
                for (_, hidden), one in zip(wanted, by_ids.data):
                    far = (torch.tensor(one.embedding) - unit(hidden[-1][:64])).abs().max().item()
                    check("cut to 64 and scaled again", len(one.embedding) == 64 and far < 1e-4, f"{far:.1e}")
                try:
                    client.embeddings.create(model=name, input=[[1] * 257])
                    check("an input beyond the context", False, "no exception")
                except openai.BadRequestError as e:
                    both = "257" in e.message and "256" in e.message
                    check("an input beyond the context", e.param == "input" and both, e.message)


close("embeddings", body)
