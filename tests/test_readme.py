"""README and the pages that it leads to state numbers of the committed figures; they must be the sidecars' numbers."""

import json
import re

import pytest

from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study

PAGES = {
    name: (PROJECT_ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "studies/mini.md", "studies/README.md", "benchmarks/README.md", "figures/README.md")
}
README, MINI, BENCHMARKS = PAGES["README.md"], PAGES["studies/mini.md"], PAGES["benchmarks/README.md"]


def numbers(figure):
    return json.loads((PROJECT_ROOT / "figures" / "mini" / f"{figure}.json").read_text())["numbers"]


def interval(entry, value, sign=""):
    low, high = (f"{value}_low", f"{value}_high") if f"{value}_low" in entry else ("low", "high")
    return " ".join([f"{entry[value]:{sign}.2f}", f"[{entry[low]:{sign}.2f}, {entry[high]:{sign}.2f}]"]).replace("-", "−")


MODELS = [model.name for model in load_study("mini").models]


@pytest.mark.parametrize("model", MODELS)
def test_numbers_are_those_of_the_figures(model):
    assert interval(numbers("histograms")[model], "skewness", "+") in MINI
    assert interval(numbers("frequency")[model], "r") in MINI
    shared = {models: pair for models, pair in numbers("cross_model").items() if models.startswith("sd15~")}
    assert len(shared) == 2 * (len(MODELS) - 1)  # on the same pairs, and on disjoint ones
    assert all(interval(pair, "r") in MINI for pair in shared.values())
    assert f"{numbers('training_similarity')[model]['share']:.1%}".replace("%", " %") in MINI


SHORT = {  # measure -> what README calls it
    "suppressed_ap": "suppressed objects: average precision",
    "exaggerated_ap": "exaggerated objects: average precision",
    "oracle_rho": "rank correlation of δ with the true change",
    "flagged_share": "concepts with δ < 0.1 or > 0.9",
    "sure_share": "concepts whose interval leaves out 0.5 (chance: 0.05)",
    "memorization_auroc": "copies: area under the ROC curve",
    "noise_auroc": "wrong captions: area under the ROC curve",
}
WHOLE = {  # measure -> what studies/mini.md calls it
    "suppressed_ap": "suppressed: average precision over objects",
    "suppressed_ap_of_truths": "… over all true concepts",
    "suppressed_ap_of_units": "… over the concepts that stand for something",
    "suppressed_recall": "… recall of objects at δ < 0.1",
    "suppressed_recall_of_units": "… recall of concepts at δ < 0.1",
    "suppressed_precision_of_units": "… precision of concepts at δ < 0.1",
    "suppressed_found_share": "… share of the planted that some concept stands for",
    "exaggerated_ap": "exaggerated: average precision over objects",
    "exaggerated_ap_of_truths": "… over all true concepts",
    "exaggerated_ap_of_units": "… over the concepts that stand for something",
    "exaggerated_recall": "… recall of objects at δ > 0.9",
    "exaggerated_found_share": "… share of the planted that some concept stands for",
    "oracle_rho": "rank correlation of δ with the true change",
    "oracle_rho_unplanted": "… among what nobody planted",
    "flagged_share": "concepts with δ < 0.1 or > 0.9",
    "sure_share": "concepts whose interval leaves out 0.5 (chance: 0.05)",
    "memorization_auroc": "copies: area under the ROC curve, by codes in place",
    "memorization_untouched_auroc": "… against pairs that were not redrawn either",
    "memorization_energy_auroc": "… by energies, ‖ξ(x′) − ξ(x)‖",
    "memorization_datapoint_auroc": "… by the paper's datapoint difference",
    "memorization_neighbour_auroc": "… by the nearest training image",
    "memorization_both_auroc": "… by codes in place and the nearest together",
    "memorization_precision": "… precision at 1 % false positives, by codes in place",
    "memorization_neighbour_precision": "… by the nearest training image",
    "noise_share": "pairs of high discrepancy: share with a wrong caption",
    "noise_auroc": "… told by caption–image agreement, area under the ROC curve",
    "frechet_distance": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}


@pytest.mark.parametrize(
    ("page", "measure", "row"), [*((README, *row) for row in SHORT.items()), *((MINI, *row) for row in WHOLE.items())]
)
def test_the_scorecard_is_that_of_the_figures(page, measure, row):
    card = json.loads((PROJECT_ROOT / "figures" / "mini" / "scorecard.json").read_text())
    assert f"| {row} | {' | '.join(told(card[model][measure]) for model in MODELS)} |\n" in page


def told(entry):
    if entry["value"] is None:
        return "–"
    text = f"{entry['value']:.2f}" + ("" if entry["low"] is None else f" [{entry['low']:.2f}, {entry['high']:.2f}]")
    return text.replace("-", "−")


@pytest.mark.parametrize("model", [name for name in MODELS if name != "perfect"])
def test_quality_is_that_of_the_cards(model):
    card = (PROJECT_ROOT / "miniatures" / "weights" / model / "README.md").read_text(encoding="utf-8")
    rows = (
        "prompted objects present", "the same, planted as suppressed", "backgrounds as prompted",
        "number of objects as prompted, 1 to 3 where none is added",
    )  # fmt: skip
    shares = [re.search(rf"^\| {row}, by the oracle \| (.*?);", card, re.M)[1] for row in rows]
    label = load_study("mini").model(model).label
    assert re.search(rf"^\| {label} \| [^|]* \| {re.escape(' | '.join(shares))} \|$", MINI, re.M)


def measured(entry: dict) -> str:
    """A row of figures/bench/ratios.json as benchmarks/README.md states it."""
    forms = {"x": ("{:.1f}", "×"), "GB": ("{:.2f}", " GB"), "R2": ("{:+.3f}", ""), "times": ("{:.2f}", " times")}
    form, unit = forms[entry["unit"]]
    text = form.format(entry["median"]) + unit
    if entry["repeats"] > 1:
        text += f" [{form.format(entry['min'])}, {form.format(entry['max'])}]"
    return text.replace("-", "−")


def test_ratios_are_those_that_were_measured():
    table = json.loads((PROJECT_ROOT / "figures" / "bench" / "ratios.json").read_text())
    marks = ("×", " GB |", "R²", " times |")
    rows = [line for line in BENCHMARKS.splitlines() if line.startswith("| ") and any(mark in line for mark in marks)]
    stated = [entry for entry in table.values() if entry["unit"] != "exponent" and entry["bar"] is not None]
    assert len(stated) >= 10
    assert [entry for entry in stated if not any(measured(entry) in row for row in rows)] == []


def test_stability_is_that_of_the_figure():
    for entry in numbers("stability").values():
        assert f"{entry['mean_cosine_mean']:.2f}" in MINI


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]) + re.findall(r'(?:src|href)="([^"]+)"', PAGES[page])
    assert links
    assert [link for link in links if not (PROJECT_ROOT / page).parent.joinpath(link).exists()] == []
