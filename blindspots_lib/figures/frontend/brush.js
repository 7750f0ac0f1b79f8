/* What a reader does on a plot: hover, click, brush, pan, zoom, by pointer and by keys; and which points a brush holds. */
(function (B) {
  "use strict";

  /* Let a plot hear its canvas. */
  function listen(plot) {
    const canvas = plot.above,
      at = (event) => {
        const box = canvas.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
    let start = null,
      path = null,
      last = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      start = last = at(event);
      path = null;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = at(event);
      if (!start) return plot.on.hover(plot.nearest(...here), event);
      if (!path && Math.hypot(here[0] - start[0], here[1] - start[1]) < 4) return;
      path ||= [start];
      if (plot.tool === "pan") plot.pan(here[0] - last[0], here[1] - last[1]);
      else {
        path.push(here);
        plot.on.brush(regionOf(plot, path), false);
      }
      last = here;
    });
    canvas.addEventListener("pointerup", (event) => {
      if (start && !path) {
        const found = plot.nearest(...at(event));
        if (found >= 0) plot.on.open(found);
        else plot.on.brush(null, true);
      } else if (path && plot.tool !== "pan") plot.on.brush(regionOf(plot, path), true);
      start = path = null;
    });
    canvas.addEventListener("pointercancel", () => {
      start = path = null;
    });
    canvas.addEventListener("pointerleave", (event) => plot.on.hover(-1, event));
    canvas.addEventListener("dblclick", () => {
      plot.frame = null;
      plot.on.moved(plot);
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        // a page that scrolls is not caught: click into the plot, or hold ctrl
        if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
        event.preventDefault();
        plot.zoom(event.deltaY > 0 ? 1.18 : 1 / 1.18, ...at(event));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (moves[event.key]) plot.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") plot.zoom(1 / 1.3);
      else if (event.key === "-") plot.zoom(1.3);
      else if (event.key === "0") {
        plot.frame = null;
        plot.on.moved(plot);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  /* A brushed region in the units of the axes: two corners, or the corners of a lasso (at most 60). */
  function regionOf(plot, path) {
    const lasso = plot.tool === "lasso" && !plot.horizontal;
    const kept = lasso ? path.filter((_, i) => i % Math.ceil(path.length / 60) === 0) : [path[0], path[path.length - 1]];
    const points = kept.map(([px, py]) => plot.toData(px, py).map((value) => Number(value.toPrecision(5))));
    return { plot: plot.name, kind: lasso ? "lasso" : "box", points };
  }

  function cornersOf(region, horizontal, view) {
    if (region.kind === "lasso") return region.points;
    let [[x0, y0], [x1, y1]] = region.points;
    if (horizontal) [y0, y1] = [view.y0, view.y1];
    return [
      [x0, y0],
      [x1, y0],
      [x1, y1],
      [x0, y1],
    ];
  }

  /* Whether each of n points lies in a region: a byte per point. */
  function inRegion(region, xs, ys, horizontal) {
    const found = new Uint8Array(xs.length),
      xp = region.points.map((p) => p[0]),
      yp = region.points.map((p) => p[1]);
    const x0 = Math.min(...xp),
      x1 = Math.max(...xp),
      y0 = Math.min(...yp),
      y1 = Math.max(...yp);
    for (let k = 0; k < xs.length; k++) {
      const x = xs[k],
        y = ys[k];
      if (!(x >= x0 && x <= x1 && (horizontal || (y >= y0 && y <= y1)))) continue;
      let inside = region.kind === "box";
      if (!inside)
        for (let i = 0, j = xp.length - 1; i < xp.length; j = i++)
          if (yp[i] > y !== yp[j] > y && x < ((xp[j] - xp[i]) * (y - yp[i])) / (yp[j] - yp[i]) + xp[i]) inside = !inside;
      found[k] = inside;
    }
    return found;
  }

  Object.assign(B, { listen, cornersOf, inRegion });
})((globalThis.BlindspotsExplorer ||= {}));
