/* Elements, and strangers' text in them: names and captions become text nodes, never markup.
   The scripts of this folder are classic scripts that add to one global; explorer.js explains the whole. */
(function (B) {
  "use strict";

  const SVG = new Set(["svg", "line", "circle", "rect", "path"]);
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]+/g;

  /* Make an element. Children are elements or texts; "onclick" and the like are listeners; true and false set or leave out. */
  function el(tag, props = {}, ...children) {
    const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "value" || key === "checked" || key === "disabled") node[key] = value;
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }

  /* A text without the letters that steer a terminal or turn the writing direction. */
  const clean = (text) => String(text).replace(UNSEEN, " ").trim();

  function short(text, length) {
    const letters = Array.from(clean(text));
    return letters.length > length ? letters.slice(0, length - 1).join("") + "…" : letters.join("");
  }

  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
  const two = (value) => (known(value) ? value.toFixed(2) : "–");
  const range = (low, high) => (known(low) && known(high) ? `[${two(low)}, ${two(high)}]` : "");
  const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : "–");

  function small(value) {
    if (!known(value)) return "–";
    if (value === 0) return "0";
    if (value >= 100) return count(value);
    return String(Number(value.toPrecision(3)));
  }

  /* One cell of CSV. A spreadsheet takes what begins with = + - @ for a formula, so a text of that kind gets an apostrophe. */
  function cell(value) {
    if (typeof value === "number") return Number.isFinite(value) ? String(Number(value.toPrecision(6))) : "";
    const text = clean(value);
    return `"${(/^[=+\-@]/.test(text) ? "'" + text : text).replaceAll('"', '""')}"`;
  }

  function download(name, blob) {
    const link = el("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  /* Call `work` once per frame at most, with the last arguments. */
  function eachFrame(work) {
    let waiting = null;
    return (...args) => {
      if (waiting === null)
        requestAnimationFrame(() => {
          const last = waiting;
          waiting = null;
          work(...last);
        });
      waiting = args;
    };
  }

  let made = 0;
  const newId = () => `blindspots-${++made}`;

  /* A labelled slider; `show` writes its value. `onchange` is called while it is dragged. */
  function slider(label, { min, max, step, value, show, onchange, title }) {
    const id = newId();
    const output = el("output", { for: id }, show(value));
    const input = el("input", { id, type: "range", min, max, step, title });
    const say = () => {
      output.textContent = show(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.value = value;
    say();
    input.addEventListener("input", () => {
      say();
      onchange(Number(input.value));
    });
    const node = el("div", { class: "control" }, el("label", { for: id }, label), output, input);
    return {
      node,
      set: (to) => {
        if (Number(input.value) !== to) input.value = to;
        say();
      },
    };
  }

  /* A labelled menu; `options` are [value, text]. */
  function menu(label, options, value, onchange, hidden = false) {
    const id = newId();
    const input = el(
      "select",
      { id },
      options.map(([key, text]) => el("option", { value: key }, text)),
    );
    input.value = value;
    input.addEventListener("change", () => onchange(input.value));
    const node = el("div", { class: "control menu" }, el("label", { for: id, class: hidden ? "unseen" : null }, label), input);
    return {
      node,
      set: (to) => {
        input.value = to;
      },
    };
  }

  Object.assign(B, { el, clean, short, known, two, range, count, small, cell, download, eachFrame, newId, slider, menu });
})((globalThis.BlindspotsExplorer ||= {}));
