/* The controls of the overview: menus and sliders that change the state while they are moved, and follow it. */
(function (B) {
  "use strict";
  const { el, slider, menu, small, two } = B;
  const DELTAS = [
    ["shrunken", "shrunken: with noise taken out"],
    ["raw", "raw: δ = ξ̄′ / (ξ̄ + ξ̄′)"],
    ["published", "published: σ((ξ̄′ − ξ̄) / 0.8)"],
    ["mean", "raw, energy: mean of the firing tokens"],
    ["max", "raw, energy: largest token"],
    ["presence", "raw, energy: 1 where it fires at all"],
  ];
  const CALLS = [
    ["", "any call"],
    ["called", "suppressed or exaggerated"],
    ["suppressed", "suppressed"],
    ["exaggerated", "exaggerated"],
    ["aligned", "aligned"],
    ["unclear", "unclear"],
  ];
  const SHARED = [
    ["", "in any models"],
    ["all", "called the same in all models"],
    ["only", "called so in this model only"],
  ];
  const PLANTED = [
    ["", "any concept"],
    ["any", "matched to what was planted"],
    ["suppressed", "planted as suppressed"],
    ["exaggerated", "planted as exaggerated"],
    ["none", "nothing was planted"],
  ];
  const STEPS = 200; // of logarithmic sliders

  /* The controls; they change the state and follow it. */
  function controls(app) {
    const { source, state } = app,
      models = source.meta.models.map((model) => [model.name, B.short(model.label, 40)]);
    const energies = logScale(
      Object.values(B.arraysOf(source).mean)
        .map((values) => finite(values))
        .flat(),
    );
    const images = logScale([
      0,
      Math.log10(
        Math.max(
          2,
          source.columns.n_images_real.reduce((a, b) => Math.max(a, b), 0),
        ),
      ),
    ]);
    const q = {
      to: (at) => (at >= STEPS ? 1 : Number((10 ** ((at / STEPS) * 4 - 4)).toPrecision(2))),
      from: (value) => Math.round(((Math.log10(value) + 4) / 4) * STEPS),
    };
    const log = (scale) => ({ min: 0, max: STEPS, step: 1, scale });
    const made = {
      model: menu("Model", models, state.model, (value) => app.set({ model: value })),
      second: menu("Second model", models, state.second, (value) => app.set({ second: value })),
      delta: menu("δ shown", DELTAS, state.delta, (value) => app.set({ delta: value })),
      call: menu("Call", CALLS, state.call, (value) => app.set({ call: value })),
      shared: menu("Shared", SHARED, state.shared, (value) => app.set({ shared: value })),
      ...(Object.values(source.columns.models).some((own) => own.planted) && {
        planted: menu("Planted", PLANTED, state.planted, (value) => app.set({ planted: value })),
      }),
      low: slider("λ min (suppressed)", {
        min: 0,
        max: 0.5,
        step: 0.01,
        value: state.low,
        show: two,
        onchange: (value) => app.set({ low: value }),
      }),
      high: slider("λ max (exaggerated)", {
        min: 0.5,
        max: 1,
        step: 0.01,
        value: state.high,
        show: two,
        onchange: (value) => app.set({ high: value }),
      }),
      q: slider("q at most", {
        ...log(q),
        value: q.from(state.q),
        show: (at) => (at >= STEPS ? "any" : small(q.to(at))),
        onchange: (at) => app.set({ q: q.to(at) }),
        title: "Benjamini-Hochberg q-value of the chosen model",
      }),
      energy: slider("mean energy at least", {
        ...log(energies),
        value: energies.from(state.energy),
        show: (at) => (at ? small(energies.to(at)) : "any"),
        onchange: (at) => app.set({ energy: energies.to(at) }),
      }),
      images: slider("real images at least", {
        ...log(images),
        value: images.from(state.images),
        show: (at) => (at ? B.count(Math.ceil(images.to(at))) : "any"),
        onchange: (at) => app.set({ images: at ? Math.ceil(images.to(at)) : 0 }),
      }),
      once: menu(
        "Listed",
        [
          ["family", "one concept per family"],
          ["", "every concept"],
        ],
        state.once,
        (value) => app.set({ once: value }),
      ),
      top: slider("concepts listed per side", {
        min: 3,
        max: 50,
        step: 1,
        value: state.top,
        show: String,
        onchange: (value) => app.set({ top: value }),
      }),
    };
    const scales = { q, energy: energies, images };
    const node = el(
      "form",
      { class: "controls", "aria-label": "Settings", onsubmit: (event) => event.preventDefault() },
      Object.values(made).map((control) => control.node),
      el("button", { type: "button", class: "reset", onclick: () => app.set(B.firstState(source.meta)) }, "Reset all"),
    );
    const follow = () => {
      for (const [key, control] of Object.entries(made))
        control.set(scales[key] ? scales[key].from(app.state[key]) : app.state[key]);
    };
    return { node, follow };
  }
  const finite = (values) => {
    let low = Infinity,
      high = -Infinity;
    for (const v of values)
      if (v > -20 && v < 20) {
        low = Math.min(low, v);
        high = Math.max(high, v);
      }
    return low <= high ? [low, high] : [];
  };
  /* Positions 0 to STEPS of a slider and values; 0 is "any". The ends are logarithms. */
  function logScale(ends) {
    const low = ends.length ? Math.min(...ends) : 0,
      high = ends.length ? Math.max(...ends) : 1;
    return {
      to: (at) => (at ? Number((10 ** (low + (at / STEPS) * (high - low))).toPrecision(3)) : 0),
      from: (value) => (value ? Math.round(((Math.log10(value) - low) / (high - low || 1)) * STEPS) : 0),
    };
  }

  B.controls = controls;
})((globalThis.BlindspotsExplorer ||= {}));
