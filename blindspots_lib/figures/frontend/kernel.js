// How a widget's front end asks the kernel. It stands before the widget's own script; nothing of the data is kept in the notebook.

const WAITING = "This waits for the kernel, which answers when it is free. If this line stays, run the cell again.";
const PATIENCE = 3000; // milliseconds without an answer until that line is shown again

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
      showError("");
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
