// For the box `.sol-panel` that this is in: undo and redo by keyboard, its own style sheet, and what stock ToggleButtons do not tell.
export default {
  render({ model, el }) {
    const over = new AbortController(), { signal } = over;
    el.classList.add("sol-manners");
    el.replaceChildren(SOL.h("style", {}, model.get("sheet") || ""));
    const press = (event) => {
      if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
      const key = event.key.toLowerCase();
      const undo = key === "z" && !event.shiftKey, redo = key === "y" || (key === "z" && event.shiftKey);
      if (!undo && !redo) return;
      event.preventDefault();
      event.stopPropagation();
      model.send(undo ? { undo: true } : { redo: true });
    };
    let seen = null;
    const attach = () => {
      if (signal.aborted) return;
      const box = el.closest(".sol-panel");
      if (!box) return void requestAnimationFrame(attach);
      box.addEventListener("keydown", press, { signal, capture: true });
      const tell = () => {
        for (const [mine, label] of Object.entries(model.get("groups") || {})) {
          for (const group of box.getElementsByClassName(mine)) {
            if (group.getAttribute("role") !== "group") group.setAttribute("role", "group");
            if (group.getAttribute("aria-label") !== label) group.setAttribute("aria-label", label);
            for (const button of group.querySelectorAll("button")) {
              const on = String(button.classList.contains("mod-active"));
              if (button.getAttribute("aria-pressed") !== on) button.setAttribute("aria-pressed", on);
            }
          }
        }
      };
      seen = new MutationObserver(tell);
      seen.observe(box, { childList: true, subtree: true, attributes: true, attributeFilter: ["class"] });
      tell();
    };
    attach();
    return () => {
      over.abort();
      if (seen) seen.disconnect();
    };
  },
};
