"""The counts of a report: how many concepts and words were judged and how, what was too rare to be seen, what was lost."""

import numpy as np
import pandas as pd

from blindspots_lib.analysis.results import Results

TOO_FEW = "asked for too rarely: not even a total loss would have been called"
ASKED_BINS = (1, 10, 20, 50, 100, 200, 500)  # lower ends of the numbers of captions that ask for a word


def sureness_table(results: Results) -> list[dict[str, object]]:
    """Return, per model, how many concepts, families and words were tested, and how they were called."""
    rows, level = [], results.study.analysis.false_discovery_rate
    for model in results.study.models:
        concepts, asked = results.concepts, results.asked[results.asked["model"] == model.name]
        calls = concepts[f"call_{model.name}"]
        called = calls.isin(["suppressed", "exaggerated"])
        rows.append({
            "model": model.label, "tested": int(concepts[f"tested_{model.name}"].sum()),
            **{call: int((calls == call).sum()) for call in ("suppressed", "exaggerated", "aligned", "unclear")},
            "beyond": int((called & concepts[f"beyond_{model.name}"]).sum()),
            "family_wise": int((called & (concepts[f"p_max_{model.name}"] <= level)).sum()),
            "families": int(results.families[f"call_{model.name}"].isin(["suppressed", "exaggerated"]).sum()),
            "words": int((asked["reason"] == "").sum()), "omitted": int((asked["omission_call"] == "omitted").sum()),
            "kept": int((asked["omission_call"] == "aligned").sum()),
            "intruding": int((asked["intrusion_call"] == "intruding").sum()),
        })  # fmt: skip
    return rows


def names_called(results: Results) -> dict[str, dict[str, dict[str, int]]]:
    """Return, per model and side, how many names the called concepts have, and how many the called families have.

    If one thing is split over many concepts, a fragment of it may be called although the whole is not.
    """
    tables = {"by concept": results.concepts, "by family": results.families}
    return {
        model.name: {
            side: {
                unit: len(set(table.loc[table[f"call_{model.name}"] == side, "name"]) - {""}) for unit, table in tables.items()
            }
            for side in ("suppressed", "exaggerated")
        }
        for model in results.study.models
    }


def power_table(asked: pd.DataFrame) -> list[dict[str, object]]:
    """Return, per number of captions that ask for a word, the smallest omission that would have been called.

    It is the median over words and models of the fraction of the energy that would have had to be missing: 1 - d / (1 - d), where
    d is `detectable`; a word of which not even a total loss would have been called counts as more than everything.
    """
    rows, ends = [], (*ASKED_BINS[1:], np.inf)
    for low, high in zip(ASKED_BINS, ends, strict=True):
        part = asked[(asked["n_asked"] >= low) & (asked["n_asked"] < high)]
        if len(part):
            loss = (1 - part["detectable"] / (1 - part["detectable"])).fillna(np.inf)
            rows.append({
                "asked": f"{low}–{high - 1:g}" if np.isfinite(high) else f"{low} or more", "n_words": part["word"].nunique(),
                "loss": loss.median(), "n_unclear": int((part["omission_call"] == "unclear").sum()),
                "n": len(part),
            })  # fmt: skip
    return rows


def unseen_words(asked: pd.DataFrame) -> dict[str, list[str]]:
    """Return the words of which nothing could have been said for any model, by reason."""
    asked = asked.assign(reason=asked["reason"].where((asked["reason"] != "") | asked["detectable"].notna(), TOO_FEW))
    reasons = asked[asked["reason"] != ""].groupby("word")["reason"].agg(["first", "size"])
    reasons = reasons[reasons["size"] == asked["model"].nunique()]
    return {reason: sorted(rows.index) for reason, rows in reasons.groupby("first")}


def losses(results: Results) -> list[tuple[str, str, int]]:
    """Return what was lost on the way: where, why, how many."""
    labels = {"real": "real images"} | {model.name: model.label for model in results.study.models}
    rows = [("candidates for pairs", cause, n) for cause, n in results.attrition.items() if n]
    return rows + [(labels[source], cause, n) for source, causes in results.lost.items() for cause, n in causes.items() if n]
