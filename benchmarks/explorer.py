"""The explorer in a real browser: size on disk, time until it answers, time from an event to the picture that shows it.

The study is synthetic: 32,000 concepts, 5 models, 10,000 pairs of 256 patches, 5 concepts per patch. All sources share one set of
codes and images, since neither size nor time depends on what they are. Chromium draws on the CPU, as on a laptop without a GPU.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.timing import Row
from blindspots_lib.analysis.energies import TokenCodes
from blindspots_lib.analysis.results import Results
from blindspots_lib.analysis.statistics import ConceptStats, ShardCodes
from blindspots_lib.core.paths import runs_folder
from blindspots_lib.core.study import Study, load_study
from blindspots_lib.figures.explorer import SCRIPTS, write_explorer
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.run.stages import open_results

N_CONCEPTS, N_PAIRS, PER_PATCH = 32_000, 10_000, 5
PER_IMAGE = 500  # concepts drawn for an image, some of them twice
LAYOUT = TokenLayout(n_registers=4, patches_per_side=16, width=768)
INTERACTIVE, FIRST_LOAD, ALL = 5.0, 3.0, 200.0  # bars: seconds, and MB
ACTIONS = (  # what is done, in words, bar in milliseconds, quantile of the times
    ("drag", "a slider is dragged, until painted (95th percentile)", 150.0, 0.95),
    ("hover", "the pointer moves over a plot, until painted (95th percentile)", 50.0, 0.95),
    ("zoom", "time of a frame while zooming (median; a screen shows 60 per second)", 1000 / 60 + 0.5, 0.5),
)
REPEATS = 3
WORDS = ("guitar", "palm tree", "brick", "dvd", "umbrella", "night", "frying pan", "stripes")

# From an event to the frame that shows it: the front end draws in a frame, and the message comes behind its painting.
MEASURE = """async ([what, n]) => {
  const painted = () => new Promise((resolve) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(0);
  }));
  const sliders = [...document.querySelectorAll(".controls input[type=range]")];
  const slider = sliders.find((one) => one.labels[0].textContent.includes("min"));
  const canvas = document.querySelector("[data-plot=map] canvas:last-of-type"), box = canvas.getBoundingClientRect();
  const along = (i, by) => 0.2 + 0.6 * ((i * by) % 1);
  const at = (i) => ({ clientX: box.left + box.width * along(i, 0.37), clientY: box.top + box.height * along(i, 0.61) });
  const wheel = { bubbles: true, cancelable: true, ctrlKey: true };
  const act = {
    drag: (i) => {
      slider.value = 0.5 * along(i, 0.37);
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    },
    hover: (i) => canvas.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, pointerId: 1, ...at(i) })),
    zoom: (i) => canvas.dispatchEvent(new WheelEvent("wheel", { ...wheel, deltaY: i % 2 ? 40 : -40, ...at(i) })),
  }[what];
  const found = [];
  for (let i = 0; i < n; i++) {
    const begin = performance.now();
    act(i);
    await painted();
    found.push(performance.now() - begin);
  }
  return found;
}"""


class Everything(dict):
    """The same value for every key."""

    def __init__(self, keys, value):
        super().__init__(dict.fromkeys(keys, value))


class MadeCodes(TokenCodes):
    """Codes in memory, one shard."""

    def __init__(self, codes: ShardCodes):
        self.layout, self.n_concepts = LAYOUT, codes.shape[2]
        self.starts, self.shard = np.array([0, codes.shape[0]]), lambda _: codes


class MadeResults(Results):
    """Results whose tables are set by hand."""

    places = property(lambda results: np.random.default_rng(0).normal(size=(len(results.concepts), 2)))


def made_codes(n_images: int, rng: np.random.Generator) -> ShardCodes:
    """Codes of concepts of many frequencies, about 450 per image."""
    tokens = n_images * LAYOUT.n_tokens
    weights = np.random.default_rng(0).lognormal(0, 2, N_CONCEPTS)
    of_image = rng.choice(N_CONCEPTS, (n_images, PER_IMAGE), p=weights / weights.sum())
    drawn = np.sort(
        of_image[np.repeat(np.arange(n_images), LAYOUT.n_tokens)[:, None], rng.integers(0, PER_IMAGE, (tokens, PER_PATCH))]
    )
    fresh = np.concatenate([np.ones((tokens, 1), bool), np.diff(drawn) > 0], axis=1)
    offsets = np.concatenate([[0], fresh.sum(axis=1).cumsum()])
    values = rng.gamma(2, 1, fresh.sum()).astype(np.float16) + np.float16(0.01)
    return ShardCodes((n_images, LAYOUT.n_tokens, N_CONCEPTS), offsets, drawn[fresh].astype(np.uint32), values)


def made_results() -> MadeResults:
    rng, study = np.random.default_rng(0), load_study("paper")
    models = [model.name for model in study.models]
    sources, pair_ids = ["real", *models], [f"pair-{i:05d}" for i in range(N_PAIRS)]
    codes, stats = made_codes(N_PAIRS, rng), ConceptStats.empty(N_CONCEPTS, 8)
    for start in range(0, N_PAIRS, 500):
        some = np.arange(start, start + 500)
        stats.add(codes.at(some, LAYOUT.patches), some)
    patches = Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8))
    picture = patches.resize((512, 512), Image.Resampling.BICUBIC)  # at 80 pixels as many bytes as a photograph
    results = object.__new__(MadeResults)
    results.__dict__.update(
        study=study, concepts=concept_table(models, stats, rng), pairs=SimpleNamespace(pair_ids=pair_ids, captions=captions(rng)),
        completeness=(pair_ids, {}), rows=Everything(sources, np.arange(N_PAIRS)), codes=Everything(sources, MadeCodes(codes)),
        energies=Everything(sources, SimpleNamespace(stats=stats)),
        images=Everything(sources, Everything(pair_ids, picture)), asked=asked_table(models),
        datapoints=pair_table(models, pair_ids, rng),
    )  # fmt: skip
    results.__dict__["families"] = results.concepts.drop_duplicates("family").assign(n_concepts=2).reset_index(drop=True)
    return results


def captions(rng: np.random.Generator) -> list[str]:
    return [
        f"a photograph of a {WORDS[i]} beside a {WORDS[j]} in the street" for i, j in rng.integers(0, len(WORDS), (N_PAIRS, 2))
    ]


def concept_table(models: list[str], stats: ConceptStats, rng: np.random.Generator) -> pd.DataFrame:
    names = np.where(rng.random(N_CONCEPTS) < 0.6, np.array(WORDS)[rng.integers(0, len(WORDS), N_CONCEPTS)], "")
    columns = {
        "concept": np.arange(N_CONCEPTS), "name": names, "name_lift": 2.0, "name_r": 0.5, "family": np.arange(N_CONCEPTS) // 2,
        "firings": stats.firings, "n_images_real": stats.images, "energy_real": stats.mean_energy(),
    }  # fmt: skip
    for model in models:
        delta = rng.beta(4, 5, N_CONCEPTS)
        for column in ("delta", "shrunken"):
            columns |= {f"{column}_{model}": delta, f"{column}_low_{model}": delta - 0.05, f"{column}_high_{model}": delta + 0.05}
        columns |= {
            f"low_{model}": delta - 0.05,
            f"high_{model}": delta + 0.05,
            f"energy_{model}": stats.mean_energy() * delta * 2,
        }
        columns |= {f"{column}_{model}": rng.random(N_CONCEPTS) for column in ("q", "p_max")}
        call = np.select([delta < 0.2, delta > 0.7], ["suppressed", "exaggerated"], "unclear")
        columns |= {f"call_{model}": call, f"tested_{model}": True}
    return pd.DataFrame(columns)


def asked_table(models: list[str]) -> pd.DataFrame:
    measured = {"value": 0.4, "low": 0.3, "high": 0.5, "call": "unclear"}
    sides = {f"{side}_{end}": value for side in ("omission", "intrusion") for end, value in measured.items()}
    facts = {"n_asked": 90, "reason": "", "explained_by": "", "intrusion_rate": 0.01, **sides}
    return pd.DataFrame([{"word": word, "model": model, **facts} for word in WORDS for model in models])


def pair_table(models: list[str], pair_ids: list[str], rng: np.random.Generator) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"pair_id": pair_ids, "model": model, "energy_distance": rng.gamma(9, 1, N_PAIRS),
                                    "datapoint_delta": rng.normal(0.5, 0.001, N_PAIRS), "copy_call": "", "copy_group": 0})
                      for model in models])  # fmt: skip


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser_page() -> Iterator:
    """An empty page of Chromium, which draws on the CPU."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


