"""Two replicas of `ounce serve` behind HAProxy with `examples/deploy/haproxy.cfg`: streams arrive piece by piece, and requests go
on when a replica drains and when one is killed. It knows nothing of the server but its API.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import openai

from _check import check, close

MODEL = Path(os.environ["OUNCE_ASSETS"]) / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
OUNCE = Path(os.environ["OUNCE"])
DEPLOY = Path(__file__).parents[2] / "examples/deploy"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, holds, seconds=600):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def answers(port):
    """Whether a server listens and is well."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as s:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b" 200 " in s.recv(100)
    except OSError:
        return False


def replica(port):
    command = [OUNCE, "serve", MODEL, "--port", str(port), "--context", "256", "--parallel", "2", "--threads", "1", "-q"]
    return subprocess.Popen(command)


def streams(client):
    ask = dict(model=MODEL.stem, prompt="Once upon a time", max_tokens=200, temperature=0, extra_body={"ignore_eos": True})
    # The first request of a client pays for its connection and its imports: it says nothing of how pieces come.
    client.completions.create(**{**ask, "max_tokens": 1})
    # A client that is kept waiting by a busy machine finds several pieces at once; a proxy that gathers them always does.
    for _ in range(5):
        began, times = time.monotonic(), []
        for _ in client.completions.create(**ask, stream=True):
            times.append(time.monotonic() - began)
        apart = len({round(t, 3) for t in times})
        if apart > 4 and times[0] < times[-1] / 2:
            break
    detail = f"{len(times)} pieces at {apart} times, from {times[0]:.3f} to {times[-1]:.3f} s"
    check("a stream arrives piece by piece", apart > 4 and times[0] < times[-1] / 2, detail)


class Callers:
    """Four clients that ask one after another until they are told to stop. Each outcome has the time of its beginning."""

    def __init__(self, client):
        self.outcomes, self.stop, self.client = [], threading.Event(), client
        self.threads = [threading.Thread(target=self.call) for _ in range(4)]

    def call(self):
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                self.client.completions.create(model=MODEL.stem, prompt="One two three", max_tokens=8)
                self.outcomes.append((began, "ok"))
            except Exception as e:
                self.outcomes.append((began, f"{type(e).__name__}: {e}"))

    def __enter__(self):
        [t.start() for t in self.threads]
        return self

    def __exit__(self, *_):
        self.stop.set()
        [t.join() for t in self.threads]

    def failures(self, since=0.0):
        return [what for began, what in self.outcomes if began >= since and what != "ok"]


def outages(client, replicas, ports):
    with Callers(client) as callers:
        time.sleep(2)
        replicas[0].send_signal(signal.SIGTERM)
        check("a drained replica ends with 0", replicas[0].wait(600) == 0)
        time.sleep(2)
    check("no request fails while a replica drains", not callers.failures(), f"{len(callers.outcomes)}, {callers.failures()[:3]}")
    replicas[0] = replica(ports[0])
    until("the replica is back", lambda: answers(ports[0]))
    time.sleep(3)
    with Callers(client) as callers:
        time.sleep(2)
        replicas[1].kill()
        replicas[1].wait()
        killed = time.monotonic()
        time.sleep(4)
    before = [what for began, what in callers.outcomes if began < killed and what != "ok"]
    check("a killed replica costs only what it was answering", len(before) <= 4, f"{len(before)} of {len(callers.outcomes)}")
    after = [began for began, _ in callers.outcomes if began >= killed]
    check("requests go on after it", after and not callers.failures(killed), f"{len(after)}, {callers.failures(killed)[:3]}")


def body():
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if haproxy is None:
        check("haproxy is installed (apt-get install haproxy)", "CI" not in os.environ, "the replicas are SKIPPED")
        return
    ports, front = [free_port(), free_port()], free_port()
    text = (DEPLOY / "haproxy.cfg").read_text()
    for shown, real in [(8080, front), (8001, ports[0]), (8002, ports[1])]:
        text, n = re.subn(rf"\b127\.0\.0\.1:{shown}\b", f"127.0.0.1:{real}", text)
        check(f"the configuration has port {shown} once", n == 1, n)
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "haproxy.cfg"
        config.write_text(text)
        replicas = [replica(port) for port in ports]
        proxy = subprocess.Popen([haproxy, "-db", "-f", config], stdout=subprocess.DEVNULL)
        try:
            until("both replicas listen", lambda: all(answers(port) for port in ports))
            until("the proxy finds them", lambda: answers(front))
            time.sleep(3)
            url = f"http://127.0.0.1:{front}/v1"
            client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
            streams(client)
            outages(client, replicas, ports)
        finally:
            for process in [proxy, *replicas]:
                process.kill()
                process.wait()
    if shutil.which("systemd-analyze"):
        # The unit names a program that is not installed here; anything else that is said of it is a fault.
        unit = Path(place).parent / f"ounce-{os.getpid()}.service"
        unit.write_text((DEPLOY / "ounce.service").read_text().replace("/usr/local/bin/ounce", str(OUNCE.resolve())))
        try:
            said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
            check("systemd accepts the unit", said.returncode == 0, said.stderr.strip())
        finally:
            unit.unlink()


close("replicas", body)
