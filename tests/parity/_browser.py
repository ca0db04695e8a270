"""A headless Chromium, driven through the DevTools protocol on two pipes. Knows no page.

With the pipes there is neither a port that others could reach nor a package between the test and the browser.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

# Longer than anything takes on a busy machine.
TIMEOUT_S = 300
# Chromium refuses to run as root with its sandbox, which containers forbid anyway. What it would like to fetch for itself
# (updates, models, spell checkers) is switched off: every request that is seen is the page's.
FLAGS = [
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-extensions",
    "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb", "--window-size=1280,860",
]


def program():
    """Where Chromium is, or an error that says how to get it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise RuntimeError("there is no chromium\nhint: on Debian: apt-get install chromium")


class Browser:
    """One page of one browser. `console`, `requests` and `bodies` hold what it wrote there, which addresses it asked for, and what
    it posted."""

    def __enter__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def three_and_four():
            # Out of the way first: one of the four may be 3 or 4 itself.
            read, write = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(read, 13), os.dup2(write, 14)
            os.dup2(13, 3), os.dup2(14, 4)

        self._process = subprocess.Popen(
            [program(), *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            preexec_fn=three_and_four, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in), os.close(theirs_out)
        self._buffer, self._number, self._session = b"", 0, None
        self.console, self.requests, self.bodies = [], [], []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        # As if its window were in front: else the clipboard is refused.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return self

    def __exit__(self, *_):
        try:
            self._session = None
            self.call("Browser.close")
            self._process.wait(20)
        except Exception:
            self._process.kill()
            self._process.wait()
        os.close(self._in), os.close(self._out)
        self._profile.cleanup()

    def call(self, method, **params):
        """Sends a command and returns its result; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next(TIMEOUT_S)).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self, timeout):
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], timeout)[0]:
                raise TimeoutError("the browser says nothing")
            piece = os.read(self._in, 1 << 16)
            if not piece:
                raise RuntimeError("the browser is gone")
            self._buffer += piece
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event):
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                said = " ".join(str(a.get("value", a.get("description"))) for a in params["args"])
                self.console.append(f"{params['type']}: {said}")
            case "Runtime.exceptionThrown":
                self.console.append(f"exception: {params['exceptionDetails']['exception'].get('description')}")
            case "Log.entryAdded":
                self.console.append(f"{params['entry']['level']}: {params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
                if text := params["request"].get("postData"):
                    self.bodies.append(text)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script):
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def until(self, script, seconds=TIMEOUT_S):
        """Waits until an expression is true; says which one was not."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {script}; console: {self.console}")
            time.sleep(0.03)
        return value

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, shift=False):
        text = {"Enter": "\r"}.get(key)
        about = {"key": key, "code": key, "modifiers": 8 if shift else 0,
                 "windowsVirtualKeyCode": {"Enter": 13, "Tab": 9, "Escape": 27}[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def dark(self, on):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if on else "light"}])

    def size(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile)

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
