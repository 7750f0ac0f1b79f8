"""A review sheet: a person labels pairs of high discrepancy as blindspots or as bad captions, and gets the fraction of each.

In a notebook: `review(results, "sd15", "anna")`, then `review_share(results, "sd15", "anna")`.
"""

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd
from PIL import Image

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import replacing
from blindspots_lib.core.study import Study

LABELS = ("blindspot", "bad caption", "under-specified", "cannot say")
COLUMNS = ["model", "images", "pair_id", "label"]  # of a reviewer's file; `images` is the fingerprint of the model's generations
KEY = COLUMNS[:3]
HIGH = 0.95  # quantile of the energy distance above which pairs are reviewed
SIDE = 256  # pixels at which images are shown, at least


def review(results: Results, model: str, reviewer: str, n: int = 200, seed: int = 0) -> widgets.Widget:
    """Show one pair (t, x, x') at a time, with a button per label; every click is kept and shows the next pair.

    Up to n pairs are drawn at random from those of the model above the 95 % quantile of energy distance. Labels are kept in
    runs/<study>/review/<reviewer>.csv. The same call goes on after the last pair that has a label.
    Raises StudyError if the reviewer's name does not do as a file name.
    """
    return ReviewSheet(results, model, reviewer, reviewed_pairs(results, model, n, seed)).widget


def reviewed_pairs(results: Results, model: str, n: int, seed: int) -> list[str]:
    """Return the ids of the pairs that a review shows, in a random order that depends on the seed alone."""
    table = results.datapoints[results.datapoints["model"] == model]
    high = table.loc[table["energy_distance"] >= table["energy_distance"].quantile(HIGH), "pair_id"].tolist()
    return [high[place] for place in np.random.default_rng(seed).permutation(len(high))[:n]]


class ReviewSheet:
    """The widget of `review`, and what its buttons do."""

    def __init__(self, results: Results, model: str, reviewer: str, pair_ids: Sequence[str]):
        self.results, self.model, self.pair_ids = results, model, pair_ids
        self.path, self.images = labels_path(results.study, reviewer), results.sources[model].fingerprint
        self.captions = dict(zip(results.pairs.pair_ids, results.pairs.captions, strict=True))
        self.status, self.caption = widgets.HTML(), widgets.HTML()
        self.pictures = [widgets.Image(format="webp", layout=widgets.Layout(width=f"{SIDE}px")) for _ in range(2)]
        self.buttons = [widgets.Button(description=label) for label in LABELS]
        self.back = widgets.Button(description="back")
        for button in self.buttons:
            button.on_click(lambda pressed: self.keep(pressed.description))
        self.back.on_click(lambda _: self.show(self.place - 1))
        titles = ("real x", f"x′ {html.escape(results.study.model(model).label)}")
        columns = [widgets.VBox([widgets.HTML(title), picture]) for title, picture in zip(titles, self.pictures, strict=True)]
        rows = [self.status, self.caption, widgets.HBox(columns), widgets.HBox([*self.buttons, self.back])]
        self.widget = widgets.VBox(rows)
        labelled = self.labels()
        self.show(next((place for place, pair_id in enumerate(pair_ids) if pair_id not in labelled), len(pair_ids)))

    def labels(self) -> dict[str, str]:
        """Return this reviewer's label of each pair that has one."""
        return labels_of(read_labels(self.path), self.model, self.images)

    def show(self, place: int) -> None:
        """Show the pair at a place; after the last one, only the way back."""
        self.place, labelled = place, self.labels()
        finished = place == len(self.pair_ids)
        done = sum(pair_id in labelled for pair_id in self.pair_ids)
        self.status.value = f"{done} of {len(self.pair_ids)} pairs labelled" + (
            "; the sheet is finished, thank you" if finished else ""
        )
        self.back.disabled = place == 0
        for button in self.buttons:
            button.disabled, button.button_style = finished, ""
        for picture in self.pictures:
            picture.layout.visibility = "hidden" if finished else "visible"
        self.caption.value = ""
        if not finished:
            pair_id = self.pair_ids[place]
            self.caption.value = f"<b>{html.escape(self.captions[pair_id])}</b>"
            for source, picture in zip(("real", self.model), self.pictures, strict=True):
                picture.value = as_webp(self.results.images[source][pair_id])
            for button in self.buttons:
                button.button_style = "info" if labelled.get(pair_id) == button.description else ""

    def keep(self, label: str) -> None:
        """Write the label of the pair that is shown, and show the next one."""
        row = [self.model, self.images, self.pair_ids[self.place], label]
        table = pd.concat([read_labels(self.path), pd.DataFrame([row], columns=COLUMNS)])
        with replacing(self.path) as partial:
            table.drop_duplicates(KEY, keep="last").to_csv(partial, index=False)
        self.show(self.place + 1)


