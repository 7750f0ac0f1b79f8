"""What galleries show: which families, which concepts and which pairs. All worked out by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_answers import fake_results, fake_table

from blindspots_lib.figures import galleries
from blindspots_lib.figures.galleries import (
    blindspot_gallery,
    clearest_blindspots,
    concept_label,
    concepts_along_scale,
    family_label,
    heatmap,
    heatmap_strength,
    named_cooccurrence,
    numbers_of,
    numbers_of_families,
    telling_pairs,
    typical_concepts,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def make_results(make_study):
    """Results of one model "sd15" whose concepts have these deltas and names."""

    def make(deltas, names=None, captions=(), energies=None, families=None, **columns):
        study = make_study({"models.1": ...})
        table = fake_table(["sd15"], deltas, names or [""] * len(deltas), **columns)
        return fake_results(study, table, families, captions=captions, energies=energies)

    return make


def words_of(figure):
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text) if text.get_text())


def test_the_clearest_blindspots_are_called_and_in_shrunken_order(make_results):
    # concept 0 has the lowest delta, but it is shrunken most; 3 is called aligned though it is highest; 4 is the only high one
    results = make_results([0.01, 0.10, 0.05, 0.99, 0.9], shrunken_sd15=[0.3, 0.12, 0.08, 0.95, 0.85],
                           call_sd15=["suppressed", "suppressed", "suppressed", "aligned", "exaggerated"])  # fmt: skip
    assert clearest_blindspots(results, "sd15", n=2) == {"suppressed": [2, 1], "exaggerated": [4]}


def test_a_faultless_model_has_an_empty_gallery(make_results):
    results = make_results([0.5, 0.45])
    assert clearest_blindspots(results, "sd15", n=4) == {"suppressed": [], "exaggerated": []}
    assert words_of(blindspot_gallery(results, "sd15", [], side="suppressed")) == "Mini SD 1.5: nothing is called suppressed"
    assert numbers_of_families(results, "sd15", []) == []


def family_results(make_results):
    """Concepts 0 and 1 are one family: only both together say that pair 2 loses most."""
    energies = {
        "real": [[3.0, 0.0], [0.0, 3.0], [2.0, 2.0], [0.0, 0.0]],
        "sd15": [[0.0, 0.0], [0.0, 0.5], [0.0, 0.0], [0.0, 1.0]],
    }
    families = fake_table(["sd15"], [0.1], ["palm tree"], n_concepts=2, family=7)
    captions = ["one", "two", "three $x$", "four"]
    return make_results([0.0, 0.2], ["palm tree", ""], captions, energies, families, family=7)


def test_a_gallery_has_one_row_per_family_with_the_heatmap_of_all_of_it(make_results):
    results = family_results(make_results)
    figure = blindspot_gallery(results, "sd15", [7], n=2)
    assert len(figure.axes) == 4  # two pairs
    assert {"three $x$", "one"} <= {text.get_text() for text in figure.texts}
    assert "Mini SD 1.5: suppressed or exaggerated families of concepts" in words_of(figure)
    assert words_of(figure).split("\n")[:5] == [
        "palm tree",
        "suppressed",
        "shrunken δ 0.14 [0.10, 0.18]",
        "raw δ 0.10",
        "2 concepts",
    ]
    both = heatmap(results, "real", 2, [0, 1])
    assert (both.shape, both.sum(), np.count_nonzero(both)) == ((4, 4), 4.0, 2)
    assert heatmap_strength(results, ("real", "sd15"), [0, 1]) == 3.0
    (row,) = numbers_of_families(results, "sd15", [7], n=2)
    assert (row["name"], row["call"], row["shrunken"], row["telling_pairs"]) == ("palm tree", "suppressed", 0.14, ["p2", "p0"])


@pytest.mark.parametrize(("rises", "expected"), [(False, [2, 0]), (True, [3, 1])])
def test_telling_pairs_change_most_in_one_direction(make_results, rises, expected):
    energies = {"real": [[3.0], [0.0], [5.0], [0.0]], "sd15": [[1.0], [1.0], [0.0], [4.0]]}
    results = make_results([0.2], energies=energies)
    assert telling_pairs(results, "sd15", [0], rises, n=2).tolist() == expected


@pytest.mark.parametrize(
    ("tested", "seen", "expected"),
    [
        ([1, 1, 0, 1], [9, 3, 8, 7], [0, 1]),
        ([0, 0, 0, 0], [9, 3, 8, 7], [0, 1]),
        ([0, 0, 1, 0], [9, 3, 8, 7], [2]),
        ([1, 1, 0, 0], [9, 0, 8, 7], [0]),
    ],
)
def test_typical_concepts_are_tested_ones_where_there_are_any(make_results, tested, seen, expected):
    results = make_results([0.5] * 4, n_images_real=seen, tested_sd15=np.array(tested, bool))
    assert typical_concepts(results, 2) == expected


def test_concepts_along_the_scale_are_of_different_families_and_among_equals_named_then_frequent(make_results):
    shrunken = [0.001, 0.004, 0.26, 0.27, 0.5, 0.5, 0.74, 0.999]
    results = make_results([0.5] * 8, ["", "", "", "", "", "cat", "", ""], shrunken_sd15=shrunken,
                           family=[0, 1, 1, 3, 4, 5, 6, 7], firings=[10, 20, 10, 10, 90, 10, 10, 10])  # fmt: skip
    # 1 is more frequent than 0; 2 is of its family, so 3 is taken; of those at 0.5 only 5 is named
    assert concepts_along_scale(results, "sd15") == [1, 3, 5, 6, 7]
    few = make_results([0.5, 0.5], tested_sd15=[True, False])
    assert concepts_along_scale(few, "sd15") == [0]
    assert "no concept is tested" in words_of(galleries.scale_figure(few, "sd15", []))
    assert "Mini SD 1.5: concepts along the scale" in words_of(galleries.scale_figure(few, "sd15", [0]))


def test_labels_name_what_has_a_name_and_say_how_it_was_called(make_results):
    results = make_results([0.1, 0.5], ["dvd", ""])
    assert concept_label(results, 0, "sd15") == "dvd\nconcept 0\nsuppressed\nshrunken δ 0.14 [0.10, 0.18]\nraw δ 0.10"
    assert concept_label(results, 1) == "unnamed (concept 1)"
    nothing = results.families.loc[1].copy()
    nothing[["delta_sd15", "shrunken_sd15"]] = np.nan
    assert "shrunken δ – [0.46, 0.54]\nraw δ –\n1 concept" in family_label(nothing, "sd15")
    (row,) = numbers_of(results, "sd15", [0])
    assert (row["concept"], row["name"], row["delta"], row["call"]) == (0, "dvd", 0.1, "suppressed")


def test_cooccurrence_is_of_one_concept_per_name_and_of_numbers_where_nothing_is_named(make_results):
    energies = {"real": [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "sd15": np.zeros((4, 3))}
    results = make_results([0.5] * 3, ["cat", "cat", "axe"], energies=energies, n_images_real=[2, 1, 2])
    labels, real, generated = named_cooccurrence(results, 5)
    assert (labels, real.tolist()) == (["axe", "cat"], [[2, 2], [2, 2]])
    assert generated["Mini SD 1.5"].tolist() == [[0, 0], [0, 0]]
    assert named_cooccurrence(make_results([0.5] * 3, n_images_real=[2, 1, 3]), 2)[0] == ["0", "2"]
