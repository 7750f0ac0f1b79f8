// Patches of one image: under the pointer the concepts of a patch; a slider scales one of them. What the kernel sends: patches.py.

const SIZE = 352; // CSS pixels of the image's side
const HOT = "255, 64, 32";
const LAYOUT = `
.patches { border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; display: grid; gap: 4px 20px;
  grid-template-columns: ${SIZE}px minmax(240px, 1fr); }
.patches .bar { grid-column: 1 / -1; }
.patches .bar select { width: auto; } .patches .bar input[type="range"] { width: 240px; }
.patches .image { position: relative; width: ${SIZE}px; height: ${SIZE}px; }
.patches .image img { width: 100%; height: 100%; image-rendering: pixelated; }
.patches .image canvas { position: absolute; inset: 0; cursor: crosshair; }
.patches li button { display: block; width: 100%; text-align: left; }
@media (max-width: 700px) { .patches { grid-template-columns: 1fr; } }
`;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes))
    key.startsWith("on") ? node.addEventListener(key.slice(2), value) : node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function labelled(text, node) {
  return make("label", {}, `${text} `, node);
}

/* The concepts of every patch, from the arrays of one answer: lists of {concept, code, move}. */
function byPatch({ counts, concepts, codes, moves }) {
  let at = 0;
  return Array.from(counts, (count) =>
    Array.from({ length: count }, () => {
      const one = { concept: concepts[at], code: codes[at], move: moves[at] };
      at += 1;
      return one;
    }),
  );
}

class Patches {
  constructor(root, kernel, start) {
    Object.assign(this, { root, kernel, start, source: "real", pair: 0, patch: 0, concept: null, scale: 0, isHeld: false });
    const canvas = { width: 2 * SIZE, height: 2 * SIZE, tabindex: 0, role: "application", style: `width:${SIZE}px;height:${SIZE}px` };
    this.image = make("img", { alt: "", draggable: "false" });
    this.canvas = make("canvas", {
      ...canvas,
      "aria-label": "Patches of the image: arrow keys move from one to the next",
      onpointermove: (event) => this.isHeld || this.point(event),
      onpointerdown: (event) => this.hold(event),
      onkeydown: (event) => this.step(event),
    });
    this.said = make("p", { role: "status" });
    this.caption = make("p", { class: "note" });
    this.heading = make("h3", { role: "status" });
    this.here = make("ul", { "aria-label": "Concepts of the patch" });
    this.moved = make("p", { role: "status" });
    const sources = Object.entries(start.sources).map(([name, label]) => make("option", { value: name }, label));
    const last = start.n_pairs - 1;
    this.pairs = make("input", { type: "range", min: 0, max: last, value: 0, oninput: () => this.show({ pair: Number(this.pairs.value) }) });
    this.slider = make("input", { type: "range", min: 0, max: 3, step: 0.05, value: 0, oninput: () => this.rescale() });
    root.append(
      make(
        "div",
        { class: "bar" },
        labelled("Source", make("select", { onchange: (event) => this.show({ source: event.target.value }) }, ...sources)),
        labelled("Pair", this.pairs),
        this.said,
      ),
      make("div", { class: "image" }, this.image, this.canvas),
      make("div", {}, this.caption, this.heading, this.here, labelled("Scale the chosen one", this.slider), this.moved),
    );
    this.show({});
  }

  async show(partial) {
    Object.assign(this, partial);
    const { source, pair } = this;
    let found;
    try {
      found = await this.kernel.ask({ ask: "patches", source, pair });
    } catch {
      return; // the kernel's line is shown
    }
    if (source !== this.source || pair !== this.pair) return; // another one was asked for since
    this.close();
    this.image.src = URL.createObjectURL(new Blob([found.image], { type: found.type }));
    this.names = found.names;
    this.patches = byPatch(found);
    this.concept = null;
    this.isHeld = false;
    this.caption.textContent = found.caption;
    this.said.textContent = `pair ${pair + 1} of ${this.start.n_pairs}`;
    this.pairs.setAttribute("aria-valuetext", this.said.textContent);
    this.list();
  }
  close() {
    URL.revokeObjectURL(this.image.src);
  }

