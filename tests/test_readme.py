"""The pages state numbers of the committed figures, files, rooms and commands. Each is checked in its own row or sentence."""

import json
import re

import pandas as pd
import pytest

from benchmarks.libraries import MAKERS
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study

PAGES = {
    name: (PROJECT_ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "studies/README.md", "studies/answers.md", "studies/mini.md",
        "studies/models.md", "benchmarks/README.md", "figures/README.md",
    )
}  # fmt: skip
README, MINI, BENCHMARKS, FIGURES = (
    PAGES[name] for name in ("README.md", "studies/mini.md", "benchmarks/README.md", "figures/README.md")
)
MODELS = {model.name: model.label for model in load_study("mini").models}
RIVALS = ["RA-SAE", "TopK SAE", "k-means"]


def numbers(figure):
    return json.loads((PROJECT_ROOT / "figures" / "mini" / f"{figure}.json").read_text())["numbers"]


def rows_of(page):
    """Every row of a page's tables: (the header's first cell, the row's first cell) -> header -> cell."""
    found, header = {}, None
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else None
        if cells is None:
            header = None
        elif header is None:
            header = cells
        elif not set(line) <= set("|- "):
            key = header[0], cells[0]
            assert key not in found, f"two rows are called {key}"
            assert len(cells) == len(header), key
            found[key] = dict(zip(header, cells, strict=True))
    return found


def row_of(page, table, row):
    """The cells of one row, in the order of the study's models."""
    cells = rows_of(page)[table, row]
    return [cells[label] for label in MODELS.values()]


def sentence(text):
    return re.sub(r"\s+", " ", text)


def percent(value):
    return f"{value:.0%}".replace("%", " %")


def interval(entry, value, sign="", scale=1):
    if entry[value] is None:
        return "–"
    low, high = (f"{value}_low", f"{value}_high") if f"{value}_low" in entry else ("low", "high")
    stated = [f"{scale * entry[name]:{sign}.2f}" for name in (value, low, high)]
    return f"{stated[0]} [{stated[1]}, {stated[2]}]".replace("-", "−")


def measure(entry):
    if entry is None or entry["value"] is None:
        return "–"
    return f"{entry['value']:.2f}".replace("-", "−") if entry["low"] is None else interval(entry, "value")


@pytest.fixture(scope="module")
def card():
    return json.loads((PROJECT_ROOT / "figures" / "mini" / "scorecard.json").read_text())


@pytest.fixture(scope="module")
def detection():
    """By side, method and model, means over the SAEs; models with plants only."""
    table = pd.DataFrame(numbers("detection")).dropna(subset="ap_of_objects")
    return table.groupby(["side", "kind", "model"])[["ap_of_objects", "recall_of_objects"]].mean()


@pytest.fixture(scope="module")
def power():
    table = pd.DataFrame(numbers("power"))
    return table.groupby(["side", "strength", "pairs"])[["found", "others"]].mean()


# -- tables --------------------------------------------------------------------------------------------------------------

