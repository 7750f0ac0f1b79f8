// The explorer in a notebook: the same front end, whose data come from the kernel (kernel.js), by messages.

// A window of fixed height among the cells; a narrow one is as tall as what it shows.
const FRAME = `
.blindspots.cell { border: 1px solid var(--line); border-radius: 6px; display: flex; flex-direction: column; }
.blindspots.cell:not(.narrow) { height: min(820px, 92vh); }
.blindspots.cell:not(.narrow) main { overflow: auto; }
`;

async function frontEnd(code) {
  const url = URL.createObjectURL(new Blob([code, "\nexport default globalThis.BlindspotsExplorer;"], { type: "text/javascript" }));
  try {
    return (await import(/* webpackIgnore: true */ /* @vite-ignore */ url)).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}

function sourceFrom(kernel, start) {
  const thumbs = new Map();
  async function thumb(source, pair) {
    const { image, type } = await kernel.ask({ ask: "thumb", source, pair });
    const size = start.meta.thumb;
    return { url: URL.createObjectURL(new Blob([image], { type })), x: 0, y: 0, size };
  }
  return {
    ...start,
    async load(part) {
      if (part === "definitions") this.definitions = await kernel.ask({ ask: "definitions" });
    },
    concept: (k) => kernel.ask({ ask: "concept", k }),
    pair: (pair) => kernel.ask({ ask: "pair", pair }),
    thumb(source, pair) {
      const place = `${source}/${pair}`;
      if (!thumbs.has(place)) thumbs.set(place, thumb(source, pair));
      return thumbs.get(place);
    },
    close: () => thumbs.forEach((found) => found.then(({ url }) => URL.revokeObjectURL(url), () => {})),
  };
}

// The line of Python that shows a state again: what differs from the first one. Values are texts, numbers, lists, objects, null.
function asPython(state, first) {
  const changed = Object.entries(state).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(first[name]));
  const given = changed.map(([name, value]) => `, ${name}=${value === null ? "None" : JSON.stringify(value)}`);
  return `ConceptExplorer(results${given.join("")})`;
}

async function render({ model, el }) {
  const status = line("status", WAITING);
  const errors = line("alert", "");
  const root = document.createElement("div");
  root.className = "cell";
  // keys pressed here are for the explorer, not for JupyterLab, which looks at the element that has the focus
  el.addEventListener("focusin", (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
  el.append(errors, status, root);
  const kernel = kernelOf(model, (text) => (status.textContent = text), (text) => (errors.textContent = text));
  let shown, source;
  kernel.ask({ ask: "start" }).then(async ({ code, style, state, ...start }) => {
    const sheet = document.createElement("style");
    sheet.textContent = style + FRAME;
    root.before(sheet);
    source = sourceFrom(kernel, start);
    const explorer = await frontEnd(code);
    const first = explorer.firstState(start.meta);
    shown = explorer.mount(root, source, { theme: theme(), link: () => asPython(shown.state(), first) });
    shown.setState(state);
  }).catch((error) => {
    errors.textContent = `the explorer cannot be shown: ${error.message}`;
  });
  return () => {
    kernel.close();
    shown?.destroy();
    source?.close();
  };
}

export default { render };
