// The conversation as it is shown: turns of plain text, with a way to copy each. Knows no server.

const $ = (id) => document.getElementById(id);

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Scrolls along only while the reader is at the end.
function following(change) {
  const talk = $("talk");
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
  change();
  if (atEnd) talk.scrollTop = talk.scrollHeight;
}

// For screen readers: whole sentences, not every token.
export function tell(text) {
  $("news").textContent = text;
}

export function clear() {
  $("turns").replaceChildren();
  $("empty").hidden = false;
}

export class Turn {
  constructor(role, name, text = "") {
    this.node = element("article", role);
    this.text = element("div", "text", text);
    this.note = element("footer");
    this.node.append(element("h3", "", name), this.text, this.note);
    $("empty").hidden = true;
    $("turns").append(this.node);
    $("talk").scrollTop = $("talk").scrollHeight;
    if (role === "user") this.note.append(this.copy());
  }

  copy() {
    const button = element("button", "", "Copy");
    button.type = "button";
    button.addEventListener("click", async () => {
      const done = (await copied(this.text.textContent)) ? "Copied" : "Not copied";
      button.textContent = done;
      tell(done);
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    return button;
  }

  busy(is) {
    this.node.classList.toggle("busy", is);
    this.node.setAttribute("aria-busy", String(is));
  }

  add(text) {
    following(() => this.text.append(text));
  }

  end(note) {
    this.busy(false);
    following(() => this.note.replaceChildren(this.copy(), element("span", "", note)));
  }

  remove() {
    this.node.remove();
    $("empty").hidden = $("turns").childElementCount > 0;
  }
}

export function fault(message) {
  const node = element("article", "fault", message);
  node.setAttribute("role", "alert");
  $("empty").hidden = true;
  following(() => $("turns").append(node));
  node.scrollIntoView({ block: "nearest" });
}

export function clearFaults() {
  for (const node of document.querySelectorAll(".fault")) node.remove();
}

// Whether a text went to the clipboard. Over plain HTTP from another machine there is no clipboard object, and the browser may
// refuse; the older way may still be open.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const box = element("textarea", "hidden", text);
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    focused?.focus();
    return done;
  }
}
