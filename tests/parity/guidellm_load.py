"""A load of `guidellm`, which is not ours, on `ounce serve`: what it measures from outside is what `/metrics` says from inside, to
5 %. It knows nothing of how either counts.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from _check import check, close
from _server import server

REQUESTS, STREAMS, TOKENS = 24, 2, 64
# Times are compared to 5 %, and to what a socket and an event loop take where that is more.
SHARE, SLACK_MS = 0.05, 1.0
TRIES = 4


def prompts(load):
    """Texts of some 150 tokens that differ from their first word on: none is found in the cache."""
    rivers = ["Rhine", "Danube", "Volga", "Loire", "Elbe", "Po", "Ebro", "Tagus"]
    return [f"{load}.{i} {river}: tell a story of this river, its towns and its boats. " * 10
            for i in range(REQUESTS // len(rivers)) for river in rivers]


def counted(url):
    """The sums and counts of `/metrics`, by series and finished reason."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[:1] not in ("#", "")]
    return {name.split("{")[0].removeprefix("vllm:") + ("" if "finished_reason" not in name else name.split('"')[-2]): float(value)
            for name, value in lines if "_bucket" not in name and name.startswith("vllm:")}


def loaded(url, place, load):
    """Runs the load; its report."""
    data, report = Path(place) / f"data-{load}.jsonl", Path(place) / f"report-{load}.json"
    rows = [json.dumps({"prompt": prompt, "output_tokens_count": TOKENS}) for prompt in prompts(load)]
    data.write_text("\n".join(rows) + "\n")
    command = [Path(sys.executable).parent / "guidellm", "run", "--backend", f"kind=openai_http,target={url}",
               "--profile", f"kind=concurrent,streams={STREAMS}", "--constraint", f"kind=max_requests,count={REQUESTS}",
               "--data", f"kind=json_file,path={data}", "--output", f"kind=json,path={report}", "--disable-console"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=3600)
    return json.loads(report.read_text())["benchmarks"][0]


def differs(theirs, ours, slack=0.0):
    return abs(theirs - ours) > max(SHARE * ours, slack)


def measured(url, place, load):
    """A load: what the server counted meanwhile, what guidellm saw, and both times of each kind."""
    before = counted(url)
    report = loaded(url, place, load)
    after = counted(url)
    ours = {name: value - before.get(name, 0.0) for name, value in after.items()}
    theirs = report["metrics"]
    of = {name: theirs[name]["successful"] for name in (
        "time_to_first_token_ms", "inter_token_latency_ms", "request_latency", "prompt_token_count", "output_token_count")}

    def mean(name, scale=1.0):
        return ours[f"{name}_sum"] / ours[f"{name}_count"] * scale

    # Tokens in the time that requests ran, for one stream.
    rate = of["output_token_count"]["total_sum"] / of["request_latency"]["total_sum"]
    times = {
        "time to the first token, ms": (of["time_to_first_token_ms"]["mean"], mean("time_to_first_token_seconds", 1e3), SLACK_MS),
        "time between tokens, ms": (of["inter_token_latency_ms"]["mean"], mean("inter_token_latency_seconds", 1e3)),
        "time of a request, ms": (of["request_latency"]["mean"] * 1e3, mean("e2e_request_latency_seconds", 1e3), SLACK_MS),
        "tokens per second of a stream": (rate, ours["generation_tokens_total"] / ours["e2e_request_latency_seconds_sum"]),
    }
    return ours, theirs, of, times


def body():
    # One thread for the server leaves the other core to the client, whose times would be late otherwise. Those of a busy machine are
    # late all the same, now and then: a load that agrees is enough, and one that counts wrongly never does.
    with server("--threads", "1", "--parallel", str(STREAMS)) as ready, tempfile.TemporaryDirectory() as place:
        for load in range(TRIES):
            ours, theirs, of, times = measured(ready["url"].removesuffix("/v1"), place, load)
            if not any(differs(*pair) for pair in times.values()):
                break
    totals = theirs["request_totals"]
    check("every request was answered", (totals["successful"], totals["total"]) == (REQUESTS, REQUESTS), totals)
    ended = sum(ours[f"request_success_total{reason}"] for reason in ("stop", "length"))
    check("as many are counted", ended == REQUESTS, ended)
    for name, series in (("prompt_token_count", "prompt_tokens_total"), ("output_token_count", "generation_tokens_total")):
        check(f"{series} is what it counts", of[name]["total_sum"] == ours[series], f"{of[name]['total_sum']} {ours[series]}")
    for name, pair in times.items():
        check(name, not differs(*pair), f"guidellm {pair[0]:.2f}, /metrics {pair[1]:.2f}")


close("the load of guidellm", body)
