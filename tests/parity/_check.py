"""Counts checks and closes with the line that `cargo xtask test` reads. Knows nothing of what is checked."""

import sys
import traceback

_passed, _failed = 0, 0


def check(name, ok, detail=""):
    """Notes one check; `detail` says what was measured."""
    global _passed, _failed
    _passed, _failed = _passed + bool(ok), _failed + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {name}{': ' if detail else ''}{detail}", flush=True)


def close(name, body):
    """Runs `body` and exits: 0 if every check passed, 1 otherwise. An exception is one failed check."""
    try:
        body()
    except Exception as e:
        traceback.print_exc()
        check(name, False, f"{type(e).__name__}: {e}")
    print(f"{_passed} passed, {_failed} failed")
    sys.exit(bool(_failed))
