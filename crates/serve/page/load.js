// The server at work: reads /metrics once a second and draws each figure with its last minute. Knows no chat.

import { ask } from "/page/api.js";
import { element } from "/page/talk.js";

const SECONDS = 60;
const $ = (id) => document.getElementById(id);

// The sum of each series over its labels, by name.
export function parse(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)$/.exec(line);
    if (found) sums.set(found[1], (sums.get(found[1]) ?? 0) + Number(found[2]));
  }
  return sums;
}

const rate = (name) => (now, before, seconds) => (now.get(name) - before.get(name)) / seconds;
const value = (name, factor = 1) => (now) => now.get(name) * factor;

// The mean of what a histogram saw since the last look; before anything new, nothing.
function mean(name) {
  return (now, before) => {
    const count = now.get(`${name}_count`) - before.get(`${name}_count`);
    return count > 0 ? (now.get(`${name}_sum`) - before.get(`${name}_sum`)) / count : NaN;
  };
}

// `keeps`: between events the last value goes on being true. `most`: the top of the chart, if it is not the largest seen.
const TILES = [
  { name: "Generation", unit: "tokens/s", read: rate("vllm:generation_tokens_total"), digits: 1, wide: true },
  { name: "Running", unit: "", read: value("vllm:num_requests_running"), digits: 0 },
  { name: "Waiting", unit: "", read: value("vllm:num_requests_waiting"), digits: 0 },
  { name: "Cache in use", unit: "%", read: value("vllm:kv_cache_usage_perc", 100), digits: 0, most: 100 },
  { name: "First token", unit: "ms", read: mean("vllm:time_to_first_token_seconds"), factor: 1000, digits: 0, keeps: true },
  { name: "Power", unit: "W", read: rate("ounce:energy_joules_total"), digits: 1, needs: "ounce:energy_joules_total" },
  { name: "Energy", unit: "J", read: value("ounce:energy_joules_total"), digits: 0, needs: "ounce:energy_joules_total" },
];

class Tile {
  constructor(about) {
    this.about = about;
    this.past = [];
    this.last = NaN;
    this.node = element("div", about.wide ? "tile wide" : "tile");
    this.value = element("span", "value", "–");
    this.node.append(element("span", "name", about.name), this.value);
    const svg = (name, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, text] of Object.entries(attributes)) made.setAttribute(key, text);
      return made;
    };
    this.area = svg("polygon", {});
    this.curve = svg("polyline", {});
    const chart = svg("svg", { viewBox: `0 0 ${SECONDS - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" });
    chart.append(this.area, this.curve);
    this.node.append(chart);
  }

  push(now, before, seconds) {
    const { read, factor = 1, keeps, digits, unit } = this.about;
    const seen = read(now, before, seconds) * factor;
    if (Number.isFinite(seen)) this.last = seen;
    else if (!keeps) this.last = NaN;
    this.past.push(this.last);
    if (this.past.length > SECONDS) this.past.shift();
    this.value.textContent = Number.isFinite(this.last) ? this.last.toFixed(digits) : "–";
    this.value.append(" ", element("span", "unit", unit));
    this.draw();
  }

  draw() {
    const most = this.about.most ?? Math.max(1, ...this.past.filter(Number.isFinite));
    const begin = SECONDS - this.past.length;
    const points = this.past
      .map((y, at) => [begin + at, 20 - (20 * Math.min(y, most)) / most])
      .filter(([, y]) => Number.isFinite(y));
    const text = points.map(([x, y]) => `${x},${y.toFixed(2)}`).join(" ");
    this.curve.setAttribute("points", text);
    this.area.setAttribute("points", points.length ? `${points[0][0]},20 ${text} ${points.at(-1)[0]},20` : "");
  }
}

export function watch() {
  const tiles = TILES.map((about) => new Tile(about));
  $("tiles").append(...tiles.map((tile) => tile.node));
  let before = null;
  let looked = 0;

  function say(state, text) {
    if ($("link").textContent === text) return;
    $("link").className = state;
    $("link").textContent = text;
  }

  async function look() {
    // A page that nobody sees asks for nothing.
    if (document.hidden) return void (before = null);
    try {
      const now = parse(await (await ask("/metrics")).text());
      const time = performance.now();
      for (const tile of tiles) {
        tile.node.hidden = Boolean(tile.about.needs) && !now.has(tile.about.needs);
        if (before) tile.push(now, before, (time - looked) / 1000);
      }
      [before, looked] = [now, time];
      say("well", "Connected");
    } catch (fault) {
      before = null;
      say(fault.status === 401 ? "" : "ill", fault.status === 401 ? "Waiting for an API key" : "Server not reachable");
    }
  }

  (async function forever() {
    await look();
    setTimeout(forever, 1000);
  })();
}
