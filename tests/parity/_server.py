"""Starts `ounce serve` on a small model and ends it again. Knows nothing of clients."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

from _check import check

MODEL = Path(os.environ["OUNCE_ASSETS"]) / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
OUNCE = Path(os.environ["OUNCE"])


@contextmanager
def server(*flags, model=MODEL, context=512):
    """What a server says of itself, with the `url` of its API; it is told to end afterwards and must do so in order."""
    # Exact products, since others compute what the answers are held against.
    command = [OUNCE, "serve", model, "--port", "0", "--context", str(context), "--exact", "--json", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the server did not start")
            text += line
        yield json.loads(text)
    finally:
        process.send_signal(signal.SIGTERM)
        check("SIGTERM ends the server with 0", process.wait(60) == 0, process.returncode)
