"""`/openapi.json` of `ounce serve`: valid by the rules of OpenAPI, and true: schemathesis makes requests from it, good ones and
bad ones, and holds every answer against it. `OUNCE_CASES=10000` makes about as
many of them at random, beside those for each edge of each field. It knows no endpoint.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import openapi_spec_validator

import _tiny
from _check import check, close
from _server import server

# Left out: `positive_data_acceptance`, since a request that fits the description may still ask for more than there is room for;
# and what concerns resources that requests make and delete.
CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance", "ignored_auth",
]
CASES = int(os.environ.get("OUNCE_CASES", "300"))


def schemathesis(origin, operations):
    each = max(CASES // operations, 1)
    # Everything it keeps between runs goes to a folder that goes, too.
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{origin}/openapi.json", "--header", "Authorization: Bearer admin",
            "--max-examples", str(each), "--seed", "1", "--checks", ",".join(CHECKS),
            "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color", "--generation-database", "none",
        ]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=1800)
    return done.returncode, done.stdout + done.stderr


def body():
    with tempfile.TemporaryDirectory() as place:
        keys = Path(place) / "keys"
        keys.write_text("admin\n")
        folder = Path(place) / "tiny"
        folder.mkdir()
        with server("--admin-key-file", keys, model=_tiny.make(folder), context=64) as ready:
            origin = ready["url"].removesuffix("/v1")
            document = json.load(urllib.request.urlopen(f"{origin}/openapi.json"))
            openapi_spec_validator.validate(document)
            check("the document is valid OpenAPI", document["openapi"].startswith("3.1"), document["openapi"])
            operations = sum(len(methods) for methods in document["paths"].values())
            code, text = schemathesis(origin, operations)
            counted = re.search(r"(\d+) generated, (\d+) passed", text)
            check("schemathesis finds nothing", code == 0 and counted, counted[0] if code == 0 and counted else text[-6000:])
            check("it has made requests enough", counted and int(counted[1]) > 1000)
            health = json.load(urllib.request.urlopen(f"{origin}/health"))
            check("the server is well afterwards", health == {"status": "ok"})


close("the API's description", body)
