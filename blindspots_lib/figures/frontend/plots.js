/* Plots on canvases: points painted into pixels, axes, a histogram; zoom, and which concept is under the pointer. */
(function (B) {
  "use strict";
  const { el, small } = B;

  const GRADIENT = {
    light: ["#65c7de", "#5776b4", "#582949", "#b16243", "#e8b548"],
    dark: ["#65c7de", "#6f92d8", "#a878a8", "#d0805c", "#e8b548"],
  };
  const HIDDEN = 0,
    FAINT = 1,
    FULL = 2; // how a concept is drawn
  const MARGIN = { left: 46, right: 10, top: 8, bottom: 34 },
    NEAR = 12; // pixels; NEAR: from the pointer to a point

  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const pixel = (hex) => {
    const [r, g, b] = channels(hex);
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  };

  /* 256 colours of delta from 0 to 1, as little-endian pixels. */
  function colourTable(theme) {
    const stops = GRADIENT[theme].map(channels),
      table = new Uint32Array(256);
    for (let i = 0; i < 256; i++) {
      const at = (i / 255) * (stops.length - 1),
        first = Math.min(Math.floor(at), stops.length - 2),
        part = at - first;
      const [r, g, b] = [0, 1, 2].map((c) => Math.round(stops[first][c] * (1 - part) + stops[first + 1][c] * part));
      table[i] = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    }
    return table;
  }
  const css = (value) => `rgb(${value & 255} ${(value >> 8) & 255} ${(value >> 16) & 255})`;

  /* The colours of a page in its present theme. */
  function palette(root) {
    const style = getComputedStyle(root),
      of = (name) => style.getPropertyValue(name).trim();
    const theme = of("--theme") === "dark" ? "dark" : "light";
    return {
      theme,
      ink: of("--ink"),
      quiet: of("--quiet"),
      line: of("--line"),
      accent: of("--accent"),
      faint: of("--faint"),
      table: colourTable(theme),
    };
  }

  function ticksOf(low, high, n) {
    const raw = (high - low) / n,
      power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw),
      found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(10)));
    return found;
  }

  class Plot {
    /* `on`: hover(concept, event), open(concept), brush(region, isFinal), moved(). `horizontal`: brush a range of x only. */
    constructor({ title, name, horizontal = false, on }) {
      this.name = name;
      this.horizontal = horizontal;
      this.on = on;
      this.tool = "box";
      this.frame = null;
      this.axes = null;
      this.below = el("canvas", { "aria-hidden": "true" });
      this.above = el("canvas", { tabindex: 0, role: "img", "aria-label": title });
      this.node = el(
        "figure",
        { class: "plot", "data-plot": name },
        el("figcaption", {}, title),
        el("div", { class: "canvases" }, this.below, this.above),
      );
      this.caption = this.node.querySelector("figcaption");
      B.listen(this);
    }

    /* Fit the canvases to their place; true if their size changed. */
    fit() {
      const box = this.below.parentNode,
        ratio = globalThis.devicePixelRatio || 1;
      const width = box.clientWidth,
        height = box.clientHeight;
      if (!width || (this.width === width && this.height === height && this.ratio === ratio)) return false;
      Object.assign(this, { width, height, ratio });
      for (const canvas of [this.below, this.above]) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      return true;
    }

    get inner() {
      return {
        x: MARGIN.left,
        y: MARGIN.top,
        w: this.width - MARGIN.left - MARGIN.right,
        h: this.height - MARGIN.top - MARGIN.bottom,
      };
    }

    /* Give the axes: {x: {low, high, label}, y: ...}. What a reader zoomed stays. */
    setAxes(axes) {
      const same =
        this.axes &&
        ["x", "y"].every((side) => ["low", "high", "label"].every((key) => axes[side][key] === this.axes[side][key]));
      this.axes = axes;
      if (!same) this.frame = null;
    }
    get view() {
      return this.frame || { x0: this.axes.x.low, x1: this.axes.x.high, y0: this.axes.y.low, y1: this.axes.y.high };
    }
    toScreen(x, y) {
      const { x: left, y: top, w, h } = this.inner,
        v = this.view;
      return [left + ((x - v.x0) / (v.x1 - v.x0)) * w, top + ((v.y1 - y) / (v.y1 - v.y0)) * h];
    }
    toData(px, py) {
      const { x: left, y: top, w, h } = this.inner,
        v = this.view;
      return [v.x0 + ((px - left) / w) * (v.x1 - v.x0), v.y1 - ((py - top) / h) * (v.y1 - v.y0)];
    }

    /* Draw points: places xs, ys; looks HIDDEN, FAINT or FULL; shades 0 to 255; order of drawing. */
    drawPoints({ xs, ys, looks, shades, order, lines = [] }, colours) {
      this.drawn = { xs, ys, looks };
      const { ratio } = this,
        { x: left, y: top, w, h } = this.inner,
        v = this.view;
      const width = Math.round(w * ratio),
        height = Math.round(h * ratio);
      if (width <= 0 || height <= 0) return;
      const image =
        this.image && this.image.width === width && this.image.height === height ? this.image : new ImageData(width, height);
      this.image = image;
      const pixels = new Uint32Array(image.data.buffer),
        faint = pixel(colours.faint),
        n = xs.length;
      pixels.fill(0);
      const zoom = Math.max(1, (this.axes.x.high - this.axes.x.low) / (v.x1 - v.x0)) ** 0.4;
      const radius = Math.max(1, Math.round((n > 12000 ? 1.2 : n > 3000 ? 1.8 : 2.6) * zoom * ratio)),
        reach = [];
      for (let dy = -radius; dy <= radius; dy++) reach.push(Math.floor(Math.sqrt((radius + 0.35) ** 2 - dy * dy)));
      const sx = width / (v.x1 - v.x0),
        sy = height / (v.y1 - v.y0);
      for (const pass of [FAINT, FULL]) {
        for (let i = 0; i < n; i++) {
          const k = order[i];
          if (looks[k] !== pass) continue;
          const px = Math.round((xs[k] - v.x0) * sx),
            py = Math.round((v.y1 - ys[k]) * sy);
          if (!(px > -radius && px < width + radius && py > -radius && py < height + radius)) continue;
          const colour = pass === FULL ? colours.table[shades[k]] : faint;
          for (let dy = -radius; dy <= radius; dy++) {
            const row = py + dy;
            if (row < 0 || row >= height) continue;
            const half = reach[dy + radius],
              last = Math.min(px + half, width - 1);
            for (let at = Math.max(px - half, 0); at <= last; at++) pixels[row * width + at] = colour;
          }
        }
      }
      const pen = this.clear(this.below);
      pen.putImageData(image, Math.round(left * ratio), Math.round(top * ratio));
      this.drawFrame(pen, colours, lines);
    }

    /* Draw bars: counts of all and of the chosen concepts per bin, on a logarithmic axis. */
    drawBars({ all, chosen, lines }, colours) {
      this.drawn = null;
      const pen = this.clear(this.below),
        { x, y, w, h } = this.inner,
        n = all.length,
        top = Math.log10(this.axes.y.top + 1);
      const height = (value) => (Math.log10(value + 1) / top) * h;
      for (let i = 0; i < n; i++) {
        const left = x + (i / n) * w,
          wide = Math.max(1, w / n - 1);
        pen.fillStyle = colours.faint;
        pen.fillRect(left, y + h - height(all[i]), wide, height(all[i]));
        pen.fillStyle = css(colours.table[Math.round((255 * (i + 0.5)) / n)]);
        pen.fillRect(left, y + h - height(chosen[i]), wide, height(chosen[i]));
      }
      this.drawFrame(pen, colours, lines, [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000]);
    }

    clear(canvas) {
      const pen = canvas.getContext("2d");
      pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      pen.clearRect(0, 0, this.width, this.height);
      return pen;
    }

    /* Draw axes, ticks and threshold lines: {x or y, text}. `counted`: the counts that a histogram marks. */
    drawFrame(pen, colours, lines, counted = null) {
      const { x, y, w, h } = this.inner,
        v = this.view;
      pen.font = "11px system-ui, sans-serif";
      pen.lineWidth = 1;
      pen.strokeStyle = colours.quiet;
      pen.setLineDash([4, 3]);
      for (const line of lines) {
        const [px, py] = this.toScreen(line.x ?? v.x0, line.y ?? v.y0);
        pen.beginPath();
        if (line.x !== undefined && px >= x && px <= x + w) {
          pen.moveTo(px, y);
          pen.lineTo(px, y + h);
        }
        if (line.y !== undefined && py >= y && py <= y + h) {
          pen.moveTo(x, py);
          pen.lineTo(x + w, py);
        }
        pen.stroke();
      }
      pen.setLineDash([]);
      pen.strokeStyle = colours.line;
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x, y + h);
      pen.lineTo(x + w, y + h);
      pen.stroke();
      pen.fillStyle = colours.ink;
      pen.textAlign = "center";
      pen.textBaseline = "top";
      if (!this.axes.x.bare)
        for (const at of ticksOf(v.x0, v.x1, Math.max(2, w / 70)))
          pen.fillText(this.axes.x.show ? this.axes.x.show(at) : small(at), this.toScreen(at, v.y0)[0], y + h + 4);
      pen.fillText(this.axes.x.label, x + w / 2, y + h + 18);
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      if (counted) {
        const top = Math.log10(this.axes.y.top + 1);
        for (const at of counted)
          if (at <= this.axes.y.top) pen.fillText(B.count(at), x - 5, y + h - (Math.log10(at + 1) / top) * h);
      } else if (!this.axes.y.bare)
        for (const at of ticksOf(v.y0, v.y1, Math.max(2, h / 50))) pen.fillText(small(at), x - 5, this.toScreen(v.x0, at)[1]);
      pen.save();
      pen.translate(9, y + h / 2);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "center";
      pen.fillText(this.axes.y.label, 0, 0);
      pen.restore();
    }

    /* Draw what changes often above the points: a brush, and rings around concepts. */
    drawAbove(colours, region, rings) {
      const pen = this.clear(this.above),
        { x, y, w, h } = this.inner;
      pen.save();
      pen.beginPath();
      pen.rect(x, y, w, h);
      pen.clip();
      if (region && region.plot === this.name) {
        const corners = B.cornersOf(region, this.horizontal, this.view).map(([a, b]) => this.toScreen(a, b));
        pen.beginPath();
        corners.forEach(([a, b], i) => (i ? pen.lineTo(a, b) : pen.moveTo(a, b)));
        pen.closePath();
        pen.globalAlpha = 0.12;
        pen.fillStyle = colours.accent;
        pen.fill();
        pen.globalAlpha = 1;
        pen.strokeStyle = colours.accent;
        pen.lineWidth = 1.5;
        pen.stroke();
      }
      if (this.drawn)
        for (const [concept, size] of rings) {
          const [px, py] = this.toScreen(this.drawn.xs[concept], this.drawn.ys[concept]);
          if (!Number.isFinite(px + py)) continue;
          pen.beginPath();
          pen.arc(px, py, size, 0, 7);
          pen.lineWidth = 2.5;
          pen.strokeStyle = colours.ink;
          pen.stroke();
        }
      pen.restore();
    }

    /* The concept whose point is nearest to a place on the canvas, or -1. */
    nearest(px, py) {
      if (!this.drawn) return -1;
      const { xs, ys, looks } = this.drawn,
        { x: left, y: top, w, h } = this.inner,
        v = this.view;
      const sx = w / (v.x1 - v.x0),
        sy = h / (v.y1 - v.y0);
      let best = -1,
        least = NEAR * NEAR;
      for (let k = 0; k < xs.length; k++) {
        if (!looks[k]) continue;
        const dx = left + (xs[k] - v.x0) * sx - px,
          dy = top + (v.y1 - ys[k]) * sy - py;
        const far = (dx * dx + dy * dy) * (looks[k] === FULL ? 1 : 2.5); // chosen points are easier to hit
        if (far < least) {
          least = far;
          best = k;
        }
      }
      return best;
    }

    zoom(factor, px = this.inner.x + this.inner.w / 2, py = this.inner.y + this.inner.h / 2) {
      if (this.horizontal) return;
      const [x, y] = this.toData(px, py),
        v = this.view;
      const wide = (v.x1 - v.x0) * factor;
      if (wide > (this.axes.x.high - this.axes.x.low) * 1.02) this.frame = null;
      else if (wide > (this.axes.x.high - this.axes.x.low) / 500)
        this.frame = {
          x0: x - (x - v.x0) * factor,
          x1: x + (v.x1 - x) * factor,
          y0: y - (y - v.y0) * factor,
          y1: y + (v.y1 - y) * factor,
        };
      this.on.moved(this);
    }
    pan(dx, dy) {
      if (this.horizontal) return;
      const { w, h } = this.inner,
        v = this.view,
        x = (dx / w) * (v.x1 - v.x0),
        y = (dy / h) * (v.y1 - v.y0);
      this.frame = { x0: v.x0 - x, x1: v.x1 - x, y0: v.y0 + y, y1: v.y1 + y };
      this.on.moved(this);
    }
  }

  Object.assign(B, { Plot, palette, HIDDEN, FAINT, FULL });
})((globalThis.BlindspotsExplorer ||= {}));
