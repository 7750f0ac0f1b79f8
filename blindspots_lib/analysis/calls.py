"""Calls: which units a model surely suppresses or exaggerates, which are surely aligned, and which stay unclear.

A call combines certainty (the swap test, with its false discovery rate) with effect (the shrunken delta). Shape letters: k
units (concepts or families). Energies are SciPy CSR matrices (pairs, k); row i of both sides is pair i.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Shaped

from blindspots_lib.analysis.delta import column_sums, ratio_interval
from blindspots_lib.analysis.jackknife import rank_correlation
from blindspots_lib.analysis.shrinkage import Moments, Shrunken, pair_moments, shrink
from blindspots_lib.analysis.swaps import swap_test
from blindspots_lib.core.config import Analysis

SUPPRESSED, EXAGGERATED, ALIGNED, UNCLEAR = "suppressed", "exaggerated", "aligned", "unclear"
SURE_SIGN = 0.05  # local false sign rate of a called unit, at most
WELL_OBSERVED = 5  # images, real and generated each, that a unit of the size factor fires on at least


class Calls(NamedTuple):
    """What is known of every unit. Of a unit that is not tested, everything after p is nan, "unclear" or False, except p_max."""

    tested: Bool[np.ndarray, "k"]
    p: Float[np.ndarray, "k"]  # of the swap test; 1 where the unit never fires
    q: Float[np.ndarray, "k"]  # its Benjamini-Hochberg adjusted p-value among the tested units
    p_max: Float[np.ndarray, "k"]  # its family-wise p-value among all units
    shrunken: Float[np.ndarray, "k"]  # posterior mean of delta
    shrunken_low: Float[np.ndarray, "k"]  # 95 % posterior interval
    shrunken_high: Float[np.ndarray, "k"]
    lfsr: Float[np.ndarray, "k"]  # local false sign rate
    s_value: Float[np.ndarray, "k"]  # mean lfsr of the units at least as sure
    beyond: Bool[np.ndarray, "k"]  # whether the posterior interval lies below `suppressed_below` or above `exaggerated_above`
    call: Shaped[np.ndarray, "k"]  # "suppressed", "exaggerated", "aligned" or "unclear"


class SizeCorrection(NamedTuple):
    """What dividing the generated energies by the size factor changes."""

    factor: float  # nan if too few units are well observed; then nothing is corrected
    n_changed: int  # units whose call changes
    n_called: int  # units called suppressed or exaggerated as measured
    n_called_corrected: int
    rank_correlation: float  # Spearman's, of the shrunken deltas of the units that are tested both times


def make_calls(generated: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis, family_wise: bool = True) -> Calls:
    """Test, shrink and call every unit, from the energies of one model and of the real images over the same pairs.

    A tested unit is called, by the first rule that holds:
    - "aligned" if the interval of its own delta (`ratio_interval`) and the posterior interval both lie within 0.5 +-
      `aligned_band`. A change that is sure but so small is aligned: certainty alone makes no blindspot. The posterior interval
      alone would call a unit of two images aligned, because most others are;
    - "suppressed" or "exaggerated" if q <= `false_discovery_rate` (the difference is no chance) and the local false sign rate
      is at most `SURE_SIGN` (the direction is sure); which one, by the side of 0.5 on which the shrunken delta lies;
    - "unclear" otherwise. Units that are not tested are unclear too.

    A called unit is `beyond` if its whole posterior interval lies beyond the paper's threshold on that side. Calls do not depend
    on `p_max`; it is 1 for all units if `family_wise` is False, which saves its random swaps.
    """
    test = swap_test(generated, real, analysis if family_wise else analysis.model_copy(update={"n_swaps": 0}))
    moments = pair_moments(generated, real)
    columns = np.full((len(Shrunken._fields), len(test.p)), np.nan)
    columns[:, test.tested] = shrink(Moments(*(x[test.tested] for x in moments)))
    known = Shrunken(*columns)
    low, high = ratio_interval(generated, real)
    aligned = (np.fmin(low, known.low) >= 0.5 - analysis.aligned_band) & (
        np.fmax(high, known.high) <= 0.5 + analysis.aligned_band
    )
    aligned &= test.tested
    sure = (test.q <= analysis.false_discovery_rate) & (known.lfsr <= SURE_SIGN) & ~aligned
    below = known.delta < 0.5
    call = np.full(len(test.p), UNCLEAR, object)
    for name, which in ((ALIGNED, aligned), (SUPPRESSED, sure & below), (EXAGGERATED, sure & ~below)):
        call[which] = name
    beyond = sure & np.where(below, known.high < analysis.suppressed_below, known.low > analysis.exaggerated_above)
    return Calls(test.tested, test.p, test.q, test.p_max, *known, beyond, call)


def size_factor(generated: sp.csr_matrix, real: sp.csr_matrix) -> float:
    """Return the median of E' / E over the units that fire on at least 5 real and 5 generated images; nan if there are none.

    Codes have a budget of top_k concepts per token: where some fall, others must rise. If most units are unchanged, the
    median shows by how much all of them rose.
    Source: the median of ratios of Anders and Huber, Genome Biology 2010, doi 10.1186/gb-2010-11-10-r106.
    """
    n_images = (np.bincount(side.indices[side.data > 0], minlength=side.shape[1]) for side in (generated, real))
    observed = np.minimum(*n_images) >= WELL_OBSERVED
    if not observed.any():
        return float("nan")
    return float(np.median(column_sums(generated)[observed] / column_sums(real)[observed]))


def size_table(energies: Mapping[str, sp.csr_matrix], analysis: Analysis) -> pd.DataFrame:
    """Return one row per model with its size factor and what correcting by it changes: the fields of `SizeCorrection`."""
    real = energies["real"]
    models = [model for model in energies if model != "real"]
    rows = [correct_size(energies[model], real, make_calls(energies[model], real, analysis), analysis) for model in models]
    return pd.DataFrame(rows, index=pd.Index(models, name="model"), columns=list(SizeCorrection._fields)).reset_index()


def correct_size(generated: sp.csr_matrix, real: sp.csr_matrix, calls: Calls, analysis: Analysis) -> SizeCorrection:
    """Return what changes in `calls`, made from these energies, if the generated energies are divided by their size factor.

    Raw deltas keep their order, for each is a growing function of the ratio that is divided.
    """
    factor = size_factor(generated, real)
    n_called = count_called(calls)
    if not np.isfinite(factor):
        return SizeCorrection(factor, 0, n_called, n_called, float("nan"))
    corrected = make_calls(sp.csr_matrix(generated / np.float32(factor)), real, analysis)
    n_changed = int((corrected.call != calls.call).sum())
    both = calls.tested & corrected.tested
    r = rank_correlation(calls.shrunken[both], corrected.shrunken[both])
    return SizeCorrection(factor, n_changed, n_called, count_called(corrected), r)


def count_called(calls: Calls) -> int:
    return int(np.isin(calls.call, (SUPPRESSED, EXAGGERATED)).sum())