  point(event) {
    if (!this.patches) return;
    const box = this.canvas.getBoundingClientRect(),
      at = (from, length) => Math.min(this.start.side - 1, Math.max(0, Math.floor((from / length) * this.start.side)));
    this.choosePatch(at(event.clientY - box.top, box.height) * this.start.side + at(event.clientX - box.left, box.width));
  }
  /* A click holds the patch, so that the pointer can go to its concepts; a click on it lets it go. */
  hold(event) {
    if (!this.patches) return;
    const before = this.patch;
    this.point(event);
    this.isHeld = !(this.isHeld && this.patch === before);
    this.list();
  }
  choosePatch(patch) {
    if (patch === this.patch) return;
    this.patch = patch;
    this.list();
  }
  step(event) {
    const { side } = this.start,
      by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -side, ArrowDown: side }[event.key];
    if (!by || !this.patches) return;
    const next = this.patch + by,
      sameRow = Math.floor(next / side) === Math.floor(this.patch / side);
    event.preventDefault();
    if (next >= 0 && next < side * side && (Math.abs(by) === side || sameRow)) this.choosePatch(next);
  }
  choose(concept) {
    this.concept = concept;
    this.draw();
  }
  rescale() {
    this.scale = Number(this.slider.value);
    this.draw();
  }

  /* How far the reconstruction of every patch moves, as a fraction of its length. */
  moves() {
    return this.patches.map((own) => Math.abs(this.scale - 1) * (own.find((one) => one.concept === this.concept)?.move ?? 0));
  }
  name(concept) {
    return this.names[concept] ? `${this.names[concept]} (${concept})` : `concept ${concept}`;
  }

  /* The concepts of the patch, as buttons. */
  list() {
    const { side } = this.start,
      own = this.patches[this.patch],
      place = `row ${Math.floor(this.patch / side) + 1}, column ${(this.patch % side) + 1}`;
    this.heading.textContent = `Concepts of the patch in ${place}${this.isHeld ? " (held; click it again to let it go)" : ""}`;
    const button = ({ concept, code }) =>
      make("button", { type: "button", "data-concept": concept, onclick: () => this.choose(concept) }, `${this.name(concept)}: code ${code.toPrecision(2)}`);
    this.here.replaceChildren(...own.map((one) => make("li", {}, button(one))));
    if (!own.length) this.here.append(make("li", {}, "no concept is active here"));
    this.draw();
  }

  draw() {
    const { side } = this.start,
      pen = this.canvas.getContext("2d"),
      unit = this.canvas.width / side,
      moves = this.moves();
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    moves.forEach((move, i) => {
      pen.fillStyle = `rgba(${HOT}, ${Math.min(0.85, move)})`;
      if (move > 0) pen.fillRect((i % side) * unit, Math.floor(i / side) * unit, unit, unit);
    });
    for (const [colour, width] of [["#ffffff", 8], ["#2b2230", 4]]) {
      pen.strokeStyle = colour; // seen on dark and on light
      pen.lineWidth = width;
      pen.strokeRect((this.patch % side) * unit + 4, Math.floor(this.patch / side) * unit + 4, unit - 8, unit - 8);
    }
    for (const button of this.here.querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.concept) === this.concept));
    const moved = moves.filter((move) => move > 0.005);
    this.moved.textContent =
      this.concept === null
        ? "Click a patch to hold it, then choose a concept to scale it: 0 takes it out, 1 leaves it, 3 is three times as much."
        : `${this.name(this.concept)} times ${this.scale.toFixed(2)}: ${moved.length} of ${side * side} patches move` +
          (moved.length ? `, at most by ${Math.round(100 * Math.max(...moved))} % of their length.` : ".");
  }
}

async function render({ model, el }) {
  const status = line("status", WAITING);
  const errors = line("alert", "");
  const root = document.createElement("div");
  root.className = "blindspots patches";
  if (theme()) root.dataset.theme = theme();
  el.addEventListener("focusin", (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
  el.append(errors, status, root);
  const kernel = kernelOf(model, (text) => (status.textContent = text), (text) => (errors.textContent = text));
  let shown;
  kernel.ask({ ask: "start" }).then(({ style, ...start }) => {
    const sheet = document.createElement("style");
    sheet.textContent = style + LAYOUT;
    root.before(sheet);
    shown = new Patches(root, kernel, start);
  }).catch((error) => {
    errors.textContent = `this cannot be shown: ${error.message}`;
  });
  return () => {
    kernel.close();
    shown?.close();
  };
}

export default { render };
