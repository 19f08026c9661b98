// The chart of an order: price on a canvas, lines to drag as sliders of the DOM over it. No library, no network.
//
// Python keeps all ticks. Here are three layers of them: a sample of the whole, a finer one of a window, and the ring of
// what was streamed. Where they overlap the finer one is drawn. Times are ms since 1970 (UTC) with fractions.

const CAPACITY = 10_000; // streamed points that are kept
const PREVIEW = 50; // ms between two previews of a drag
const PATIENCE = 400; // ms that a preview waits for the one before it to be heard
const TIME_AXIS = 24;
const PILL = 24; // height of a pill, and the room that it takes
const GAP = 27;
const GRAB = 7; // px from a line at which it can be grabbed
const SHORTEST = 1; // ms that can fill the chart
const FONT = "11.5px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const [SECOND, MINUTE, HOUR, DAY] = [1e3, 6e4, 36e5, 864e5];
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
  .concat([1, 2, 5, 10, 15, 30].map((n) => n * SECOND), [1, 2, 5, 10, 15, 30].map((n) => n * MINUTE))
  .concat([1, 2, 3, 6, 12].map((n) => n * HOUR), [1, 2, 4, 7, 14].map((n) => n * DAY));

const THEMES = {
  light: {
    back: "#ffffff", ink: "#1c2733", muted: "#5a6675", grid: "rgba(20,35,55,.07)", rule: "rgba(20,35,55,.16)",
    line: "#33415a", area: ["rgba(51,65,90,.13)", "rgba(51,65,90,.01)"], cross: "rgba(20,35,55,.45)", tag: "#2b384b",
    tagInk: "#ffffff", chip: "#ffffff", shadow: "0 1px 3px rgba(15,30,50,.16)", zone: 0.13, focus: "#1f6feb",
  },
  dark: {
    back: "#10151d", ink: "#e4eaf1", muted: "#94a1b1", grid: "rgba(200,215,235,.07)", rule: "rgba(200,215,235,.17)",
    line: "#b3c2d6", area: ["rgba(170,190,220,.14)", "rgba(170,190,220,.01)"], cross: "rgba(200,215,235,.5)", tag: "#c3d0e2",
    tagInk: "#10151d", chip: "#161d28", shadow: "0 1px 4px rgba(0,0,0,.5)", zone: 0.16, focus: "#6cb0ff",
  },
};

const CSS = `
:host { display: block; min-width: 0; }
* { box-sizing: border-box; }
.chart { position: relative; width: 100%; min-width: 0; overflow: hidden; background: var(--back); color: var(--ink);
  border: 1px solid var(--rule); border-radius: 8px; font: ${FONT}; line-height: 1.3; user-select: none;
  -webkit-user-select: none; font-variant-numeric: tabular-nums; contain: layout paint style; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; display: block; touch-action: pan-y; cursor: crosshair;
  border-radius: 7px; outline: none; }
canvas:focus-visible { box-shadow: inset 0 0 0 2px var(--focus); }
.pan { cursor: grabbing; } .on-line { cursor: ns-resize; } .on-scale { cursor: ns-resize; } .on-time { cursor: ew-resize; }
.cross, .tag, .readout, .tip { position: absolute; pointer-events: none; left: 0; top: 0; visibility: hidden; }
.cross.h { height: 0; border-top: 1px dashed var(--cross); } .cross.v { width: 0; border-left: 1px dashed var(--cross); }
.tag { padding: 2px 6px; border-radius: 3px; background: var(--muted); color: var(--back); white-space: nowrap; }
.readout { left: 8px; top: 7px; padding: 2px 7px; border-radius: 5px; visibility: visible; color: var(--muted);
  background: color-mix(in srgb, var(--back) 82%, transparent); max-width: calc(100% - 90px); white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.readout b { color: var(--ink); font-weight: 600; } .readout span { margin-left: 8px; } .readout span:empty { display: none; }
.tip { padding: 4px 8px; border-radius: 5px; background: var(--tag); color: var(--tag-ink); max-width: 240px; z-index: 6;
  overflow-wrap: anywhere; }
.tools { position: absolute; left: 8px; bottom: ${TIME_AXIS + 8}px; display: flex; gap: 3px; opacity: .55; transition: opacity .15s; }
.chart:hover .tools, .tools:focus-within { opacity: 1; }
button { all: unset; box-sizing: border-box; min-width: 26px; height: 24px; padding: 0 7px; text-align: center; cursor: pointer;
  border-radius: 5px; border: 1px solid var(--rule); background: var(--chip); color: var(--ink); font: ${FONT}; line-height: 22px; }
button:hover { border-color: var(--muted); }
button:focus-visible, .pill:focus-visible { outline: 2px solid var(--focus); outline-offset: 1px; }
button[aria-pressed="true"] { background: color-mix(in srgb, var(--focus) 14%, var(--chip)); border-color: var(--focus); }
.pill { position: absolute; top: 0; height: ${PILL}px; display: flex; align-items: center; gap: 6px; padding: 0 9px 0 8px;
  border-radius: 12px; border: 1.5px solid var(--c); background: var(--chip); color: var(--ink); white-space: nowrap;
  box-shadow: var(--shadow); max-width: calc(100% - 20px); z-index: 1; cursor: default; }
.pill.drags { cursor: ns-resize; touch-action: none; padding-left: 6px; }
.pill.hot { z-index: 3; } .pill:focus-visible { z-index: 4; }
.pill.held { z-index: 5; box-shadow: 0 0 0 3px color-mix(in srgb, var(--c) 26%, transparent), var(--shadow); cursor: grabbing; }
.pill.off { border-style: dashed; }
.pill.waits { border-style: dotted; }
.pill.faint > :not(.why, .delta) { opacity: .62; } .pill.faint { border-color: color-mix(in srgb, var(--c) 45%, var(--chip)); box-shadow: none; }
.grip { width: 6px; height: 11px; flex: none; background-image: radial-gradient(circle, var(--muted) 1px, transparent 1.3px);
  background-size: 3.5px 4px; }
.dot { width: 9px; height: 9px; flex: none; border-radius: 50%; border: 1.5px solid var(--muted); display: none; font-size: 8px;
  line-height: 7px; text-align: center; font-weight: 700; }
.waiting .dot, .working .dot, .filled .dot, .cancelled .dot { display: block; }
.working .dot { border-color: var(--working); background: linear-gradient(90deg, var(--working) 50%, transparent 50%); }
.filled .dot { border-color: var(--filled); background: var(--filled); color: var(--back); }
.cancelled .dot { border-radius: 0; border-color: transparent; color: var(--muted); font-size: 11px; }
.name { font-weight: 700; color: var(--t); overflow: hidden; text-overflow: ellipsis; max-width: 12em; }
.detail { color: var(--muted); overflow: hidden; text-overflow: ellipsis; min-width: 0; max-width: 22em; } .detail:empty { display: none; }
.arrow { color: var(--t); font-weight: 700; } .arrow:empty { display: none; }
.narrow .detail { display: none; } .narrow .pill { gap: 5px; padding: 0 7px 0 6px; }
.tiny .grip { display: none; } .tiny .name { max-width: 5em; }
.delta { position: absolute; right: calc(100% + 6px); padding: 1px 6px; border-radius: 4px; background: var(--c); color: var(--cc);
  font-weight: 600; display: none; } .held .delta { display: block; } .held .delta:empty { display: none; }
.why { position: absolute; right: 0; top: calc(100% + 5px); width: max-content; max-width: 250px; white-space: normal; padding: 5px 9px;
  border-radius: 6px; border: 1.5px solid var(--error); background: var(--chip); color: var(--ink); box-shadow: var(--shadow);
  overflow-wrap: anywhere; display: none; } .why::before { content: "\\26A0\\FE0E  "; color: var(--error); font-weight: 700; }
.refused { border-color: var(--error); z-index: 6; } .refused .why { display: block; } .up .why { top: auto; bottom: calc(100% + 5px); }
.shake { animation: shake .3s; }
@keyframes shake { 25% { margin-right: 5px; } 50% { margin-right: -4px; } 75% { margin-right: 3px; } }
.unseen { position: absolute; width: 1px; height: 1px; margin: -1px; padding: 0; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (pointer: coarse) { .pill::after { content: ""; position: absolute; inset: -9px 0; } }
@media (prefers-reduced-motion: reduce) { .shake { animation: none; } .tools { transition: none; } }
@media (forced-colors: active) { .pill, button { border-color: ButtonText; } .dot, .grip { forced-color-adjust: none; } }
`;

// --- numbers, times, colours ----------------------------------------------------------------------------------------

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

