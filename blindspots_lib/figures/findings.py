"""What was found, in sentences: from the tables of answers to the lines of the report, the surest first.

A sentence is a list of parts; a part that a stranger wrote (a name, taken from captions) is a `Name`.
"""

from collections.abc import Iterable
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import pandas as pd

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.config import PerfectGenerator
from blindspots_lib.core.study import Study
from blindspots_lib.figures.selection import SIDES, called, shown_name, with_range

N_UNNAMED = 2  # of the first lines
PER_TURN = {"omission": 3, "intrusion": 2}  # lines of a kind before the next kind has its turn; of the others one


class Name(str):
    """A part of a sentence that a stranger wrote."""


class Finding(NamedTuple):
    """One line of the report."""

    kind: str
    sentence: list[str]
    shared: str = ""  # which other models have it too
    family: int | None = None  # whose pair is shown
    word: str | None = None  # that the caption of the shown pair has, or lacks
    asked: bool | None = None  # whether it has it; None: whichever
    rises: bool = False  # whether the shown pair gains most, else it loses most
    pair_id: str | None = None  # the shown pair, where it is known
    minor: bool = False  # sure, but perhaps no larger than what counts as aligned


KINDS = {
    "omission": "Left out though the caption asks for it",
    "intrusion": "Added though no caption asks for it",
    "suppressed": "Drawn too little, over all captions",
    "exaggerated": "Drawn too much, over all captions",
    "copies": "Too near to the pair's own real image to be drawn afresh",
    "composition": "Put together, or kept apart, otherwise than in real images",
}


def all_findings(results: Results, model: str) -> dict[str, list[Finding]]:
    """Return every finding about a model by kind, the surest first; a kind without any has an empty list."""
    asked, families = asked_findings(results, model), family_findings(results, model)
    return {**asked, **families, "copies": copy_findings(results, model), "composition": composition_findings(results, model)}


def headlines(findings: dict[str, list[Finding]], n: int) -> dict[str, list[Finding]]:
    """Return n findings by kind: of what is named the surest of every kind in turn (`in_turns`).

    Two are kept for families without a name. A family is left out where a line about words of captions says the same of its name,
    and where it is minor.
    """
    told = {(f.word, f.rises) for kind in ("omission", "intrusion") for f in findings[kind]}
    fresh = {
        kind: [f for f in rows if kind not in SIDES or not (f.minor or (f.word, f.rises) in told)]
        for kind, rows in findings.items()
    }
    named, unnamed = (in_turns({kind: [f for f in rows if (f.word is None) == lacks_name] for kind, rows in fresh.items()})
                      for lacks_name in (False, True))  # fmt: skip
    chosen = [*named[: n - N_UNNAMED], *unnamed[:N_UNNAMED], *named[n - N_UNNAMED :], *unnamed[N_UNNAMED:]][:n]
    return {kind: [f for f in chosen if f.kind == kind] for kind in findings}


def in_turns(findings: dict[str, list[Finding]]) -> list[Finding]:
    """Return the first of every kind (three omissions, two intrusions), then the next of every kind, and so on."""
    turns = [
        [rows[i : i + PER_TURN.get(kind, 1)] for i in range(0, len(rows), PER_TURN.get(kind, 1))]
        for kind, rows in findings.items()
    ]
    return [finding for turn in zip_longest(*turns, fillvalue=[]) for rows in turn for finding in rows]


def left_names(findings: dict[str, list[Finding]], shown: dict[str, list[Finding]], n: int = 20) -> dict[str, list[Name]]:
    """Return, by kind, the names of at most n findings that the first lines do not show."""
    told = {kind: {name_of(finding) for finding in rows} for kind, rows in shown.items()}
    kinds = ("omission", "intrusion", *SIDES)
    left = {kind: [f for f in findings[kind] if f.word is not None and name_of(f) not in told[kind]] for kind in kinds}
    return {kind: [name_of(finding) for finding in rows[:n]] for kind, rows in left.items()}


def name_of(finding: Finding) -> Name | None:
    return next((part for part in finding.sentence if isinstance(part, Name)), None)


def compared_models(study: Study) -> list[str]:
    """Return the models among which a finding may be shared: a perfect generator has no faults to share."""
    return [model.name for model in study.models if not isinstance(model, PerfectGenerator)]


def sharing(study: Study, model: str, found_for: Iterable[str]) -> str:
    """Return in words which models have a finding."""
    models = compared_models(study)
    if len(models) < 2 or model not in models:
        return ""
    found = [name for name in models if name in set(found_for) or name == model]
    if len(found) == len(models):
        return f"all {len(models)} models" if len(models) > 2 else "both models"
    return "this model alone" if len(found) == 1 else f"{len(found)} of {len(models)} models"


def asked_findings(results: Results, model: str) -> dict[str, list[Finding]]:
    """Return omissions and intrusions that are called for a model, the most certain first."""
    asked, of_name = results.asked, family_of_name(results.families)
    findings = {}
    for kind, call, end, downwards in (("omission", "omitted", "high", True), ("intrusion", "intruding", "low", False)):
        every = asked[asked[f"{kind}_call"] == call]
        models = every.groupby("word")["model"].agg(set)
        rows = every[every["model"] == model].sort_values([f"{kind}_{end}", "word"], ascending=[downwards, True])
        findings[kind] = [
            Finding(kind, asked_sentence(row, kind, len(results.pair_ids)), sharing(results.study, model, models[row["word"]]),
                    of_name.get(row["word"]), row["word"], kind == "omission", kind == "intrusion")
            for _, row in rows.iterrows()
        ]  # fmt: skip
    return findings


def family_of_name(families: pd.DataFrame) -> dict[str, int]:
    named = families[families["name"] != ""]
    return dict(zip(named["name"], map(int, named["family"]), strict=True))