def as_webp(image: Image.Image) -> bytes:
    """Return an image as WebP, without loss; a small one enlarged by whole pixels."""
    times = max(1, SIDE // max(image.size))
    buffer = io.BytesIO()
    image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(buffer, "webp", lossless=True)
    return buffer.getvalue()


def labels_path(study: Study, reviewer: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", reviewer):
        raise StudyError(f"reviewer = {reviewer!r}: names a file, so use up to 64 letters, digits, - and _ only")
    return study.folder / "review" / f"{reviewer}.csv"


def read_labels(path: Path) -> pd.DataFrame:
    """Return a reviewer's labels, none if there is no file. Raises StudyError if it is not such a table."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise StudyError(f"{path}: not a table of labels ({str(error).splitlines()[0]}); mend it, or move it away") from None
    if list(table.columns) != COLUMNS or not table["label"].isin(LABELS).all():
        raise StudyError(f"{path}: must have the columns {', '.join(COLUMNS)} and the labels {', '.join(LABELS)}; mend it")
    return table


def labels_of(table: pd.DataFrame, model: str, images: str) -> dict[str, str]:
    rows = table[(table["model"] == model) & (table["images"] == images)]
    return dict(zip(rows["pair_id"], rows["label"], strict=True))


class ReviewShare(NamedTuple):
    """The fraction of pairs of high discrepancy that a reviewer calls a blindspot, without those that they cannot say."""

    share: float
    low: float  # 95 % interval by Wilson
    high: float
    n: int  # pairs with a label other than "cannot say"
    cannot_say: int


def review_share(results: Results, model: str, reviewer: str) -> ReviewShare:
    """Return the fraction of genuine blindspots among the pairs of a model that a reviewer labelled, with its interval.

    The paper's figure, by a vision-language model on 200 pairs, is 56.3 %. Raises StudyError if nothing is labelled.
    """
    from scipy.stats import binomtest

    labels = list(reviewer_labels(results, model, reviewer).values())
    said = [label for label in labels if label != "cannot say"]
    if not said:
        return ReviewShare(float("nan"), 0.0, 1.0, 0, len(labels))
    result = binomtest(said.count("blindspot"), len(said))
    interval = result.proportion_ci(method="wilson")
    return ReviewShare(float(result.statistic), float(interval.low), float(interval.high), len(said), len(labels) - len(said))


class Agreement(NamedTuple):
    """How far two reviewers agree."""

    kappa: float  # Cohen's: 1 is full agreement, 0 that of chance; nan if both gave one label only
    same: float  # fraction of pairs with the same label
    n: int  # pairs that both labelled


def review_agreement(results: Results, model: str, first: str, second: str) -> Agreement:
    """Compare the labels of two reviewers. Raises StudyError if one of them labelled nothing, or no pair has both."""
    one, other = (reviewer_labels(results, model, reviewer) for reviewer in (first, second))
    if not (both := sorted(set(one) & set(other))):
        raise StudyError(f"review: {first} and {second} have labelled no pair of {model!r} in common; use the same seed")
    a, b = (np.array([LABELS.index(labels[pair_id]) for pair_id in both]) for labels in (one, other))
    same = float((a == b).mean())
    chance = sum(float((a == label).mean() * (b == label).mean()) for label in range(len(LABELS)))
    return Agreement((same - chance) / (1 - chance) if chance < 1 else float("nan"), same, len(both))


def reviewer_labels(results: Results, model: str, reviewer: str) -> dict[str, str]:
    path = labels_path(results.study, reviewer)
    labels = labels_of(read_labels(path), model, results.sources[model].fingerprint)
    if not labels:
        raise StudyError(
            f"{path}: no labels of the images of {model!r}; label some with review(results, {model!r}, {reviewer!r})"
        )
    return labels
