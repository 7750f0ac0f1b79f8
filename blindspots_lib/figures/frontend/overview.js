/* The overview: four linked plots, their tools, and the picture one takes away. */
(function (B) {
  "use strict";
  const { el, count, small, two } = B;

  function overview(app) {
    const { source } = app,
      { columns } = source,
      settings = B.controls(app),
      tooltip = el("div", { class: "tooltip", role: "presentation" });
    const draw = { hover: -1 };
    const on = {
      hover: (k, event) => hover(app, draw, tooltip, k, event),
      open: (k) => app.open(k),
      brush: (region) => app.set({ region }),
      moved: B.eachFrame(() => render()),
    };
    const plots = [
      new B.Plot({ title: "Histogram of δ", name: "histogram", horizontal: true, on }),
      new B.Plot({ title: "Concept map", name: "map", on }),
      new B.Plot({ title: "δ against energy", name: "ma", on }),
      new B.Plot({ title: "Two models", name: "cross", on }),
    ];
    const counts = el("p", { class: "counts", role: "status", "aria-live": "polite" });
    const tools = toolbar(app, plots),
      list = el("section", { class: "list", "aria-label": "Concepts at both ends" });
    const node = el(
      "div",
      { class: "overview" },
      el("details", { class: "panel", open: !app.isNarrow() }, el("summary", {}, "Settings"), settings.node),
      el(
        "div",
        { class: "middle" },
        el("div", { class: "bar" }, counts, tools),
        el(
          "div",
          { class: "plots" },
          plots.map((plot) => plot.node),
        ),
        tooltip,
      ),
    );
    const bounds = { map: [extent(columns.x), extent(columns.y)] };
    new ResizeObserver(() => {
      if (plots.map((plot) => plot.fit()).some(Boolean)) render();
    }).observe(node);

    function axesOf(plot, selection) {
      const { state } = app,
        label = B.KINDS[state.delta],
        own = B.short(app.label(state.model), 24),
        unit = { low: 0, high: 1 };
      if (plot.name === "histogram")
        return {
          x: { ...unit, label: `${label}, ${own}` },
          y: { ...unit, label: "concepts (log scale)", top: Math.max(1, ...selection.all) },
        };
      if (plot.name === "map")
        return {
          x: { ...bounds.map[0], label: "UMAP 1 of the atoms", bare: true },
          y: { ...bounds.map[1], label: "UMAP 2", bare: true },
        };
      if (plot.name === "cross")
        return {
          x: { ...padded(unit), label: `${label}, ${own}` },
          y: { ...padded(unit), label: B.short(app.label(state.second), 24) },
        };
      bounds[state.model] ||= extent(B.arraysOf(source).mean[state.model]);
      return {
        x: {
          ...bounds[state.model],
          label: "mean energy, real and generated (log scale)",
          show: (at) => (Number.isInteger(at) ? small(10 ** at) : ""),
        },
        y: { ...padded(unit), label: `${label}, ${own}` },
      };
    }
    function lines(plot) {
      const { low, high } = app.state,
        both = (side) => [{ [side]: low }, { [side]: high }];
      return plot.name === "map"
        ? []
        : plot.name === "cross"
          ? [...both("x"), ...both("y")]
          : both(plot.name === "ma" ? "y" : "x");
    }
    function render() {
      const selection = app.selection(),
        colours = app.colours(),
        { order } = B.arraysOf(source);
      for (const plot of plots) {
        plot.fit();
        if (!plot.width) continue;
        plot.setAxes(axesOf(plot, selection));
        if (plot.name === "histogram") plot.drawBars({ all: selection.all, chosen: selection.bins, lines: lines(plot) }, colours);
        else {
          const [xs, ys] = selection.places[plot.name];
          plot.drawPoints({ xs, ys, looks: selection.looks, shades: selection.shades, order, lines: lines(plot) }, colours);
        }
      }
      above();
    }
    function above() {
      const { state } = app,
        rings = [];
      if (state.concept !== null) rings.push([state.concept, 8]);
      if (draw.hover >= 0) rings.push([draw.hover, 6]);
      for (const plot of plots) if (plot.width) plot.drawAbove(app.colours(), state.region, rings);
    }
    draw.above = B.eachFrame(above);

    function update() {
      const selection = app.selection(),
        { state } = app;
      settings.follow();
      tools.follow();
      plots[3].caption.textContent = `${B.short(app.label(state.model), 24)} against ${B.short(app.label(state.second), 24)}`;
      counts.textContent = `${count(selection.found)} of ${count(selection.passing)} concepts chosen: ${count(selection.below)} below ${two(state.low)}, ${count(selection.above)} above ${two(state.high)}`;
      B.fillList(app, list, selection);
      render();
    }
    return { node, aside: list, update, png: () => pngOf(app, plots, counts.textContent) };
  }

  const padded = ({ low, high }) => ({ low: low - 0.03, high: high + 0.03 });
  function extent(values) {
    let low = Infinity,
      high = -Infinity;
    for (const v of values)
      if (Number.isFinite(v)) {
        if (v < low) low = v;
        if (v > high) high = v;
      }
    if (low > high) return { low: 0, high: 1 };
    const room = (high - low || 1) * 0.04;
    return { low: low - room, high: high + room };
  }

  function hover(app, draw, tooltip, k, event) {
    if (k !== draw.hover) {
      draw.hover = k;
      draw.above();
      tooltip.replaceChildren(...(k >= 0 ? tooltipOf(app, k) : []));
      tooltip.hidden = k < 0;
    }
    if (k < 0) return;
    const box = tooltip.parentNode.getBoundingClientRect(),
      left = event.clientX - box.left,
      top = event.clientY - box.top;
    tooltip.style.transform = `translate(${Math.max(0, Math.min(left + 14, box.width - tooltip.offsetWidth))}px, ${top + 16}px)`;
  }
  function tooltipOf(app, k) {
    const { source, state } = app,
      own = source.columns.models[state.model],
      value = B.valuesOf(source, state.delta, state.model)[k];
    const name = B.arraysOf(source).names[k];
    return [
      el("strong", {}, el("bdi", {}, name ? B.short(name, 60) : "unnamed")),
      ` concept ${k}`,
      el("br"),
      `${B.KINDS[state.delta]} ${B.withInterval(value, ...B.intervalOf(source, state.delta, state.model, k))}`,
      el("br"),
      B.chip(B.CALLS[own.call[k]]),
    ];
  }

  /* Buttons for what dragging does, for zoom, and for letting the brush go. */
  function toolbar(app, plots) {
    const tools = [
      ["box", "Box"],
      ["lasso", "Lasso"],
      ["pan", "Move"],
    ].map(([tool, text]) =>
      el("button", { type: "button", "aria-pressed": String(tool === "box"), onclick: () => choose(tool) }, text),
    );
    function choose(tool) {
      plots.forEach((plot) => {
        plot.tool = tool;
        plot.node.dataset.tool = tool;
      });
      tools.forEach((button, i) => button.setAttribute("aria-pressed", String(["box", "lasso", "pan"][i] === tool)));
    }
    const zoom = (text, label, factor) =>
      el(
        "button",
        {
          type: "button",
          "aria-label": label,
          onclick: () => plots.forEach((plot) => (factor ? plot.zoom(factor) : ((plot.frame = null), plot.on.moved()))),
        },
        text,
      );
    const clear = el("button", { type: "button", onclick: () => app.set({ region: null, find: "" }) }, "Clear");
    const node = el(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "Plots" },
      tools,
      zoom("+", "zoom in", 1 / 1.4),
      zoom("−", "zoom out", 1.4),
      zoom("1:1", "show all", 0),
      clear,
    );
    node.follow = () => {
      clear.disabled = !app.state.region && !app.state.find;
    };
    return node;
  }

  /* The four plots as one picture, with what it shows below. */
  function pngOf(app, plots, text) {
    const [first] = plots,
      gap = 24,
      ratio = first.ratio,
      w = first.below.width,
      h = first.below.height + 22 * ratio;
    const canvas = el("canvas", { width: 2 * w + 3 * gap, height: 2 * h + 110 * ratio }),
      pen = canvas.getContext("2d"),
      colours = app.colours();
    pen.fillStyle = getComputedStyle(app.root).getPropertyValue("--paper");
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = colours.ink;
    plots.forEach((plot, i) => {
      const x = gap + (i % 2) * (w + gap),
        y = (i < 2 ? 1 : 2) * gap + (i < 2 ? 0 : h);
      pen.font = `bold ${12 * ratio}px system-ui, sans-serif`;
      pen.fillText(plot.caption.textContent, x, y + 10 * ratio);
      for (const layer of [plot.below, plot.above])
        pen.drawImage(layer, 0, 0, layer.width, layer.height, x, y + 18 * ratio, w, first.below.height);
    });
    pen.font = `${11 * ratio}px system-ui, sans-serif`;
    [`${B.clean(app.source.meta.title)} · ${app.label(app.state.model)} · ${text}`, B.clean(app.source.meta.note || "")].forEach(
      (line, i) => pen.fillText(line, gap, 2 * h + 3 * gap + (8 + 16 * i) * ratio),
    );
    return canvas;
  }

  B.overview = overview;
})((globalThis.BlindspotsExplorer ||= {}));
