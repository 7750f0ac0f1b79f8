/* Lists: the ends of what is chosen, where two models differ most, words asked for. */
(function (B) {
  "use strict";
  const { el, menu, count, known } = B;

  /* The concepts at both ends of what is chosen; what a search found by number stands first. */
  function fillList(app, place, selection) {
    const { source, state } = app,
      exact = /^#?\d+$/.test(state.find.trim()) ? Number(state.find.replace(/\D/g, "")) : -1;
    const part = (title, concepts) => [
      el("h2", {}, title),
      concepts.length
        ? el(
            "ol",
            {},
            concepts.map((k) => row(app, selection, k)),
          )
        : el("p", { class: "none" }, "None under these settings."),
    ];
    const parts = [];
    if (state.find) {
      const how = source.tops ? "names, numbers, captions of top images" : "names and numbers";
      parts.push(el("p", { class: "note" }, `Found in ${how}: ${count(selection.found)}`, app.waiting("tops") ? " …" : ""));
    }
    if (exact >= 0 && exact < source.meta.n_concepts) parts.push(...part("By number", [exact]));
    parts.push(...part("Most suppressed", selection.ranked.low), ...part("Most exaggerated", selection.ranked.high));
    place.replaceChildren(...parts);
  }

  function row(app, selection, k) {
    const { source, state } = app,
      own = source.columns.models[state.model],
      value = selection.value[k],
      ends = B.intervalOf(source, state.delta, state.model, k);
    return el(
      "li",
      {},
      B.conceptButton(app, k),
      el("span", { class: "value" }, B.withInterval(value, ...ends)),
      B.chip(B.CALLS[own.call[k]]),
    );
  }

  /* The concepts on which two models differ most. Their intervals share the real images, so taking both as independent is safe. */
  function differences(app) {
    const place = el("div"),
      node = el("div", { class: "view" }, el("h2", {}, "Two models at once"), place);
    function update() {
      const { source, state } = app,
        selection = app.selection(),
        found = [];
      const [a, b] = ["model", "second"].map((key) => B.valuesOf(source, state.delta, state[key]));
      const ends = (which, k) => B.intervalOf(source, state.delta, state[which], k);
      for (let k = 0; k < a.length; k++)
        if (selection.looks[k] === B.FULL && known(a[k]) && known(b[k])) found.push([k, b[k] - a[k]]);
      for (const one of found) one.push(apartInterval(a[one[0]], ends("model", one[0]), b[one[0]], ends("second", one[0])));
      const sureness = ([, apart, [low, high]]) =>
        state.apart === "sure" && known(low)
          ? Math.abs(apart) / Math.max(1e-6, apart > 0 ? apart - low : high - apart)
          : Math.abs(apart);
      found.sort((one, other) => sureness(other) - sureness(one) || one[0] - other[0]);
      const rows = found.slice(0, 2 * state.top).map(([k, apart, [low, high]]) => {
        const sure = low > 0 || high < 0;
        return el(
          "tr",
          {},
          el("td", {}, B.conceptButton(app, k)),
          el("td", { class: "value" }, B.withInterval(apart, low, high)),
          el("td", {}, known(low) ? (sure ? B.chip("differ") : "not sure") : "–"),
          ...[
            ["model", a],
            ["second", b],
          ].map(([which, values]) =>
            el(
              "td",
              { class: "wide" },
              B.strip(values[k], ...ends(which, k), app.colour(state[which])),
              el("span", { class: "value" }, B.withInterval(values[k], ...ends(which, k))),
            ),
          ),
        );
      });
      place.replaceChildren(
        twoMenus(app),
        el(
          "p",
          { class: "note" },
          `${count(found.length)} chosen concepts have a value in both. Difference: second minus first, with a 95 % interval for one concept that was chosen beforehand; of the largest of many, some are large by chance.`,
        ),
        el(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "Largest differences" },
          el(
            "table",
            {},
            el(
              "thead",
              {},
              el(
                "tr",
                {},
                ["Concept", "Difference", "Sure?", app.label(state.model), app.label(state.second)].map((text) =>
                  el("th", { scope: "col" }, B.short(text, 30)),
                ),
              ),
            ),
            el("tbody", {}, rows),
          ),
        ),
      );
    }
    return { node, update };
  }
  function twoMenus(app) {
    const models = app.source.meta.models.map((model) => [model.name, B.short(model.label, 40)]);
    return el(
      "div",
      { class: "bar" },
      menu("First model", models, app.state.model, (model) => app.set({ model })).node,
      menu("Second model", models, app.state.second, (second) => app.set({ second })).node,
      menu(
        "Sorted by",
        [
          ["sure", "surest difference first"],
          ["large", "largest difference first"],
        ],
        app.state.apart,
        (apart) => app.set({ apart }),
      ).node,
      el("button", { type: "button", onclick: () => app.set({ model: app.state.second, second: app.state.model }) }, "Swap"),
    );
  }
  /* The interval of b - a from both intervals (Zou and Donner 2008). */
  function apartInterval(a, [aLow, aHigh], b, [bLow, bHigh]) {
    const down = Math.hypot(b - bLow, aHigh - a),
      up = Math.hypot(bHigh - b, a - aLow);
    return [b - a - down, b - a + up];
  }

  /* Words of captions: what a model leaves out when asked, and draws when not asked. */
  function asked(app) {
    const place = el("div"),
      node = el("div", { class: "view" }, el("h2", {}, "Asked and not asked"), place);
    function update() {
      if (!app.source.asked) {
        place.replaceChildren(el("p", {}, "Loading …"));
        return;
      }
      const { source, state } = app,
        side = state.words,
        wanted = B.clean(state.find).toLowerCase();
      const rows = source.asked.filter(
        (row) => row.model === state.model && (!wanted || B.clean(row.word).toLowerCase().includes(wanted)),
      );
      const sign = side === "omission" ? 1 : -1;
      rows.sort((one, other) => sign * ((one[side][0] ?? 0.5) - (other[side][0] ?? 0.5)) || (one.word < other.word ? -1 : 1));
      const value = (cell, colour) =>
        el(
          "td",
          { class: "wide" },
          B.strip(...cell.slice(0, 3), colour),
          el("span", { class: "value" }, B.withInterval(...cell.slice(0, 3))),
          " ",
          B.chip(cell[3]),
        );
      const models = source.meta.models.map((model) => [model.name, B.short(model.label, 40)]);
      const body = rows
        .slice(0, 200)
        .map((row) =>
          el(
            "tr",
            {},
            el(
              "th",
              { scope: "row" },
              el(
                "button",
                {
                  type: "button",
                  class: "link",
                  title: "find its concepts",
                  onclick: () => app.set({ view: "overview", find: B.clean(row.word) }),
                },
                el("bdi", {}, B.short(row.word, 40)),
              ),
            ),
            el("td", {}, count(row.n_asked)),
            value(row.omission, app.colour(row.model)),
            value(row.intrusion, app.colour(row.model)),
            el("td", {}, known(row.rate) ? `${(100 * row.rate).toFixed(1)} %` : "–"),
            el("td", {}, row.explained_by ? ["like ", el("bdi", {}, B.short(row.explained_by, 30))] : ""),
          ),
        );
      place.replaceChildren(
        el(
          "div",
          { class: "bar" },
          menu("Model", models, state.model, (model) => app.set({ model })).node,
          menu(
            "Sorted by",
            [
              ["omission", "omission: most left out"],
              ["intrusion", "intrusion: most added"],
            ],
            side,
            (words) => app.set({ words }),
          ).node,
        ),
        el(
          "p",
          { class: "note" },
          `${count(rows.length)} words that the concepts can see${rows.length > 200 ? ", the first 200" : ""}. Omission: 0 if nothing of what is asked for is drawn, 0.5 as in real images. Intrusion: 1 if only generated images show it unasked, 0.5 as in real images; the rate is how many more of the unasked images show it.`,
        ),
        el(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "Words" },
          el(
            "table",
            {},
            el(
              "thead",
              {},
              el(
                "tr",
                {},
                ["Word", "Captions", "Omission", "Intrusion", "Rate", "May be mistaken for"].map((text) =>
                  el("th", { scope: "col" }, text),
                ),
              ),
            ),
            el("tbody", {}, body),
          ),
        ),
      );
    }
    return { node, update, parts: ["asked"] };
  }

  Object.assign(B, { fillList, differences, asked });
})((globalThis.BlindspotsExplorer ||= {}));
