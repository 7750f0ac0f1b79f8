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


@pytest.mark.parametrize("model", ["sd15", "pixart"])
def test_numbers_are_those_of_the_figures(model):
    assert interval(numbers("histograms")[model], "skewness", "+") in README
    assert interval(numbers("frequency")[model], "r") in README
    assert interval(numbers("cross_model")["sd15~pixart"], "r") in README
    assert f"{numbers('training_similarity')[model]['share']:.1%}".replace("%", " %") in README


@pytest.mark.parametrize("model", ["sd15", "pixart"])
def test_quality_is_that_of_the_cards(model):
    card = (PROJECT_ROOT / "models" / "mini" / model / "README.md").read_text(encoding="utf-8")
    for row in ("prompted objects that are present", "backgrounds as prompted", "number of objects as prompted"):
        assert re.search(rf"^\| {row}, by the oracle \| (.*?);", card, re.M)[1] in README


def test_every_link_to_a_file_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r'(?:src|href)="([^"]+)"', README)
    assert len(links) > 10
    assert [link for link in links if not (PROJECT_ROOT / link).exists()] == []
