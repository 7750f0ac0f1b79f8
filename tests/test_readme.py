"""README states numbers of the committed figures; they must be the sidecars' numbers."""

import json
import re

import pytest

from blindspots_lib.study import PROJECT_ROOT

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")


def numbers(figure):
    return json.loads((PROJECT_ROOT / "figures" / "mini" / f"{figure}.json").read_text())["numbers"]


def interval(entry, value, sign=""):
    low, high = (f"{value}_low", f"{value}_high") if f"{value}_low" in entry else ("low", "high")
    return " ".join([f"{entry[value]:{sign}.2f}", f"[{entry[low]:{sign}.2f}, {entry[high]:{sign}.2f}]"]).replace("-", "−")


@pytest.mark.parametrize("model", ["sd15", "pixart", "perfect"])
def test_numbers_are_those_of_the_figures(model):
    assert interval(numbers("histograms")[model], "skewness", "+") in README
    assert interval(numbers("frequency")[model], "r") in README
    assert all(interval(pair, "r") in README for pair in numbers("cross_model").values())
    assert f"{numbers('training_similarity')[model]['share']:.1%}".replace("%", " %") in README


@pytest.mark.parametrize("model", ["sd15", "pixart"])
def test_quality_is_that_of_the_cards(model):
    card = (PROJECT_ROOT / "models" / "mini" / model / "README.md").read_text(encoding="utf-8")
    for row in ("prompted objects that are present", "backgrounds as prompted", "number of objects as prompted"):
        assert re.search(rf"^\| {row}, by the oracle \| (.*?);", card, re.M)[1] in README


def measured(entry: dict) -> str:
    """A row of figures/bench/ratios.json as README states it."""
    forms = {"x": ("{:.1f}", "×"), "GB": ("{:.2f}", " GB"), "R2": ("{:+.3f}", ""), "times": ("{:.2f}", " times")}
    form, unit = forms[entry["unit"]]
    text = form.format(entry["median"]) + unit
    if entry["repeats"] > 1:
        text += f" [{form.format(entry['min'])}, {form.format(entry['max'])}]"
    return text.replace("-", "−")


def test_ratios_are_those_that_were_measured():
    table = json.loads((PROJECT_ROOT / "figures" / "bench" / "ratios.json").read_text())
    marks = ("×", " GB |", "R²", " times |")
    rows = [line for line in README.splitlines() if line.startswith("| ") and any(mark in line for mark in marks)]
    stated = [entry for entry in table.values() if entry["unit"] != "exponent" and entry["bar"] is not None]
    assert len(stated) >= 10
    assert [entry for entry in stated if not any(measured(entry) in row for row in rows)] == []


def test_stability_is_that_of_the_figure():
    for entry in numbers("stability").values():
        assert f"{entry['mean_cosine_mean']:.2f}" in README


def test_every_link_to_a_file_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r'(?:src|href)="([^"]+)"', README)
    assert len(links) > 10
    assert [link for link in links if not (PROJECT_ROOT / link).exists()] == []
