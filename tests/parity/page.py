"""The web page of `ounce serve` in a real browser: a chat by keyboard alone, stopped and begun anew; dark, narrow, and with a
key. `OUNCE_SHOTS=FOLDER` leaves pictures to look at. It knows the page's element ids and nothing of its scripts.
"""

import json
import os
import tempfile
from pathlib import Path

from _browser import Browser
from _check import check, close
from _server import server

SHOTS = os.environ.get("OUNCE_SHOTS")
LAST = "document.querySelector('#turns article:last-child .text').textContent"
IDLE = "document.getElementById('stop').hidden"
NOTE = "document.querySelector('#turns article:last-child footer span')?.textContent"
# Contrast as WCAG 2 defines it, of an element's text on the page's paper.
CONTRAST = """(() => {
  const light = (css) => {
    const [r, g, b] = css.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...['body', '#keys', '#link', '.note', '.tile .name', 'article h3', 'article footer']
    .map((at) => light(getComputedStyle(document.querySelector(at)).color))
    .map((ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)));
})()"""


def shot(browser, name):
    if SHOTS:
        browser.run("new Promise((done) => setTimeout(done, 300))")
        browser.screenshot(Path(SHOTS) / f"{name}.png")


def focused(browser):
    return browser.run("document.activeElement.id || document.activeElement.textContent")


def asked(browser):
    return json.loads(browser.bodies[-1])


def put(browser, field, text):
    browser.run(f"document.getElementById('{field}').select()")
    browser.run(f"document.getElementById('{field}').focus()")
    browser.type(text)


