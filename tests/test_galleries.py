"""What README's headline pictures show: which concepts, and which pairs. All worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from blindspots_lib.analysis.results import Results
from blindspots_lib.figures.galleries import (
    clearest_blindspots,
    concepts_along_scale,
    first_of_each_name,
    numbers_of,
    telling_pairs,
    typical_concepts,
)


def results_of(deltas, halves, seen, energies=None, n_pairs=100):
    """Results of one model "m" whose concepts have these deltas, half lengths of intervals and numbers of images."""
    deltas, halves = np.array(deltas), np.array(halves)
    table = pd.DataFrame({
        "concept": np.arange(len(deltas)), "delta_m": deltas, "low_m": deltas - halves, "high_m": deltas + halves,
        "ranked_m": True, "n_images_real": seen, "n_images_m": seen, "firings": 10 * np.array(seen),
        "goes_with": "", "goes_with_auc": np.nan,
    })  # fmt: skip
    energies = {name: SimpleNamespace(matrix=sp.csr_matrix(np.array(rows, float))) for name, rows in (energies or {}).items()}
    results = object.__new__(Results)
    results.__dict__.update(concepts=table, completeness=([f"p{i}" for i in range(n_pairs)], {}), energies=energies)
    return results


def test_a_gallery_shows_one_concept_of_each_name():
    table = pd.DataFrame({
        "concept": [7, 3, 5, 2, 9], "goes_with": ["brick", "brick", "night", "brick", ""],
        "goes_with_auc": [0.9, 0.99, 0.8, 0.6, np.nan],
    })  # fmt: skip
    assert first_of_each_name(table) == [7, 5, 2, 9]  # 2 is not named: its match is too bad


def test_the_clearest_blindspots_are_the_surest_not_the_most_extreme():
    # concept 0 has the lowest delta but a wide interval; 3 the highest but a wide one; 2 and 5 fire on too few images
    deltas = [0.02, 0.10, 0.05, 0.98, 0.90, 0.99, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    halves = [0.30, 0.05, 0.01, 0.45, 0.03, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    results = results_of(deltas, halves, seen=[50, 50, 0, 50, 50, 0, 50, 50, 50, 50, 50, 50])
    chosen = clearest_blindspots(results, "m", n=1)
    assert chosen == {"suppressed": [1], "exaggerated": [4]}


@pytest.mark.parametrize(("seen", "expected"), [([9, 3, 0, 7], [0, 3]), ([3, 0, 4, 4], [2, 3]), ([0, 0, 0, 0], [0, 3])])
def test_typical_concepts_are_found_even_where_none_fires_on_enough_real_images(seen, expected):
    results = results_of([0.5] * 4, [0.1] * 4, seen)
    results.__dict__["study"] = SimpleNamespace(analysis=SimpleNamespace(min_images=5))
    assert typical_concepts(results, 2) == expected


def test_concepts_along_the_scale_are_nearest_to_its_steps_and_among_equals_the_most_frequent():
    deltas = [0.001, 0.004, 0.26, 0.5, 0.5, 0.74, 0.999, 0.9, 0.1, 0.6]
    results = results_of(deltas, [0.1] * 10, seen=[20, 30, 20, 20, 90, 20, 20, 20, 20, 20])
    assert concepts_along_scale(results, "m") == [1, 2, 4, 5, 6]


@pytest.mark.parametrize(("delta", "expected"), [(0.2, [2, 0]), (0.8, [3, 1])])
def test_telling_pairs_change_most_in_the_direction_of_delta(delta, expected):
    energies = {"real": [[3.0], [0.0], [5.0], [0.0]], "m": [[1.0], [1.0], [0.0], [4.0]]}
    results = results_of([delta], [0.1], seen=[4], energies=energies, n_pairs=4)
    assert telling_pairs(results, "m", 0, n=2).tolist() == expected
    (row,) = numbers_of(results, "m", [0])
    assert (row["delta"], row["telling_pairs"][:2]) == (delta, [f"p{i}" for i in expected])
