/* Pictures: thumbnails with heatmaps over them, and strips of a dot and its interval. */
(function (B) {
  "use strict";
  const { el, two, known } = B,
    HOT = [255, 64, 32]; // the colour of a heatmap

  /* A thumbnail of a pair in a source, `size` CSS pixels a side, with a heatmap (side * side bytes) over it if given. */
  function picture(app, where, pair, size, heat = null) {
    const caption = where === "training" ? `number ${pair}` : app.source.pairs ? B.short(app.source.pairs.caption[pair], 140) : `pair ${pair}`;
    const node = el("div", { class: "picture", role: "img", "aria-label": `${app.label(where)}: ${caption}` });
    node.style.width = node.style.height = `${size}px`;
    app.source
      .thumb(where, pair)
      .then((thumb) => {
        const image = el("img", { alt: "", src: thumb.url, draggable: "false", decoding: "async" }),
          scale = size / thumb.size;
        image.style.transform = `scale(${scale}) translate(${-thumb.x}px, ${-thumb.y}px)`;
        image.style.imageRendering = scale >= 1.5 && app.source.meta.thumb <= 64 ? "pixelated" : "auto";
        node.prepend(image);
      })
      .catch((error) => app.fail(error));
    if (heat) node.append(heatCanvas(heat, app.source.meta.side));
    return node;
  }

  /* A heatmap as one pixel per patch, which the style sheet stretches; its opacity is the variable --heat of the page. */
  function heatCanvas(heat, side) {
    const canvas = el("canvas", { width: side, height: side, class: "heat", "aria-hidden": "true" });
    const image = new ImageData(side, side);
    for (let i = 0; i < heat.length; i++) image.data.set([...HOT, heat[i]], 4 * i);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  /* A strip from 0 to 1 with an interval and a dot. */
  function strip(value, low, high, colour) {
    const node = el("svg", { class: "strip", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" });
    node.append(
      el("line", { x1: 0, x2: 100, y1: 6, y2: 6, class: "base" }),
      el("line", { x1: 50, x2: 50, y1: 1, y2: 11, class: "middle" }),
    );
    if (known(low) && known(high))
      node.append(
        el("rect", { x: 100 * low, width: Math.max(0.6, 100 * (high - low)), y: 4.5, height: 3, fill: colour, opacity: 0.55 }),
      );
    if (known(value))
      node.append(el("rect", { x: Math.min(98.4, Math.max(0, 100 * value - 0.8)), width: 1.6, y: 1.5, height: 9, fill: colour }));
    return node;
  }

  const CHIP = {
    suppressed: "suppressed",
    exaggerated: "exaggerated",
    omitted: "suppressed",
    intruding: "exaggerated",
    copy: "exaggerated",
  };
  const chip = (call) => el("span", { class: `chip ${CHIP[call] || "plain"}` }, call);

  /* A button that opens a concept: its name, or its number if it has none. */
  function conceptButton(app, k, more = "") {
    const name = B.arraysOf(app.source).names[k];
    const text = name
      ? [el("bdi", {}, B.short(name, 40)), el("span", { class: "number" }, ` ${k}`)]
      : [el("span", { class: "unnamed" }, `concept ${k}`)];
    return el(
      "button",
      { type: "button", class: "concept", "data-concept": k, onclick: () => app.open(k) },
      ...text,
      more && el("span", { class: "more" }, more),
    );
  }

  const withInterval = (value, low, high) => [two(value), B.range(low, high)].filter(Boolean).join(" ");

  Object.assign(B, { picture, strip, chip, conceptButton, withInterval });
})((globalThis.BlindspotsExplorer ||= {}));