SHORT = {  # measure -> its row in README
    "omission_recall": "things that vanished: called omitted, below the paper's threshold",
    "intrusion_ap": "objects that were added: average precision by intrusion",
    "called_recall": "everything planted: a family of its name is called on the right side",
    "memorization_auroc": "copies: area under the ROC curve",
}
WHOLE = {  # measure -> table and row in studies/mini.md
    "name_accuracy": ("answers", "names right"),
    "name_false_share": ("answers", "names from permuted captions"),
    "called_recall": ("answers", "called on the right side"),
    "called_max_recall": ("answers", "the same, family-wise"),
    "omission_recall": ("answers", "vanished things whose omission is called"),
    "intrusion_ap": ("answers", "added objects: average precision by intrusion"),
    "false_call_share": ("answers", "false calls of concepts"),
    "omission_false_share": ("answers", "false omissions"),
    "intrusion_false_share": ("answers", "false intrusions"),
    "composition_false_share": ("answers", "false calls of pairs of words"),
    "shown_coverage": ("answers", "intervals of the shown that hold the truth"),
    "suppressed_ap": ("suppressed", "average precision over objects"),
    "suppressed_ap_of_truths": ("suppressed", "average precision over all ground-truth concepts"),
    "suppressed_ap_of_units": ("suppressed", "average precision over matched concepts of the SAE"),
    "suppressed_recall": ("suppressed", "recall of objects at δ < 0.1"),
    "suppressed_recall_of_units": ("suppressed", "recall of matched concepts at δ < 0.1"),
    "suppressed_precision_of_units": ("suppressed", "precision of matched concepts at δ < 0.1"),
    "suppressed_found_share": ("suppressed", "fraction of the planted to which some concept is matched"),
    "exaggerated_ap": ("exaggerated", "average precision over objects"),
    "exaggerated_ap_of_truths": ("exaggerated", "average precision over all ground-truth concepts"),
    "exaggerated_ap_of_units": ("exaggerated", "average precision over matched concepts of the SAE"),
    "exaggerated_recall": ("exaggerated", "recall of objects at δ > 0.9"),
    "exaggerated_found_share": ("exaggerated", "fraction of the planted to which some concept is matched"),
    "oracle_rho": ("δ(k)", "rank correlation of δ with the true change"),
    "oracle_rho_unplanted": ("δ(k)", "the same, over what nobody planted"),
    "flagged_share": ("δ(k)", "concepts with δ < 0.1 or > 0.9"),
    "sure_share": ("δ(k)", "concepts whose interval leaves out 0.5 (chance: 0.05)"),
    "memorization_auroc": ("copies, area under the ROC curve", "codes in place"),
    "memorization_untouched_auroc": ("copies, area under the ROC curve", "codes in place, only pairs that were not redrawn"),
    "memorization_energy_auroc": ("copies, area under the ROC curve", "energies, ‖ξ(x′) − ξ(x)‖"),
    "memorization_datapoint_auroc": ("copies, area under the ROC curve", "the paper's datapoint difference"),
    "memorization_neighbour_auroc": ("copies, area under the ROC curve", "the nearest training image"),
    "memorization_both_auroc": ("copies, area under the ROC curve", "codes in place and the nearest training image together"),
    "memorization_precision": ("copies, precision at 1 % false positives", "codes in place"),
    "memorization_neighbour_precision": ("copies, precision at 1 % false positives", "the nearest training image"),
    "noise_share": ("wrong captions", "fraction of the pairs of high discrepancy"),
    "noise_auroc": ("wrong captions", "area under the ROC curve: agreement of caption and image"),
    "frechet_distance": ("global scores", "Fréchet distance"),
    **{name: ("global scores", name) for name in ("precision", "recall", "density", "coverage")},
}


@pytest.mark.parametrize(("name", "row"), SHORT.items())
def test_readme_states_the_scorecard(card, name, row):
    assert row_of(README, "measure", row) == [measure(card[model].get(name)) for model in MODELS]


@pytest.mark.parametrize(("name", "place"), WHOLE.items())
def test_the_trial_states_the_scorecard(card, name, place):
    assert row_of(MINI, *place) == [measure(card[model].get(name)) for model in MODELS]


def test_what_the_paper_observed_is_that_of_the_figures(card):
    shapes, errors, copies = (numbers(figure) for figure in ("histograms", "frequency", "training_similarity"))
    stated = {
        "δ(k) is skewed": [interval(shapes[model], "skewness", "+") for model in MODELS],
        "rare concepts": [interval(errors[model], "r") for model in MODELS],
        "after DPO": [interval(card[model]["datapoint_spread"], "value", scale=1000) for model in MODELS],
        "generations may": [f"{copies[model]['share']:.1%}".replace("%", " %") for model in MODELS],
    }
    rows = [row for table, row in rows_of(MINI) if table == "published"]
    assert len(rows) == len(stated)
    for row, (start, cells) in zip(rows, stated.items(), strict=True):
        assert row.startswith(start)
        assert row_of(MINI, "published", row) == cells


