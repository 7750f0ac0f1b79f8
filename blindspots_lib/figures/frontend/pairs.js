/* Pairs: caption, real image, every model's image, distance and copy call; of one pair also the concepts of every patch. */
(function (B) {
  "use strict";
  const { el, menu, count, two, small } = B,
    N_PAIRS = 12,
    N_LEADING = 4;
  const SORTS = [
    ["order", "order of the study"],
    ["far", "largest distance first"],
    ["near", "smallest distance first"],
    ["copies", "copies first"],
  ];

  function pairs(app) {
    const place = el("div"),
      node = el("div", { class: "view" }, el("h2", {}, "Pairs"), place);
    function update() {
      const { source, state } = app;
      if (!source.pairs) {
        place.replaceChildren(el("p", {}, "Loading …"));
        return;
      }
      const order = orderOf(app),
        last = Math.max(0, Math.ceil(order.length / N_PAIRS) - 1),
        page = Math.min(state.page, last);
      const shown = order.slice(page * N_PAIRS, (page + 1) * N_PAIRS),
        first = page * N_PAIRS;
      const models = source.meta.models.map((model) => [model.name, B.short(model.label, 40)]);
      const turn = (step, text) =>
        el(
          "button",
          {
            type: "button",
            disabled: page + step < 0 || page + step > last,
            onclick: () => app.set({ page: page + step, pair: null }),
          },
          text,
        );
      const where = `${count(first + 1)} to ${count(first + shown.length)} of ${count(order.length)} pairs`;
      place.replaceChildren(
        el(
          "div",
          { class: "bar" },
          menu("Model", models, state.model, (model) => app.set({ model, page: 0 })).node,
          menu("Sorted by", SORTS, state.pairs, (sort) => app.set({ pairs: sort, page: 0 })).node,
          turn(-1, "Earlier"),
          turn(1, "Later"),
          el("span", { role: "status" }, order.length ? where : "No caption has this word."),
        ),
        state.pair === null ? "" : el("div", { class: "chosen" }, pairRow(app, state.pair, true)),
        el(
          "div",
          {},
          shown.filter((pair) => pair !== state.pair).map((pair) => pairRow(app, pair, false)),
        ),
      );
    }
    return { node, update, parts: ["pairs"] };
  }

  /* The pairs whose captions have what is searched, in the chosen order. */
  function orderOf(app) {
    const { source, state } = app,
      own = source.pairs.models[state.model],
      found = [];
    const has = state.find ? B.captionsWith(source, B.clean(state.find).toLowerCase()) : null;
    for (let i = 0; i < source.meta.n_pairs; i++) if (!has || has[i]) found.push(i);
    const by = { far: (i) => -own.distance[i], near: (i) => own.distance[i], copies: (i) => own.copy[i] || 999 }[state.pairs];
    return by ? found.sort((a, b) => by(a) - by(b) || a - b) : found;
  }

  function pairRow(app, pair, isChosen) {
    const { source, state } = app,
      { pairs: table } = source,
      size = app.isNarrow() ? 100 : isChosen ? 160 : 128,
      concepts = {};
    const cells = source.meta.sources.map((where) => {
      concepts[where] = el("div", { class: "leading" });
      return el(
        "li",
        { class: where === state.model ? "own" : null },
        el("h4", {}, where === "real" ? "Real" : B.short(app.label(where), 24)),
        B.picture(app, where, pair, size),
        el("p", {}, factsOf(table.models[where], pair)),
        isChosen && table.models[where]?.nearest?.[pair] >= 0
          ? el("div", { class: "nearest" }, B.picture(app, "training", table.models[where].nearest[pair], size / 2))
          : null,
        isChosen ? concepts[where] : null,
      );
    });
    const heading = el(
      "h3",
      {},
      el("bdi", {}, B.short(table.caption[pair], 600) || "(no caption)"),
      el("span", { class: "number" }, ` ${B.short(table.id[pair], 60)} `),
      isChosen
        ? null
        : el("button", { type: "button", class: "link", onclick: () => app.set({ pair }) }, "see its concepts"),
    );
    const node = el("article", { class: isChosen ? "pair large" : "pair" }, heading, el("ul", {}, cells));
    if (isChosen)
      source
        .pair(pair)
        .then((patches) =>
          source.meta.sources.forEach((where, i) => showConcepts(app, patches[where], cells[i], concepts[where])),
        )
        .catch((error) => app.fail(error));
    return node;
  }

  function factsOf(own, pair) {
    if (!own) return [];
    const facts = [`distance ${small(own.distance[pair])}`, own.copy[pair] ? B.chip("copy") : null];
    if (own.nearest && own.nearest[pair] >= 0)
      facts.push(el("span", {}, `nearest training image: ${own.nearest[pair]}, similarity ${two(own.similarity[pair])}`));
    return facts;
  }

  /* Below an image, the concepts that are strongest on most of its patches; over it, the one under the pointer. A click opens it. */
  function showConcepts(app, patches, cell, place) {
    const picture = cell.querySelector(".picture"),
      { side } = app.source.meta,
      tally = new Map();
    for (const concept of patches) if (concept >= 0) tally.set(concept, (tally.get(concept) || 0) + 1);
    const leading = [...tally].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, N_LEADING);
    const here = el("p", { class: "here" }),
      { names } = B.arraysOf(app.source);
    const at = (event) => {
      const box = picture.getBoundingClientRect(),
        column = Math.floor(((event.clientX - box.left) / box.width) * side);
      return patches[
        Math.min(side - 1, Math.floor(((event.clientY - box.top) / box.height) * side)) * side + Math.min(side - 1, column)
      ];
    };
    picture.classList.add("open");
    picture.addEventListener("pointermove", (event) => {
      const k = at(event);
      here.replaceChildren(
        k === undefined || k < 0
          ? "no concept here"
          : el("bdi", {}, names[k] ? `${B.short(names[k], 30)} (${k})` : `concept ${k}`),
      );
    });
    picture.addEventListener("pointerleave", () => here.replaceChildren());
    picture.addEventListener("click", (event) => {
      const k = at(event);
      if (k >= 0) app.open(k);
    });
    place.replaceChildren(
      here,
      el(
        "p",
        { class: "chips" },
        leading.map(([concept, n]) => B.conceptButton(app, concept, ` ${n} of ${side * side}`)),
      ),
    );
  }

  B.pairs = pairs;
})((globalThis.BlindspotsExplorer ||= {}));
