"""The committed golden files are what the pinned peers compute today: makes them again and compares every tensor."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.numpy import load_file

from _check import check, close

ROOT = Path(__file__).resolve().parents[2]
# Other machines add in another order; the models' numbers are of size 1 to 10.
TOLERANCE = 2e-5


def compare(mine, committed):
    names = sorted(str(p.relative_to(committed)) for p in committed.rglob("*.safetensors"))
    made = sorted(str(p.relative_to(mine)) for p in mine.rglob("*.safetensors"))
    check("same files", names == made and len(names) == 16, f"{len(names)} committed, {len(made)} made")
    for name in names:
        a, b = load_file(mine / name), load_file(committed / name)
        worst = max((float(abs(a[k].astype("f8") - b[k].astype("f8")).max()) / max(1.0, float(abs(b[k]).max())) for k in b if k in a), default=1.0)
        check(name, a.keys() == b.keys() and worst < TOLERANCE, f"{len(b)} tensors, largest difference {worst:.1e}")
    for path in sorted(committed.rglob("golden.json")):
        a, b = json.loads((mine / path.relative_to(committed)).read_text()), json.loads(path.read_text())
        worst = max(abs(x - y) / abs(y) for x, y in zip(a["adamw"]["losses"], b["adamw"]["losses"], strict=True))
        check(str(path.relative_to(committed)), worst < TOLERANCE and len(b["adamw"]["losses"]) == 10, f"losses differ by {worst:.1e}")


def body():
    with tempfile.TemporaryDirectory() as folder:
        script = ROOT / "xtask/golden/make_golden.py"
        subprocess.run([sys.executable, script, folder], check=True, stdout=subprocess.DEVNULL, env=os.environ)
        compare(Path(folder), ROOT / "tests/golden")


close("goldens", body)
