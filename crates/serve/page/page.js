// The page's controls: what a person does becomes a request, and what comes back becomes turns. Knows no drawing of figures.

import { Fault, chat, key, models } from "/page/api.js";
import { watch } from "/page/load.js";
import { Turn, clear, clearFaults, fault, tell } from "/page/talk.js";

const $ = (id) => document.getElementById(id);

// What the model has been told and has said.
let messages = [];
// While an answer comes: what ends it.
let running = null;

async function listModels() {
  const asked = key.get();
  try {
    const names = await models();
    // Meanwhile another key may have been typed.
    if (asked !== key.get()) return;
    const chosen = $("model").value;
    $("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    clearFaults();
  } catch (error) {
    if (error.status === 401) return needKey();
    fault(error.message);
  }
}

function needKey() {
  clearFaults();
  fault("This server asks for an API key: it goes into the settings.");
  showSide(true);
  $("key").focus();
}

function request() {
  const system = $("system").value.trim();
  const asked = { messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  if ($("model").value) asked.model = $("model").value;
  if ($("temperature").value !== "") asked.temperature = $("temperature").valueAsNumber;
  if ($("tokens").value !== "") asked.max_tokens = $("tokens").valueAsNumber;
  return asked;
}

// A number out of range is shown where it stands, before anything is sent.
function settingsFit() {
  const wrong = [$("temperature"), $("tokens")].find((input) => !input.checkValidity());
  if (!wrong) return true;
  showSide(true);
  return wrong.reportValidity();
}

async function send(text) {
  clearFaults();
  const said = new Turn("user", "You", text);
  messages.push({ role: "user", content: text });
  const turn = new Turn("assistant", $("model").value || "Model");
  turn.busy(true);
  const control = new AbortController();
  busy(control);
  tell("Answering");
  const begun = performance.now();
  let answer = "", first = 0, tokens = 0, reason = "";
  try {
    for await (const chunk of chat(request(), control.signal)) {
      tokens = chunk.usage?.completion_tokens ?? tokens;
      const [choice] = chunk.choices;
      reason = choice?.finish_reason ?? reason;
      const piece = choice?.delta.content;
      if (!piece || running !== control) continue;
      first ||= performance.now();
      answer += piece;
      turn.add(piece);
    }
  } catch (error) {
    if (running !== control) return;
    reason = error.name === "AbortError" ? "stopped" : "broken";
    if (reason === "broken" && !(error instanceof Fault)) console.error(error);
    if (!answer) {
      // Nothing came: the message goes back to where it was written.
      messages.pop();
      turn.remove();
      said.remove();
      if (!$("say").value) write(text);
    }
    if (error.status === 401) needKey();
    else if (reason === "broken") fault(error.message);
  }
  // A new chat was begun meanwhile.
  if (running !== control) return;
  busy(null);
  if (!answer && ["stopped", "broken"].includes(reason)) return tell("Stopped");
  messages.push({ role: "assistant", content: answer });
  turn.end(summary(reason, tokens, first - begun, performance.now() - first));
  tell(reason === "stopped" ? "Stopped" : `The answer: ${answer}`);
}

function summary(reason, tokens, firstMs, restMs) {
  const parts = [];
  if (tokens) parts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
  if (tokens > 1 && restMs > 0) parts.push(`${(((tokens - 1) * 1000) / restMs).toFixed(1)} per second`);
  if (tokens) parts.push(`first after ${firstMs < 1000 ? `${firstMs.toFixed(0)} ms` : `${(firstMs / 1000).toFixed(1)} s`}`);
  const ends = { stopped: "stopped", length: "cut at the longest answer", broken: "broken off" };
  if (ends[reason]) parts.push(ends[reason]);
  return parts.join(" · ");
}

function busy(control) {
  const hadFocus = [$("stop"), $("send")].includes(document.activeElement);
  running = control;
  $("stop").hidden = !control;
  $("send").hidden = Boolean(control);
  // A button that goes must not take the focus with it.
  if (hadFocus) $("say").focus();
}

function stop() {
  running?.abort();
}

function freshChat() {
  const was = running;
  busy(null);
  was?.abort();
  messages = [];
  clear();
  tell("New chat");
  showSide(false);
  $("say").focus();
}

function write(text) {
  $("say").value = text;
  grow();
}

// As high as its text, up to the limit of the style.
function grow() {
  $("say").style.height = "auto";
  $("say").style.height = `${$("say").scrollHeight}px`;
  $("send").disabled = !$("say").value.trim();
}

function showSide(show) {
  document.body.classList.toggle("aside", show);
  $("panel").setAttribute("aria-expanded", String(show));
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("say").value.trim();
  if (!text || running || !settingsFit()) return;
  write("");
  showSide(false);
  send(text);
});

$("say").addEventListener("input", grow);
$("say").addEventListener("keydown", (event) => {
  // Enter also ends the composing of Chinese, Japanese or Korean characters.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) stop();
  else if (document.body.classList.contains("aside")) {
    showSide(false);
    $("panel").focus();
  }
});

$("stop").addEventListener("click", stop);
$("fresh").addEventListener("click", freshChat);
$("panel").addEventListener("click", () => showSide(!document.body.classList.contains("aside")));
// Enter in a setting takes it over; there is nothing to submit.
$("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  $("key").blur();
});
$("key").addEventListener("change", () => {
  key.set($("key").value.trim());
  listModels();
});

$("key").value = key.get();
grow();
listModels();
watch();
$("say").focus();
