// The board: `session` (head, alerts, table of orders), `order` (how the chosen one stands), `log` (what happened to it).
// Python sends the whole as a trait, so that the first picture needs no question, and after that only what is different.
const { h, dot } = SOL;
const SILENCE_MS = 3000;   // without a word from the kernel for so long, what is seen is called stale
const MANY = 400;          // rows that are drawn unless more are asked for
const SECTIONS = [["attention", "Attention"], ["living", "Living"], ["pending", "Pending"], ["finished", "Finished"], ["all", "All"]];
const COLUMNS = [  // key, title, class, how a row is compared
  ["n", "#", "num", (r) => r.n],
  ["symbol", "Symbol", "", (r) => r.symbol],
  ["side", "Side", "", (r) => r.side],
  ["status", "Status", "wide", (r) => r.word],
  ["entry", "Entry", "num low", (r) => +r.entry || 0],
  ["price", "Price", "num", (r, b) => b.price(r) || 0],
  ["stop", "Stop", "num mid", (r) => +r.stop || 0],
  ["mark", "Water mark", "num low", (r) => +r.mark || 0],
  ["pnl", "P&L", "num", (r, b) => b.pnl(r).total],
  ["levels", "Levels", "levels", (r) => r.filled / (r.levels.length || 1)],
  ["tag", "Tag", "tag low", (r) => r.tag],
];
const RANK = { attention: 0, living: 1, pending: 2, finished: 3 };

