/* The explorer of concepts: one front end, in a folder that opens from disk (folder.js) and in notebooks.

   BlindspotsExplorer.mount(root, source, options) -> {state(), setState(partial), destroy()}

   source: meta, columns, concept(k), thumb(source, pair), as figures/explorer_data.py writes them. pair(i) gives the
   strongest concept of every patch of a pair's images. Families, asked, pairs, tops (the top real images of all concepts, for
   the search in captions) and definitions (of energy) may be there at once or come later: source.load(part), if it is there,
   returns a promise that ends when source has the part; "intervals" are those of columns.models.
   options: theme ("light" or "dark"; default: the reader's), keys (what listens to keys; default: root), onstate(state, hash). */
(function (B) {
  "use strict";
  const { el, eachFrame } = B,
    NARROW = 760; // pixels
  const VIEWS = {
    overview: ["Overview", "overview"],
    two: ["Two models", "differences"],
    asked: ["Asked", "asked"],
    pairs: ["Pairs", "pairs"],
    help: ["Help", "help"],
  };
  // what leaves the selection as it is
  const CHOOSES_NOTHING = new Set(["concept", "opacity", "pair", "page", "pairs", "words", "view", "apart"]);

  class App {
    constructor(root, source, options) {
      Object.assign(this, { root, source, options, views: {}, loads: {}, fresh: null, shade: null });
      this.first = B.firstState(source.meta);
      this.state = { ...this.first };
      this.labels = Object.fromEntries([["real", "Real"], ["training", "Nearest training image"], ...source.meta.models.map((model) => [model.name, model.label])]);
      root.classList.add("blindspots");
      if (options.theme) root.dataset.theme = options.theme;
      this.build();
      this.paint = eachFrame(() => this.update());
      this.listen();
    }

    build() {
      const { meta } = this.source;
      this.search = el("input", {
        type: "search",
        placeholder: "name, word or number",
        "aria-label": "Find concepts by name, caption word or number",
        autocomplete: "off",
        spellcheck: "false",
      });
      this.search.addEventListener("input", () => this.find(this.search.value));
      this.search.addEventListener("keydown", (event) => event.key === "Enter" && this.openFound());
      this.tabs = Object.entries(VIEWS).map(([view, [text]]) =>
        el("button", { type: "button", "data-view": view, onclick: () => this.set({ view }) }, text),
      );
      const act = (text, work) => el("button", { type: "button", onclick: work }, text);
      this.message = el("p", { class: "message", role: "status", "aria-live": "polite" });
      this.main = el("main", { tabindex: 0 }); // it scrolls
      this.aside = el("aside", { "aria-label": "Concepts" });
      this.root.replaceChildren(
        el(
          "header",
          {},
          el("h1", {}, "Blindspots ", el("span", {}, el("bdi", {}, B.short(meta.title, 80)))),
          el("nav", { "aria-label": "Views" }, this.tabs),
          el("div", { class: "find" }, this.search),
          el(
            "div",
            { class: "take" },
            act("CSV", () => this.takeCsv()),
            act("PNG", () => this.takePng()),
            act("Link", () => this.takeLink()),
          ),
        ),
        el("div", { class: "body" }, this.main, this.aside),
        this.message,
        el(
          "footer",
          {},
          [meta.note, meta.attribution].filter(Boolean).map((text) => el("p", {}, B.clean(text))),
        ),
      );
    }

    listen() {
      const keys = this.options.keys || this.root;
      this.onkey = (event) => this.key(event);
      keys.addEventListener("keydown", this.onkey);
      this.dark = matchMedia("(prefers-color-scheme: dark)");
      this.onscheme = () => {
        this.shade = null;
        this.paint();
      };
      this.dark.addEventListener("change", this.onscheme);
      this.sizes = new ResizeObserver(() => this.root.classList.toggle("narrow", this.isNarrow()));
      this.sizes.observe(this.root);
      this.root.classList.toggle("narrow", this.isNarrow());
    }
    destroy() {
      (this.options.keys || this.root).removeEventListener("keydown", this.onkey);
      this.dark.removeEventListener("change", this.onscheme);
      this.sizes.disconnect();
      this.root.replaceChildren();
    }

    isNarrow() {
      return this.root.clientWidth < NARROW;
    }
    label(name) {
      return this.labels[name] ?? name;
    }
    colour(name) {
      return this.source.meta.models.find((model) => model.name === name)?.colour ?? "#888";
    }
    colours() {
      return (this.shade ||= B.palette(this.root));
    }
    selection() {
      return (this.fresh ||= B.choose(this.source, this.state));
    }
    say(text) {
      this.message.textContent = text;
    }
    fail(error) {
      this.say(`Something could not be shown: ${error.message}`);
    }

    /* Change the state; what is drawn follows in the next frame. */
    set(partial, isFromLink = false) {
      const changed = Object.keys(partial).filter((key) => partial[key] !== this.state[key]);
      if (!changed.length) return;
      Object.assign(this.state, partial);
      if (changed.some((key) => !CHOOSES_NOTHING.has(key))) this.fresh = null;
      if (changed.includes("view")) this.say("");
      if (B.DEFINITIONS[this.state.delta]) this.load("definitions");
      this.changed = new Set([...(this.changed || []), ...changed]);
      if (this.state.find) this.find(this.state.find, true);
      this.paint();
      if (!isFromLink) this.tell();
    }
    /* Change what needs no drawing here. */
    quietly(partial) {
      Object.assign(this.state, partial);
      this.root.style.setProperty("--heat", this.state.opacity);
      this.tell();
    }
    tell() {
      clearTimeout(this.telling);
      this.telling = setTimeout(() => this.options.onstate?.({ ...this.state }, B.toHash(this.state, this.first)), 150);
    }

    /* Load a part of the data that is not there yet, then draw again. */
    load(part) {
      this.loads[part] ||= Promise.resolve(this.source.load?.(part))
        .then(() => {
          this.loads[part].done = true;
          if (["tops", "pairs", "definitions"].includes(part)) this.fresh = null;
          if (part === "definitions") this.shown = null; // an open card says them too
          this.paint();
        })
        .catch((error) => this.fail(error));
      return this.loads[part];
    }
    waiting(part) {
      return this.loads[part] && !this.loads[part].done;
    }

    find(text, isSet = false) {
      this.load("pairs");
      this.load("tops");
      if (!isSet) this.set({ find: text, page: 0 });
    }
    openFound() {
      const text = this.state.find.trim().replace("#", ""),
        order = B.inOrder(this.selection());
      if (/^\d+$/.test(text) && Number(text) < this.source.meta.n_concepts) this.open(Number(text));
      else if (order.length) this.open(order[0]);
      else this.say("Nothing is found.");
    }
    open(concept) {
      this.set({ concept });
      this.focusCard = true;
    }
    /* Go to the next concept by rank among the chosen ones, or the previous one. */
    step(by) {
      const order = B.inOrder(this.selection()),
        at = order.indexOf(this.state.concept);
      const next = at < 0 ? order[by > 0 ? 0 : order.length - 1] : order[at + by];
      if (next !== undefined) this.open(next);
    }

    key(event) {
      const isText = event.target.matches?.("input, select, textarea") && event.target.type !== "range";
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") {
        if (this.state.concept !== null) this.set({ concept: null });
        else this.set({ region: null, find: "" });
        if (isText) event.target.blur();
      } else if (isText || event.target.type === "range") return;
      else if (event.key === "/") this.search.focus();
      else if (event.key === "?") this.set({ view: "help" });
      else if (this.state.concept !== null && (event.key === "ArrowLeft" || event.key === "ArrowRight"))
        this.step(event.key === "ArrowRight" ? 1 : -1);
      else return;
      event.preventDefault();
      event.stopPropagation();
    }

    /* Draw what the state says. */
    update() {
      const { state } = this,
        changed = this.changed || new Set(["view", "concept"]);
      this.changed = null;
      if (!VIEWS[state.view]) state.view = "overview";
      const view = (this.views[state.view] ||= B[VIEWS[state.view][1]](this));
      (view.parts || []).forEach((part) => this.load(part));
      if (this.main.firstChild !== view.node) this.main.replaceChildren(view.node);
      this.tabs.forEach((tab) =>
        tab.dataset.view === state.view ? tab.setAttribute("aria-current", "page") : tab.removeAttribute("aria-current"),
      );
      if (this.search !== document.activeElement || !state.find) this.search.value = state.find;
      this.root.style.setProperty("--heat", state.opacity);
      view.update();
      this.updateCard(changed, view);
    }
    updateCard(changed, view) {
      const { concept, model, delta } = this.state,
        shown = concept === null ? "" : [concept, model, delta].join();
      if (concept === null) {
        if (this.shown || this.aside.firstChild !== (view.aside || null))
          this.aside.replaceChildren(...(view.aside ? [view.aside] : []));
      } else if (this.shown !== shown) {
        this.aside.replaceChildren(B.card(this, concept));
      }
      this.root.classList.toggle("wide", !this.aside.firstChild);
      this.root.classList.toggle("open", concept !== null);
      if (this.focusCard && concept !== null) {
        this.aside.querySelector("h2").focus({ preventScroll: true });
        if (this.isNarrow()) this.aside.scrollIntoView({ block: "start" });
        else this.aside.scrollTop = 0;
      }
      this.focusCard = false;
      this.shown = shown;
    }

    async takeCsv() {
      await this.load("intervals");
      B.download(
        `${this.source.meta.study}-concepts.csv`,
        new Blob(["\ufeff", B.csvOf(this.source, this.selection())], { type: "text/csv" }),
      );
      this.say(`${B.count(B.inOrder(this.selection()).length)} concepts written.`);
    }
    takePng() {
      const view = this.views[this.state.view];
      if (!view.png) {
        this.say("The overview can be taken as a picture.");
        return;
      }
      view.png().toBlob((blob) => B.download(`${this.source.meta.study}.png`, blob));
    }
    async takeLink() {
      const hash = B.toHash(this.state, this.first),
        link = this.options.link ? this.options.link(hash) : `${location.href.split("#")[0]}#${hash}`;
      try {
        await navigator.clipboard.writeText(link);
        this.say("The link is copied.");
      } catch {
        this.say(`The link of this state: ${link}`);
      }
    }
  }

  B.mount = (root, source, options = {}) => {
    const app = new App(root, source, options);
    app.update();
    app.load("intervals");
    return {
      state: () => ({ ...app.state }),
      setState: (partial) => app.set(partial, true),
      setHash: (hash) => app.set(B.fromHash(hash, app.first, source.meta), true),
      destroy: () => app.destroy(),
    };
  };
})((globalThis.BlindspotsExplorer ||= {}));