@pytest.mark.parametrize("other", [name for name in MODELS if name != "sd15"])
def test_correlations_are_those_of_the_figure(other):
    pairs = numbers("cross_model")
    _, same, apart = rows_of(MINI)["Pearson correlation of δ(k)", f"Mini SD 1.5 and {MODELS[other]}"].values()
    assert same == interval(pairs[f"sd15~{other}"]["same pairs"], "r")
    assert apart == interval(pairs[f"sd15~{other}"]["corrected"], "r")


@pytest.mark.parametrize("model", [name for name in MODELS if name != "perfect"])
def test_quality_is_that_of_the_cards(model):
    cards = (PROJECT_ROOT / "miniatures" / "weights" / model / "README.md").read_text(encoding="utf-8")
    columns = {
        "prompted objects present": "prompted objects present",
        "the same, planted as suppressed": "planted as suppressed, present",
        "backgrounds as prompted": "background right",
        "number of objects as prompted, 1 to 3 where none is added": "number of objects right",
    }
    stated = rows_of(MINI)["model", MODELS[model]]
    for row, column in columns.items():
        assert stated[column] == re.search(rf"^\| {row}, by the oracle \| (.*?);", cards, re.M)[1]


def test_ablations_are_those_of_the_figure():
    table = pd.DataFrame(numbers("ablations"))
    own = table.loc[table["varied"] == "as it is", "kind"].iloc[0]
    means = table.groupby(["kind", "side"])["ap_of_objects"].mean()
    stated = {row.removesuffix(" (as it is)"): cells for (name, row), cells in rows_of(MINI).items() if name == "setting"}
    assert set(stated) == set(table["kind"])
    assert ("setting", f"{own} (as it is)") in rows_of(MINI)
    for kind, cells in stated.items():
        assert {side: cells[side] for side in ("suppressed", "exaggerated")} == {
            side: f"{means[kind, side]:.2f}" for side in ("suppressed", "exaggerated")
        }, kind


def measured(entry):
    """An entry of figures/bench/ratios.json as benchmarks/README.md states it."""
    forms = {"x": ("{:.1f}", "×"), "GB": ("{:.2f}", " GB"), "R2": ("{:+.3f}", ""), "times": ("{:.2f}", " times"),
             "MB": ("{:.1f}", " MB"), "s": ("{:.2f}", " s"), "ms": ("{:.0f}", " ms"), "fraction": ("{:.3f}", ""),
             "of the largest": ("{:.0e}", " of the largest")}  # fmt: skip
    form, unit = forms[entry["unit"]]
    text = form.format(entry["median"]) + unit
    if entry["repeats"] > 1:
        text += f" [{form.format(entry['min'])}, {form.format(entry['max'])}]"
    return text.replace("-", "−")


def test_the_page_of_models_states_how_far_saes_of_other_libraries_deviate():
    table = json.loads((PROJECT_ROOT / "figures" / "bench" / "libraries.json").read_text())
    for name, row in table.items():
        deviation = f"{max(row['codes'], row['reconstruction']):.0e}".replace("-", "−")
        assert f"| {name} | {row['against']} | {deviation} |\n" in PAGES["studies/models.md"]
    assert table.keys() == MAKERS.keys()


def test_ratios_are_those_that_were_measured():
    table = json.loads((PROJECT_ROOT / "figures" / "bench" / "ratios.json").read_text())
    lines = [line.strip("| ").split(" | ") for line in BENCHMARKS.splitlines() if line.startswith("| ")]
    stated = {f"{what.replace('R²', 'R2')}; against {against}": text for what, against, text in lines[1:]}
    assert len(stated) == len(lines) - 1
    assert stated.keys() <= table.keys()
    assert {name for name, entry in table.items() if entry["unit"] != "exponent" and entry["bar"] is not None} <= stated.keys()
    for name, text in stated.items():
        assert re.fullmatch(rf"{re.escape(measured(table[name]))}( [a-z].*)?", text), name


# -- sentences -----------------------------------------------------------------------------------------------------------


