// What the scripts of the panel have in common. Put in front of one of them (parts.py, script), so it exports nothing.
const SOL = (() => {
  const SHAPES = {
    ring: ["circle", { cx: 6, cy: 6, r: 4.6, fill: "none", stroke: "currentColor", "stroke-width": 1.8 }],
    disc: ["circle", { cx: 6, cy: 6, r: 5.4, fill: "currentColor" }],
    half: ["path", { d: "M6 .7a5.3 5.3 0 1 0 0 10.6z", fill: "currentColor" },
           "circle", { cx: 6, cy: 6, r: 4.6, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }],
    diamond: ["path", { d: "M6 0 12 6 6 12 0 6z", fill: "currentColor" }],
    square: ["path", { d: "M1.2 1.2h9.6v9.6H1.2z", fill: "currentColor" }],
    cross: ["path", { d: "M2 2l8 8M10 2l-8 8", stroke: "currentColor", "stroke-width": 2, fill: "none" }],
  };
  const SVG = "http://www.w3.org/2000/svg";

  // An element: attributes, then children; text is text. `on…` are listeners, `class` and the rest attributes.
  function h(tag, given = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(given || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }

  // A dot: [colour, shape, word]. With `spoken` it has a name of its own, else a word stands beside it.
  function dot([colour, shape, word], spoken = false) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 12 12");
    const parts = SHAPES[shape] || SHAPES.ring;
    for (let k = 0; k < parts.length; k += 2) {
      const part = document.createElementNS(SVG, parts[k]);
      for (const [name, value] of Object.entries(parts[k + 1])) part.setAttribute(name, value);
      svg.append(part);
    }
    const named = spoken ? { role: "img", "aria-label": word, title: word } : { "aria-hidden": "true" };
    const node = h("span", { class: `dot ${/^[a-z]+$/.test(colour) ? colour : ""}`, "data-shape": shape, ...named });
    node.append(svg);
    return node;
  }

  // Calls apply("light" | "dark") now and whenever it is another: the trait, then the notebook, then the browser.
  function theme(model, apply, signal) {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const look = () => {
      const wanted = model.get("theme");
      if (wanted === "light" || wanted === "dark") return apply(wanted);
      const data = document.body.dataset;
      if (data.jpThemeLight !== undefined) return apply(data.jpThemeLight === "false" ? "dark" : "light");
      const kind = data.vscodeThemeKind || "";
      if (kind) return apply(kind.includes("dark") || kind.includes("high-contrast") && !kind.includes("light") ? "dark" : "light");
      return apply(media.matches ? "dark" : "light");
    };
    media.addEventListener("change", look, { signal });
    const seen = new MutationObserver(look);
    seen.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"] });
    model.on("change:theme", look);
    signal.addEventListener("abort", () => { seen.disconnect(); model.off("change:theme", look); });
    look();
  }

  // A shadow root in `el`, with the look, the theme followed. No key that is pressed in it is taken by the notebook.
  function shadow(el, model, signal, css = "") {
    const host = h("div", { "data-lm-suppress-shortcuts": "true" });
    const root = host.attachShadow({ mode: "open" });
    root.append(h("style", {}, model.get("look") || "", css));
    el.replaceChildren(host);
    theme(model, (name) => { host.dataset.theme = name; }, signal);
    return root;
  }

  // What has the focus, through shadow roots.
  function focused() {
    let at = document.activeElement;
    while (at && at.shadowRoot && at.shadowRoot.activeElement) at = at.shadowRoot.activeElement;
    return at;
  }

  // Text into the clipboard, also where the page may not use it; true if it went.
  async function copy(text, field) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed here */ }
    if (field) { field.focus(); field.select(); }
    try { return document.execCommand("copy"); } catch { return false; }
  }

  return { h, dot, theme, shadow, focused, copy };
})();