def megabytes(files) -> float:
    return sum(file.stat().st_size for file in files) / 1e6


def explorer_rows(results: Results, what: str) -> Iterator[Row]:
    """Yield the rows of one study: what it takes on disk, and how fast it answers."""

    def row(said: str, values: list[float], bar: float, unit: str) -> Row:
        return Row(f"explorer, {what}: {said}", f"at most {bar:.3g} {unit}", values, bar, unit)

    with tempfile.TemporaryDirectory() as folder:
        index = write_explorer(results, Path(folder) / "explorer")
        at_first = [index.parent / name for name in (*SCRIPTS, "folder.js", "explorer.css", "index.html", "data.js")]
        yield row("first load", values=[megabytes(at_first)], bar=FIRST_LOAD, unit="MB")
        files = [path for path in index.parent.rglob("*") if path.is_file()]
        yield row("the whole folder", values=[megabytes(files)], bar=ALL, unit="MB")
        with browser_page() as page:
            waited = [seconds_until_drawn(page, index.as_uri()) for _ in range(REPEATS)]
            yield row("until it answers", values=waited, bar=INTERACTIVE, unit="s")
            for action, told, bar, fraction in ACTIONS:
                times = [page.evaluate(MEASURE, [action, 100]) for _ in range(REPEATS)]
                values = [float(np.quantile(some, fraction)) for some in times]
                yield row(told, values=values, bar=bar, unit="ms")


def seconds_until_drawn(page, address: str) -> float:
    page.goto("about:blank")
    begin = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("main canvas")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return time.perf_counter() - begin


def run_explorer() -> list[Row]:
    if chromium() is None:
        print("explorer: left out, it is measured in a browser; install Chromium, such as by: apt-get install chromium")
        return []
    size = f"{N_CONCEPTS:,} concepts x 5 models x {N_PAIRS:,} pairs"
    rows = list(explorer_rows(made_results(), size))
    study: Study = load_study("mini")
    if (runs_folder() / study.name / "tables").exists():
        rows += explorer_rows(open_results(study), "mini")
    return rows
