// The explorer in a notebook: the same front end, whose data come from the kernel, by messages. Nothing is kept in the notebook.

const WAITING = "The explorer waits for the kernel, which answers when it is free. If this line stays, run the cell again.";
const PATIENCE = 3000; // milliseconds without an answer until that line is shown again
// A window of fixed height among the cells; a narrow one is as tall as what it shows.
const FRAME = `
.blindspots.cell { border: 1px solid var(--line); border-radius: 6px; display: flex; flex-direction: column; }
.blindspots.cell:not(.narrow) { height: min(820px, 92vh); }
.blindspots.cell:not(.narrow) main { overflow: auto; }
`;

function kernelOf(model, say, showError) {
  const waiting = new Map();
  const view = Math.random(); // every view of the widget hears every answer
  let asked = 0;
  let questions = [];

  function send() {
    model.send({ questions });
    questions = [];
  }

  function ask(question) {
    return new Promise((resolve, reject) => {
      const id = `${view}/${(asked += 1)}`;
      waiting.set(id, { resolve, reject });
      if (!questions.length) queueMicrotask(send); // what is asked at once goes as one message
      questions.push({ id, ...question });
      setTimeout(() => waiting.has(id) && say(WAITING), PATIENCE);
    });
  }

  function hear(reply, buffers) {
    const call = waiting.get(reply.id);
    if (!call) return;
    waiting.delete(reply.id);
    if (!waiting.size) say("");
    if (reply.error === undefined) {
      call.resolve(unpacked(reply.answer, buffers));
    } else {
      showError(reply.error);
      call.reject(new Error(reply.error));
    }
  }

  model.on("msg:custom", hear);
  return { ask, close: () => model.off("msg:custom", hear) };
}

// Put the buffers in where the kernel took the arrays out: {"$array": "Float32Array", "buffer": 3}.
function unpacked(value, buffers) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((part) => unpacked(part, buffers));
  if ("$array" in value) {
    const { buffer, byteOffset, byteLength } = buffers[value.buffer];
    return new globalThis[value.$array](buffer.slice(byteOffset, byteOffset + byteLength)); // a copy: arrays must be aligned
  }
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, unpacked(part, buffers)]));
}

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
    concept: (k) => kernel.ask({ ask: "concept", k }),
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

function theme() {
  const light = document.body.dataset.jpThemeLight; // JupyterLab says so; elsewhere the front end asks the browser
  return light === undefined ? undefined : light === "true" ? "light" : "dark";
}

function line(role, text) {
  const element = document.createElement("p");
  element.setAttribute("role", role);
  element.textContent = text;
  return element;
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
