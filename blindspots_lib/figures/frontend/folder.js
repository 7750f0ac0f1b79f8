/* The source of the static explorer: scripts beside the page, loaded when they are needed. From disk a page may not fetch. */
(function (B) {
  "use strict";
  const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array },
    STEPS = 65534,
    N_CALLS = 4,
    KEPT = 40; // scripts of concepts kept
  const arrived = {},
    asked = {};

  /* A script hands over its content. */
  B.receive = (name, content) => {
    arrived[name] = content;
  };

  function script(name) {
    asked[name] ||= new Promise((resolve, reject) => {
      const node = document.createElement("script");
      node.src = `${name}.js`;
      node.onload = () => {
        node.remove();
        const content = arrived[name];
        delete arrived[name];
        content === undefined ? reject(new Error(`${name}.js is damaged`)) : resolve(content);
      };
      node.onerror = () => {
        delete asked[name];
        reject(new Error(`${name}.js is missing: copy the whole folder`));
      };
      document.head.append(node);
    });
    return asked[name];
  }

  /* The numbers of a packed array: see explorer.py. */
  function unpack({ kind, data, range, log, whole }) {
    const text = atob(data),
      bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const steps = new KINDS[kind](bytes.buffer),
      n = steps.length;
    if (range) {
      const [low, high] = range;
      return Float32Array.from(steps, (at) => (at > STEPS ? NaN : low + (at / STEPS) * (high - low)));
    }
    if (log) {
      const [low, high] = log;
      return Float32Array.from(steps, (at) => (at ? Math.exp(low + ((at - 1) / (STEPS - 1)) * (high - low)) : 0));
    }
    if (!whole) return kind === "u4" ? new Int32Array(steps.buffer, 0, n) : kind === "u1" ? steps : Int32Array.from(steps);
    const nothing = 2 ** (8 * KINDS[kind].BYTES_PER_ELEMENT) - 1;
    return Int32Array.from(steps, (at) => (at === nothing ? -1 : at));
  }
  const unpackAll = (arrays) => Object.fromEntries(Object.entries(arrays).map(([key, array]) => [key, unpack(array)]));
  const ofModels = (models) => Object.fromEntries(Object.entries(models).map(([name, arrays]) => [name, unpackAll(arrays)]));

  function folderSource() {
    const { meta, format, names, name, models, ...rest } = arrived.data,
      index = unpack(name),
      unpacked = ofModels(models);
    for (const own of Object.values(unpacked))
      Object.assign(own, { call: own.verdict.map((both) => both % N_CALLS), tested: own.verdict.map((both) => both >= N_CALLS) });
    const source = {
      meta,
      columns: { ...unpackAll(rest), name: Array.from(index, (at) => names[at]), models: unpacked },
      shards: new Map(),
    };
    const parts = {
      intervals: () =>
        Promise.all([
          script("facts").then((facts) => Object.assign(source.columns, unpackAll(facts))),
          ...meta.models.map((model, i) =>
            script(`models/${i}`).then((arrays) => Object.assign(source.columns.models[model.name], unpackAll(arrays))),
          ),
        ]),
      families: () =>
        script("families").then((families) => {
          source.families = { ...families, models: ofModels(families.models) };
        }),
      definitions: () =>
        script("definitions").then((models) => {
          source.definitions = ofModels(models);
        }),
      asked: () =>
        script("asked").then((rows) => {
          source.asked = rows;
        }),
      pairs: () =>
        script("captions").then((pairs) => {
          source.pairs = { ...pairs, training: unpack(pairs.training), models: ofModels(pairs.models) };
        }),
      tops: () =>
        script("tops").then((tops) => {
          source.tops = { per_concept: tops.per_concept, pair: unpack(tops.pair) };
        }),
    };
    source.load = (part) => parts[part]();
    source.concept = async (k) => conceptOf(await shardOf(source, Math.floor(k / format.per_shard)), k % format.per_shard, meta);
    source.pair = async (i) => {
      const { patches } = await script(`pairs/${String(Math.floor(i / format.per_sheet)).padStart(5, "0")}`),
        n = meta.side ** 2,
        first = (i % format.per_sheet) * n;
      return Object.fromEntries(
        Object.entries(patches).map(([where, packed]) => [where, unpack(packed).slice(first, first + n)]),
      );
    };
    source.thumb = async (where, number) => {
      const pair = where === "training" ? source.pairs.training.indexOf(number) : number,
        place = pair % format.per_sheet,
        sheet = String(Math.floor(pair / format.per_sheet)).padStart(4, "0");
      return {
        url: `thumbs/${where}-${sheet}.webp`,
        x: (place % format.columns) * meta.thumb,
        y: Math.floor(place / format.columns) * meta.thumb,
        size: meta.thumb,
      };
    };
    return source;
  }

  async function shardOf(source, number) {
    const name = `concepts/${String(number).padStart(5, "0")}`;
    if (!source.shards.has(number)) {
      const { together, overlap, sources } = await script(name),
        unpacked = {};
      delete asked[name];
      for (const [where, { per_concept: per, ...arrays }] of Object.entries(sources))
        unpacked[where] = { per, ...unpackAll(arrays) };
      if (source.shards.size >= KEPT) source.shards.delete(source.shards.keys().next().value);
      source.shards.set(number, { together: unpack(together), overlap: unpack(overlap), sources: unpacked });
    }
    return source.shards.get(number);
  }

  /* The details of one concept of a shard: top images with heatmaps, and what it fires with. */
  function conceptOf(shard, place, meta) {
    const top = {},
      together = [];
    for (const [where, { per, pair, energy, counts, patch, heat }] of Object.entries(shard.sources)) {
      let entry = 0;
      for (let i = 0; i < place * per; i++) entry += counts[i];
      top[where] = [];
      for (let i = place * per; i < (place + 1) * per; i++) {
        const map = new Uint8Array(meta.side * meta.side);
        for (const last = entry + counts[i]; entry < last; entry++) map[patch[entry]] = heat[entry];
        if (pair[i] >= 0) top[where].push({ pair: pair[i], energy: energy[i], heat: map });
      }
    }
    const per = shard.together.length / (shard.sources.real.pair.length / shard.sources.real.per);
    for (let i = place * per; i < (place + 1) * per; i++)
      if (shard.together[i] >= 0) together.push({ concept: shard.together[i], overlap: shard.overlap[i] });
    return { top, together };
  }

  B.start = () => {
    const root = document.getElementById("explorer");
    let written = location.hash.slice(1);
    const onstate = (_, hash) => {
      written = hash;
      history.replaceState(null, "", `#${hash}`);
    };
    const explorer = B.mount(root, folderSource(), { keys: document, onstate });
    document.title = `${root.querySelector("h1").textContent}`;
    if (written) explorer.setHash(written);
    addEventListener("hashchange", () => {
      if (location.hash.slice(1) !== written) explorer.setHash((written = location.hash.slice(1)));
    });
    B.explorer = explorer;
  };
  B.folderSource = folderSource;
  document.addEventListener("DOMContentLoaded", B.start);
})((globalThis.BlindspotsExplorer ||= {}));
