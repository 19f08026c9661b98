// Theme, style, names and announcements for the stock widgets in the box `.sol-panel` that this one is in.
const KEYS = "input, button, select, textarea, a[href], summary, [tabindex]";
const ALLOWED = /^(aria-[a-z]+|role|inputmode|spellcheck|autocomplete|placeholder|title)$/;

export default {
  render({ model, el }) {
    const over = new AbortController(), { signal } = over;
    const style = SOL.h("style", {}, model.get("look") || "", model.get("sheet") || "");
    const polite = SOL.h("div", { role: "status", "aria-live": "polite", class: "sol-unseen" });
    const urgent = SOL.h("div", { role: "alert", "aria-live": "assertive", class: "sol-unseen" });
    el.classList.add("sol-manners");
    el.replaceChildren(style, polite, urgent);

    let box = null, last = null;
    const seen = new MutationObserver((records) => {
      for (const { target, type } of records) {
        if (type === "attributes" && target === last && target.disabled) onward(target);
      }
      attend();
    });

    function attend() {
      for (const node of box.querySelectorAll(KEYS)) {
        if (!node.dataset.lmSuppressShortcuts) node.dataset.lmSuppressShortcuts = "true";
      }
      for (const [mine, given] of Object.entries(model.get("names") || {})) {
        for (const at of box.getElementsByClassName(mine)) {
          const target = at.matches(KEYS) ? at : at.querySelector(KEYS) || at;
          for (const [name, value] of Object.entries(given)) {
            if (!ALLOWED.test(name)) continue;
            if (value === null || value === "") target.removeAttribute(name);
            else if (target.getAttribute(name) !== String(value)) target.setAttribute(name, value);
          }
        }
      }
    }

    // What has the focus was disabled: on to the next thing that takes it.
    function onward(node) {
      if (document.activeElement && document.activeElement !== document.body && document.activeElement !== node) return;
      const all = [...box.querySelectorAll(KEYS)];
      const at = all.indexOf(node);
      const next = [...all.slice(at + 1), ...all.slice(0, at).reverse()].find((n) => !n.disabled && n.offsetParent && n.tabIndex >= 0);
      if (next) next.focus({ preventScroll: true });
    }

    function attach() {
      if (signal.aborted) return;
      box = el.closest(".sol-panel");
      if (!box) return void requestAnimationFrame(attach);
      SOL.theme(model, (name) => { box.dataset.theme = name; }, signal);
      box.addEventListener("focusin", (event) => { last = event.target; }, { signal });
      seen.observe(box, { childList: true, subtree: true, attributes: true, attributeFilter: ["disabled"] });
      model.on("change:names", attend);
      attend();
    }

    const say = (message) => {
      if (!message || message.say === undefined) return;
      const place = message.urgent ? urgent : polite;
      place.textContent = "";
      setTimeout(() => { if (!signal.aborted) place.textContent = message.say; }, 60);  // the same words again are said again
    };
    model.on("msg:custom", say);
    attach();
    return () => {
      over.abort();
      seen.disconnect();
      model.off("msg:custom", say);
      model.off("change:names", attend);
    };
  },
};
