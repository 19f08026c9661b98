// A model as anywidget gives it to a widget, without Jupyter; and a count of everything that a widget has to clean up.

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new DataView(bytes.buffer);
}

/** Buffers travel as {"__bytes__": base64}. */
function revive(value) {
  if (Array.isArray(value)) return value.map(revive);
  if (!value || typeof value !== "object") return value;
  if ("__bytes__" in value) return decode(value.__bytes__);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, revive(one)]));
}

class Model {
  constructor(state) {
    this.state = revive(state);
    this.listeners = [];
    this.sent = [];
  }
  get(name) { return this.state[name]; }
  on(name, handler) { this.listeners.push([name, handler]); }
  off(name, handler) { this.listeners = this.listeners.filter(([n, h]) => n !== name || (handler && h !== handler)); }
  fire(name, ...args) { for (const [n, handler] of [...this.listeners]) if (n === name) handler(...args); }
  /** A message to Python. */
  send(content) { this.sent.push(structuredClone(content)); window.toPython?.(structuredClone(content)); }
  save_changes() {}
  // what Python does
  update(state) {
    for (const [name, value] of Object.entries(revive(state))) {
      this.state[name] = value;
      this.fire(`change:${name}`, this, value);
    }
  }
  message(content, buffers = []) { this.fire("msg:custom", content, buffers.map(decode)); }
}

/** What the widget leaves behind unless it ends it: listeners, observers, frames, timers. Not what the driver of the browser does. */
const ours = () => new Error().stack.includes("blob:");
const held = { listeners: new Set(), observers: new Set(), frames: new Set(), timers: new Set() };
{
  const { addEventListener, removeEventListener } = EventTarget.prototype;
  const own = new WeakSet();
  const keys = new Map();
  const key = (target, name, handler) => {
    if (!keys.has(target)) keys.set(target, new Map());
    const names = keys.get(target);
    if (!names.has(name)) names.set(name, new Map());
    if (!names.get(name).has(handler)) names.get(name).set(handler, { target, name });
    return names.get(name).get(handler);
  };
  EventTarget.prototype.addEventListener = function (name, handler, options) {
    if (!own.has(this) && handler && !(this instanceof AbortSignal) && ours()) {
      const one = key(this, name, handler);
      held.listeners.add(one);
      if (options?.signal) {
        own.add(options.signal);
        addEventListener.call(options.signal, "abort", () => held.listeners.delete(one));
      }
    }
    return addEventListener.call(this, name, handler, options);
  };
  EventTarget.prototype.removeEventListener = function (name, handler, options) {
    held.listeners.delete(key(this, name, handler));
    return removeEventListener.call(this, name, handler, options);
  };
  for (const name of ["ResizeObserver", "IntersectionObserver", "MutationObserver"]) {
    const Real = window[name];
    window[name] = class extends Real {
      observe(...args) { if (ours()) held.observers.add(this); return super.observe(...args); }
      disconnect() { held.observers.delete(this); return super.disconnect(); }
    };
  }
  const wrap = (start, stop, set) => {
    const [begin, end] = [window[start], window[stop]];
    window[start] = (act, ...rest) => {
      const id = begin.call(window, (...args) => { set.delete(id); act(...args); }, ...rest);
      if (ours()) set.add(id);
      return id;
    };
    window[stop] = (id) => { set.delete(id); end.call(window, id); };
  };
  wrap("requestAnimationFrame", "cancelAnimationFrame", held.frames);
  wrap("setTimeout", "clearTimeout", held.timers);
}

window.lab = {
  held: () => Object.fromEntries(Object.entries(held).map(([name, set]) => [name, set.size])),
  drawn: [],
  /** What is inside of the first chart. */
  root: () => document.querySelector(".box > div").shadowRoot,
  focused() {
    const el = document.activeElement.shadowRoot?.activeElement;
    return el ? `${el.getAttribute("aria-label")}|${el.dataset.lmSuppressShortcuts}` : "";
  },
  /** When moves are sent from now on. */
  clock() {
    this.times = [];
    const { model } = this;
    const { send } = model;
    model.send = (content) => {
      if (content.k === "move") this.times.push(performance.now());
      send.call(model, content);
    };
  },
  /** Colour of a place of the canvas. */
  pixel(x, y) {
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    copy.drawImage(this.root().querySelector("canvas"), x, y, 1, 1, 0, 0, 1, 1);
    return [...copy.getImageData(0, 0, 1, 1).data];
  },
  async load(source) {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.factory = (await import(url)).default;
    URL.revokeObjectURL(url);
  },
  async mount(state, box) {
    this.model = new Model(state);
    this.widget = this.factory();
    this.life = new AbortController();
    await this.widget.initialize({ model: this.model, signal: this.life.signal });
    await this.view(box);
  },
  async view(box) {
    const el = document.createElement("div");
    el.className = "box";
    if (box) el.style.width = box;
    document.body.append(el);
    el.addEventListener("orderchart:drawn", (event) => this.drawn.push(event.detail));
    const sight = new AbortController();
    await this.widget.render({ model: this.model, el, signal: sight.signal });
    this.sights = [...(this.sights ?? []), sight];
    this.el = el;
  },
};