def chat(browser, name):
    browser.until("document.getElementById('model').value")
    check("the model is offered", browser.run("document.getElementById('model').value") == name, name)
    check("the message has the focus", focused(browser) == "say", focused(browser))
    shot(browser, "empty-light")
    browser.type("Tell me a long story")
    browser.press("Enter", shift=True)
    browser.type("about a river.")
    browser.press("Enter")
    lengths = {0}
    while len(lengths) < 5:
        lengths.add(browser.until(f"{LAST}.length > {max(lengths)} && {LAST}.length", 30))
    check("text arrives piece by piece", True, sorted(lengths))
    check("the message keeps its lines", "story\nabout" in asked(browser)["messages"][-1]["content"])
    browser.until("document.querySelector('.tile .value').textContent.match(/[1-9]/)", 10)
    check("the load is seen while it works", True, browser.run("document.querySelector('.tile').textContent"))
    browser.press("Escape")
    browser.until(IDLE, 5)
    text = browser.run(LAST)
    check("Escape stops it", "stopped" in browser.run(NOTE), browser.run(NOTE))
    running = "document.querySelectorAll('.tile')[1].textContent"
    browser.until(f"{running} === 'Running0 '", 10)
    check("the server stops, too", browser.run(LAST) == text, browser.run(running))
    check("the focus stays", focused(browser) == "say", focused(browser))

    put(browser, "tokens", "8")
    put(browser, "temperature", "0")
    put(browser, "system", "You are a poet.")
    browser.run("document.getElementById('say').focus()")
    browser.type("<img src=x onerror=\"document.title='taken'\"><b>bold</b>")
    browser.press("Enter")
    browser.until(f"{IDLE} && {NOTE}")
    tokens = int(browser.run(NOTE).split()[0])
    check("an answer ends by itself", 1 <= tokens <= 8, browser.run(NOTE))
    sent = asked(browser)
    check("the settings are sent", (sent["max_tokens"], sent["temperature"], sent["messages"][0]["content"]) == (8, 0, "You are a poet."))
    check("the conversation is sent", [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"])
    check("text is text", browser.run("document.querySelectorAll('#turns img, #turns b').length") == 0)
    check("nothing in it ran", browser.run("document.title") == "Ounce", browser.run("document.title"))
    news = browser.run("document.getElementById('news').textContent")
    check("screen readers hear the answer", news == "The answer: " + browser.run(LAST), repr(news))
    browser.run("document.querySelector('#turns article:last-child button').click()")
    browser.until("document.querySelector('#turns article:last-child button').textContent === 'Copied'", 5)
    check("an answer can be copied", browser.run("navigator.clipboard.readText()") == browser.run(LAST))

    put(browser, "temperature", "9")
    browser.run("document.getElementById('say').focus()")
    browser.type("too hot")
    browser.press("Enter")
    check("a setting out of range is shown, not sent", focused(browser) == "temperature" and browser.run("document.getElementById('say').value") == "too hot")
    put(browser, "temperature", "0")
    put(browser, "say", "word " * 600)
    browser.press("Enter")
    browser.until("document.querySelectorAll('.fault').length")
    fault = browser.run("document.querySelector('.fault').textContent")
    check("a refusal says why, and the message is kept", "512" in fault and browser.run("document.getElementById('say').value.length") > 2000, fault)
    put(browser, "say", " ")


def looks(browser):
    check("readable in the light", browser.run(CONTRAST) >= 4.5, browser.run(CONTRAST))
    shot(browser, "chat-light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.dark(True)
    check("dark where the system is", browser.run(paper) != light, browser.run(paper))
    check("readable in the dark", browser.run(CONTRAST) >= 4.5, browser.run(CONTRAST))
    shot(browser, "chat-dark")
    browser.dark(False)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    browser.size(360, 740, mobile=True)
    check("nothing sticks out of a narrow screen", browser.run(overflow) <= 0, browser.run(overflow))
    check("there the conversation comes first", browser.run("document.getElementById('side').offsetHeight") == 0)
    shot(browser, "chat-narrow")
    browser.run("document.getElementById('panel').click()")
    check("the rest is a button away", browser.run("document.getElementById('side').offsetHeight") > 0)
    check("nor does that stick out", browser.run(overflow) <= 0, browser.run(overflow))
    shot(browser, "side-narrow")
    browser.press("Escape")
    check("Escape leads back", browser.run("document.getElementById('side').offsetHeight") == 0 and focused(browser) == "panel")
    browser.size(1280, 860)


def energy(browser):
    tile = "[...document.querySelectorAll('.tile')].find((tile) => tile.textContent.startsWith('Power'))"
    known = browser.run("fetch('/metrics').then((answer) => answer.text())").count("ounce:energy_joules_total ") > 0
    check("power is shown where the server knows it only", browser.run(f"{tile}.hidden") != known, f"known: {known}")
    # A machine without counters, as one that has them: 20 joules more each time.
    browser.run("""(() => { const real = fetch; let joules = 0;
        window.fetch = async (path, options) => { const answer = await real(path, options); if (path !== '/metrics') return answer;
            return new Response((await answer.text()).replace(/^ounce:energy_joules_total .*$/m, '') +
                `\nounce:energy_joules_total ${joules += 20}\n`); }; })()""")
    browser.until(f"{tile}.textContent.match(/^Power[12]\\d\\.\\d W$/)", 10)
    check("watts are joules a second", True, browser.run(f"{tile}.textContent"))


def keyboard(browser):
    browser.until("![...document.querySelectorAll('button')].some((button) => button.textContent === 'Copied')", 5)
    browser.run("document.getElementById('talk').focus()")
    browser.press("Tab")
    seen, plain = [], []
    while "key" not in seen and len(seen) < 20:
        seen.append(here := focused(browser))
        style = browser.run("""(() => { const at = document.activeElement, own = getComputedStyle(at);
            return at.id === 'say' ? getComputedStyle(at.form).borderColor : own.outlineStyle + own.outlineWidth; })()""")
        if style in ("none0px", "auto0px"):
            plain.append(here)
        browser.press("Tab")
    wanted = ["Copy", "Copy", "Copy", "Copy", "say", "system", "temperature", "tokens", "key"]
    check("Tab goes through the controls in reading order", seen == wanted, seen)
    check("and it is seen where it is", not plain, plain)
    nameless = browser.run("""[...document.querySelectorAll('button, input, select, textarea')]
        .filter((at) => !(at.labels?.length || at.textContent.trim())).map((at) => at.id)""")
    check("every control has a name", nameless == [], nameless)
    browser.run("document.getElementById('fresh').click()")
    check("a new chat is empty", browser.run("document.getElementById('turns').childElementCount") == 0 and focused(browser) == "say")


def without_key():
    with server() as ready, Browser() as browser:
        origin = ready["url"].removesuffix("/v1")
        browser.call("Browser.grantPermissions", origin=origin, permissions=["clipboardReadWrite"])
        browser.open(origin + "/")
        chat(browser, ready["model"])
        looks(browser)
        keyboard(browser)
        energy(browser)
        strangers = [url for url in browser.requests if not url.startswith(origin + "/")]
        check("no request leaves the origin", not strangers and len(browser.requests) > 10, strangers or len(browser.requests))
        # What the browser itself says about the refused prompt.
        wrong = [line for line in browser.console if "400 (Bad Request)" not in line]
        check("the console is quiet", not wrong, wrong)


def with_key():
    with tempfile.TemporaryDirectory() as place:
        keys = Path(place) / "keys"
        keys.write_text("secret\n")
        with server("--api-key-file", keys) as ready, Browser() as browser:
            browser.open(ready["url"].removesuffix("/v1") + "/")
            browser.until("document.querySelectorAll('.fault').length")
            check("a key is asked for where it goes", focused(browser) == "key", browser.run("document.querySelector('.fault').textContent"))
            browser.type("secret")
            browser.press("Enter")
            browser.until("document.getElementById('model').value && !document.querySelector('.fault')")
            browser.until("document.getElementById('link').textContent === 'Connected'", 10)
            put(browser, "tokens", "4")
            put(browser, "say", "Hello")
            browser.press("Enter")
            browser.until(f"{IDLE} && {NOTE}")
            check("with the key it answers", 1 <= int(browser.run(NOTE).split()[0]) <= 4, browser.run(NOTE))
            check("the key stays in the tab", browser.run("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1])
            wrong = [line for line in browser.console if "401 (Unauthorized)" not in line]
            check("the console says nothing else", not wrong, wrong)


def body():
    without_key()
    with_key()


close("the web page", body)