def test_readme_states_what_each_method_finds(detection):
    means = detection.groupby(["side", "kind"]).mean()
    ap = {side: [f"{means.loc[(side, kind), 'ap_of_objects']:.2f}" for kind in RIVALS] for side in ("suppressed", "exaggerated")}
    left_out, added = ap["suppressed"], ap["exaggerated"]
    assert (
        f"suppressed objects reach an average precision of {left_out[0]} by RA-SAE, {left_out[1]} by a plain TopK SAE and "
        f"{left_out[2]} by k-means cells, exaggerated objects {added[0]}, {added[1]} and {added[2]}."
    ) in sentence(README)
    assert (
        f"suppressed objects reach an average precision of {left_out[0]}, {left_out[1]} and {left_out[2]}, "
        f"exaggerated objects {added[0]}, {added[1]} and {added[2]}."
    ) in sentence(MINI)


def test_answers_are_those_of_the_figures(card):
    table = pd.DataFrame(numbers("answers"))
    means = table.groupby(["measure", "kind"])["value"].mean()
    vanished = [percent(means["omission_recall", kind]) for kind in RIVALS]
    named, false = (percent(card["sd15"][name]["value"]) for name in ("name_accuracy", "name_false_share"))
    page, text = sentence(README), sentence(MINI)
    assert f"{named} of the pure concepts get the right name; from shuffled captions {false} get one." in page
    assert f"Of what vanished, they call {vanished[0]}, {vanished[1]} and {vanished[2]}." in page
    assert f"Of what vanished RA-SAE calls {vanished[0]}, TopK {vanished[1]} and k-means {vanished[2]}." in text
    nothing = [
        name for name in card["perfect"] if name.endswith("_false_share") and name not in ("name_false_share", "copy_false_share")
    ]
    assert len(nothing) == 3
    assert all(card["perfect"][name]["value"] == 0 for name in [*nothing, "false_call_share"])
    called = [f"{means['called_recall', kind]:.2f}" for kind in ("k-means", "RA-SAE")]
    assert f"on the right side more often ({called[0]} against {called[1]})." in text
    right = [card[model]["composition_right"]["value"] for model in MODELS if model != "perfect"]
    assert f"by the oracle in {percent(sum(right) / len(right))} of the cases" in text
    faulty = [model for model in MODELS if model != "perfect"]
    copies, others = ([card[model][name]["value"] for model in faulty] for name in ("copy_recall", "copy_false_share"))
    most = f"{max(others):.1%}".replace("%", " %")
    assert f"{percent(min(copies))} to {percent(max(copies))} of them, and at most {most} of the other public pairs." in text
    assert f"without CLIP (area under the ROC curve {card['sd15']['caption_fit_auroc']['value']:.2f})." in text
    report = (PROJECT_ROOT / "figures" / "mini" / "report.md").read_text(encoding="utf-8")
    honest = report.partition("### Perfect generator")[2].partition("## 2.")[0]
    n_copies, n_pairs = re.search(r"Draws (\d+) real images of ([\d,]+) again", honest).groups()
    assert f"and {n_copies} of its {n_pairs} pictures are called copies." in page
    assert f"Of the perfect generator's {n_pairs} pictures, {n_copies} are called copies;" in text
    (bricks,) = (row["n_concepts"] for row in numbers("gallery_suppressed_sd15") if row["name"] == "brick")
    assert f"splits one thing over many concepts, {bricks} for bricks alone," in text
    names = numbers("surest")["sd15"]["suppressed"]
    assert f"suppressed have {names['by concept']} names, the families called suppressed {names['by family']}." in text
    calibration = pd.DataFrame(numbers("calibration")).set_index(["case", "images"])
    assert calibration.loc["real against real", "any_false"].max() == 0
    assert f"{percent(calibration.loc[('altered on purpose', 80), 'covered'])} from 80 images on." in text


