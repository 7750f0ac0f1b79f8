/* The concept card: what is known of one concept, its images, and where to go from it. */
(function (B) {
  "use strict";
  const { el, count, small, slider } = B,
    N_MEMBERS = 12;

  function card(app, k) {
    const { source, state } = app,
      { columns } = source,
      name = B.arraysOf(source).names[k],
      family = columns.family[k];
    const order = B.inOrder(app.selection()),
      at = order.indexOf(k);
    const go = (step, text, label) =>
      el(
        "button",
        {
          type: "button",
          "aria-label": label,
          disabled: at < 0 ? !order.length : !order[at + step],
          onclick: () => app.step(step),
        },
        text,
      );
    const title = el(
      "h2",
      { tabindex: -1 },
      name ? el("bdi", {}, B.short(name, 80)) : "Unnamed",
      el("span", { class: "number" }, ` concept ${k}`),
    );
    const rank = at < 0 ? "not among the chosen" : `rank ${count(at + 1)} of ${count(order.length)}`;
    const node = el(
      "section",
      { class: "card", "aria-label": `Concept ${k}` },
      el(
        "div",
        { class: "bar" },
        go(-1, "←", "previous concept"),
        go(1, "→", "next concept"),
        el("span", { class: "rank" }, rank),
        el(
          "button",
          { type: "button", class: "close", "aria-label": "close the card", onclick: () => app.set({ concept: null }) },
          "×",
        ),
      ),
      title,
      el("p", { class: "facts" }),
    );
    const verdicts = el("div", { class: "verdicts" }),
      asked = el("div"),
      together = el("div"),
      members = el("div"),
      pictures = el("div", { class: "pictures" });
    node.append(verdicts, asked, imageBar(app), pictures, together, members);
    const shown = () => node.isConnected || !node.parentNode;
    const fill = () => {
      const tokens = columns.firings ? `${count(columns.firings[k])} tokens of ` : "";
      node.querySelector(".facts").textContent =
        `Fires on ${tokens}${count(columns.n_images_real[k])} of ${count(source.meta.n_pairs)} real images; mean energy ${small(columns.energy_real[k])}.${scoreText(app, k)}${plantedText(app, k)}`;
      fillVerdicts(app, k, verdicts);
    };
    fill();
    app.load("intervals").then(() => shown() && fill());
    app.load("families").then(() => shown() && fillFamily(app, k, family, members));
    if (name) app.load("asked").then(() => shown() && fillAsked(app, name, asked));
    Promise.all([source.concept(k), app.load("pairs")])
      .then(([details]) => {
        if (!shown()) return;
        fillPictures(app, details, pictures);
        fillTogether(app, details, together);
        pictures.dataset.ready = k;
      })
      .catch((error) => app.fail(error));
    return node;
  }

  /* How well the name fits, on captions where it was not chosen. */
  function scoreText(app, k) {
    const { lift, r } = app.source.columns;
    if (!lift || !B.known(lift[k])) return "";
    return ` Its name fits: as a detector of the word the concept has ${small(lift[k])} times the average precision of chance, correlation ${B.two(r[k])}.`;
  }

  /* What was planted in the model on purpose, where that is known. */
  function plantedText(app, k) {
    const side = app.source.columns.models[app.state.model].planted?.[k];
    return side ? ` Planted in ${B.short(app.label(app.state.model), 28)} as ${B.CALLS[side]}.` : "";
  }

  /* One row per model: a strip with δ and its interval, the numbers, the call. */
  function fillVerdicts(app, k, place) {
    const { source, state } = app,
      kind = state.delta;
    const rows = source.meta.models.map((model) => {
      const own = source.columns.models[model.name],
        value = B.valuesOf(source, kind, model.name)[k],
        ends = B.intervalOf(source, kind, model.name, k);
      return el(
        "tr",
        { class: model.name === state.model ? "own" : null },
        el(
          "th",
          { scope: "row" },
          el(
            "button",
            {
              type: "button",
              class: "link",
              "aria-pressed": String(model.name === state.model),
              onclick: () => app.set({ model: model.name }),
            },
            B.short(model.label, 28),
          ),
        ),
        el("td", {}, B.strip(value, ...ends, model.colour)),
        el("td", { class: "value" }, B.withInterval(value, ...ends)),
        el("td", {}, B.chip(B.CALLS[own.call[k]])),
      );
    });
    place.replaceChildren(
      el(
        "table",
        {},
        el("caption", {}, `${B.KINDS[kind]} [95 % interval]: 0 never drawn, 0.5 as in real images, 1 drawn only`),
        el("tbody", {}, rows),
      ),
    );
  }

  function imageBar(app) {
    const opacity = slider("heatmap", {
      min: 0,
      max: 1,
      step: 0.05,
      value: app.state.opacity,
      show: (value) => `${Math.round(100 * value)} %`,
      onchange: (value) => app.quietly({ opacity: value }),
    });
    return el("div", { class: "imagebar" }, el("h3", {}, "Top images"), opacity.node);
  }

  /* Top real and generated images, side by side; each leads to its pair. */
  function fillPictures(app, details, place) {
    const { state, source } = app,
      size = app.isNarrow() ? 92 : 104;
    const column = (where) => {
      const own = details.top[where] || [],
        images = own.length ? own : (details.top.real || []).map(({ pair }) => ({ pair, energy: 0 }));
      return el(
        "div",
        { class: "column" },
        el("h4", {}, where === "real" ? "Real" : `Generated: ${B.short(app.label(where), 24)}`),
        own.length || where === "real" ? null : el("p", { class: "none" }, "It fires on none. For the captions on the left:"),
        images.length
          ? el(
              "ul",
              {},
              images.map((image) =>
                el(
                  "li",
                  {},
                  el(
                    "button",
                    {
                      type: "button",
                      class: "cell",
                      title: `energy ${small(image.energy)}: see the pair`,
                      onclick: () => app.set({ view: "pairs", pair: image.pair }),
                    },
                    B.picture(app, where, image.pair, size, image.heat ?? null),
                  ),
                  el("p", {}, el("bdi", {}, B.short(source.pairs.caption[image.pair], 70))),
                ),
              ),
            )
          : el("p", { class: "none" }, "It fires on none."),
      );
    };
    place.replaceChildren(column("real"), column(state.model));
  }

  function fillTogether(app, details, place) {
    if (!details.together.length) return;
    place.replaceChildren(
      el("h3", {}, "Fires with"),
      el(
        "p",
        { class: "chips" },
        details.together.map(({ concept, overlap }) => B.conceptButton(app, concept, ` ${Math.round(100 * overlap)} %`)),
      ),
      el("p", { class: "note" }, "Tokens of real images on which both fire, of those on which either does."),
    );
  }

  function fillFamily(app, k, family, place) {
    const { source, state } = app,
      { families } = source;
    if (!families) return;
    const members = families.concepts[family].filter((other) => other !== k),
      own = families.models[state.model];
    if (!members.length) return;
    const verdict = own
      ? `The family of ${members.length + 1} together: ${B.CALLS[own.call[family]]}, shrunken δ ${B.withInterval(own.shrunken[family], own.shrunken_low[family], own.shrunken_high[family])}.`
      : "";
    place.replaceChildren(
      el("h3", {}, "Same family"),
      el("p", { class: "note" }, verdict),
      el(
        "p",
        { class: "chips" },
        members.slice(0, N_MEMBERS).map((other) => B.conceptButton(app, other)),
        members.length > N_MEMBERS ? ` and ${members.length - N_MEMBERS} more` : "",
      ),
    );
  }

  /* What the model does with the word of the concept's name, asked and unasked. */
  function fillAsked(app, name, place) {
    const row = (app.source.asked || []).find((one) => one.model === app.state.model && B.clean(one.word) === name);
    if (!row) return;
    const line = (text, [value, low, high, call]) => el("li", {}, text, ` ${B.withInterval(value, low, high)} `, B.chip(call));
    place.replaceChildren(
      el("h3", {}, "As a word of captions"),
      el(
        "ul",
        { class: "plain" },
        line(`Asked for in ${count(row.n_asked)} captions; omission`, row.omission),
        line("Not asked for; intrusion", row.intrusion),
      ),
    );
  }

  B.card = card;
})((globalThis.BlindspotsExplorer ||= {}));
