"""Calibration: how often the calls err and how often the intervals hold the truth, against the frequency of the concept.

Three cases whose truth is known: a perfect generator, real images against other real images, and a perfect generator of whose
concepts some are thinned on purpose. Energies are SciPy CSR matrices (pairs, k).
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

from blindspots_lib.analysis.calls import Calls, make_calls
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.parallel import n_side_by_side, side_by_side
from blindspots_lib.trial.answers import SHOWN, altered_world, is_called, most_extreme

PERFECT, SPLIT, ALTERED = "perfect generator", "real against real", "altered on purpose"
FREQUENCIES = (0, 10, 20, 40, 80)  # lower ends of the numbers of images, real and generated, that a concept fires on
N_SPLITS, N_ALTERATIONS = 200, 20


def calibration_table(perfect: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> pd.DataFrame:
    """Return one row per case and bin of frequency.

    case       "perfect generator"; "real against real": 200 random splits of the real images into two halves, paired at random;
               "altered on purpose": 20 worlds of `answers.altered_world`, of which the 100 most extreme concepts count
    images     lower end of the bin: number of images that the concept fires on, both sides together
    n          tested concepts in the bin, over all splits or worlds
    false      fraction called suppressed or exaggerated although unchanged; nan for altered worlds
    covered    fraction of 95 % posterior intervals that hold the true delta
    any_false  fraction of the splits in which anything is called, the same in all bins of the case
    """
    cases = {PERFECT: [perfect_case(perfect, real, analysis)]}
    for case, make, n in ((SPLIT, split_case, N_SPLITS), (ALTERED, altered_case, N_ALTERATIONS)):
        with side_by_side(lambda seed, make=make: make(perfect, real, analysis, seed), range(n), n_side_by_side()) as found:
            cases[case] = list(found)
    return pd.DataFrame([row for case, tables in cases.items() for row in binned(case, tables)])


def binned(case: str, tables: list[pd.DataFrame]) -> Iterator[dict]:
    any_false = float(np.mean([table["false"].any() for table in tables]))
    joined = pd.concat(tables)
    bins = np.searchsorted(FREQUENCIES, joined["images"], side="right") - 1
    for place, of_bin in joined.groupby(bins):
        false = np.nan if case == ALTERED else of_bin["false"].mean()
        yield {"case": case, "images": FREQUENCIES[place], "n": len(of_bin), "false": false, "covered": of_bin["covered"].mean(),
               "any_false": any_false}  # fmt: skip


def judged(
    calls: Calls, truth: Float[np.ndarray, "k"], images: Int[np.ndarray, "k"], which: Int[np.ndarray, "c"], unchanged: bool
) -> pd.DataFrame:
    """Return one row per concept of `which`: its number of images, whether its call is false, whether its interval holds."""
    false = is_called(calls)[which] if unchanged else np.zeros(len(which), bool)
    covered = (calls.shrunken_low <= truth)[which] & (truth <= calls.shrunken_high)[which]
    return pd.DataFrame({"images": images[which], "false": false, "covered": covered})


def unchanged_case(one: sp.csr_matrix, other: sp.csr_matrix, analysis: Analysis) -> pd.DataFrame:
    calls, images = make_calls(one, other, analysis, family_wise=False), one.getnnz(axis=0) + other.getnnz(axis=0)
    return judged(calls, np.full(len(images), 0.5), images, np.flatnonzero(calls.tested), unchanged=True)


def perfect_case(perfect: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> pd.DataFrame:
    return unchanged_case(perfect, real, analysis)


def split_case(perfect: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis, seed: int) -> pd.DataFrame:
    """Compare two random halves of the real images, paired at random."""
    order = np.random.default_rng([analysis.seed, seed]).permutation(real.shape[0])
    half = len(order) // 2
    return unchanged_case(real[order[:half]], real[order[half : 2 * half]], analysis)


def altered_case(perfect: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis, seed: int) -> pd.DataFrame:
    """Judge the intervals of the most extreme concepts of one altered world."""
    generated, compared, truth = altered_world(perfect, real, np.random.default_rng([analysis.seed, seed]))
    calls, images = (
        make_calls(generated, compared, analysis, family_wise=False),
        generated.getnnz(axis=0) + compared.getnnz(axis=0),
    )
    return judged(calls, truth, images, most_extreme(calls, SHOWN), unchanged=False)