/** First position of a sorted array at which it is not below x. */
function lowerBound(sorted, x, n = sorted.length) {
  let [low, high] = [0, n];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Decimals that a step needs: 2 of 0.05, 0 of 50. */
function decimals(step) {
  for (let n = 0; n <= 16; n++) if (Math.abs(Math.round(step * 10 ** n) / 10 ** n - step) < step * 1e-9) return n;
  return 16;
}

/** 64000.5 as 64,000.5. */
function priceText(price, digits) {
  const [whole, rest] = Math.abs(price).toFixed(digits).split(".");
  const sign = price < 0 ? "−" : "";
  return sign + whole.replace(/\B(?=(\d{3})+$)/g, ",") + (rest ? `.${rest}` : "");
}

function percentText(ratio) {
  const percent = ratio * 100;
  const digits = Math.abs(percent) < 10 ? 2 : 1;
  return `${percent < 0 ? "−" : "+"}${Math.abs(percent).toFixed(digits)} %`;
}

const two = (n) => String(n).padStart(2, "0");

/** Time of day in UTC, as fine as `step` (ms) asks for. */
function clockText(ms, step) {
  const date = new Date(Math.floor(ms + 1e-6));
  let text = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
  if (step < MINUTE) text += `:${two(date.getUTCSeconds())}`;
  if (step < SECOND) text += `.${String(date.getUTCMilliseconds()).padStart(3, "0")}`;
  if (step < 1) text += String(Math.floor((ms + 1e-6 - Math.floor(ms + 1e-6)) * 10));
  return text;
}

function dateText(ms, year) {
  const date = new Date(Math.floor(ms + 1e-6));
  return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}${year ? ` ${date.getUTCFullYear()}` : ""}`;
}

/** [ms, text, strong] of the time axis: at most one each `room` px. */
function timeTicks(from, to, width, room) {
  const least = ((to - from) / width) * room;
  const step = STEPS.find((s) => s >= least);
  const ticks = [];
  if (step === undefined) {
    const months = [1, 2, 3, 6, 12, 24, 60, 120, 240, 600].find((m) => m * 30 * DAY >= least) ?? 1200;
    const date = new Date(from);
    let month = Math.ceil((date.getUTCFullYear() * 12 + date.getUTCMonth()) / months) * months;
    for (; ticks.length < 100; month += months) {
      const ms = Date.UTC(Math.floor(month / 12), month % 12, 1);
      if (ms > to) break;
      const january = month % 12 === 0;
      if (ms >= from) ticks.push([ms, january ? String(month / 12) : MONTHS[month % 12], january]);
    }
    return { ticks, step: months * 30 * DAY };
  }
  const zero = step >= 7 * DAY ? 4 * DAY : 0; // weeks begin on Mondays; 1970 began on a Thursday
  for (let n = Math.ceil((from - zero) / step); ticks.length < 100; n++) {
    const ms = n * step + zero;
    if (ms > to) break;
    const midnight = ms % DAY === 0;
    ticks.push([ms, midnight ? dateText(ms, false) : clockText(ms, step), midnight && step < DAY]);
  }
  return { ticks, step };
}

/** A step of 1, 2 or 5 times a power of ten, so that `span` has about `count` of them; never below `least`. */
function niceStep(span, count, least) {
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw * 0.999999) * power;
  return Math.max(step, least);
}

function rgb(colour) {
  const hex = /^#([0-9a-f]{6})$/i.exec(colour);
  const value = hex ? parseInt(hex[1], 16) : 0x888888;
  return [value >> 16, (value >> 8) & 255, value & 255];
}

const rgba = (colour, alpha) => `rgba(${rgb(colour).join(",")},${alpha})`;

function luminance(colour) {
  const [r, g, b] = rgb(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a, b) {
  const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
}

/** The colour, moved towards white or black until it can be read on `back`. */
function readable(colour, back, least) {
  const goal = luminance(back) > 0.4 ? 0 : 255;
  let found = colour;
  for (let k = 0.06; contrast(found, back) < least && k <= 1; k += 0.06) {
    found = "#" + rgb(colour).map((c) => Math.round(c + (goal - c) * k).toString(16).padStart(2, "0")).join("");
  }
  return found;
}

/** Heights moved apart by `gap`, as little as can be (least squares), heavy ones less; kept within [low, high]. */
function spread(heights, weights, gap, low, high) {
  const groups = [];
  heights.forEach((height, i) => {
    let group = { at: height - i * gap, weight: weights[i], count: 1 };
    while (groups.length && groups[groups.length - 1].at > group.at) {
      const before = groups.pop();
      const weight = before.weight + group.weight;
      group = { at: (before.at * before.weight + group.at * group.weight) / weight, weight, count: before.count + group.count };
    }
    groups.push(group);
  });
  const last = Math.max(low, high - (heights.length - 1) * gap);
  return groups.flatMap((g) => Array(g.count).fill(clamp(g.at, low, last))).map((z, i) => z + i * gap);
}

// --- what is known ----------------------------------------------------------------------------------------------------

/** Two float64 columns out of a binary buffer, wherever it begins. */
function columns(buffer) {
  if (!buffer) return { t: new Float64Array(0), p: new Float64Array(0), n: 0 };
  const bytes = buffer instanceof ArrayBuffer ? buffer : buffer.buffer;
  const start = buffer.byteOffset ?? 0;
  const all = new Float64Array(bytes.slice(start, start + buffer.byteLength));
  const n = all.length >> 1;
  return { t: all.subarray(0, n), p: all.subarray(n, 2 * n), n };
}

/** What all views of one model share: the ticks, the paths, and the way to Python. */
class Store {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.ring = { t: new Float64Array(CAPACITY), p: new Float64Array(CAPACITY), head: 0, n: 0 };
    this.whole = this.fine = null;
    this.paths = new Map();
    this.pending = new Map(); // id -> {price, n}: moves that Python has not heard of yet
    this.queue = new Map(); // id -> message that waits to be sent
    this.number = 0;
    this.said = this.heard = 0; // numbers of the newest move that was sent, and heard
    this.spoke = -Infinity;
    this.timer = 0;
    this.asked = null; // {n, whole, at}: a question that is on its way
    this.loadSeries();
    this.loadPaths();
    this.handlers = {
      "msg:custom": (content, buffers) => this.hear(content, buffers ?? []),
      "change:_series": () => {
        this.loadSeries();
        this.tell("series");
      },
      "change:_paths": () => {
        this.loadPaths();
        this.tell("data");
      },
      "change:lines": () => this.tell("lines"),
      "change:_window": () => this.tell("window"),
      "change:height": () => this.tell("size"),
    };
    for (const name of ["marks", "step", "digits", "title"]) this.handlers[`change:${name}`] = () => this.tell("data");
    for (const name of ["theme", "_colours"]) this.handlers[`change:${name}`] = () => this.tell("theme");
    for (const [name, handler] of Object.entries(this.handlers)) model.on(name, handler);
  }

  close() {
    clearTimeout(this.timer);
    for (const [name, handler] of Object.entries(this.handlers)) this.model.off(name, handler);
    for (const view of [...this.views]) view.close();
  }

  tell(what) {
    for (const view of this.views) view.hear(what);
  }

  loadSeries() {
    const state = this.model.get("_series") ?? {};
    const layer = (given) => given && { ...columns(given.data), from: given.from, to: given.to, raw: given.raw };
    this.version = state.v;
    this.at = this.base = state.at ?? 0;
    this.whole = layer(state.whole) ?? null;
    this.fine = layer(state.tail) ?? null;
    this.ring.n = this.ring.head = 0;
    this.asked = null;
    this.stale = false; // the sample of the whole lags behind the stream
    this.flat = null;
  }

  loadPaths() {
    const state = this.model.get("_paths") ?? {};
    this.paths = new Map();
    for (const [name, given] of Object.entries(state.paths ?? {})) {
      const { t, p } = columns(given.data);
      const { kind, end, count, raw } = given;
      this.paths.set(name, { kind, end, count, raw, t: Array.from(t), p: Array.from(p), fine: null });
    }
  }

  hear(content, buffers) {
    if (content?.k === "a") this.append(content.at, columns(buffers[0]));
    else if (content?.k === "view") this.answered(content, buffers);
    else if (content?.k === "path") this.extendPath(content, columns(buffers[0]));
    else if (content?.k === "ack") this.acknowledged(content.n);
    else if (content?.k === "reject") {
      const at = this.views.size ? [...this.views][0].shown(content.id) : undefined;
      this.pending.delete(content.id);
      this.queue.delete(content.id);
      for (const view of this.views) view.rejected(content, at);
    }
  }

  /** Points of the stream, of which `at` came before; those that are known already are passed over. */
  append(at, { t, p, n }) {
    const known = this.at - at;
    if (known >= n) return;
    const ring = this.ring;
    const first = Math.max(0, known, n - CAPACITY);
    for (let i = first; i < n; i++) {
      ring.t[ring.head] = t[i];
      ring.p[ring.head] = p[i];
      ring.head = (ring.head + 1) % CAPACITY;
    }
    ring.n = Math.min(CAPACITY, ring.n + n - first);
    const gap = known < 0 || n > CAPACITY;
    this.at = at + n;
    this.flat = null;
    if (gap || this.at - this.base > CAPACITY / 2) this.renew();
    this.tell("stream");
  }

  extendPath({ name, at, end }, { t, p, n }) {
    const path = this.paths.get(name);
    if (!path || at > path.count) return this.model.send({ k: "paths" });
    for (let i = path.count - at; i < n; i++) {
      path.t.push(t[i]);
      path.p.push(p[i]);
    }
    path.count = Math.max(path.count, at + n);
    path.end = end;
    this.tell("data");
  }

  /** Ask for a new sample of the whole, now or once the question that is on its way has been answered. */
  renew() {
    this.stale = true;
    this.ask({ whole: true });
  }

  /** One question at a time; of those that come meanwhile the views ask the newest again. */
  ask(question) {
    const now = performance.now();
    if (this.asked && now - this.asked.when < 3000) return false;
    this.asked = { n: ++this.number, when: now };
    this.model.send({ k: "view", n: this.number, from: 0, to: 1, points: 4000, whole: false, ...question });
    return true;
  }

  answered(content, buffers) {
    if (this.asked?.n === content.n) this.asked = null;
    if (content.v !== this.version) return;
    if (content.whole) this.stale = false;
    else if (this.stale) this.ask({ whole: true });
    const { from, to, raw, whole } = content;
    const layer = { ...columns(buffers[0]), from, to, raw };
    if (whole) {
      this.whole = layer;
      this.base = Math.min(content.at, this.at);
    } else this.fine = layer;
    content.paths.forEach(({ name, raw }, i) => {
      const path = this.paths.get(name);
      if (path) path.fine = { ...columns(buffers[i + 1]), from, to, raw, count: path.count };
    });
    this.flat = null;
    this.tell("data");
  }

  /** Every point that is known, in the order of time: {t, p, n}. */
  get points() {
    if (this.flat) return this.flat;
    const { ring, whole, fine } = this;
    const oldest = ring.n ? ring.t[(ring.head - ring.n + CAPACITY) % CAPACITY] : Infinity;
    const t = new Float64Array((whole?.n ?? 0) + (fine?.n ?? 0) + ring.n);
    const p = new Float64Array(t.length);
    let n = 0;
    const take = (layer, from, to) => {
      if (!layer || !(from < to)) return;
      const [i, j] = [lowerBound(layer.t, from, layer.n), to === Infinity ? layer.n : lowerBound(layer.t, to, layer.n)];
      t.set(layer.t.subarray(i, j), n);
      p.set(layer.p.subarray(i, j), n);
      n += Math.max(0, j - i);
    };
    if (fine) {
      take(whole, -Infinity, Math.min(fine.from, oldest));
      take(fine, fine.from, Math.min(fine.to === whole?.to ? Infinity : fine.to + 1e-3, oldest));
      take(whole, fine.to + 1e-3, oldest);
    } else take(whole, -Infinity, oldest);
    const start = (ring.head - ring.n + CAPACITY) % CAPACITY;
    const head = Math.min(ring.n, CAPACITY - start);
    t.set(ring.t.subarray(start, start + head), n);
    p.set(ring.p.subarray(start, start + head), n);
    t.set(ring.t.subarray(0, ring.n - head), n + head);
    p.set(ring.p.subarray(0, ring.n - head), n + head);
    n += ring.n;
    this.flat = { t, p, n, oldest };
    return this.flat;
  }

  /** Whether from..to is drawn from all ticks, and whether a finer sample of it could be had. */
  detail(from, to) {
    const { t, n, oldest } = this.points;
    if (!n) return { raw: true, finer: false };
    const [a, b] = [Math.max(from, t[0]), Math.min(to, t[n - 1])];
    const covers = (layer) => layer && layer.from <= a && (layer.to >= b || layer.to >= oldest);
    const raw = a >= oldest || (covers(this.whole) && this.whole.raw) || (covers(this.fine) && this.fine.raw);
    const enough = [this.whole, this.fine].some((layer) => covers(layer) && layer.to - layer.from <= 2.6 * (b - a));
    return { raw, finer: a < b && !raw && !enough };
  }

  // A move is sent at once if the one before it was heard, or else a little later, and then only the newest of a line.

  move(id, price, final, hurry) {
    if (final) this.pending.set(id, { price, n: Infinity, since: performance.now() });
    this.queue.set(id, { k: "move", id, price, final });
    this.pump(hurry);
  }

  pump(hurry = false) {
    clearTimeout(this.timer);
    this.timer = 0;
    if (!this.queue.size) return;
    const since = performance.now() - this.spoke;
    const wait = hurry ? 0 : this.heard >= this.said ? PREVIEW - since : PATIENCE - since;
    if (wait > 0) {
      this.timer = setTimeout(() => this.pump(), Math.min(wait, PREVIEW));
      return;
    }
    for (const [id, message] of this.queue) {
      const n = ++this.number;
      const pending = this.pending.get(id);
      if (message.final && pending) pending.n = n;
      this.said = n;
      this.model.send({ ...message, n });
    }
    this.queue.clear();
    this.spoke = performance.now();
  }

  acknowledged(n) {
    this.heard = Math.max(this.heard, n);
    for (const [id, pending] of this.pending) if (pending.n <= n) this.pending.delete(id);
    this.tell("lines");
    if (this.queue.size) this.pump();
  }
}

// --- one view -----------------------------------------------------------------------------------------------------------

function element(tag, name, parent, text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  parent?.append(made);
  return made;
}

/** The theme of the page: JupyterLab and Voila, VS Code, Colab, or else the system. */
function pageTheme(media) {
  const body = document.body;
  if (body?.dataset.jpThemeLight) return body.dataset.jpThemeLight === "true" ? "light" : "dark";
  const code = body?.dataset.vscodeThemeKind;
  if (code) return /light/.test(code) ? "light" : "dark";
  const colab = document.documentElement.getAttribute("theme");
  if (colab === "dark" || colab === "light") return colab;
  return media.matches ? "dark" : "light";
}

class View {
  constructor(store, el) {
    this.store = store;
    this.model = store.model;
    this.ended = new AbortController();
    this.pills = new Map();
    this.size = { w: 0, h: 0, sx: 1, sy: 1 };
    this.axis = 64;
    this.reserve = 0;
    this.mode = "home"; // until somebody moves the view
    this.follow = true;
    this.span = 0;
    this.end = 0;
    this.scale = { low: 0, high: 1, manual: false, set: false };
    this.drag = this.pan = this.hot = null;
    this.springs = new Map();
    this.touches = new Map();
    this.timers = new Map();
    this.armed = false;
    this.seen = true;
    this.frame = this.now = 0;
    this.media = window.matchMedia("(prefers-color-scheme: dark)");
    this.calm = window.matchMedia("(prefers-reduced-motion: reduce)");
    this.build(el);
    this.listen();
    this.setTheme();
    this.setSize();
    this.setWindow();
    store.views.add(this);
    this.schedule();
  }

  build(el) {
    this.host = element("div", "", el);
    this.host.dataset.lmSuppressShortcuts = "true";
    const root = this.host.attachShadow({ mode: "open" });
    element("style", "", root, CSS);
    this.root = element("div", "chart", root);
    this.canvas = element("canvas", "", this.root);
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "price chart");
    this.canvas.setAttribute("aria-describedby", "about");
    this.canvas.dataset.lmSuppressShortcuts = "true";
    this.context = this.canvas.getContext("2d");
    this.cross = { h: element("div", "cross h", this.root), v: element("div", "cross v", this.root) };
    this.tags = { price: element("div", "tag", this.root), time: element("div", "tag", this.root) };
    this.readout = element("div", "readout", this.root);
    this.words = { title: element("b", "", this.readout), price: element("span", "", this.readout), time: element("span", "", this.readout) };
    this.bar = element("div", "tools", this.root);
    this.bar.setAttribute("role", "group");
    this.bar.setAttribute("aria-label", "View");
    const button = (text, label, act) => {
      const made = element("button", "", this.bar, text);
      made.type = "button";
      made.title = label;
      made.setAttribute("aria-label", label);
      made.dataset.lmSuppressShortcuts = "true";
      made.addEventListener("click", act, { signal: this.ended.signal });
      return made;
    };
    button("−", "Zoom out", () => this.zoom(1.5));
    button("+", "Zoom in", () => this.zoom(1 / 1.5));
    button("All", "Show all ticks", () => this.showAll());
    this.latest = button("Latest", "Follow the newest tick", () => this.toLatest());
    this.layer = element("div", "", this.root);
    this.tip = element("div", "tip", this.root);
    this.about = element("p", "unseen", this.root);
    this.about.id = "about";
    this.listed = element("ul", "unseen", this.root);
    this.listed.setAttribute("aria-label", "Marks");
    this.live = element("div", "unseen", this.root);
    this.live.setAttribute("aria-live", "assertive");
    this.live.setAttribute("role", "status");
  }

  listen() {
    const { canvas, ended } = this;
    const on = (target, name, handler, options = {}) => target.addEventListener(name, handler, { ...options, signal: ended.signal });
    on(canvas, "pointerdown", (event) => this.pressed(event));
    on(canvas, "pointermove", (event) => this.moved(event));
    on(canvas, "pointerup", (event) => this.released(event, false));
    on(canvas, "pointercancel", (event) => this.released(event, true));
    on(canvas, "pointerleave", () => this.left());
    on(canvas, "dblclick", (event) => this.doubled(event));
    on(canvas, "wheel", (event) => this.wheeled(event), { passive: false });
    on(canvas, "keydown", (event) => this.keyed(event));
    on(canvas, "focus", () => this.describe());
    on(canvas, "touchstart", (event) => {
      const touch = event.touches[0];
      if (event.touches.length > 1 || (touch && this.lineAt(this.point(touch)))) event.preventDefault();
    }, { passive: false });
    on(this.media, "change", () => this.setTheme());
    on(document, "visibilitychange", () => this.schedule());
    on(window, "scroll", () => (this.armed = false), { capture: true, passive: true });
    this.resizes = new ResizeObserver((entries) => {
      for (const { target, devicePixelContentBoxSize: box } of entries) {
        if (target === this.canvas && box) this.device = { w: box[0].inlineSize, h: box[0].blockSize };
      }
      this.schedule();
    });
    this.resizes.observe(this.root);
    try {
      this.resizes.observe(this.canvas, { box: "device-pixel-content-box" });
    } catch {
      this.device = null; // Safari does not know this; the size is rounded then
    }
    this.sights = new IntersectionObserver((entries) => {
      this.seen = entries[entries.length - 1].isIntersecting;
      if (this.seen) this.schedule();
    });
    this.sights.observe(this.root);
    this.themes = new MutationObserver(() => this.setTheme());
    this.themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"] });
    this.themes.observe(document.documentElement, { attributes: true, attributeFilter: ["theme"] });
    this.watchRatio();
  }

  /** Redraw when the window moves to a screen of another density, or the page is zoomed. */
  watchRatio() {
    const ratio = window.matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`);
    const changed = () => {
      this.watchRatio();
      this.schedule();
    };
    ratio.addEventListener("change", changed, { once: true, signal: this.ended.signal });
  }

  close() {
    this.ended.abort();
    cancelAnimationFrame(this.frame);
    for (const timer of this.timers.values()) clearTimeout(timer);
    this.resizes.disconnect();
    this.sights.disconnect();
    this.themes.disconnect();
    this.store.views.delete(this);
    this.host.remove();
  }

  /** Do something later; again before then means later still. */
  later(name, ms, act) {
    clearTimeout(this.timers.get(name));
    this.timers.set(name, setTimeout(() => {
      this.timers.delete(name);
      act();
    }, ms));
  }

  hear(what) {
    if (what === "theme") return this.setTheme();
    if (what === "size") this.setSize();
    if (what === "series") this.renewed();
    if (what === "window") this.setWindow();
    if (what === "lines") this.fitted = null;
    this.schedule();
  }

  setTheme() {
    const wanted = this.model.get("theme");
    const name = wanted === "light" || wanted === "dark" ? wanted : pageTheme(this.media);
    const theme = (this.theme = THEMES[name]);
    const colours = this.model.get("_colours") ?? {};
    this.colours = {};
    for (const [kind, colour] of Object.entries(colours)) {
      const line = readable(colour, theme.back, 3);
      this.colours[kind] = { line, text: readable(colour, theme.chip, 4.6), on: contrast(line, "#ffffff") >= 4 ? "#ffffff" : "#10151d" };
    }
    this.root.dataset.theme = name;
    this.root.style.colorScheme = name;
    const set = (variable, value) => this.root.style.setProperty(variable, value);
    for (const key of ["back", "ink", "muted", "rule", "cross", "tag", "chip", "shadow", "focus"]) set(`--${key}`, theme[key]);
    set("--tag-ink", theme.tagInk);
    for (const key of ["working", "filled", "error"]) set(`--${key}`, this.colour(key).line);
    for (const pill of this.pills.values()) pill.kind = null;
    this.schedule();
  }

  colour(kind) {
    return this.colours[kind] ?? { line: "#888888", text: this.theme.ink, on: "#ffffff" };
  }

  setSize() {
    this.root.style.height = `${this.model.get("height")}px`;
  }

  // --- lines

  get lines() {
    return this.model.get("lines") ?? [];
  }

  get step() {
    return this.model.get("step") > 0 ? this.model.get("step") : 0.01;
  }

  get digits() {
    return this.model.get("digits") ?? 2;
  }

  text(price) {
    return priceText(price, this.digits);
  }

  /** Price of a line as it stands here: in the hand, on its way to Python, on its way back, or as Python says. */
  priceOf(line) {
    if (this.drag?.id === line.id) return this.drag.price;
    const spring = this.springs.get(line.id);
    const settled = this.store.pending.get(line.id)?.price ?? line.price;
    if (!spring) return settled;
    const done = Math.max(0, this.now - spring.since) / 320;
    if (done >= 1) {
      this.springs.delete(line.id);
      return settled;
    }
    const swing = 1 - (1 - done) ** 3 * Math.cos(done * 7);
    return spring.from + (settled - spring.from) * swing;
  }

  shown(id) {
    const line = this.lines.find((one) => one.id === id);
    return line && this.priceOf(line);
  }

  /** The nearest price on the grid of steps that the limits of a line allow. */
  snap(price, line) {
    const step = this.step;
    const low = line.low == null ? 1 : Math.max(1, Math.ceil(line.low / step - 1e-6));
    const high = line.high == null ? Infinity : Math.floor(line.high / step + 1e-6);
    if (low > high) return line.price;
    const units = clamp(Math.round(price / step), low, high);
    return Number((units * step).toFixed(Math.max(this.digits, decimals(step))));
  }

  grab(line, event, target) {
    if (!line.draggable || this.drag) return;
    target.setPointerCapture?.(event.pointerId);
    this.pan = null;
    const point = this.point(event);
    const price = this.priceOf(line);
    this.forgive(line.id);
    this.springs.delete(line.id);
    this.drag = { id: line.id, pointer: event.pointerId, from: price, price, offset: price - this.priceAt(point.y), start: point.y,
      y: point.y, shift: event.shiftKey, sent: price, moved: false, target };
    this.hot = line.id;
    this.hideCross();
    this.schedule();
  }

  pull(event) {
    const drag = this.drag;
    const point = this.point(event);
    if (event.shiftKey !== drag.shift) { // the fine way: a tenth of the path of the hand
      drag.shift = event.shiftKey;
      drag.offset = drag.price - this.priceAt(point.y);
      drag.start = point.y;
    }
    drag.y = point.y;
    if (Math.abs(point.y - drag.start) > 2) drag.moved = true;
    this.followHand();
  }

  followHand() {
    const drag = this.drag;
    const line = this.lines.find((one) => one.id === drag.id);
    if (!line) return this.drop(true);
    if (!drag.moved) return;
    const y = drag.shift ? drag.start + (drag.y - drag.start) / 10 : drag.y;
    const price = this.snap(this.priceAt(y) + drag.offset, line);
    if (price !== drag.price) {
      drag.price = price;
      this.schedule();
    }
    if (price !== drag.sent) {
      drag.sent = price;
      this.store.move(drag.id, price, false);
    }
  }

  /** The hand lets go, or the drag is undone. */
  drop(undo) {
    const drag = this.drag;
    if (!drag) return;
    this.drag = null;
    if (drag.target.hasPointerCapture?.(drag.pointer)) drag.target.releasePointerCapture(drag.pointer);
    this.store.queue.delete(drag.id);
    if (undo) {
      this.spring(drag.id, drag.price);
      if (drag.sent !== drag.from) this.store.move(drag.id, drag.from, true, true);
    } else if (drag.price !== drag.from || drag.sent !== drag.from) this.store.move(drag.id, drag.price, true, true);
    const pill = this.pills.get(drag.id);
    if (pill) pill.before = this.shown(drag.id);
    this.waitFor(drag.id);
    this.schedule();
  }

  waitFor(id) {
    this.later(`wait ${id}`, 700, () => this.schedule());
  }

  spring(id, from) {
    if (this.calm.matches || from === undefined) return;
    this.now = performance.now();
    this.springs.set(id, { from, since: this.now });
  }

  rejected({ id, reason }, at) {
    const pill = this.pills.get(id);
    const line = this.lines.find((one) => one.id === id);
    if (!line || !pill) return;
    if (this.drag?.id !== id) this.spring(id, at);
    pill.why.textContent = reason;
    pill.el.classList.add("refused", "shake");
    pill.el.setAttribute("aria-invalid", "true");
    this.announce(`${line.label}: ${reason}`);
    this.later(`shake ${id}`, 320, () => pill.el.classList.remove("shake"));
    this.later(`why ${id}`, 8000, () => this.forgive(id));
    this.schedule();
  }

  forgive(id) {
    const pill = this.pills.get(id);
    if (!pill) return;
    pill.el.classList.remove("refused", "shake");
    pill.el.removeAttribute("aria-invalid");
  }

  announce(text) {
    this.live.textContent = "";
    this.later("announce", 30, () => (this.live.textContent = text));
  }

  makePill(line) {
    const el = element("div", "pill", this.layer);
    const pill = { el, kind: null, y: null, width: 0, said: {} };
    for (const name of ["delta", "grip", "dot", "arrow", "name", "price", "detail", "why"]) pill[name] = element("span", name, el);
    for (const name of ["delta", "grip", "dot", "arrow"]) pill[name].setAttribute("aria-hidden", "true");
    el.dataset.id = line.id;
    el.dataset.lmSuppressShortcuts = "true";
    const on = (name, handler) => el.addEventListener(name, handler, { signal: this.ended.signal });
    const now = () => this.lines.find((one) => one.id === line.id);
    on("pointerdown", (event) => {
      if (event.button > 0 || !now()) return;
      event.stopPropagation();
      if (now().draggable) {
        event.preventDefault();
        el.focus({ preventScroll: true });
      }
      this.grab(now(), event, el);
    });
    on("pointermove", (event) => this.drag?.pointer === event.pointerId && this.drag.target === el && this.pull(event));
    on("pointerup", (event) => this.drag?.pointer === event.pointerId && this.drop(false));
    on("pointercancel", (event) => this.drag?.pointer === event.pointerId && this.drop(true));
    on("pointerenter", () => this.warm(line.id));
    on("pointerleave", () => !this.drag && this.warm(null));
    on("dblclick", () => this.reveal(now()));
    on("focus", () => {
      pill.before = this.shown(line.id);
      this.warm(line.id);
    });
    on("blur", () => !this.drag && this.warm(null));
    on("keydown", (event) => now() && this.keyedPill(event, now(), pill));
    this.pills.set(line.id, pill);
    return pill;
  }

  warm(id) {
    if (this.hot === id) return;
    this.hot = id;
    this.schedule();
  }

  keyedPill(event, line, pill) {
    const { key } = event;
    const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 100, PageDown: -100 }[key];
    const finite = key === "Home" ? line.low : key === "End" ? line.high : null;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Escape" && !this.drag && pill.el.classList.contains("refused")) this.forgive(line.id);
    else if (key === "Escape") {
      const undone = !this.drag && pill.before !== undefined && pill.before !== this.shown(line.id);
      if (!this.drag && !undone) return;
      if (this.drag) this.drop(true);
      else this.nudge(line, pill.before);
    } else if (key === "Enter") this.reveal(line);
    else if (steps && line.draggable && !this.drag) {
      const price = this.priceOf(line);
      this.springs.delete(line.id);
      this.nudge(line, price + steps * (event.shiftKey && Math.abs(steps) === 1 ? 10 : 1) * this.step);
    } else if (finite != null && line.draggable && !this.drag) this.nudge(line, finite);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  nudge(line, wanted) {
    const price = this.snap(wanted, line);
    this.forgive(line.id);
    if (price === this.shown(line.id)) return;
    this.store.move(line.id, price, true);
    this.waitFor(line.id);
    this.schedule();
  }

  /** Bring a line that is off the scale into view. */
  reveal(line) {
    const { low, high } = this.scale;
    const price = line && this.priceOf(line);
    if (!line || (price >= low && price <= high)) return;
    const room = 0.1 * (Math.max(high, price) - Math.min(low, price));
    this.scale = { low: price < low ? price - room : low, high: price > high ? price + room : high, manual: true, set: true };
    this.schedule();
  }

  // --- the window of time and the scale of prices

  get plot() {
    return { w: Math.max(1, this.size.w - this.axis), h: Math.max(1, this.size.h - TIME_AXIS) };
  }

  get start() {
    return this.end - this.span;
  }

  x(ms) {
    return ((ms - this.start) / this.span) * this.plot.w;
  }

  timeAt(x) {
    return this.start + (x / this.plot.w) * this.span;
  }

  y(price) {
    const { low, high } = this.scale;
    return ((high - price) / (high - low)) * this.plot.h;
  }

  priceAt(y) {
    const { low, high } = this.scale;
    return high - (y / this.plot.h) * (high - low);
  }

  /** Where the window ends when the newest tick stands left of the pills. */
  get followEnd() {
    const { t, n } = this.store.points;
    return n ? t[n - 1] + (this.reserve / this.plot.w) * this.span : this.end;
  }

  get longest() {
    const { t, n } = this.store.points;
    return n ? Math.max((1.15 * (t[n - 1] - t[0]) * this.plot.w) / (this.plot.w - this.reserve), 10 * SHORTEST) : DAY;
  }

  /** The window to begin with: the newest ticks, so many that the price moves about as far as the lines are apart. */
  home() {
    const { t, p, n } = this.store.points;
    this.follow = true;
    if (!n) {
      this.span = HOUR;
      this.end = Date.now();
      return;
    }
    const prices = this.lines.filter((line) => line.state !== "cancelled").map((line) => line.price);
    const reach = prices.length ? (Math.max(...prices, p[n - 1]) - Math.min(...prices, p[n - 1])) / 2 : Infinity;
    let [i, low, high] = [n - 1, p[n - 1], p[n - 1]];
    while (i > 0 && (high - low < reach || n - i < 300)) {
      i--;
      low = Math.min(low, p[i]);
      high = Math.max(high, p[i]);
    }
    const { w } = this.plot;
    this.allHome = i === 0;
    this.span = Math.max(((t[n - 1] - t[i]) * w) / Math.max(1, w - this.reserve - 6), n < 50 ? MINUTE : SHORTEST);
    this.end = this.followEnd;
  }

  renewed() {
    this.scale.set = false;
    const { t, n } = this.store.points;
    if (this.mode === "home" || !n || t[0] > this.end || t[n - 1] < this.start) {
      this.mode = "home";
      this.placed = null;
    }
  }

  setWindow() {
    const [, from, to] = this.model.get("_window") ?? [];
    this.scale.manual = false;
    if (from !== undefined && to > from) {
      this.mode = "free";
      this.follow = false;
      this.span = (to - from) * 1.06;
      this.end = to + (to - from) * 0.03;
    } else {
      this.mode = "home";
      this.placed = null;
    }
  }

  showAll() {
    const { t, n } = this.store.points;
    if (!n) return;
    const { w } = this.plot;
    this.mode = "free";
    this.follow = true;
    this.span = Math.max(((t[n - 1] - t[0]) * w) / Math.max(1, w - this.reserve - 6), SHORTEST);
    this.scale.manual = false;
    this.changed();
  }

  toLatest() {
    this.follow = !this.follow;
    if (this.follow && this.mode === "free") this.scale.manual = false;
    this.mode = "free";
    this.changed();
  }

  /** Zoom in time by a factor, around a place of the plot, or around the newest tick if that is followed and near. */
  zoom(factor, x) {
    const { t, n } = this.store.points;
    if (!n) return;
    const span = clamp(this.span * factor, SHORTEST, this.longest);
    const { w } = this.plot;
    this.mode = "free";
    if (x !== undefined && x < this.x(t[n - 1]) - 0.2 * w) this.follow = false;
    if (!this.follow) {
      const at = clamp(x ?? w / 2, 0, w);
      const anchor = this.timeAt(at);
      this.end = anchor + (1 - at / w) * span;
    }
    this.span = span;
    this.changed();
  }

  shift(ms) {
    this.mode = "free";
    this.follow = false;
    this.end += ms;
    this.changed();
  }

  changed() {
    const { t, n } = this.store.points;
    if (n && !this.follow) this.end = clamp(this.end, t[0] + 0.1 * this.span, Math.max(this.followEnd, t[n - 1] + 0.9 * this.span));
    this.schedule();
  }

  zoomPrice(factor, y) {
    const anchor = this.priceAt(y ?? this.plot.h / 2);
    const { low, high } = this.scale;
    const [a, b] = [anchor - (anchor - low) * factor, anchor + (high - anchor) * factor];
    if (!(b - a > 1e-12 * Math.abs(anchor)) || b - a > 1e3 * Math.abs(anchor)) return;
    this.scale = { low: a, high: b, manual: true, set: true };
    this.schedule();
  }

  /** The points of a path that are there for what is shown. */
  pointsOf(path) {
    const { fine } = path;
    const useFine = fine && !path.raw && fine.from <= this.start && fine.to >= Math.min(this.end, path.end) && fine.count === path.count;
    return useFine ? fine : path;
  }

  /** Lowest and highest price of each path in the window: [[low, high], …]. */
  reaches() {
    const found = [];
    for (const path of this.store.paths.values()) {
      const { t, p } = this.pointsOf(path);
      if (!t.length || t[0] > this.end || path.end < this.start) continue;
      let [low, high] = [Infinity, -Infinity];
      for (let i = Math.max(0, lowerBound(t, this.start, t.length) - 1); i < t.length && t[i] <= this.end; i++) {
        low = Math.min(low, p[i]);
        high = Math.max(high, p[i]);
      }
      if (low <= high) found.push([low, high]);
    }
    return found;
  }

  /** The scale that shows the price, and the lines and paths that are not so far off that the price would be flat. */
  fitScale(low, high) {
    const scale = this.scale;
    if (scale.manual || this.drag || !(low <= high)) return;
    const span = high - low || Math.max(Math.abs(high) * 1e-4, this.step);
    const most = span * (this.mode === "home" ? 20 : 6);
    const wanted = [...this.lines.map((line) => line.price), ...this.reaches().flat()];
    const away = (price) => Math.max(low - price, price - high);
    for (const price of wanted.sort((a, b) => away(a) - away(b))) {
      const [a, b] = [Math.min(low, price), Math.max(high, price)];
      if (b - a <= most) [low, high] = [a, b];
    }
    const room = Math.max((0.07 + 16 / this.plot.h) * (high - low), this.step, Math.abs(high) * 1e-9);
    [low, high] = [low - room, high + room];
    const key = `${this.mode} ${this.lines.map((line) => line.id)} ${this.span}`;
    const fits = scale.set && low >= scale.low - room * 0.8 && high <= scale.high + room * 0.8 && scale.high - scale.low < 1.4 * (high - low);
    if (fits && this.fitted === key) return;
    this.fitted = key;
    this.scale = { low, high, manual: false, set: true };
  }

  // --- hands and keys

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  zone({ x, y }) {
    const { w, h } = this.plot;
    return x > w ? "scale" : y > h ? "time" : "plot";
  }

  lineAt(point) {
    if (this.zone(point) !== "plot") return null;
    let found = null;
    for (const line of this.lines) {
      const distance = Math.abs(this.y(this.priceOf(line)) - point.y);
      if (line.draggable && distance <= (found?.distance ?? GRAB)) found = { line, distance };
    }
    return found?.line ?? null;
  }

  pressed(event) {
    if (event.button > 0) return;
    const point = this.point(event);
    this.armed = true;
    this.touches.set(event.pointerId, point);
    this.canvas.focus({ preventScroll: true });
    if (this.touches.size === 2) {
      this.drop(true);
      this.pan = null;
      const [a, b] = [...this.touches.values()];
      this.pinch = { distance: Math.hypot(a.x - b.x, a.y - b.y), span: this.span };
      return;
    }
    const line = this.lineAt(point);
    if (line) {
      const pill = this.pills.get(line.id);
      pill?.el.focus({ preventScroll: true });
      event.preventDefault();
      return this.grab(line, event, this.canvas);
    }
    this.canvas.setPointerCapture(event.pointerId);
    this.pan = { zone: this.zone(point), point, end: this.end, span: this.span, low: this.scale.low, high: this.scale.high, moved: false };
  }

  moved(event) {
    const point = this.point(event);
    if (event.movementX || event.movementY) this.armed = true;
    if (this.touches.has(event.pointerId)) this.touches.set(event.pointerId, point);
    if (this.drag) {
      if (this.drag.pointer === event.pointerId && this.drag.target === this.canvas) this.pull(event);
      return;
    }
    if (this.touches.size >= 2 && this.pinch) {
      const [a, b] = [...this.touches.values()];
      const distance = Math.max(8, Math.hypot(a.x - b.x, a.y - b.y));
      this.zoom((this.pinch.span * this.pinch.distance) / distance / this.span, (a.x + b.x) / 2);
      return;
    }
    if (this.pan) return this.panned(point);
    const line = this.lineAt(point);
    const zone = this.zone(point);
    this.canvas.className = line ? "on-line" : zone === "plot" ? "" : `on-${zone}`;
    this.warm(line?.id ?? null);
    if (zone === "plot") this.showCross(point);
    else this.hideCross();
  }

  panned(point) {
    const pan = this.pan;
    const [dx, dy] = [point.x - pan.point.x, point.y - pan.point.y];
    if (!pan.moved && Math.hypot(dx, dy) < 3) return;
    pan.moved = true;
    this.canvas.className = pan.zone === "plot" ? "pan" : `on-${pan.zone}`;
    this.hideCross();
    if (pan.zone === "scale") {
      const factor = 2 ** (dy / 120);
      const middle = (pan.low + pan.high) / 2;
      this.scale = { low: middle + (pan.low - middle) * factor, high: middle + (pan.high - middle) * factor, manual: true, set: true };
    } else if (pan.zone === "time") this.zoom((pan.span * 2 ** (-dx / 160)) / this.span, this.plot.w);
    else {
      this.mode = "free";
      this.end = pan.end - (dx / this.plot.w) * this.span;
      this.follow = Math.abs(this.end - this.followEnd) < (2 / this.plot.w) * this.span;
      if (this.scale.manual) {
        const by = (dy / this.plot.h) * (pan.high - pan.low);
        this.scale = { ...this.scale, low: pan.low + by, high: pan.high + by };
      }
    }
    this.changed();
  }

  released(event, undo) {
    this.touches.delete(event.pointerId);
    if (this.touches.size < 2) this.pinch = null;
    if (this.drag?.pointer === event.pointerId) this.drop(undo);
    this.pan = null;
    this.canvas.className = "";
  }

  left() {
    this.armed = false;
    if (this.pan || this.drag) return;
    this.hideCross();
    this.warm(null);
  }

  doubled(event) {
    const zone = this.zone(this.point(event));
    if (zone === "time") return this.showAll();
    this.scale.manual = false;
    this.fitted = null;
    this.schedule();
  }

  /** The wheel zooms if the hand has moved over the chart; a page that is scrolled past is not caught. */
  wheeled(event) {
    const focused = this.root.getRootNode().activeElement !== null;
    if (!this.armed && !focused && !event.ctrlKey) return;
    event.preventDefault();
    const point = this.point(event);
    const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 200 : 1;
    const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
    if (this.drag) return;
    if (this.zone(point) === "scale") return this.zoomPrice(2 ** (dy / 400), point.y);
    if (event.shiftKey || Math.abs(dx) > Math.abs(dy)) return this.shift(((dx || dy) / this.plot.w) * this.span);
    this.zoom(2 ** clamp(dy / (event.ctrlKey ? 60 : 300), -1.5, 1.5), point.x);
  }

  keyed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { t, n } = this.store.points;
    const act = {
      "+": () => this.zoom(1 / 1.5), "=": () => this.zoom(1 / 1.5), "-": () => this.zoom(1.5), _: () => this.zoom(1.5),
      0: () => this.showAll(), f: () => this.toLatest(), F: () => this.toLatest(),
      ArrowLeft: () => this.shift(-this.span * (event.shiftKey ? 0.5 : 0.1)),
      ArrowRight: () => this.shift(this.span * (event.shiftKey ? 0.5 : 0.1)),
      ArrowUp: () => this.zoomPrice(1 / 1.2), ArrowDown: () => this.zoomPrice(1.2),
      Home: () => n && this.shift(t[0] - this.start), End: () => {
        this.follow = false;
        this.toLatest();
      },
      Escape: () => (this.drag ? this.drop(true) : this.doubled({ clientX: 0, clientY: 0 })),
    }[event.key];
    if (!act) return;
    act();
    event.preventDefault();
    event.stopPropagation();
  }

  // --- crosshair and words

  showCross(point) {
    this.mouse = point;
    const { w, h } = this.plot;
    const { t, p, n } = this.store.points;
    const ms = this.timeAt(point.x);
    const price = Math.round(this.priceAt(point.y) / this.step) * this.step;
    place(this.cross.h, 0, Math.round(point.y), w);
    place(this.cross.v, Math.round(point.x), 0, null, h);
    this.tags.price.textContent = this.text(price);
    place(this.tags.price, w + 1, Math.round(clamp(point.y - 10, 0, h - 20)));
    this.tags.time.textContent = clockText(ms, Math.min(this.span / 200, SECOND * 30));
    const width = this.tags.time.offsetWidth;
    place(this.tags.time, Math.round(clamp(point.x - width / 2, 0, w - width)), h + 2);
    const at = lowerBound(t, ms, n);
    const i = at > 0 && (at >= n || ms - t[at - 1] < t[at] - ms) ? at - 1 : at;
    this.write(n ? this.text(p[i]) : "", n ? `${dateText(t[i], true)} ${clockText(t[i], SECOND / 2)} UTC` : "");
    const mark = this.placedMarks?.findLast((one) => Math.hypot(one.x - point.x, one.y - point.y) < 10);
    this.tip.style.visibility = mark ? "visible" : "hidden";
    if (mark) {
      const text = `${mark.mark.kind === "event" ? "" : `${mark.mark.kind}: `}${mark.mark.text || this.text(mark.mark.price)}`;
      this.tip.textContent = `${text} · ${clockText(mark.ms, SECOND)}`;
      place(this.tip, clamp(mark.x + 10, 0, w - this.tip.offsetWidth), clamp(mark.y - 34, 0, h - this.tip.offsetHeight));
    }
  }

  hideCross() {
    this.mouse = null;
    for (const one of [this.cross.h, this.cross.v, this.tags.price, this.tags.time, this.tip]) one.style.visibility = "hidden";
    this.write("", "");
  }

  write(price, time) {
    const { words } = this;
    const title = this.model.get("title") ?? "";
    if (words.title.textContent !== title) words.title.textContent = title;
    words.price.textContent = price;
    words.time.textContent = time;
    this.readout.style.visibility = title || price ? "visible" : "hidden";
  }

  /** What the chart shows, in words, for those who come to it by key. */
  describe() {
    const { t, p, n } = this.store.points;
    const title = this.model.get("title") || "";
    this.canvas.setAttribute("aria-label", `Price chart ${title}`.trim());
    const last = n ? `Last price ${this.text(p[n - 1])} at ${clockText(t[n - 1], SECOND)} UTC on ${dateText(t[n - 1], true)}. ` : "No ticks yet. ";
    const keys = "Left and right move, up and down stretch prices, plus and minus zoom, 0 shows all, F follows the newest tick.";
    this.about.textContent = last + keys;
    const marks = (this.model.get("marks") ?? []).slice(-100);
    this.listed.replaceChildren(...marks.map((mark) => {
      const at = msOf(mark.ts);
      return element("li", "", null, `${mark.kind} ${mark.text}: ${this.text(mark.price)} at ${clockText(at, SECOND)}`);
    }));
  }

  // --- drawing

  schedule() {
    if (!this.frame && !this.ended.signal.aborted) this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    if (!this.seen || document.hidden) return;
    if (!this.measure()) {
      this.later("again", 100, () => this.schedule()); // JupyterLab hides everything for a moment when its theme changes
      return;
    }
    this.now = performance.now(); // one moment for the whole picture
    if (this.drag) this.stretch();
    this.placePills();
    this.setAxis();
    const points = this.store.points;
    if (this.mode === "home" && this.placed !== this.homeKey()) {
      this.home();
      this.placed = this.homeKey();
    }
    if (this.follow) this.end = this.followEnd;
    const path = this.reduce(points);
    this.fitScale(path.low, path.high);
    this.putPills();
    this.paint(points, path);
    this.latest.setAttribute("aria-pressed", String(this.follow));
    if (this.mouse) this.showCross(this.mouse);
    else this.write("", "");
    this.later("ask", 70, () => this.refine());
    const { low, high } = this.scale;
    const detail = { at: this.store.at, drawn: path.count, points: points.n, from: this.start, to: this.end, low, high, follow: this.follow,
      plot: this.plot };
    this.host.dispatchEvent(new CustomEvent("orderchart:drawn", { detail, bubbles: true, composed: true }));
    if (this.springs.size || this.drag?.stretching) this.schedule();
  }

  /** What the first window depends on; while there are few ticks also on how much time they fill. */
  homeKey() {
    const { t, n } = this.store.points;
    const grown = this.allHome && n ? Math.ceil(Math.log2(t[n - 1] - t[0] + MINUTE) * 3) : 0;
    return `${this.store.version} ${this.lines.map((line) => line.id)} ${this.plot.w} ${n > 0} ${grown}`;
  }

  /** Fit the canvas to its place, in pixels of the device. False while there is nothing to be seen. */
  measure() {
    const { clientWidth: w, clientHeight: h } = this.root;
    if (!w || !h) return false;
    const ratio = window.devicePixelRatio || 1;
    let [dw, dh] = [Math.round(w * ratio), Math.round(h * ratio)];
    const { device } = this;
    if (device && Math.abs(device.w - dw) <= 1 && Math.abs(device.h - dh) <= 1) [dw, dh] = [device.w, device.h];
    if (this.canvas.width !== dw || this.canvas.height !== dh) {
      this.canvas.width = dw;
      this.canvas.height = dh;
    }
    this.size = { w, h, sx: dw / w, sy: dh / h };
    this.root.classList.toggle("narrow", w < 620);
    this.root.classList.toggle("tiny", w < 420);
    return true;
  }

  setAxis() {
    const { p, n } = this.store.points;
    const prices = [...this.lines.map((line) => this.priceOf(line)), n ? p[n - 1] : 0];
    this.context.font = FONT;
    const widest = Math.max(...prices.map((price) => this.context.measureText(this.text(price)).width));
    this.axis = Math.max(52, Math.ceil(widest) + 16);
  }

  /** While a hand holds a line beyond the edge, the scale gives way. */
  stretch() {
    const drag = this.drag;
    const { h } = this.plot;
    const beyond = drag.y < 8 ? drag.y - 8 : drag.y > h - 8 ? drag.y - (h - 8) : 0;
    drag.stretching = drag.moved && beyond !== 0;
    if (!drag.stretching) return;
    const line = this.lines.find((one) => one.id === drag.id);
    if (!line || drag.price === this.snap(beyond < 0 ? Infinity : 0, line)) return void (drag.stretching = false);
    const { low, high } = this.scale;
    const by = (high - low) * clamp(Math.abs(beyond) / 1500, 0.002, 0.03);
    if (beyond > 0 && low - by <= 0) return void (drag.stretching = false);
    this.scale = { low: beyond > 0 ? low - by : low, high: beyond < 0 ? high + by : high, manual: this.scale.manual, set: true };
    this.followHand();
  }

  /** What is in the window, at most four points for each column of pixels: first, lowest, highest, last. */
  reduce({ t, p, n }) {
    const { w } = this.plot;
    const first = Math.max(0, lowerBound(t, this.start, n) - 1);
    const last = Math.min(n, lowerBound(t, this.end, n) + 1);
    const perPixel = this.size.sx;
    const xs = [];
    const ps = [];
    let [low, high] = [Infinity, -Infinity];
    const thin = last - first > 3 * w * perPixel;
    const k = w / this.span;
    let [column, min, max, end, atMin, atMax] = [-Infinity, 0, 0, 0, 0, 0];
    const flush = () => {
      const inner = atMin < atMax ? [[atMin, min], [atMax, max]] : [[atMax, max], [atMin, min]];
      for (const [x, price] of inner) {
        xs.push(x);
        ps.push(price);
      }
      xs.push((t[end] - this.start) * k);
      ps.push(p[end]);
    };
    for (let i = first; i < last; i++) {
      const price = p[i];
      const x = (t[i] - this.start) * k;
      if (t[i] >= this.start && t[i] <= this.end) {
        if (price < low) low = price;
        if (price > high) high = price;
      }
      if (!thin) {
        xs.push(x);
        ps.push(price);
        continue;
      }
      const here = Math.floor(x * perPixel);
      if (here !== column) {
        if (column !== -Infinity) flush();
        xs.push(x);
        ps.push(price);
        column = here;
        min = max = price;
        atMin = atMax = x;
      } else if (price < min) [min, atMin] = [price, x];
      else if (price > max) [max, atMax] = [price, x];
      end = i;
    }
    if (thin && column !== -Infinity) flush();
    if (low > high && last > first) low = high = p[Math.min(first, n - 1)];
    return { xs, ps, low, high, count: xs.length, ticks: last - first };
  }

  paint(points, path) {
    const { context: c, theme, size } = this;
    const { w, h } = this.plot;
    c.setTransform(size.sx, 0, 0, size.sy, 0, 0);
    c.fillStyle = theme.back;
    c.fillRect(0, 0, size.w, size.h);
    c.save();
    c.beginPath();
    c.rect(0, 0, w, h);
    c.clip();
    this.paintZones(c);
    const axes = this.paintGrid(c);
    this.paintPrice(c, path);
    this.paintPaths(c);
    this.paintLines(c);
    this.paintMarks(c);
    c.restore();
    this.paintAxes(c, axes);
    this.paintLast(c, points);
  }

  crisp(y) {
    return (Math.round(y * this.size.sy) + 0.5) / this.size.sy;
  }

  /** What can be lost and won: between entry and stop, and between entry and each level. */
  paintZones(c) {
    const { w, h } = this.plot;
    const live = this.lines.filter((line) => line.state !== "cancelled");
    const entry = live.find((line) => line.kind === "entry") ?? live.find((line) => line.kind === "market");
    if (!entry) return;
    const zero = this.y(this.priceOf(entry));
    const band = (line, colour, share) => {
      const y = this.y(this.priceOf(line));
      c.fillStyle = rgba(colour, this.theme.zone * share);
      const [top, bottom] = [clamp(Math.min(y, zero), 0, h), clamp(Math.max(y, zero), 0, h)];
      c.fillRect(0, top, w, bottom - top);
    };
    const stop = live.find((line) => line.kind === "stop");
    const levels = live.filter((line) => line.kind === "level");
    const up = levels.length ? this.priceOf(levels[0]) >= this.priceOf(entry) : true;
    if (stop && (this.priceOf(stop) < this.priceOf(entry)) === up) band(stop, this.colour("stop").line, 0.8);
    for (const level of levels) band(level, this.colour("level").line, 1 / levels.length);
  }

  paintGrid(c) {
    const { w, h } = this.plot;
    const { low, high } = this.scale;
    const step = niceStep(high - low, h / 52, this.step);
    const prices = [];
    for (let n = Math.ceil(low / step); n * step <= high && prices.length < 60; n++) prices.push(n * step);
    const { ticks, step: timeStep } = timeTicks(this.start, this.end, w, this.span < 10 * MINUTE ? 105 : 84);
    c.strokeStyle = this.theme.grid;
    c.lineWidth = 1;
    c.beginPath();
    for (const price of prices) {
      const y = this.crisp(this.y(price));
      c.moveTo(0, y);
      c.lineTo(w, y);
    }
    for (const [ms] of ticks) {
      const x = this.crisp(this.x(ms));
      c.moveTo(x, 0);
      c.lineTo(x, h);
    }
    c.stroke();
    return { prices, digits: Math.min(this.digits, decimals(step)), ticks, timeStep };
  }

  paintPrice(c, { xs, ps, ticks }) {
    const { w, h } = this.plot;
    if (!xs.length) {
      c.fillStyle = this.theme.muted;
      c.textAlign = "center";
      c.fillText("No ticks yet", w / 2, h / 2);
      return;
    }
    const { low, high } = this.scale;
    const k = h / (high - low);
    const stepped = ticks < w / 6 && this.store.detail(this.start, this.end).raw;
    const line = new Path2D();
    for (let i = 0; i < xs.length; i++) {
      const y = clamp((high - ps[i]) * k, -1e4, 1e4);
      const x = clamp(xs[i], -1e4, 1e5);
      if (stepped && i) line.lineTo(x, clamp((high - ps[i - 1]) * k, -1e4, 1e4));
      line.lineTo(x, y);
    }
    const area = new Path2D(line);
    area.lineTo(clamp(xs[xs.length - 1], -1e4, 1e5), h);
    area.lineTo(clamp(xs[0], -1e4, 1e5), h);
    const shade = c.createLinearGradient(0, 0, 0, h);
    shade.addColorStop(0, this.theme.area[0]);
    shade.addColorStop(1, this.theme.area[1]);
    c.fillStyle = shade;
    c.fill(area);
    c.strokeStyle = this.theme.line;
    c.lineWidth = 1.35;
    c.lineJoin = "round";
    c.stroke(line);
    if (!stepped) return;
    c.fillStyle = this.theme.line;
    for (let i = 0; i < xs.length; i++) {
      c.beginPath();
      c.arc(xs[i], (high - ps[i]) * k, 2, 0, 7);
      c.fill();
    }
  }

  paintPaths(c) {
    const style = { stop: ["stop", []], mark: ["mark", [5, 3]], other: ["other", [8, 3, 2, 3]] };
    for (const path of this.store.paths.values()) {
      const { t, p } = this.pointsOf(path);
      const n = t.length;
      let i = Math.max(0, lowerBound(t, this.start, n) - 1);
      const [kind, dash] = style[path.kind] ?? style.other;
      c.strokeStyle = this.colour(kind).line;
      c.lineWidth = 1.6;
      c.setLineDash(dash);
      c.beginPath();
      for (let before = null; i < n && t[i] <= this.end; i++) {
        const [x, y] = [clamp(this.x(t[i]), -1e4, 1e5), clamp(this.y(p[i]), -1e4, 1e4)];
        if (before !== null) c.lineTo(x, before);
        c.lineTo(x, y);
        before = y;
        if (i === n - 1 || t[i + 1] > this.end) c.lineTo(clamp(this.x(Math.min(i === n - 1 ? path.end : t[i + 1], this.end)), -1e4, 1e5), y);
      }
      c.stroke();
      c.setLineDash([]);
    }
  }

  paintLines(c) {
    const { w, h } = this.plot;
    const order = [...this.lines].sort((a, b) => (a.id === this.hot) - (b.id === this.hot));
    for (const line of order) {
      const price = this.priceOf(line);
      const y = this.y(price);
      const hot = line.id === this.hot;
      const faint = isDone(line);
      const colour = this.colour(line.kind).line;
      const pill = this.pills.get(line.id);
      c.globalAlpha = faint && !hot ? 0.5 : 1;
      c.strokeStyle = colour;
      c.lineWidth = hot ? 2.25 : 1.4;
      const dashes = { level: [6, 4], trail: [9, 3, 2, 3], even: [3, 3], market: [1, 3] };
      c.setLineDash(line.state === "cancelled" ? [2, 5] : hot ? [] : dashes[line.kind] ?? []);
      if (y >= 0 && y <= h) {
        const edge = pill ? w - 10 - pill.width : w;
        const away = pill?.aim !== undefined && Math.abs(pill.aim - y) > 3;
        c.beginPath();
        c.moveTo(0, this.crisp(y));
        if (away) { // the pill had to make room: lead the eye to it
          const turn = Math.max(4, edge - 16 - pill.back);
          c.lineTo(turn, this.crisp(y));
          c.stroke();
          c.setLineDash([]);
          c.beginPath();
          c.moveTo(turn, this.crisp(y));
          c.lineTo(edge - pill.back + 2, pill.aim);
        } else c.lineTo(w, this.crisp(y));
        c.stroke();
        if (this.drag?.id === line.id && this.drag.from !== price) {
          c.globalAlpha = 0.4;
          c.lineWidth = 1;
          c.setLineDash([2, 4]);
          c.beginPath();
          const ghost = this.crisp(this.y(this.drag.from));
          c.moveTo(0, ghost);
          c.lineTo(w, ghost);
          c.stroke();
        }
      }
      c.setLineDash([]);
      c.globalAlpha = 1;
    }
  }

  paintMarks(c) {
    const { w, h } = this.plot;
    this.placedMarks = [];
    const taken = [];
    const marks = this.model.get("marks") ?? [];
    const named = marks.length <= 60;
    c.font = FONT;
    for (const mark of marks) {
      const ms = msOf(mark.ts);
      const [x, y] = [this.x(ms), this.y(mark.price)];
      if (x < -10 || x > w + 10 || y < -10 || y > h + 10) continue;
      this.placedMarks.push({ mark, ms, x, y: mark.kind === "buy" ? y + 7 : mark.kind === "sell" ? y - 7 : y });
    }
    for (const { mark, x, y } of this.placedMarks) {
      c.beginPath();
      if (mark.kind === "event") for (const [dx, dy] of [[0, -6], [6, 0], [0, 6], [-6, 0]]) c.lineTo(x + dx, y + dy);
      else {
        const up = mark.kind === "buy" ? 1 : -1;
        for (const [dx, dy] of [[0, -6], [6, 5], [-6, 5]]) c.lineTo(x + dx, y + up * dy);
      }
      c.closePath();
      c.lineWidth = 3;
      c.strokeStyle = this.theme.back;
      c.stroke();
      c.fillStyle = this.colour(mark.kind).line;
      c.fill();
      taken.push([x - 7, y - 7, x + 7, y + 7]);
    }
    if (!named) return;
    c.textBaseline = "middle";
    c.textAlign = "left";
    const pills = [...this.pills.values()].map((pill) => [w - 12 - pill.width - (pill.back ?? 0), (pill.aim ?? -99) - 12, w, (pill.aim ?? -99) + 12]);
    for (const { mark, x, y } of this.placedMarks) {
      const text = mark.text.length > 28 ? `${mark.text.slice(0, 27)}…` : mark.text;
      if (!text) continue;
      const width = c.measureText(text).width;
      const below = mark.kind === "buy" ? 15 : -15;
      const spots = [[x - width / 2, y + below], [x + 11, y], [x - width - 11, y], [x - width / 2, y - below]];
      const spot = spots.find(([left, middle]) => {
        const box = [left - 2, middle - 7, left + width + 2, middle + 7];
        const free = (other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3];
        return box[0] > 0 && box[2] < w && box[1] > 26 && box[3] < h && [...taken, ...pills].every(free);
      });
      if (!spot) continue;
      taken.push([spot[0] - 2, spot[1] - 7, spot[0] + width + 2, spot[1] + 7]);
      c.lineWidth = 3.5;
      c.lineJoin = "round";
      c.strokeStyle = this.theme.back;
      c.strokeText(text, spot[0], spot[1]);
      c.fillStyle = this.colour(mark.kind).text;
      c.fillText(text, spot[0], spot[1]);
    }
  }

  paintAxes(c, { prices, digits, ticks }) {
    const { theme } = this;
    const { w, h } = this.plot;
    c.strokeStyle = theme.rule;
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(this.crisp(w), 0);
    c.lineTo(this.crisp(w), h);
    c.moveTo(0, this.crisp(h));
    c.lineTo(this.size.w, this.crisp(h));
    c.stroke();
    c.font = FONT;
    c.fillStyle = theme.muted;
    c.textBaseline = "middle";
    c.textAlign = "left";
    const { p, n } = this.store.points;
    const last = n ? this.y(p[n - 1]) : -99;
    for (const price of prices) {
      const y = this.y(price);
      if (y > 8 && y < h - 8 && Math.abs(y - last) > 17) c.fillText(priceText(price, digits), w + 8, y);
    }
    c.textAlign = "center";
    const day = dateText(this.start, true);
    const corner = c.measureText(day).width + 18;
    let room = this.size.w >= 420 ? corner : 4;
    if (room > 4) {
      c.textAlign = "left";
      c.fillText(day, 8, h + TIME_AXIS / 2 + 1);
      c.textAlign = "center";
    }
    for (const [ms, text, strong] of ticks) {
      const x = this.x(ms);
      const half = c.measureText(text).width / 2;
      if (x - half < room || x + half > w) continue;
      room = x + half + 8;
      c.fillStyle = strong ? theme.ink : theme.muted;
      c.fillText(text, x, h + TIME_AXIS / 2 + 1);
    }
    c.fillStyle = theme.muted;
    c.textAlign = "left";
    c.fillText("UTC", w + 8, h + TIME_AXIS / 2 + 1);
    for (const line of this.lines) {
      const y = this.y(this.priceOf(line));
      if (y < 0 || y > h) continue;
      c.fillStyle = this.colour(line.kind).line;
      c.fillRect(w - 1, y - 1.5, 5, 3);
    }
  }

  /** The newest price: a dot, a dotted line to the axis, and its tag there. */
  paintLast(c, { t, p, n }) {
    if (!n) return;
    const { theme } = this;
    const { w, h } = this.plot;
    const price = p[n - 1];
    const y = this.y(price);
    const x = this.x(t[n - 1]);
    if (y >= 0 && y <= h) {
      c.strokeStyle = theme.cross;
      c.lineWidth = 1;
      c.setLineDash([1, 3]);
      c.beginPath();
      c.moveTo(clamp(x, 0, w), this.crisp(y));
      c.lineTo(w, this.crisp(y));
      c.stroke();
      c.setLineDash([]);
      if (x <= w) {
        c.fillStyle = theme.line;
        c.strokeStyle = theme.back;
        c.lineWidth = 2;
        c.beginPath();
        c.arc(x, y, 4, 0, 7);
        c.stroke();
        c.fill();
      }
    }
    const at = clamp(y, 9, h - 9);
    c.fillStyle = theme.tag;
    c.beginPath();
    c.roundRect(w + 1, at - 9, this.axis - 3, 18, 3);
    c.fill();
    c.fillStyle = theme.tagInk;
    c.font = `600 ${FONT}`;
    c.textAlign = "left";
    c.textBaseline = "middle";
    c.fillText(`${y < 0 ? "↑" : y > h ? "↓" : ""}${this.text(price)}`, w + 7, at + 0.5);
    c.font = FONT;
  }

  /** Text, colour and words of every pill; how much room they need. */
  placePills() {
    const lines = this.lines;
    const ids = new Set(lines.map((line) => line.id));
    for (const [id, pill] of this.pills) {
      if (ids.has(id)) continue;
      if (this.drag?.id === id) this.drag = null;
      pill.el.remove();
      this.pills.delete(id);
    }
    const narrow = this.root.className;
    let widest = 0;
    for (const line of lines) {
      const pill = this.pills.get(line.id) ?? this.makePill(line);
      const price = this.priceOf(line);
      const text = this.text(price);
      const { el } = pill;
      const pending = this.store.pending.get(line.id);
      const waits = Boolean(pending) && this.now - pending.since > 650;
      const held = this.drag?.id === line.id;
      if (pill.kind !== line.kind) {
        pill.kind = line.kind;
        const colour = this.colour(line.kind);
        el.style.setProperty("--c", colour.line);
        el.style.setProperty("--t", colour.text);
        el.style.setProperty("--cc", colour.on);
      }
      const classes = ["pill", line.kind, line.state, line.draggable && "drags", held && "held", line.id === this.hot && "hot", waits && "waits",
        isDone(line) && "faint"];
      for (const keep of ["refused", "shake", "up", "off"]) if (el.classList.contains(keep)) classes.push(keep);
      const wanted = classes.filter(Boolean).join(" ");
      if (el.className !== wanted) el.className = wanted;
      const put = (node, words) => node.textContent !== words && (node.textContent = words);
      put(pill.name, line.label);
      put(pill.price, text);
      put(pill.detail, line.detail ?? "");
      put(pill.dot, { filled: "✓", cancelled: "✕" }[line.state] ?? "");
      put(pill.delta, held && price !== this.drag.from ? percentText(price / this.drag.from - 1) : "");
      pill.grip.style.display = line.draggable ? "" : "none";
      this.speak(pill, line, price, text, waits);
      const key = `${line.label}|${text.length}|${line.detail}|${line.state}|${line.draggable}|${narrow}|${pill.arrow.textContent}`;
      if (pill.key !== key || !pill.width) {
        pill.key = key;
        pill.width = el.offsetWidth;
      }
      widest = Math.max(widest, pill.width);
    }
    const room = this.size.w - this.axis;
    this.reserve = clamp(lines.length ? widest + 26 : 18, 18, room * 0.45);
  }

  speak(pill, line, price, text, waits) {
    const words = {
      role: line.draggable ? "slider" : "note",
      tabindex: line.draggable ? "0" : null,
      "aria-label": `${line.label || line.kind}, ${line.kind === "even" ? "break-even" : line.kind}`,
      "aria-orientation": line.draggable ? "vertical" : null,
      "aria-valuenow": line.draggable ? String(price) : null,
      "aria-valuemin": line.draggable ? String(line.low ?? 0) : null,
      "aria-valuemax": line.draggable ? String(line.high ?? 10 ** (Math.ceil(Math.log10(Math.max(price, 1e-12))) + 1)) : null,
      "aria-valuetext": line.draggable ? [text, line.detail, line.state].filter(Boolean).join(", ") : null,
      "aria-busy": waits ? "true" : null,
      title: [line.label, text, line.detail, line.state].filter(Boolean).join(" · "),
    };
    for (const [name, value] of Object.entries(words)) {
      if (pill.said[name] === value) continue;
      pill.said[name] = value;
      if (value === null) pill.el.removeAttribute(name);
      else pill.el.setAttribute(name, value);
    }
  }

  /** Pills at the height of their lines, moved apart where they would cover each other; in more columns if need be. */
  putPills() {
    const { h, w } = this.plot;
    const all = this.lines.map((line) => ({ line, pill: this.pills.get(line.id), price: this.priceOf(line) }));
    all.sort((a, b) => b.price - a.price || (a.line.id < b.line.id ? -1 : 1));
    const columns = Math.max(1, Math.ceil((all.length * GAP) / Math.max(GAP, h - 4)));
    const widest = Math.max(0, ...all.map((one) => one.pill.width));
    let again = false;
    for (let column = 0; column < columns; column++) {
      const some = all.filter((_, i) => i % columns === column);
      const wanted = some.map(({ price }) => clamp(this.y(price), PILL / 2 + 2, h - PILL / 2 - 2));
      const weights = some.map(({ line }) => (this.drag?.id === line.id ? 1e4 : 1));
      spread(wanted, weights, GAP, PILL / 2 + 2, h - PILL / 2 - 2).forEach((y, i) => {
        const { pill, price } = some[i];
        const off = price > this.scale.high ? "↑" : price < this.scale.low ? "↓" : "";
        if (pill.arrow.textContent !== off) {
          pill.arrow.textContent = off;
          pill.el.classList.toggle("off", off !== "");
          again = true;
        }
        pill.el.classList.toggle("up", y > h - 80);
        const back = column * (widest + 8);
        pill.aim = y;
        pill.back = back;
        const place = `translate(${-back}px, ${Math.round((y - PILL / 2) * this.size.sy) / this.size.sy}px)`;
        const right = `${this.size.w - w + 8}px`;
        if (pill.place !== place) pill.el.style.transform = pill.place = place;
        if (pill.right !== right) pill.el.style.right = pill.right = right;
      });
    }
    if (again) this.schedule(); // with the arrow, the width is another
  }

  /** Ask Python for a finer sample of what is shown, and of half a window to either side. */
  refine() {
    if (this.drag?.stretching || !this.store.detail(this.start, this.end).finer) return;
    const room = this.span / 2;
    const points = Math.round(this.plot.w * Math.min(this.size.sx, 2) * 4 * 2);
    const sent = this.store.ask({ from: this.start - room, to: this.end + room, points });
    if (!sent) this.later("ask", 100, () => this.refine());
  }
}

/** Whether a line is history: a level that was sold, or what was called off. An entry that is filled still counts. */
function isDone(line) {
  return line.state === "cancelled" || (line.state === "filled" && line.kind !== "entry");
}

function place(el, x, y, width = null, height = null) {
  el.style.transform = `translate(${x}px, ${y}px)`;
  if (width !== null) el.style.width = `${width}px`;
  if (height !== null) el.style.height = `${height}px`;
  el.style.visibility = "visible";
}

/** ns, written as text because a number would not hold them, to ms. */
function msOf(ns) {
  return Number(BigInt(ns) / 1000n) / 1000;
}

export default () => {
  let store = null;
  const open = (model) => (store ??= new Store(model));
  return {
    initialize({ model, signal }) {
      open(model);
      signal?.addEventListener("abort", () => {
        store?.close();
        store = null;
      }, { once: true });
    },
    render({ model, el, signal }) {
      const view = new View(open(model), el);
      signal?.addEventListener("abort", () => view.close(), { once: true });
      return () => view.close();
    },
  };
};
