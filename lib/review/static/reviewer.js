// Sends Python the keys that are pressed in the reviewer around this widget.
// Keys do nothing in a field, and while they are held down.
// No key reaches JupyterLab, whose `d d` deletes the cell.

const FIELDS = "input, select, textarea";

const isPlain = (event) =>
  !(event.ctrlKey || event.metaKey || event.altKey || event.isComposing);

function listen(box, model, signal) {
  let byMouse = false;
  const on = (name, act, capture = false) =>
    box.addEventListener(name, act, { capture, signal });
  const focus = () => box.focus({ preventScroll: true });

  box.tabIndex = 0;
  on("pointerdown", () => { byMouse = true; });
  on("click", (event) => { if (!event.target.closest(FIELDS)) focus(); });
  on("change", (event) => { if (byMouse && event.target.matches("select")) focus(); });
  on("keydown", (event) => {
    byMouse = false;
    if (!isPlain(event)) return;
    if (event.target.closest(FIELDS)) {
      if (["Enter", "Escape"].includes(event.key)) focus();
      return;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!model.get("known").includes(key)) return;
    event.preventDefault();
    if (!event.repeat) model.send({ key, row: model.get("row") });
  }, true); // captured before the text field, which lets no key through
  on("keydown", (event) => { if (isPlain(event)) event.stopPropagation(); });
}

export default {
  render({ model, el }) {
    const listening = new AbortController();
    const attach = () => {
      const box = el.closest(".label-reviewer");
      if (box) listen(box, model, listening.signal);
      else if (!listening.signal.aborted) setTimeout(attach, 50);
    };
    attach();
    return () => listening.abort();
  },
};
