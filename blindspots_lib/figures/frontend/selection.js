/* Which concepts are shown and chosen under the present settings, in which order, and how a state is written as a link. */
(function (B) {
  "use strict";
  const CALLS = ["unclear", "aligned", "suppressed", "exaggerated"],
    N_BINS = 50;
  const DEFINITIONS = { mean: "δ by the mean of firing tokens", max: "δ by the largest token", presence: "δ by presence" };
  const KINDS = { shrunken: "shrunken δ", raw: "raw δ", published: "published δ", ...DEFINITIONS };
  const TEMPERATURE = 0.8; // of the published scripts

  /* The settings of a reader who has changed nothing. */
  function firstState(meta) {
    const names = meta.models.map((model) => model.name);
    return {
      view: "overview",
      model: names[0],
      second: names[1] ?? names[0],
      delta: "shrunken",
      low: meta.suppressed_below,
      high: meta.exaggerated_above,
      energy: 0,
      q: 1,
      top: 12,
      call: "",
      shared: "",
      planted: "",
      images: 0,
      find: "",
      region: null,
      concept: null,
      pair: null,
      once: "family",
      opacity: 0.75,
      apart: "sure",
      pairs: "order",
      words: "omission",
      page: 0,
    };
  }

  /* What does not depend on the settings, computed once per source and kept: energies, random order, published delta. */
  function arraysOf(source) {
    if (source.derived) return source.derived;
    const { columns, meta } = source,
      n = meta.n_concepts,
      order = new Uint32Array(n).map((_, i) => i);
    let seed = 7;
    for (let i = n - 1; i > 0; i--) {
      // no side covers the other
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const j = seed % (i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    const mean = {},
      published = {};
    for (const { name } of meta.models) {
      const generated = columns.models[name].energy,
        real = columns.energy_real;
      mean[name] = new Float32Array(n).map((_, k) => Math.log10((generated[k] + real[k]) / 2));
      published[name] = new Float32Array(n).map((_, k) =>
        generated[k] + real[k] > 0 ? 1 / (1 + Math.exp((real[k] - generated[k]) / TEMPERATURE)) : NaN,
      );
    }
    const names = columns.name.map((name) => B.clean(name));
    return (source.derived = { order, mean, published, names, lower: names.map((name) => name.toLowerCase()) });
  }

  function valuesOf(source, delta, model) {
    const columns = source.columns.models[model];
    if (DEFINITIONS[delta]) return source.definitions?.[model][delta] ?? (source.nothing ||= columns.delta.map(() => NaN));
    return delta === "shrunken" ? columns.shrunken : delta === "raw" ? columns.delta : arraysOf(source).published[model];
  }

  /* The interval of a concept's delta, [low, high]; only for shrunken and raw, and once intervals are loaded. */
  function intervalOf(source, delta, model, k) {
    const columns = source.columns.models[model];
    if (!["shrunken", "raw"].includes(delta) || !columns.low) return [NaN, NaN];
    return delta === "shrunken" ? [columns.shrunken_low[k], columns.shrunken_high[k]] : [columns.low[k], columns.high[k]];
  }

  /* The calls of the models that a study is about: a perfect generator is not one of them. */
  const judged = (source) =>
    source.meta.models.filter((model) => !model.is_perfect).map((model) => source.columns.models[model.name].call);

  /* A byte per concept: 3 its number, 2 its name, 1 the captions of half of its top real images hold what is searched. */
  function matchesOf(source, text) {
    const wanted = B.clean(text).toLowerCase(),
      n = source.meta.n_concepts;
    if (!wanted) return null;
    if (source.found && source.found.wanted === wanted && source.found.whole === Boolean(source.tops && source.pairs))
      return source.found.matches;
    const matches = new Uint8Array(n),
      { lower } = arraysOf(source),
      number = /^#?\d+$/.test(wanted) ? Number(wanted.replace("#", "")) : -1;
    for (let k = 0; k < n; k++) if (lower[k].includes(wanted)) matches[k] = 2;
    if (source.tops && source.pairs) {
      const has = captionsWith(source, wanted),
        { pair, per_concept: per } = source.tops;
      for (let k = 0; k < n; k++) {
        let hits = 0,
          images = 0;
        for (let i = k * per; i < (k + 1) * per && pair[i] >= 0; i++) {
          images++;
          hits += has[pair[i]];
        }
        if (!matches[k] && images > 1 && hits * 2 >= images) matches[k] = 1;
      }
    }
    if (number >= 0 && number < n) matches[number] = 3;
    source.found = { wanted, matches, whole: Boolean(source.tops && source.pairs) };
    return matches;
  }

  /* A byte per pair: whether its caption has words that begin so. */
  function captionsWith(source, wanted) {
    source.pairs.lower ||= source.pairs.caption.map(
      (caption) =>
        ` ${B.clean(caption)
          .toLowerCase()
          .replace(/[^\p{L}\p{N}\p{M}]+/gu, " ")}`,
    );
    const words = ` ${wanted.replace(/[^\p{L}\p{N}\p{M}]+/gu, " ").trim()}`;
    return Uint8Array.from(source.pairs.lower, (caption) => (words !== " " && caption.includes(words) ? 1 : 0));
  }

  /* Everything that the present settings choose. `passes`: the filters; `chosen`: also brush and search. */
  function choose(source, state) {
    const { columns } = source,
      n = source.meta.n_concepts,
      arrays = arraysOf(source),
      own = columns.models[state.model];
    const value = valuesOf(source, state.delta, state.model),
      second = valuesOf(source, state.delta, state.second);
    const places = {
      map: [columns.x, columns.y],
      ma: [arrays.mean[state.model], value],
      cross: [value, second],
      histogram: [value, value],
    };
    const matches = matchesOf(source, state.find),
      calls = judged(source),
      energy = Math.log10(state.energy || 1e-30);
    const region =
      state.region && places[state.region.plot]
        ? B.inRegion(state.region, ...places[state.region.plot], state.region.plot === "histogram")
        : null;
    const looks = new Uint8Array(n),
      shades = new Uint8Array(n),
      all = new Uint32Array(N_BINS),
      chosen = new Uint32Array(N_BINS);
    const wantedCall = CALLS.indexOf(state.call),
      ranked = { low: [], high: [] };
    let passing = 0,
      found = 0,
      below = 0,
      above = 0;
    for (let k = 0; k < n; k++) {
      const v = value[k];
      if (!(v === v)) continue;
      shades[k] = v * 255;
      const call = own.call[k];
      if (arrays.mean[state.model][k] < energy || columns.n_images_real[k] < state.images) continue;
      if (state.q < 1 && !(own.q[k] <= state.q)) continue;
      if (state.call && (state.call === "called" ? call < 2 : call !== wantedCall)) continue;
      if (state.shared && !isShared(calls, own, k, state.shared)) continue;
      if (state.planted && own.planted && !isPlanted(own.planted[k], state.planted)) continue;
      passing++;
      const bin = Math.min(N_BINS - 1, Math.floor(v * N_BINS));
      all[bin]++;
      looks[k] = B.FAINT;
      if ((region && !region[k]) || (matches && !matches[k])) continue;
      looks[k] = B.FULL;
      found++;
      chosen[bin]++;
      if (v < state.low) below++;
      if (v > state.high) above++;
    }
    extremes(value, looks, state.top, state.once ? columns.family : null, ranked);
    return {
      value,
      second,
      places,
      looks,
      shades,
      all,
      bins: chosen,
      passing,
      found,
      below,
      above,
      ranked,
      matches,
      order: null,
    };
  }

  /* Whether the call of a concept is that of all models ("all"), or suppressed or exaggerated in this one alone ("only"). */
  function isShared(calls, own, k, kind) {
    const call = own.call[k];
    if (call < 2) return false;
    return calls.every((other) => other === own.call || (other[k] === call) === (kind === "all"));
  }

  /* Whether the side on which something was planted is the wanted one: "any", "none", or a call. */
  function isPlanted(side, wanted) {
    return wanted === "any" ? side > 0 : wanted === "none" ? side === 0 : CALLS[side] === wanted;
  }

  /* The `n` chosen concepts of least and of greatest value, the most extreme first; with `family` one of each family per side. */
  function extremes(value, looks, n, family, ranked) {
    const lower = (a, b) => value[a] < value[b],
      higher = (a, b) => value[a] > value[b];
    for (const [list, before, isLow] of [
      [ranked.low, lower, true],
      [ranked.high, higher, false],
    ]) {
      const first = new Map();
      for (let k = 0; k < value.length; k++) {
        if (looks[k] !== B.FULL || value[k] <= 0.5 !== isLow) continue;
        const key = family ? family[k] : k;
        if (!first.has(key) || before(k, first.get(key))) first.set(key, k);
      }
      for (const k of first.values()) insert(list, k, n, before);
    }
  }
  function insert(list, k, n, before) {
    if (list.length === n && !before(k, list[n - 1])) return;
    let at = list.length;
    while (at > 0 && before(k, list[at - 1])) at--;
    list.splice(at, 0, k);
    if (list.length > n) list.pop();
  }

  /* All chosen concepts from the most suppressed to the most exaggerated. */
  function inOrder(selection) {
    if (!selection.order) {
      const found = [];
      for (let k = 0; k < selection.looks.length; k++) if (selection.looks[k] === B.FULL) found.push(k);
      selection.order = found.sort((a, b) => selection.value[a] - selection.value[b] || a - b);
    }
    return selection.order;
  }

  /* The chosen concepts as CSV, with all columns of all models. Their intervals must be loaded. */
  function csvOf(source, selection) {
    const { columns, meta } = source,
      { names } = arraysOf(source);
    const keys = ["energy", "delta", "low", "high", "shrunken", "shrunken_low", "shrunken_high", "q", "p_max"];
    const head = ["concept", "name", "family", "firings", "n_images_real", "energy_real"];
    const hasPlants = meta.models.some(({ name }) => columns.models[name].planted);
    for (const { name } of meta.models) {
      head.push(...keys.map((key) => `${key}_${name}`), `tested_${name}`, `call_${name}`);
      if (hasPlants) head.push(`planted_${name}`);
    }
    const lines = [head.join(",")];
    for (const k of inOrder(selection)) {
      const row = [
        k,
        B.cell(names[k]),
        ...["family", "firings", "n_images_real", "energy_real"].map((key) => B.cell(columns[key][k])),
      ];
      for (const { name } of meta.models) {
        const own = columns.models[name];
        row.push(...keys.map((key) => B.cell(own[key][k])), own.tested[k], CALLS[own.call[k]]);
        if (hasPlants) row.push(own.planted?.[k] ? CALLS[own.planted[k]] : "");
      }
      lines.push(row.join(","));
    }
    return lines.join("\r\n") + "\r\n";
  }

  /* What differs from the first state, as the part of a link behind "#"; and back. */
  function toHash(state, first) {
    const found = new URLSearchParams();
    for (const [key, value] of Object.entries(state)) {
      if (key === "region" ? value : value !== first[key])
        found.set(
          key,
          key === "region" ? [value.plot, value.kind, ...value.points.flat()].join("_") : value === null ? "" : String(value),
        );
    }
    return found.toString();
  }

  function fromHash(text, first, meta) {
    const state = { ...first },
      models = new Set(meta.models.map((model) => model.name));
    for (const [key, value] of new URLSearchParams(text)) {
      if (key === "region") state.region = regionOf(value);
      else if (key === "concept" || key === "pair")
        state[key] = inside(value, key === "concept" ? meta.n_concepts : meta.n_pairs);
      else if (key === "model" || key === "second") state[key] = models.has(value) ? value : first[key];
      else if (typeof first[key] === "number") state[key] = Number.isFinite(Number(value)) ? Number(value) : first[key];
      else if (key in first) state[key] = value;
    }
    if (!KINDS[state.delta]) state.delta = first.delta;
    return state;
  }
  function inside(text, n) {
    const value = Number(text);
    return /^\d+$/.test(text) && value < n ? value : null;
  }
  function regionOf(text) {
    const [plot, kind, ...numbers] = text.split("_"),
      values = numbers.map(Number),
      points = [];
    for (let i = 0; i + 1 < values.length; i += 2) points.push([values[i], values[i + 1]]);
    const whole = ["box", "lasso"].includes(kind) && points.length >= 2 && values.every(Number.isFinite);
    return whole ? { plot, kind, points } : null;
  }

  Object.assign(B, {
    CALLS,
    DEFINITIONS,
    KINDS,
    N_BINS,
    firstState,
    arraysOf,
    valuesOf,
    intervalOf,
    choose,
    inOrder,
    csvOf,
    toHash,
    fromHash,
    captionsWith,
  });
})((globalThis.BlindspotsExplorer ||= {}));
