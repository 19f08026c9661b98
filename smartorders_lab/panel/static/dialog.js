// A question before something happens: a modal dialog whose focus starts on the safe button and goes back where it came from.
const CSS = `
:host { display: contents; }
dialog { border: 1px solid var(--sol-line); border-radius: 14px; padding: 22px 24px 20px; width: min(460px, calc(100vw - 32px));
  background: var(--sol-bg); color: var(--sol-ink); box-shadow: var(--sol-shadow); font: 13px/1.5 var(--sol-font); overflow-wrap: anywhere; }
dialog::backdrop { background: rgba(10, 14, 20, .5); }
h3 { margin: 0 0 8px; font-size: 17px; line-height: 1.3; }
ul { margin: 0 0 14px; padding: 0; list-style: none; color: var(--sol-muted); } li { margin: 3px 0; }
li::before { content: "–"; margin-right: 7px; }
li:only-child::before { content: none; }
fieldset { border: 0; margin: 0 0 16px; padding: 0; display: grid; gap: 10px; }
label { display: grid; grid-template-columns: auto 1fr; column-gap: 12px; align-items: center; padding: 10px 14px;
  border: 1px solid var(--sol-line); border-radius: 10px; cursor: pointer; }
label:has(input:checked) { border-color: var(--sol-accent); background: var(--sol-accent-soft); }
label input { grid-row: span 2; margin: 0; accent-color: var(--sol-accent); }
label b { font-weight: 600; } label small { grid-column: 2; font-size: 12px; color: var(--sol-muted); }
button.safe:focus { outline: 2px solid var(--sol-accent); outline-offset: 2px; }
.row { display: flex; justify-content: flex-end; gap: 10px; flex-wrap: wrap; }
.copy { display: flex; gap: 8px; margin-bottom: 16px; }
.copy input { flex: 1; min-width: 0; padding: 6px 10px; border: 1px solid var(--sol-line); border-radius: 8px; background: var(--sol-card); }
`;

export default {
  render({ model, el }) {
    const over = new AbortController();
    const root = SOL.shadow(el, model, over.signal, CSS);
    let open = null;

    function close(value, tell = true) {
      if (!open) return;
      const { dialog, question, back } = open;
      open = null;
      dialog.close();
      dialog.remove();
      if (tell) model.send({ answer: question.id, value });
      if (back && back.isConnected && !back.disabled) back.focus({ preventScroll: true });
    }

    function ask(question) {
      const back = open ? open.back : SOL.focused();
      if (open) { open.dialog.close(); open.dialog.remove(); open = null; }
      const { h } = SOL;
      const title = h("h3", { id: "t" }, question.title);
      const lines = h("ul", { id: "d" }, question.lines.map((line) => h("li", {}, line)));
      const safe = h("button", { class: "sol safe", type: "button", onclick: () => close(null) }, question.safe);
      const body = [title, lines], buttons = [safe];
      if (question.copy !== undefined) {
        const field = h("input", { readonly: true, "aria-label": question.title, onfocus: (event) => event.target.select() });
        field.value = question.copy;
        const said = h("span", { class: "hidden", role: "status" });
        const button = h("button", { class: "sol go", type: "button", onclick: async () => {
          const went = await SOL.copy(question.copy, field);
          button.textContent = went ? "Copied" : "Press Ctrl+C";
          said.textContent = button.textContent;
        } }, "Copy");
        body.push(h("div", { class: "copy" }, field, button, said));
      }
      const choices = question.choices || [];
      if (choices.length) {
        body.push(h("fieldset", { "aria-labelledby": "t" }, choices.map((choice, k) =>
          h("label", {}, h("input", { type: "radio", name: "choice", value: choice.value, checked: k === 0 }),
            h("b", {}, choice.label), h("small", {}, choice.detail)))));
      }
      const dialog = h("dialog", { "aria-labelledby": "t", "aria-describedby": "d" }, body);
      if (question.go !== undefined) {
        buttons.push(h("button", { class: `sol ${question.danger ? "danger" : "go"}`, type: "button", onclick: () => {
          const chosen = dialog.querySelector("input[name=choice]:checked");
          close(chosen ? chosen.value : "go");
        } }, question.go));
      }
      dialog.append(h("div", { class: "row" }, buttons));
      dialog.addEventListener("cancel", (event) => { event.preventDefault(); close(null); });
      dialog.addEventListener("close", () => { if (open && open.dialog === dialog) close(null); });
      dialog.addEventListener("keydown", (event) => event.stopPropagation());
      root.append(dialog);
      open = { dialog, question, back };
      dialog.showModal();
      safe.focus();
    }

    const hear = (message) => {
      if (message && message.ask) ask(message.ask);
      else if (message && message.close !== undefined && open && open.question.id === message.close) close(null, false);
    };
    model.on("msg:custom", hear);
    return () => { model.off("msg:custom", hear); close(null, false); over.abort(); };
  },
};