def test_readme_says_of_the_papers_claims_what_the_report_says():
    report = (PROJECT_ROOT / "figures" / "mini" / "report.md").read_text(encoding="utf-8")
    verdicts = [(row, cells["verdict"]) for (table, row), cells in rows_of(report).items() if table == "claim"]

    def found(words):
        return {verdict for claim, verdict in verdicts if words in claim}

    held = (
        "suppression is the longer tail", "share blindspots", "pairs of smallest distance are often copies",
        "have a right caption",
    )  # fmt: skip
    assert [found(words) for words in held] == [{"holds"}] * 4
    assert found("rare concepts err most, more than by chance") == {"does not hold"}
    assert found("comes nearer to the real images") == {"not shown"}
    assert (
        "four hold here for every model: suppression is the longer tail, models share blindspots, the nearest pairs are often "
        "copies, and most of the farthest pairs have a right caption. That rare concepts err most, more than by chance, does not "
        "hold. That DPO brings a model nearer to real images is not shown."
    ) in sentence(README)


def test_thresholds_miss_what_the_pages_say(detection, power):
    recall = detection["recall_of_objects"].groupby(["side", "kind"]).mean()
    low, high = (recall[side, "RA-SAE"] for side in ("suppressed", "exaggerated"))
    found = [power.loc[(side, 1.0, 1000), "found"] for side in ("suppressed", "exaggerated")]
    assert (
        f"Only {percent(low)} of the suppressed objects have δ < 0.1, because few concepts are pure, and {percent(high)} of the "
        "exaggerated ones have δ > 0.9."
    ) in sentence(README)
    assert (
        f"with 1,000 pairs of Mini SD 1.5 they are on the right side of 0.5 for {percent(found[0])} of what was suppressed and "
        f"{percent(found[1])} of what was exaggerated."
    ) in sentence(README)
    assert f"only {percent(low)} of the suppressed objects have δ < 0.1." in sentence(MINI)
    assert f"recall {recall['suppressed', 'k-means']:.2f} against {low:.2f}." in sentence(MINI)


def test_differences_between_methods_are_those_of_the_figure(detection):
    def against(side, model):
        cells, ours = (detection.loc[(side, kind, model), "ap_of_objects"] for kind in ("k-means", "RA-SAE"))
        return f"{cells:.2f}", f"{ours:.2f}"

    text = sentence(MINI)
    for side, model, what in (
        ("suppressed", "pixart", "what PixArt leaves out"), ("exaggerated", "kandinsky", "what Kandinsky adds"),
        ("suppressed", "kandinsky", "what Kandinsky leaves out"),
    ):  # fmt: skip
        assert f"{what} ({' against '.join(against(side, model))})" in text
    before, after = against("exaggerated", "sd15"), against("exaggerated", "sd15-dpo")
    both = f"{before[0]} and {after[0]} against {before[1]} and {after[1]}"
    assert f"what SD 1.5 adds, before and after DPO ({both})" in text
    words = detection.loc[("suppressed", "CLIP score of a word"), "ap_of_objects"].min()
    assert f"find nearly all that is left out ({words:.2f} or more;" in text


def test_ranges_over_the_models_are_those_of_the_scorecard(card):
    def reach(name):
        values = [card[model][name]["value"] for model in MODELS if model != "perfect"]
        return f"{min(values):.2f} to {max(values):.2f}"

    text = sentence(MINI)
    assert (
        f"average precision is {reach('suppressed_ap')} over objects and {reach('suppressed_ap_of_truths')} over all "
        "ground-truth concepts."
    ) in text
    assert f"δ ranks as the oracle's true change does ({reach('oracle_rho')})." in text
    assert f"the agreement is weak ({reach('oracle_rho_unplanted')})." in text
    noisy = [card[model]["noise_share"]["value"] for model in MODELS if model != "perfect"]
    assert f"{percent(min(noisy))} to {percent(max(noisy))} of the pairs of high discrepancy." in text
    assert f"For the perfect generator they are {percent(card['perfect']['noise_share']['value'])}." in text


def test_false_alarms_are_those_of_the_figures(card):
    table = pd.DataFrame(numbers("detection"))
    rows = table[(table["model"] == "perfect") & (table["kind"] == "RA-SAE") & (table["side"] == "suppressed")]
    flagged = round((rows["flagged_share"] * rows["n_units"]).sum())
    text = sentence(MINI)
    assert f"Of the perfect generator's concepts, {flagged} in {rows['n_units'].sum():,} are flagged." in text
    assert f"Its intervals leave out 0.5 for {percent(card['perfect']['sure_share']['value'])} of the concepts" in text
    right = [card[model]["suppressed_precision_of_units"]["value"] for model in MODELS if model != "perfect"]
    assert f"{percent(sum(right) / len(right))} are matched to something planted as suppressed" in text