const money = (value) => {
  if (value === null || Number.isNaN(value)) return "";
  const small = Math.abs(value) < 0.005 && value !== 0;
  const text = small ? Math.abs(value).toPrecision(2) : Math.abs(value).toLocaleString("en-GB", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  return `${value < 0 ? "−" : value > 0 ? "+" : ""}${text}`;
};
const tone = (value) => (value > 0 ? "good" : value < 0 ? "bad" : "");
const WRITERS = new Map();   // a formatter is dear to make
const fixed = (text, digits) => {
  if (text === null || text === undefined || text === "") return "";
  if (digits === undefined || Number.isNaN(Number(text))) return String(text);
  if (!WRITERS.has(digits)) WRITERS.set(digits, new Intl.NumberFormat("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  return WRITERS.get(digits).format(Number(text));
};
const age = (ms) => (ms < 60e3 ? `${(ms / 1e3).toFixed(ms < 10e3 ? 1 : 0)} s` : ms < 3600e3 ? `${Math.floor(ms / 60e3)} min` : `${Math.floor(ms / 3600e3)} h`);
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const merged = (old, more) => Object.assign(old || {}, more);

const CSS = {};
CSS.session = `
:host { container: board / inline-size; }
.live-mode .strip { background: repeating-linear-gradient(-45deg, var(--sol-red-fill) 0 12px, transparent 12px 18px); height: 8px; border-radius: 4px; margin-bottom: 8px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; min-height: 40px; }
h2 { font-size: 18px; line-height: 1.25; margin: 0; font-weight: 700; overflow-wrap: anywhere; }
.mode { font-weight: 700; font-size: 12px; letter-spacing: .04em; border-radius: 999px; padding: 2px 12px; background: var(--sol-accent-soft); color: var(--sol-accent); }
.live-mode .mode { background: var(--sol-red-fill); color: var(--sol-on); font-size: 13px; padding: 4px 14px; }
.feed { display: inline-flex; align-items: center; gap: 7px; font-weight: 600; border-radius: 999px; padding: 2px 10px 2px 8px; border: 1px solid transparent; }
.feed.warn { background: var(--sol-warn-soft); color: var(--sol-warn); border-color: var(--sol-yellow-fill); }
.feed.bad { background: var(--sol-red-fill); color: var(--sol-on); } .feed.bad .dot { color: var(--sol-on); }
.figures { margin-left: auto; display: flex; flex-wrap: wrap; gap: 4px 22px; }
.figure small { display: block; font-size: 11px; color: var(--sol-muted); white-space: nowrap; }
.figure b { font-weight: 700; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figure.price b { font-size: 17px; line-height: 1.1; }
.alerts { display: grid; gap: 6px; margin-top: 8px; }
.alerts:empty { margin: 0; }
.alert { display: flex; gap: 9px; align-items: center; padding: 7px 12px; border-radius: 9px; background: var(--sol-bad-soft); color: var(--sol-bad); font-weight: 600; overflow-wrap: anywhere; }
.alert.warn { background: var(--sol-warn-soft); color: var(--sol-warn); }
.alert button { margin-left: auto; padding: 2px 10px; min-height: 26px; font-size: 12px; background: transparent; border-color: currentColor; }
.frame { border: 1px solid var(--sol-line); border-radius: 12px; background: var(--sol-card); margin-top: 10px; overflow: hidden; }
.tools { display: flex; flex-wrap: wrap; gap: 2px; padding: 0 8px; border-bottom: 1px solid var(--sol-line); }
.tools button { border: 0; background: none; padding: 10px 11px 8px; font-weight: 600; color: var(--sol-muted); cursor: pointer; border-bottom: 2px solid transparent; }
.tools button[aria-pressed="true"] { color: var(--sol-ink); border-bottom-color: var(--sol-accent); }
.tools button.hot { color: var(--sol-bad); }
.tools button:focus-visible { outline-offset: -3px; }
.tools span { font-variant-numeric: tabular-nums; font-weight: 500; }
.pane { max-height: 300px; overflow: auto; overscroll-behavior: contain; background: var(--sol-bg); }
table { border-collapse: separate; border-spacing: 0; width: 100%; }
th { position: sticky; top: 0; z-index: 1; background: var(--sol-bg); border-bottom: 1px solid var(--sol-line); padding: 0; text-align: left; }
th button { all: unset; box-sizing: border-box; width: 100%; padding: 7px 10px; font-size: 11.5px; font-weight: 600; color: var(--sol-muted); cursor: pointer; white-space: nowrap; }
th.num button { text-align: right; }
th button:hover { color: var(--sol-ink); } th button:focus-visible { outline: 2px solid var(--sol-accent); outline-offset: -3px; border-radius: 6px; }
th[aria-sort="ascending"] button::after { content: " ▴"; } th[aria-sort="descending"] button::after { content: " ▾"; }
td { padding: 6px 10px; border-bottom: 1px solid var(--sol-soft); white-space: nowrap; height: 32px; }
tr:last-child td { border-bottom: 0; }
tbody tr { cursor: pointer; }
tbody tr:hover td { background: var(--sol-card); }
tbody tr[aria-selected="true"] td { background: var(--sol-accent-soft); }
tbody tr[aria-selected="true"] td:first-child { box-shadow: inset 3px 0 0 var(--sol-accent); }
tbody tr:focus-visible { outline: 2px solid var(--sol-accent); outline-offset: -2px; }
tr.over td { color: var(--sol-muted); }
tr td.good, tr.over td.good { color: var(--sol-good); } tr td.bad, tr.over td.bad { color: var(--sol-bad); }
td .dot { margin-right: 6px; }
td.status { max-width: 180px; overflow: hidden; text-overflow: ellipsis; }
td.tag { max-width: 130px; overflow: hidden; text-overflow: ellipsis; color: var(--sol-muted); }
td.levels .dot { margin-right: 2px; width: 10px; height: 10px; } td.levels span.of { margin-left: 5px; font-variant-numeric: tabular-nums; color: var(--sol-muted); }
.side-buy { color: var(--sol-good); font-weight: 600; } .side-sell { color: var(--sol-bad); font-weight: 600; }
.empty { padding: 26px 16px; text-align: center; color: var(--sol-muted); }
.more { width: 100%; border: 0; background: none; padding: 9px; color: var(--sol-accent); cursor: pointer; font-weight: 600; }
.old .pane, .old .figures { opacity: .5; }
@container board (max-width: 820px) { .low { display: none; } td, th button { padding-left: 7px; padding-right: 7px; } .figures { margin-left: 0; } }
@container board (max-width: 520px) { .mid, .side, .price:not(.figure) { display: none; } h2 { font-size: 16px; }
  td.status { max-width: 108px; overflow: hidden; text-overflow: ellipsis; } .tools button { padding: 9px 7px 7px; } }
`;
CSS.order = `
.title { display: flex; align-items: center; gap: 8px; flex-wrap: wrap; }
h3 { margin: 0; font-size: 15px; overflow-wrap: anywhere; } .state { display: inline-flex; gap: 6px; align-items: center; margin-left: auto; font-weight: 600; }
.side-buy { color: var(--sol-good); } .side-sell { color: var(--sol-bad); }
.words { color: var(--sol-muted); margin-top: 2px; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px 12px; margin-top: 10px; }
.grid small { display: block; font-size: 11px; color: var(--sol-muted); } .grid b { font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.head { display: flex; justify-content: space-between; margin: 12px 0 5px; font-size: 11px; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; color: var(--sol-muted); }
.head b { color: var(--sol-ink); letter-spacing: 0; font-size: 13px; font-variant-numeric: tabular-nums; }
ol { display: flex; gap: 4px; margin: 0; padding: 0; list-style: none; }
li { position: relative; min-width: 26px; height: 24px; border-radius: 6px; overflow: hidden; background: var(--sol-soft); display: flex; align-items: center; justify-content: center; gap: 5px; font-size: 11.5px; font-weight: 600; }
li i { position: absolute; inset: 0 auto 0 0; background: color-mix(in srgb, var(--sol-yellow-fill) 38%, transparent); }
li.filled { background: var(--sol-green-fill); color: var(--sol-on); } li.cancelled { color: var(--sol-muted); text-decoration: line-through; }
li > * { position: relative; } li > i { position: absolute; } li .dot { width: 9px; height: 9px; } li.filled .dot { color: var(--sol-on); }
`;
CSS.log = `
:host { position: absolute; inset: 0; }
.pane { height: 100%; overflow: auto; border: 1px solid var(--sol-line); border-radius: 12px; background: var(--sol-bg); }
table { border-collapse: separate; border-spacing: 0; width: 100%; }
caption { text-align: left; padding: 9px 12px; font-size: 11px; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; color: var(--sol-muted); background: var(--sol-card); border-bottom: 1px solid var(--sol-line); }
th { position: sticky; top: 0; background: var(--sol-bg); text-align: left; font-size: 11.5px; font-weight: 600; color: var(--sol-muted); padding: 6px 10px; border-bottom: 1px solid var(--sol-line); white-space: nowrap; }
td { padding: 4px 10px; border-bottom: 1px solid var(--sol-soft); white-space: nowrap; } tr:last-child td { border-bottom: 0; }
th.num { text-align: right; } tr.hot td { background: var(--sol-bad-soft); } td .dot { margin-right: 6px; }
.empty { padding: 18px; text-align: center; color: var(--sol-muted); }
.pane:focus-visible { outline-offset: -2px; }
`;

// What is known of the session, shared by all views of one model.
class Book {
  constructor(state) { this.take(state); }
  take(state) {
    this.head = state.head || {};
    this.prices = state.prices || {};
    this.rows = new Map();
    for (const row of state.rows || []) this.rows.set(row.n, row);
    this.heard = Date.now();
    for (const price of Object.values(this.prices)) price.at = this.heard - (price.age || 0);
  }
  // Returns the numbers of rows that are another, and whether any changed its place.
  change(message) {
    this.heard = Date.now();
    if (message.all) { this.take(message.all); return { numbers: null, moved: true }; }
    merged(this.head, message.head);
    for (const [symbol, price] of Object.entries(message.prices || {})) {
      this.prices[symbol] = merged(this.prices[symbol], price);
      this.prices[symbol].at = this.heard - (price.age || 0);
    }
    const numbers = [];
    let moved = false;
    for (const row of message.rows || []) {
      const known = this.rows.get(row.n);
      moved ||= !known || ("section" in row && row.section !== known.section);
      if (known) Object.assign(known, row); else this.rows.set(row.n, row);
      numbers.push(row.n);
    }
    return { numbers, moved };
  }
  price(row) {
    if (row.section === "finished" || (row.over && row.section === "attention")) return null;
    const market = this.prices[row.symbol];
    const text = market && market[row.series];
    return text === undefined || text === null ? null : Number(text);
  }
  pnl(row) {
    const price = this.price(row), held = Number(row.held);
    const open = price === null || !held || row.entry === null ? 0 : row.way * (price - Number(row.entry)) * held;
    return { open, real: row.real, total: row.real + open };
  }
  digits(row) { return (this.prices[row.symbol] || {}).digits; }
}

function session(model, root, signal, shared) {
  const box = h("div");
  const name = h("h2"), mode = h("span", { class: "mode" });
  const feed = h("span", { class: "feed", role: "status" }), figures = h("div", { class: "figures" });
  const alerts = h("div", { class: "alerts", role: "alert" });
  const tools = h("div", { class: "tools", role: "toolbar", "aria-label": "Which orders" });
  const heads = COLUMNS.map(([key, title, css]) => h("th", { scope: "col", class: `${css} ${key}` },
    h("button", { type: "button", onclick: () => order(key) }, title)));
  const body = h("tbody");
  const table = h("table", { role: "grid", "aria-label": "Orders" }, h("thead", {}, h("tr", {}, heads)), body);
  const empty = h("div", { class: "empty" }), more = h("button", { class: "more", type: "button" });
  const pane = h("div", { class: "pane" }, table, empty, more);
  box.append(h("div", { class: "strip" }), h("header", {}, name, mode, feed, figures), alerts, h("div", { class: "frame" }, tools, pane));
  root.append(box);

  const lines = new Map();   // number -> { tr, cells, dots }
  let shown = [], sorted = { key: null, down: false }, all = false, at = null, waiting = 0, alarm = "", old = false;
  let section = model.get("section") || "living";

  function order(key) {
    sorted = sorted.key === key ? (sorted.down ? { key: null, down: false } : { key, down: true }) : { key, down: false };
    heads.forEach((th, k) => (COLUMNS[k][0] === sorted.key
      ? th.setAttribute("aria-sort", sorted.down ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    arrange();
  }

  const inSection = (row) => section === "all" || row.section === section || (section === "living" && row.section === "attention" && !row.over);
  function arrange() {
    const { book } = shared;
    const rows = [...book.rows.values()].filter(inSection);
    const column = COLUMNS.find(([key]) => key === sorted.key);
    rows.sort((a, b) => RANK[a.section] - RANK[b.section] || (b.end || "").localeCompare(a.end || "") || b.n - a.n);
    if (column) {
      const key = (row) => column[3](row, book), turn = sorted.down ? -1 : 1;
      rows.sort((a, b) => { const x = key(a), y = key(b); return turn * (typeof x === "number" ? x - y : String(x).localeCompare(String(y))); });
    }
    const cut = all ? rows : rows.slice(0, MANY);
    shown = cut.map((row) => row.n);
    const had = root.activeElement && root.activeElement.closest("tr[data-n]");
    body.replaceChildren(...cut.map((row) => line(row).tr));
    if (had && had.isConnected) had.focus({ preventScroll: true });
    table.setAttribute("aria-rowcount", rows.length + 1);
    table.hidden = !rows.length;
    empty.hidden = rows.length > 0;
    const what = { all: "No orders yet.", attention: "Nothing needs attention.", living: "No living orders.", pending: "No pending orders.", finished: "No finished orders." };
    put(empty, book.rows.size ? what[section] : "No orders yet.");
    more.hidden = rows.length <= cut.length;
    put(more, `Show all ${rows.length}`);
    counts();
    roving();
  }

  function line(row) {
    let mine = lines.get(row.n);
    if (!mine) {
      const cells = COLUMNS.map(([key, , css]) => h("td", { role: "gridcell", class: `${css} ${key}` }));
      mine = { tr: h("tr", { role: "row", tabindex: -1, "data-n": row.n, "aria-selected": "false" }, cells), cells, dots: "" };
      lines.set(row.n, mine);
      draw(row, mine);
    }
    return mine;
  }

  function draw(row, mine) {
    const { book } = shared, dots = model.get("dots"), digits = book.digits(row);
    const [n, symbol, side, status, entry, , stop, mark, , levels, tag] = mine.cells;
    put(n, String(row.n));
    put(symbol, row.symbol);
    if (!side.firstChild) side.append(h("span", { class: `side-${row.side === "buy" ? "buy" : "sell"}` }, row.side === "buy" ? "buy" : "sell"));
    const drawn = JSON.stringify([row.dot, row.word, row.levels, row.progress]);
    if (mine.dots !== drawn) {
      mine.dots = drawn;
      status.replaceChildren(dot(dots[row.dot] || dots.error), row.word);
      status.title = row.word;
      levels.replaceChildren(...row.levels.map((name) => dot(dots[name] || dots.error, true)), h("span", { class: "of" }, row.progress));
    }
    put(entry, fixed(row.entry, digits));
    put(stop, fixed(row.stop, digits));
    put(mark, fixed(row.mark, digits));
    put(tag, row.tag);
    tag.title = row.tag;
    mine.tr.classList.toggle("over", row.over);
    moved(row, mine);
  }

  function moved(row, mine) {  // what goes with the price
    const { book } = shared, price = book.price(row), { total, open, real } = book.pnl(row);
    put(mine.cells[5], price === null ? "" : fixed(price, book.digits(row)));
    const bare = row.dot === "pending" || (row.over && !real && row.entry === null);
    put(mine.cells[8], bare ? "" : money(total));
    mine.cells[8].classList.toggle("good", total > 0);
    mine.cells[8].classList.toggle("bad", total < 0);
    const title = bare ? "" : `realised ${money(real) || "0.00"}, unrealised ${money(open) || "0.00"}`;
    if (mine.title !== title) mine.cells[8].title = mine.title = title;
  }

  function counts() {
    const many = { attention: 0, living: 0, pending: 0, finished: 0, all: shared.book.rows.size };
    for (const row of shared.book.rows.values()) {
      many[row.section] += 1;
      if (row.section === "attention" && !row.over) many.living += 1;
    }
    const wanted = SECTIONS.filter(([key]) => key !== "attention" || many.attention || section === "attention");
    if (tools.children.length !== wanted.length) {
      tools.replaceChildren(...wanted.map(([key, title]) => h("button", { type: "button", "data-key": key,
        onclick: () => { section = key; all = false; model.set("section", key); model.save_changes(); arrange(); } }, `${title} `, h("span"))));
    }
    for (const button of tools.children) {
      button.setAttribute("aria-pressed", String(button.dataset.key === section));
      button.classList.toggle("hot", button.dataset.key === "attention");
      put(button.lastChild, String(many[button.dataset.key]));
    }
  }

  function figure(title, text, css = "", kind = "") {
    return h("div", { class: `figure ${kind}` }, h("small", {}, title), h("b", { class: css }, text));
  }

  const ages = new Map();
  function head() {
    const { book } = shared, { head: about, prices } = book;
    const live = about.mode === "live";
    box.classList.toggle("live-mode", live);
    put(name, about.name || "");
    put(mode, live ? "LIVE · real money" : about.mode === "dry" ? "DRY RUN · nothing is sent" : "PAPER");
    const symbols = Object.entries(prices);
    const sums = new Map();
    for (const row of book.rows.values()) {
      const quote = row.quote, sum = sums.get(quote) || { real: 0, open: 0 }, { real, open } = book.pnl(row);
      sum.real += real; sum.open += open;
      sums.set(quote, sum);
    }
    ages.clear();
    const parts = symbols.slice(0, 4).map(([symbol, price]) => {
      const title = h("small"), shownPrice = price.price ?? price.mark ?? price.bid;
      ages.set(title, [symbol, price]);
      return h("div", { class: "figure price" }, title, h("b", {}, shownPrice === undefined || shownPrice === null ? "no price yet" : fixed(shownPrice, price.digits)));
    });
    for (const [quote, { real, open }] of [...sums].slice(0, 2)) {
      const unit = sums.size > 1 ? ` ${quote}` : "";
      parts.push(figure(`Unrealised${unit}`, money(open) || "0.00", tone(open)), figure(`Realised${unit}`, money(real) || "0.00", tone(real)));
    }
    figures.replaceChildren(...parts);
    warn();
  }

  function warn() {  // feed and alerts: what may not be overlooked
    const { book } = shared, about = book.head;
    const silent = !about.final && Date.now() - book.heard > SILENCE_MS;
    const state = silent ? { dot: "error", kind: "bad", word: "STALE",
      text: `STALE: no word from the kernel for ${age(Date.now() - book.heard)}. ${about.local ? "If it is gone, nothing watches these orders: start it again and run the cell." : "This picture is old; the session runs elsewhere."}` } : about.feed || {};
    if (silent !== old) {
      old = silent;
      box.classList.toggle("old", silent);
    }
    const panel = root.host.closest(".sol-panel");
    if (panel) {   // also where the head is out of sight
      panel.toggleAttribute("data-stale", silent);
      panel.toggleAttribute("data-live", about.mode === "live");
      if (state.kind === "bad") panel.dataset.alarm = `${state.word}: ${silent ? "no word from the kernel" : "see above"}`;
      else delete panel.dataset.alarm;
    }
    const dots = model.get("dots"), word = state.word || "";
    const key = JSON.stringify([state.dot, word, state.kind]);
    if (feed.dataset.key !== key) {
      feed.dataset.key = key;
      feed.className = `feed ${state.kind || ""}`;
      feed.replaceChildren(dot(dots[state.dot] || dots.created), word);
    }
    feed.title = state.text || "";
    const said = [];
    if (state.text && state.kind) said.push({ text: state.text, kind: state.kind });
    said.push(...(about.alerts || []));
    const now = JSON.stringify(said.map((one) => [one.text.replace(/\d+(\.\d+)? (s|min|h)\b/, ""), one.kind, one.order]));
    if (alarm !== now) {
      alarm = now;
      alerts.replaceChildren(...said.map((one) => h("div", { class: `alert ${one.kind === "warn" ? "warn" : ""}` },
        dot(dots[one.kind === "warn" ? "waiting" : "error"]), h("span", {}, one.text),
        one.order === undefined || one.order === null ? null : h("button", { class: "sol", type: "button", onclick: () => choose(one.order, true) }, `Show #${one.order}`))));
    } else if (silent && alerts.firstChild) put(alerts.firstChild.children[1], state.text);
    for (const [title, [symbol, price]] of ages) {
      const had = price.ts ? ` · ${age(Date.now() - price.at)} ago${price.state === "stale" ? " · STALE" : ""}` : "";
      put(title, `${symbol}${had}`);
      title.classList.toggle("bad", price.state === "stale");
      title.title = price.ts || "";
    }
  }

  function roving() {
    const chosen = model.get("selected");
    const home = shown.includes(at) ? at : shown.includes(chosen) ? chosen : shown[0];
    at = home === undefined ? null : home;
    for (const number of shown) {
      const { tr } = lines.get(number);
      tr.tabIndex = number === at ? 0 : -1;
      tr.setAttribute("aria-selected", String(number === chosen));
    }
  }

  function choose(number, show = false) {
    at = number;
    if (model.get("selected") !== number) {
      model.set("selected", number);
      model.save_changes();
    }
    if (show && !shown.includes(number)) { section = "all"; all = true; arrange(); }
    roving();
    const mine = lines.get(number);
    if (show && mine) mine.tr.focus();
  }

  body.addEventListener("click", (event) => {
    const tr = event.target.closest("tr[data-n]");
    if (tr) { choose(Number(tr.dataset.n)); tr.focus({ preventScroll: true }); }
  }, { signal });
  body.addEventListener("keydown", (event) => {
    const tr = event.target.closest("tr[data-n]");
    if (!tr) return;
    const k = shown.indexOf(Number(tr.dataset.n)), last = shown.length - 1;
    const to = { ArrowDown: k + 1, ArrowUp: k - 1, Home: 0, End: last, PageDown: k + 8, PageUp: k - 8 }[event.key];
    if (to !== undefined) {
      const number = shown[Math.max(0, Math.min(last, to))];
      at = number;
      roving();
      const next = lines.get(number).tr;
      next.focus({ preventScroll: true });
      next.scrollIntoView({ block: "nearest" });
      clearTimeout(waiting);
      waiting = setTimeout(() => choose(number), 150);   // a key that is held down does not ask for every order on the way
    } else if (event.key === "Enter" || event.key === " ") {
      clearTimeout(waiting);
      choose(Number(tr.dataset.n));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }, { signal });
  more.addEventListener("click", () => { all = true; arrange(); }, { signal });

  function update({ numbers, moved: places, prices }) {
    if (numbers === null) { lines.clear(); arrange(); head(); return; }
    for (const number of numbers) {
      const mine = lines.get(number);
      if (mine) draw(shared.book.rows.get(number), mine);
    }
    if (places) arrange();
    if (prices) for (const number of shown) {
      const row = shared.book.rows.get(number);
      if (prices[row.symbol] && !row.over) moved(row, lines.get(number));
    }
    if (numbers.length || prices) head(); else warn();
  }

  const chosen = () => { at = model.get("selected"); roving(); };
  const other = () => { section = model.get("section"); all = false; arrange(); };
  model.on("change:selected", chosen);
  model.on("change:section", other);
  const clock = setInterval(warn, 250);
  signal.addEventListener("abort", () => { clearInterval(clock); clearTimeout(waiting); model.off("change:selected", chosen); model.off("change:section", other); });
  arrange();
  head();
  return update;
}

function order(model, root, signal, shared) {
  const box = h("div", { role: "region", "aria-label": "Selected order" });
  root.append(box);
  let bars = [], seen = "";

  function draw() {
    const now = shared.now, dots = model.get("dots");
    bars = [];
    if (!now || now.n === undefined) {
      box.replaceChildren(h("div", { class: "words" }, "Select an order to see it here."));
      return;
    }
    const cell = (title, text, css = "") => h("div", {}, h("small", {}, title), h("b", { class: css }, text || "–"));
    const parts = [
      h("div", { class: "title" }, h("h3", {}, `#${now.n} ${now.symbol} `, h("span", { class: `side-${now.side === "buy" ? "buy" : "sell"}` }, now.way > 0 ? "long" : "short")),
        h("span", { class: "state" }, dot(dots[now.dot] || dots.error), now.word)),
      now.words ? h("div", { class: "words" }, now.words) : null,
    ];
    const pnl = h("b"), open = h("b");
    parts.push(h("div", { class: "grid" },
      cell("Entry", fixed(now.entry, now.digits)), cell("Effective stop", fixed(now.stop, now.digits)), cell("Water mark", fixed(now.mark, now.digits)),
      cell("Held", now.held), h("div", {}, h("small", {}, "Unrealised"), open), h("div", {}, h("small", {}, "Realised"), pnl)));
    put(pnl, money(now.real) || "0.00");
    pnl.className = tone(now.real);
    bars.open = open;
    if (now.levels.length) {
      parts.push(h("div", { class: "head" }, "Levels", h("b", {}, now.progress)));
      parts.push(h("ol", { "aria-label": `Take-profit levels, ${now.progress} filled` }, now.levels.map((level, k) => {
        const fill = h("i");
        bars.push([fill, level]);
        const word = (dots[level.dot] || dots.error)[2];
        return h("li", { class: level.dot, style: `flex: ${Math.max(Number(level.size) || 1, 1)} 1 0`, title: `TP${k + 1} ${fixed(level.price, now.digits)} · ${level.size} % · ${word}`,
          "aria-label": `TP${k + 1} at ${fixed(level.price, now.digits)}, ${level.size} percent, ${word}` }, fill, dot(dots[level.dot] || dots.error), h("span", {}, `TP${k + 1}`));
      })));
    }
    box.replaceChildren(...parts.filter(Boolean));
    moved();
    const version = `${now.n} ${now.version}`;
    if (seen !== version) {
      seen = version;
      model.send({ seen: [now.n, now.version] });   // what the user decides on from here
    }
  }

  function moved() {
    const now = shared.now;
    if (!now || now.n === undefined || !bars.open) return;
    const price = Number(now.price), held = Number(now.held), known = now.price !== null && now.price !== undefined;
    const open = known && held && now.entry !== null && !now.over ? now.way * (price - Number(now.entry)) * held : 0;
    put(bars.open, money(open) || "0.00");
    bars.open.className = tone(open);
    let from = Number(now.entry), next = true;
    for (const [fill, level] of bars) {
      const to = Number(level.price);
      let part = 0;
      if (level.dot === "working") part = 1;
      else if (next && known && held && !now.over && (level.dot === "pending" || level.dot === "approaching")) {
        part = to === from ? 1 : Math.max(0, Math.min(1, (price - from) / (to - from)));
        next = false;
      }
      fill.style.width = `${(part * 100).toFixed(1)}%`;
      if (level.dot === "filled" || level.dot === "working") from = to;
    }
  }

  draw();
  return (message) => { if ("order" in message) draw(); else moved(); };
}

function log(model, root, signal, shared) {
  const { h } = SOL;
  const columns = ["Time (UTC)", "What", "Level", "Price", "Quantity", "Stop", "Status", "Reason"];
  const body = h("tbody"), empty = h("div", { class: "empty" }, "Nothing has happened to it yet.");
  const caption = h("caption");
  const pane = h("div", { class: "pane", tabindex: 0, role: "region", "aria-label": "What happened to the selected order" },
    h("table", {}, caption, h("thead", {}, h("tr", {}, columns.map((title, k) => h("th", { scope: "col", class: k > 1 && k < 6 ? "num" : "" }, title)))), body), empty);
  root.append(pane);
  const line = (one) => h("tr", { class: one.hot ? "hot" : "" },
    h("td", { class: "num" }, one.at), h("td", {}, dot((model.get("dots")[one.dot]) || model.get("dots").created), one.what),
    ...[one.level, one.price, one.quantity, one.stop].map((text) => h("td", { class: "num" }, text)), h("td", {}, one.status), h("td", {}, one.reason));
  function all() {
    body.replaceChildren(...shared.lines.map(line));
    after();
  }
  function after() {
    empty.hidden = shared.lines.length > 0;
    put(caption, shared.title || "Events");
  }
  all();
  return (message) => {
    if (message.lines) return all();
    for (const one of message.more) body.prepend(line(one));
    while (body.children.length > shared.most) body.lastChild.remove();
    after();
  };
}

// `initialize` and `render` share what they know here; the proxies of the model that they are given differ.
export default () => {
  const views = new Set();
  let shared = null, hear = null;

  function begin(model) {
    if (shared) return;
    const part = model.get("part"), state = model.get("state") || {};
    if (part === "session") shared = { book: new Book(state) };
    else if (part === "order") shared = { now: state.order || null };
    else shared = { lines: state.lines || [], title: state.title || "", most: model.get("most") || 500 };
    hear = (message) => {
      if (!message || typeof message !== "object") return;
      let news = message;
      if (part === "session") news = { ...shared.book.change(message), prices: message.prices };
      else if (part === "order") {
        if ("order" in message) shared.now = message.order;
        else if (shared.now) shared.now.price = message.price;
      } else {
        if (message.lines) { shared.lines = message.lines; shared.title = message.title; }
        else { shared.lines = [...message.more.slice().reverse(), ...shared.lines].slice(0, shared.most); }
      }
      for (const view of views) view(news);
    };
    model.on("msg:custom", hear);
  }

  return {
    initialize({ model }) { begin(model); },
    render({ model, el }) {
      begin(model);
      const over = new AbortController(), part = model.get("part");
      const root = SOL.shadow(el, model, over.signal, CSS[part]);
      const view = { session, order, log }[part](model, root, over.signal, shared);
      views.add(view);
      return () => { views.delete(view); over.abort(); };
    },
  };
};
