"""The report of a study: one page that says what was found, how sure that is, and what could not be seen.

`write_report` writes it twice: report.html holds its pictures and opens from disk, report.md links to the study's figures.
Captions and names are strangers' text: the templates escape them, and nothing in the page can run or load anything.
"""

import base64
import io
import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from PIL import Image

from blindspots_lib.analysis.results import Results
from blindspots_lib.analysis.words import Vocabulary, caption_words
from blindspots_lib.core import artifacts
from blindspots_lib.core.config import PerfectGenerator
from blindspots_lib.core.files import make_folder, replacing
from blindspots_lib.core.study import Study
from blindspots_lib.figures.findings import KINDS, Finding, Name, all_findings, explained_words, headlines, left_names
from blindspots_lib.figures.galleries import caption_of, family_members, heatmap, summed_energy
from blindspots_lib.figures.image_grid import faded, printable
from blindspots_lib.figures.style import PACKAGES, REPLICA_NOTE
from blindspots_lib.figures.tallies import losses, power_table, sureness_table, unseen_words

N_HEADLINES, N_LISTED = 12, 100  # findings per model: in the first lines, and in the full list of each kind
CAPTION_LENGTH, THUMBNAIL, WIDE = 160, 128, 1100  # letters of a caption; pixels a side of a picture, and of a figure's width
FIGURES = {  # of the study's figures folder, shown where they are there
    "asked_matrix": "Omission and intrusion of every name, per model",
    "surest": "The surest named families, per model",
    "ma": "Raw δ against energy: what is called, and the funnel within which chance alone puts concepts",
}


class Picture(NamedTuple):
    """A real image and its generation, small, with the pair's caption."""

    real: str  # data URIs
    generated: str
    caption: str


def report_paths(study: Study) -> tuple[Path, Path, Path]:
    """Return where the report is: as HTML and Markdown among the study's outputs, and as Markdown beside its figures."""
    return study.folder / "report.html", study.folder / "report.md", study.figures_folder / "report.md"


def write_report(results: Results) -> Path:
    """Write the report of a study to its `report_paths`; return the first."""
    content, paths = report_content(results), report_paths(results.study)
    pages = [render_html(results, content), *(render_markdown(results, content, path.parent) for path in paths[1:])]
    for path, page in zip(paths, pages, strict=True):
        make_folder(path.parent)
        with replacing(path) as partial:
            partial.write_text(page, encoding="utf-8")
    return paths[0]


def report_content(results: Results) -> dict:
    """Return everything that the report says, without its form."""
    study, models = results.study, []
    for model in study.models:
        found = all_findings(results, model.name)
        shown = headlines(found, N_HEADLINES)
        models.append({
            "name": model.name, "label": model.label, "is_perfect": isinstance(model, PerfectGenerator),
            "counts": {kind: len(rows) for kind, rows in found.items()}, "headlines": shown, "left": left_names(found, shown),
            "explained": explained_words(results, model.name), "listed": {kind: rows[:N_LISTED] for kind, rows in found.items()},
        })  # fmt: skip
    return {
        "study": study, "models": models, "kinds": KINDS, "replica_note": REPLICA_NOTE if study.replica else "",
        "n_pairs": len(results.pair_ids), "n_concepts": len(results.concepts), "n_families": len(results.families),
        "n_named": int((results.concepts["name"] != "").sum()), "sureness": sureness_table(results),
        "power": power_table(results.asked), "unseen": unseen_words(results.asked), "losses": losses(results),
        "claims": results.claims.to_dict("records"), "made": how_made(results),
        "n_listed": N_LISTED,
    }  # fmt: skip


def how_made(results: Results) -> dict[str, dict[str, str]]:
    """Return what leads back to the code, the parameters and the inputs of the report."""
    tables = {
        "concepts": results.concepts_artifact, "families": results.families_artifact, "asked": results.asked_artifact,
        "composition": results.composition_artifact, "datapoints": results.datapoints_artifact, "claims": results.claims_artifact,
    }  # fmt: skip
    return {
        "Seeds": {name: str(seed) for name, seed in results.seeds.items()},
        "Versions": {"revision": artifacts.code_revision(), "python": platform.python_version(),
                     **artifacts.package_versions(*PACKAGES)},
        "Fingerprints of the tables": {name: table.fingerprint for name, table in tables.items()},
    }  # fmt: skip


def environment(**options):
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)
    made.filters |= {"short": short, "number": number, "loss": loss, "md": markdown_text}
    made.tests["is_name"] = lambda part: isinstance(part, Name)
    return made


