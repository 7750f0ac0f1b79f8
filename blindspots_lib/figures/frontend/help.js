/* The help page: how to use the explorer, and where to find what the published explorer has. */
(function (B) {
  "use strict";
  const { el } = B;
  const FEATURES = [
    // what the published explorer has, and where it is here
    ["A menu of models", "Settings: Model. A second model is drawn against it, and all models stand on every concept's card."],
    [
      "A map of the concepts",
      "Overview: Concept map, linked with histogram, energy plot and the plot of two models; zoom, move, brush, lasso.",
    ],
    [
      "Selection of a concept by its number",
      "Find: any number, 0 included. Also names, and words of the captions of a concept's top images.",
    ],
    ["Links to concepts that fire together", "Card: Fires with, each with its overlap. Also the concepts of the same family."],
    [
      "Lists of the largest differences",
      "Overview: most suppressed and most exaggerated, as many as Settings say. Two models: where they differ most, with intervals.",
    ],
    [
      "Images with heatmaps whose opacity changes",
      "Card: top real and generated images side by side, with the slider above them. The heatmap is of the chosen concept.",
    ],
    [
      "Colours by difference",
      "All plots: from blue (suppressed) to yellow (exaggerated). The numbers are δ itself; nothing is rescaled unless “published” is chosen.",
    ],
  ];
  const MORE = [
    "intervals and calls, and how sure they are",
    "search by name and word",
    "filters by call, q, energy and frequency, and by what was planted where that is known",
    "δ by other definitions of an image's energy",
    "words asked for and not asked for",
    "pairs with distance, copies and the concept of each patch",
    "links to a state, CSV and PNG",
    "the keyboard, a dark theme, small screens",
  ];
  const KEYS = [
    ["/", "go to the search"],
    ["← →", "on an open card: previous and next concept by rank"],
    ["Esc", "close the card, then let the brush and the search go"],
    ["+ − 0, arrows", "in a plot that has the focus: zoom, show all, move"],
    ["?", "this page"],
  ];

  function help(app) {
    const { meta } = app.source,
      list = (rows) =>
        el(
          "tbody",
          {},
          rows.map(([first, second]) => el("tr", {}, el("th", { scope: "row" }, first), el("td", {}, second))),
        );
    const node = el(
      "div",
      { class: "view help" },
      el("h2", {}, "Help"),
      el(
        "p",
        {},
        "δ(k) is the energy of concept k on generated images over its energy on generated and real images: 0 if the model never draws it, 0.5 if as much as real images show it, 1 if only the model draws it. A call takes the uncertainty into account. Shrunken δ has the noise of few images taken out, and its interval also holds for the most extreme concepts.",
      ),
      el(
        "p",
        {},
        "Drag in a plot to choose concepts: all plots, counts and lists follow. Click a point to open its card. The wheel zooms in a plot that was clicked, or with Ctrl; a double click shows all again. Grey points pass the filters but not the brush or the search.",
      ),
      el("h3", {}, "Keys"),
      el("table", {}, list(KEYS)),
      el("h3", {}, "What the published explorer has, and where it is here"),
      el(
        "table",
        { class: "features" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "There"), el("th", { scope: "col" }, "Here"))),
        list(FEATURES),
      ),
      el("p", {}, `Also here: ${MORE.join("; ")}.`),
      el("h3", {}, "Take away"),
      el(
        "p",
        {},
        "CSV: all columns of the chosen concepts. PNG: the four plots. Link: the address of this state, brush included.",
      ),
      el(
        "p",
        { class: "note" },
        `${B.clean(meta.title)}: ${B.count(meta.n_pairs)} pairs, ${B.count(meta.n_concepts)} concepts, ${meta.models.length} models. ${B.clean(meta.note || "")} ${B.clean(meta.attribution || "")}`,
      ),
    );
    return { node, update() {} };
  }

  B.help = help;
})((globalThis.BlindspotsExplorer ||= {}));
