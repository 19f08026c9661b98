// The odds of a ladder: shares of levels and exits, the distribution of returns, and what they come to.
const CSS = `
.odds { display: grid; gap: 12px; }
.top { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline; justify-content: space-between; }
h4 { margin: 0; font: 600 11px/1.4 var(--sol-font); letter-spacing: .06em; text-transform: uppercase; color: var(--sol-muted); }
.says { font-size: 12px; color: var(--sol-muted); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 8px 14px; margin: 0; }
.figures > div { min-width: 0; }
.figures .wide { grid-column: span 2; }
dt { font-size: 11px; color: var(--sol-muted); }
dd { margin: 0; font: 600 15px/1.35 var(--sol-font); font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd small { font-weight: 400; font-size: 12px; color: var(--sol-muted); }
.was { font-weight: 400; font-size: 11px; color: var(--sol-muted); display: block; min-height: 15px; }
.pictures { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 18px; align-items: start; }
table { border-collapse: collapse; width: 100%; font-size: 12px; }
caption { text-align: left; font-size: 11px; color: var(--sol-muted); padding: 0 0 4px; }
th, td { padding: 2px 0; text-align: left; font-weight: 400; border: 0; }
th { width: 1%; white-space: nowrap; padding-right: 8px; font-weight: 600; }
td.share { width: 1%; white-space: nowrap; padding-left: 8px; text-align: right; font-variant-numeric: tabular-nums; }
td.change { width: 1%; min-width: 44px; white-space: nowrap; padding-left: 8px; text-align: right; color: var(--sol-muted); font-variant-numeric: tabular-nums; }
.bar { position: relative; height: 12px; border-radius: 6px; background: var(--sol-soft); }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 6px; }
.bar b { position: absolute; top: -2px; bottom: -2px; width: 0; border-left: 2px dashed var(--sol-ink); opacity: .75; }
.take i { background: var(--sol-green-fill); }
.stop i { background: repeating-linear-gradient(45deg, var(--sol-red-fill) 0 5px, color-mix(in srgb, var(--sol-red-fill) 72%, var(--sol-bg)) 5px 8px); }
.other i { background: var(--sol-grey-fill); }
figure { margin: 0; }
figcaption { font-size: 11px; color: var(--sol-muted); padding-bottom: 4px; }
svg { display: block; width: 100%; height: 124px; overflow: visible; }
.gain { fill: var(--sol-green-fill); } .loss { fill: var(--sol-red-fill); }
.ghost { fill: none; stroke: var(--sol-ink); stroke-width: 1.3; stroke-dasharray: 3 2; opacity: .7; vector-effect: non-scaling-stroke; }
.zero { stroke: var(--sol-muted); stroke-width: 1; vector-effect: non-scaling-stroke; }
.axis { display: flex; justify-content: space-between; font-size: 11px; color: var(--sol-muted); font-variant-numeric: tabular-nums; position: relative; height: 16px; }
.axis span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.axis span:first-child { transform: none; } .axis span:last-child { transform: translateX(-100%); }
.empty { padding: 18px 0; color: var(--sol-muted); }
.honest { font-size: 11.5px; color: var(--sol-muted); margin: 0; }
.key { display: inline-block; width: 14px; border-top: 2px dashed currentColor; vertical-align: 3px; margin-right: 4px; }
.stale .figures, .stale .pictures { opacity: .5; }
:host { container-type: inline-size; }
@container (max-width: 480px) { .pictures { grid-template-columns: minmax(0, 1fr); } }
@media (forced-colors: active) { .bar i, svg { forced-color-adjust: none; } }
`;
const MINUS = "−";
const known = (x) => x !== null && x !== undefined;
const share = (x) => (known(x) ? `${(100 * x).toFixed(x > 0 && x < 0.0995 ? 1 : 0)} %` : "–");
// A return in per cent, on as many digits as it needs.
function ret(x) {
  if (!known(x)) return "–";
  const p = 100 * x, digits = Math.abs(p) >= 10 ? 1 : Math.abs(p) >= 0.1 ? 2 : 3;
  const text = Math.abs(p).toFixed(digits);
  return `${Number(text) === 0 ? "" : p < 0 ? MINUS : "+"}${text} %`;
}
const points = (x) => (Math.abs(x) < 0.0005 ? "" : `${x < 0 ? MINUS : "+"}${(100 * Math.abs(x)).toFixed(Math.abs(x) < 0.0995 ? 1 : 0)}`);
// A duration on its two largest units.
function lasting(ns) {
  if (!known(ns)) return "–";
  const units = [["d", 864e11], ["h", 36e11], ["m", 6e10], ["s", 1e9], ["ms", 1e6]];
  const at = Math.max(units.findIndex(([, size]) => ns >= size), ns >= 1e6 ? 0 : 4), parts = [];
  for (const [unit, size] of units.slice(at, at + 2)) {
    const n = Math.floor(ns / size);
    if (n || !parts.length) parts.push(`${n}${unit}`);
    ns -= n * size;
  }
  return parts.join(" ");
}
const count = (n) => (known(n) ? n.toLocaleString("en-GB") : "–");