def asked_sentence(row: pd.Series, kind: str, n_pairs: int) -> list[str]:
    """Return for example: Leaves out *guitar*: asked for in 41 captions, 2 % [0, 9] of the real energy is drawn."""
    ratio = as_ratio(*(float(row[f"{kind}_{end}"]) for end in ("value", "low", "high")))
    if kind == "omission":
        captions = counted(row["n_asked"], "caption")
        return ["Leaves out ", Name(row["word"]), f": asked for in {captions}, {ratio} the real energy is drawn."]
    captions = counted(n_pairs - row["n_asked"], "caption")
    said = f" unasked: of {captions} without it, {row['intrusion_rate'] * (n_pairs - row['n_asked']):.0f} more pictures show it"
    return ["Adds ", Name(row["word"]), f"{said} than real ones do, {ratio} as many."]


def explained_words(results: Results, model: str) -> list[tuple[Name, Name]]:
    """Return the words that seem to intrude, each with the surer intruder that explains it."""
    rows = results.asked[(results.asked["model"] == model) & (results.asked["intrusion_call"] == "explained")]
    return [(Name(row.word), Name(row.explained_by)) for row in rows.sort_values("word").itertuples()]


def counted(n: int | np.integer, thing: str) -> str:
    return f"{n:,} {thing}" + ("" if n == 1 else "s")


def as_ratio(value: float, low: float, high: float) -> str:
    """Return delta and its interval as generated over real, delta / (1 - delta).

    Below 2 it reads "2 % [0, 9] of", from 2 on "3.4 times [2.1, 8.0]", and "at least 2.1 times" where real images have nothing.
    """
    ratios = [np.inf if delta == 1 else delta / (1 - delta) for delta in (value, low, high)]
    if ratios[0] == np.inf:
        return f"at least {rounded(ratios[1], 1)} times"
    if ratios[0] < 2:
        middle, *ends = (rounded(100 * ratio, 0) for ratio in ratios)
        return f"{middle} % [{', '.join(ends)}] of"
    middle, *ends = (rounded(ratio, 1) for ratio in ratios)
    return f"{middle} times [{', '.join(ends)}]"


def rounded(number: float, digits: int) -> str:
    """Write a number, with digits behind the point only below 10; far ones only as far."""
    if not np.isfinite(number) or number >= 1000:
        return "–" if np.isnan(number) else "> 1000"
    return f"{number:.{digits if number < 10 else 0}f}"


def family_findings(results: Results, model: str) -> dict[str, list[Finding]]:
    """Return the families that are called for a model by side, the most extreme shrunken delta first."""
    families, study = results.families, results.study
    findings = {}
    for side in SIDES:
        findings[side] = []
        for _, row in called(families, model, side).iterrows():
            having = [name for name in compared_models(study) if row[f"call_{name}"] == side]
            near = 0.5 - row[f"shrunken_high_{model}"] if side == "suppressed" else row[f"shrunken_low_{model}"] - 0.5
            findings[side].append(
                Finding(side, family_sentence(row, model, side, study), sharing(study, model, having), int(row["family"]),
                        row["name"] or None, None, side == "exaggerated", minor=bool(near < study.analysis.aligned_band))
            )  # fmt: skip
    return findings


def family_sentence(row: pd.Series, model: str, side: str, study: Study) -> list[str]:
    shrunken = with_range(*(float(row[f"{column}_{model}"]) for column in ("shrunken", "shrunken_low", "shrunken_high")))
    text = f": {counted(row['n_concepts'], 'concept')}, shrunken δ {shrunken}"
    if row[f"beyond_{model}"]:
        threshold = study.analysis.suppressed_below if side == "suppressed" else study.analysis.exaggerated_above
        text += f", surely {'below' if side == 'suppressed' else 'above'} {threshold:g}"
    return ["Suppresses " if side == "suppressed" else "Exaggerates ", Name(shown_name(row)), text + "."]


def composition_findings(results: Results, model: str) -> list[Finding]:
    """Return the pairs of names that go together less or more often than in real images, the most certain first."""
    table = results.composition
    rows = table[table["call"] != "unclear"]
    models = rows.groupby(["first", "second"])["model"].agg(set)
    rows = rows[rows["model"] == model]
    near = np.where(rows["difference"] < 0, -rows["high"], rows["low"])  # end of the interval nearest to no difference
    return [
        Finding(
            "composition", composition_sentence(row), sharing(results.study, model, models[row["first"], row["second"]]), word=""
        )
        for _, row in rows.assign(near=near).sort_values(["near", "first", "second"], ascending=[False, True, True]).iterrows()
    ]


def composition_sentence(row: pd.Series) -> list[str]:
    odds = "{:.2g} [{:.2g}, {:.2g}]".format(*np.exp([row["difference"], row["low"], row["high"]]))
    how = "less" if row["difference"] < 0 else "more"
    text = f" together {how} often than real images do, given how often it draws each: odds times {odds}."
    return ["Puts ", Name(row["first"]), " and ", Name(row["second"]), text]


def copy_findings(results: Results, model: str) -> list[Finding]:
    """Return one line about the images of a model that are called copies, and how many of them are of one template."""
    table = results.datapoints
    copies = table[(table["model"] == model) & (table["copy_call"] == "copy")]
    if copies.empty:
        return []
    largest = copies.groupby("copy_group")["pair_id"].count().max()
    text = f"Draws {counted(len(copies), 'real image')} of {(table['model'] == model).sum():,} again"
    if largest > 1:
        text += f", up to {largest} of them of the same picture"
    first = copies.sort_values(["copy_p", "pair_id"]).iloc[0]
    return [Finding("copies", [text + "."], word="", pair_id=first["pair_id"])]