def render_html(results: Results, content: dict) -> str:
    """Return the page as HTML that holds its pictures and loads nothing."""
    template, vocabulary = environment(autoescape=True).get_template("report.html.jinja"), caption_vocabulary(results)
    pictures = {}
    for model in content["models"]:
        for finding in (finding for rows in model["headlines"].values() for finding in rows):
            pictures[id(finding)] = picture_of(results, model["name"], finding, vocabulary)
    return template.render(content, picture=lambda finding: pictures[id(finding)], figures=inlined_figures(results))


def render_markdown(results: Results, content: dict, folder: Path) -> str:
    """Return the page as Markdown, with links to the study's figures relative to a folder."""
    figures = results.study.figures_folder

    def link(name: str) -> str:
        path = figures / f"{name}.png"
        return Path(os.path.relpath(path, folder)).as_posix().replace(" ", "%20") if path.exists() else ""

    text = environment(autoescape=False).get_template("report.md.jinja").render(content, link=link, figures=FIGURES)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def short(text: str, length: int = CAPTION_LENGTH) -> str:
    """Return a stranger's text on one line, without control characters, not longer than `length` letters."""
    text = " ".join(printable(str(text)).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def number(value: object) -> str:
    """Write a number with two digits, a dash for what is not defined, a text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if value is not None and np.isfinite(value) else "–"


def loss(fraction: float) -> str:
    """Write a lost fraction in percent; one that is infinite could not have been seen."""
    return f"{fraction:.0%}".replace("%", " %") if np.isfinite(fraction) else "not even a total loss"


def markdown_text(text: str, length: int = CAPTION_LENGTH) -> str:
    """Return a stranger's text, on one line and not long, in which Markdown and HTML find no markup."""
    text = re.sub(r"([\\`*_\[\]|$~#!])", r"\\\1", short(text, length))
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", "&#58;//").replace("www.", "www&#46;")
    )


def caption_vocabulary(results: Results) -> Vocabulary:
    return caption_words([caption_of(results, pair_id) for pair_id in results.pair_ids])


def picture_of(results: Results, model: str, finding: Finding, vocabulary: Vocabulary) -> Picture | None:
    """Return the pair that shows a finding best, if there is one: that in which the energy of its family changes most."""
    if finding.pair_id is not None:
        pictures = [results.images[source][finding.pair_id] for source in ("real", model)]
        return Picture(*map(data_uri, pictures), caption_of(results, finding.pair_id))
    asks = vocabulary.presence[:, [vocabulary.words.index(finding.word)]] if finding.word in vocabulary.words else None
    if finding.family is not None:
        members = family_members(results, finding.family)
    elif finding.asked is not None and asks is not None:
        members = concepts_of_word(results, asks)
    else:
        return None
    gain = summed_energy(results, model, members) - summed_energy(results, "real", members)
    gain = gain if finding.rises else -gain
    if finding.asked is not None and asks is not None:
        gain = np.where(asks.toarray()[:, 0] == finding.asked, gain, -np.inf)
    if not np.isfinite(gain).any():
        return None
    position = int(np.argmax(gain))
    maps = [heatmap(results, source, position, members) for source in ("real", model)]
    strength = max(float(one.max()) for one in maps)
    pair_id = results.pair_ids[position]
    uris = [data_uri(results.images[source][pair_id], one, strength) for source, one in zip(("real", model), maps, strict=True)]
    return Picture(*uris, caption_of(results, pair_id))


def concepts_of_word(results: Results, asks: sp.csr_matrix, n: int = 3) -> list[int]:
    """Return the concepts that tell best whether a caption has a word, where no family carries its name."""
    real, n_asked = results.energies["real"].matrix, asks.sum()
    total, asked = (np.asarray(rows.sum(axis=0), np.float64).ravel() for rows in (real, real[asks.toarray()[:, 0]]))
    squares = np.asarray(real.multiply(real).sum(axis=0)).ravel()
    apart = asked / n_asked - (total - asked) / max(real.shape[0] - n_asked, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.argsort(-np.nan_to_num(apart / np.sqrt(squares)), kind="stable")[:n].tolist()


def data_uri(image: Image.Image, fades: np.ndarray | None = None, strength: float = 1.0) -> str:
    """Return a small picture as a data URI, faded where a heatmap is 0; without a heatmap as it is."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    if fades is not None:
        pixels, _ = faded(np.asarray(small, np.float32) / 255, fades, strength)
        small = Image.fromarray((pixels * 255).round().astype(np.uint8))
    return as_uri(small)


def as_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def inlined_figures(results: Results) -> list[tuple[str, str]]:
    """Return the caption and the data URI of the study's figures that the page shows."""
    inlined = []
    for name, caption in FIGURES.items():
        path = results.study.figures_folder / f"{name}.png"
        if path.exists():
            with Image.open(path) as image:
                small = image.convert("RGB")
            small.thumbnail((WIDE, 4 * WIDE), Image.Resampling.LANCZOS)
            inlined.append((caption, as_uri(small)))
    return inlined