function rowsOf(odds) {
  const rows = odds.levels.map((x, i) => [`TP${i + 1} fills`, x, "take", `level${i}`]);
  const exits = [["Stop loss", odds.stops, "stop", "stops"], ["Trailing stop", odds.trails, "other", "trails"],
    ["Break-even", odds.evens, "other", "evens"], ["Time limit", odds.holds, "other", "holds"], ["Other exits", odds.others, "other", "others"]];
  return rows.concat(exits.filter(([, x], i) => i === 0 || x > 0));
}
const lookup = (odds, key) => (key.startsWith("level") ? odds.levels[Number(key.slice(5))] : odds[key]);

// The interval of a share in words, where it has one.
function range(odds, key) {
  const pair = key.startsWith("level") && odds.level_intervals ? odds.level_intervals[Number(key.slice(5))] : null;
  return pair ? `95 %: ${share(pair[0])} to ${share(pair[1])}` : null;
}

function histogram(now, before) {
  const ns = "http://www.w3.org/2000/svg", W = 300, H = 120;
  const svg = document.createElementNS(ns, "svg");
  const add = (tag, given) => {
    const node = document.createElementNS(ns, tag);
    for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
    svg.append(node);
  };
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const both = [now, before].filter((o) => o && o.counts && o.counts.length);
  if (!both.length) return { svg, lo: 0, hi: 0 };
  let lo = Math.min(0, ...both.map((o) => o.edges[0])), hi = Math.max(0, ...both.map((o) => o.edges[o.edges.length - 1]));
  if (!(hi > lo)) { lo -= 0.001; hi += 0.001; }
  const x = (value) => ((value - lo) / (hi - lo)) * W;
  // Density, so that bins of another width compare.
  const dense = (o) => {
    const all = o.counts.reduce((a, b) => a + b, 0) || 1;
    return o.counts.map((c, i) => c / all / Math.max(o.edges[i + 1] - o.edges[i], 1e-12));
  };
  const high = both.map(dense), top = Math.max(...high.flat()) || 1;
  const y = (d) => H - Math.sqrt(d / top) * (H - 4);
  if (both[0] === now) {
    now.counts.forEach((c, i) => {
      if (!c) return;
      const a = x(now.edges[i]), b = x(now.edges[i + 1]), up = y(high[0][i]);
      const gain = (now.edges[i] + now.edges[i + 1]) / 2 >= 0;
      add("rect", { class: gain ? "gain" : "loss", x: a, y: up, width: Math.max(b - a - 0.6, 0.8), height: H - up });
    });
  }
  if (before && both.includes(before)) {
    const dens = high[both.indexOf(before)];
    let path = `M${x(before.edges[0])} ${H}`;
    dens.forEach((d, i) => { path += `L${x(before.edges[i])} ${y(d)}L${x(before.edges[i + 1])} ${y(d)}`; });
    add("path", { class: "ghost", d: `${path}L${x(before.edges[before.edges.length - 1])} ${H}` });
  }
  add("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: H });
  return { svg, lo, hi };
}

export default {
  render({ model, el }) {
    const over = new AbortController(), { signal } = over;
    const root = SOL.shadow(el, model, signal, CSS), h = SOL.h;
    const place = h("section", { class: "odds", "aria-label": "Odds" });
    root.append(place);

    function figure(name, text, was, mood = "", wide = false) {
      return h("div", { class: wide ? "wide" : null }, h("dt", {}, name),
        h("dd", { class: mood, "data-figure": name }, ...[text].flat(), h("span", { class: "was" }, was || "")));
    }

    function draw() {
      const now = model.get("now"), old = model.get("before"), state = model.get("state"), note = model.get("note");
      const has = now && known(now.orders), before = old && known(old.orders) ? old : null;
      place.className = `odds ${state === "stale" || state === "failed" ? "stale" : ""}`;
      place.setAttribute("aria-busy", String(state === "working"));
      const head = h("div", { class: "top" }, h("h4", {}, "Odds on the loaded ticks"),
        h("span", { class: "says" }, note || (state === "working" ? "reckoning …" : state === "stale" && has ? "of the last valid order" : has ? `${count(now.orders)} entries tried` : "")));
      if (!has) {
        place.replaceChildren(head, h("p", { class: "empty" }, note ? "" :
          state === "working" ? "Trying this ladder from thousands of entries …" : "A valid order is tried here from thousands of entries."));
        return;
      }
      const was = (name, form) => (before && known(before[name]) && form(before[name]) !== form(now[name]) ? `was ${form(before[name])}` : "");
      const sure = known(now.low) && known(now.high);
      const mood = sure && now.low > 0 ? "good" : sure && now.high < 0 ? "bad" : "";
      const figures = h("dl", { class: "figures" },
        figure("Expectancy, net per order", [ret(now.expectancy), sure ? h("small", {}, `  ${ret(now.low)} … ${ret(now.high)}`) : ""],
          was("expectancy", ret), mood, true),
        figure("Profitable", share(now.win_rate), was("win_rate", share)),
        figure("Median result", ret(now.median), was("median", ret)),
        figure("Typical hold", lasting(now.hold_median_ns), was("hold_median_ns", lasting)),
        figure("Entered", [count(now.entered), h("small", {}, ` of ${count(now.orders)}`)], was("entered", count)));
      const table = h("table", {}, h("caption", {}, "Share of the orders that ended"),
        h("tbody", {}, rowsOf(now).map(([name, x, kind, key]) => {
          const then = before ? lookup(before, key) : null;
          const width = `${(100 * Math.min(Math.max(x || 0, 0), 1)).toFixed(2)}%`;
          const bar = h("div", { class: `bar ${kind}`, "aria-hidden": "true" });
          const fill = h("i", {}); fill.style.width = width; bar.append(fill);
          if (known(then)) { const mark = h("b", {}); mark.style.left = `${(100 * Math.min(then, 1)).toFixed(2)}%`; bar.append(mark); }
          return h("tr", { "data-row": key }, h("th", { scope: "row" }, name), h("td", {}, bar), h("td", { class: "share", title: range(now, key) }, share(x)),
            h("td", { class: "change", title: "change in percentage points" }, known(then) && known(x) ? points(x - then) : ""));
        })));
      const { svg, lo, hi } = histogram(now, before);
      const axis = h("div", { class: "axis", "aria-hidden": "true" });
      const label = (value) => { const s = h("span", {}, ret(value)); s.style.left = `${100 * (value - lo) / (hi - lo || 1)}%`; return s; };
      axis.append(label(lo));
      const zero = -lo / (hi - lo || 1);
      if (zero > 0.22 && zero < 0.78) { const s = h("span", {}, "0"); s.style.left = `${100 * zero}%`; axis.append(s); }
      axis.append(label(hi));
      const text = `Distribution of ${count(now.finished)} net returns from ${ret(lo)} to ${ret(hi)}, median ${ret(now.median)}`;
      const picture = h("figure", { role: "img", "aria-label": text },
        h("figcaption", {}, "Net returns, as often as they came (height: square root)"), svg, axis);
      const open = known(now.entered) && known(now.finished) ? now.entered - now.finished : 0;
      place.replaceChildren(head, figures, h("div", { class: "pictures" }, table, picture),
        h("p", { class: "honest" },
          before ? h("span", {}, h("span", { class: "key", "aria-hidden": "true" }), "before the last change. ") : "",
          "In-sample record: this very ladder, tried on the ticks that are loaded. It says what was, not what will be, and what is dragged until it looks good, looks better than it is. ",
          sure ? "The interval is 95 %, by blocks of time. " : "No interval: too few blocks of time. ",
          known(now.effective) && now.effective < now.finished ?
            `Entries overlap: they say as much as about ${count(Math.max(Math.round(now.effective), 1))} independent ones. ` : "",
          open > 0 ? `${count(open)} had not ended when the ticks did and count in no figure. ` : "",
          now.ambiguous > 0 ? `In ${count(now.ambiguous)} a bar held both stop and level: the path of bars decided.` : ""));
    }

    let due = 0;
    const soon = () => { if (!due) due = requestAnimationFrame(() => { due = 0; draw(); }); };
    for (const name of ["now", "before", "state", "note"]) model.on(`change:${name}`, soon);
    draw();
    return () => {
      over.abort();
      cancelAnimationFrame(due);
      for (const name of ["now", "before", "state", "note"]) model.off(`change:${name}`, soon);
    };
  },
};