def test_numbers_of_pairs_are_those_of_the_figure(power):
    lost, text = power["found"]["suppressed"], sentence(MINI)
    assert (
        f"Of what was suppressed, {percent(lost[1.0, 200])} is found at 200 pairs and {percent(lost[1.0, 1000])} at 1,000."
        in text
    )
    assert f"so that the fault is rarer, {percent(lost[0.25, 1000])} is found at 1,000." in text
    alarms = power["others"].xs(0.0, level="strength").max()
    assert "False alarms stay below 3 % at every number of pairs." in text
    assert alarms < 0.03
    others = power.loc[("suppressed", 1.0, 1000), "others"]
    assert f"{percent(others)} of what was not planted has an interval beyond 0.5 at 1,000 pairs." in text


def test_stability_is_that_of_the_figure():
    cosine = {name: f"{entry['mean_cosine_mean']:.2f}" for name, entry in numbers("stability").items()}
    same, apart = ([cosine[f"{kind}, {start}"] for kind in ("RA-SAE", "TopK")] for start in ("same", "independent"))
    text = sentence(MINI)
    assert f"the mean cosine is {same[0]} for RA-SAE and {same[1]} for TopK, which" in text
    assert f"From independent k-means it is {apart[0]} and {apart[1]}." in text
    assert f"The candidates of independent k-means, untrained, have {cosine['k-means, independent']}." in text


# -- files, rooms, commands ----------------------------------------------------------------------------------------------


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_readme_lists_every_room():
    rooms = [row.strip("`") for table, row in rows_of(README) if table == "room of `blindspots_lib/`"]
    assert sorted(rooms) == sorted(path.parent.name for path in (PROJECT_ROOT / "blindspots_lib").glob("*/__init__.py"))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_make_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"(?:^|`|&& )make\s+([a-z-]+)", PAGES[page], re.M)
    assert set(named) <= targets


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "](" in text])
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", PAGES[page]) + re.findall(r'(?:src|href)="([^"]+)"', PAGES[page])
    assert [link for link in links if not (PROJECT_ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "#" in "".join(re.findall(r"\]\(([^)]*)\)", text))])
def test_every_link_to_a_section_finds_it(page):
    for link, section in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", PAGES[page]):
        target = PAGES[page] if not link else (PROJECT_ROOT / page).parent.joinpath(link).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", target, re.M)
        assert section in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_contributing_names_modules_and_tests_that_exist():
    named = re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml|md))`", PAGES["CONTRIBUTING.md"])
    assert len(named) > 20
    assert [name for name in named if not any((PROJECT_ROOT / base / name).exists() for base in ("", "blindspots_lib"))] == []


def test_every_figure_is_listed_with_what_draws_it():
    """Of figures that every model has, those of two models are linked."""
    listed = {}
    for line in FIGURES.partition("## What draws each")[2].splitlines():
        if line.startswith("| ") and "mini/" in line:
            what, notebook, function = (cell.strip() for cell in line.strip("|").split(" | "))
            listed |= {name: (notebook, function.strip("`")) for name in re.findall(r"\(mini/([^)]+)\.png\)", what)}
    assert {path.stem for path in (PROJECT_ROOT / "figures" / "mini").glob("*.png")} - listed.keys() == {
        f"{kind}_{model}" for kind in ("scale", "gallery_suppressed", "gallery_exaggerated") for model in MODELS
    } - listed.keys()
    for name, (notebook, function) in listed.items():
        sidecar = json.loads((PROJECT_ROOT / "figures" / "mini" / f"{name}.json").read_text())
        assert sidecar["notebook"].startswith(notebook), name
        assert sidecar["function"].split(".")[-1] == function.split(".")[-1], name
        room, module, called = function.split(".")
        assert f"def {called}(" in (PROJECT_ROOT / "blindspots_lib" / room / f"{module}.py").read_text(), name
