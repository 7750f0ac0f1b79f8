"""The paper's claims about a study's own models: what was published, what is measured here, and whether the claim holds."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from blindspots_lib.analysis.agreement import correlate_apart
from blindspots_lib.analysis.captions import caption_audit
from blindspots_lib.analysis.distribution import correlate_error_with_frequency, distribution_shape, shows_sign
from blindspots_lib.core.config import PerfectGenerator, TextToImageModel
from blindspots_lib.core.study import Study

HOLDS, FAILS, OPEN = "holds", "does not hold", "not shown"
LEAST = 0.05  # fraction of the pairs of a model that have the smallest energy distance


class Claim(NamedTuple):
    """One claim of the paper about one model, or two."""

    about: str  # "skewness", "sharing", "tuning", "rarity", "copies" or "captions"
    models: str  # their labels
    claim: str
    published: str
    value: float
    low: float  # 95 % interval over pairs
    high: float
    verdict: str  # "holds", "does not hold" or "not shown"


def claims_table(
    study: Study, energies: Mapping[str, sp.csr_matrix], concepts: pd.DataFrame, datapoints: pd.DataFrame
) -> pd.DataFrame:
    """Return one row per claim of the paper and model or pair of models, with the fields of `Claim`.

    A claim about a sign holds only if a second measurement would show it too (`distribution.shows_sign`): verdicts that another
    run could turn over are "not shown". A perfect generator has no faults, so it makes no claim.
    """
    faulty = [model for model in study.models if not isinstance(model, PerfectGenerator)]
    labels = {model.name: model.label for model in faulty}
    tested = {name: concepts[f"tested_{name}"].to_numpy(bool) for name in labels}
    claims = [
        *skewness_claims(study, energies, tested, labels), *shared_claims(study, energies, tested, labels),
        *tuning_claims(study, datapoints), *frequency_claims(study, energies, concepts, tested, labels),
        *copy_claims(datapoints, labels), *audit_claims(datapoints, labels),
    ]  # fmt: skip
    return pd.DataFrame(claims, columns=list(Claim._fields))


def verdict_line(claims: pd.DataFrame, about: str) -> str:
    """Return the verdicts on one claim in a line, such as "holds for A, B; not shown for C", or that no model makes the claim."""
    rows = claims[claims["about"] == about]
    told = [f"{verdict} for {', '.join(rows.loc[rows['verdict'] == verdict, 'models'])}" for verdict in (HOLDS, FAILS, OPEN)
            if (rows["verdict"] == verdict).any()]  # fmt: skip
    return "; ".join(told) or "no model of this study makes this claim"


def by_sign(value: float, low: float, high: float, sign: int) -> str:
    """Return the verdict on a claim that a number has a sign (-1 or 1)."""
    if shows_sign(value, low, high, sign) == "shown":
        return HOLDS
    return FAILS if shows_sign(value, low, high, -sign) == "shown" else OPEN


def skewness_claims(study, energies, tested, labels) -> Iterator[Claim]:
    published = "-0.40 (SD 1.5), -0.54 (SD 2.1), -0.40 (PixArt), -0.23 (Kandinsky)"
    for model, label in labels.items():
        shape = distribution_shape(energies[model], energies["real"], tested[model], study.analysis)
        found = shape.skewness, shape.skewness_low, shape.skewness_high
        yield Claim(
            "skewness",
            label,
            f"{label}: suppression is the longer tail (skewness below 0)",
            published,
            *found,
            by_sign(*found, -1),
        )


def shared_claims(study, energies, tested, labels) -> Iterator[Claim]:
    generated = {model: energies[model] for model in labels}
    for pair, apart in correlate_apart(generated, energies["real"], tested, study.analysis).items():
        first, second = (labels[name] for name in pair.split("~"))
        found = apart.corrected.r, apart.corrected.low, apart.corrected.high
        published = "0.82 (SD 1.5 with SD 2.1), 0.41 (with PixArt), 0.46 (with Kandinsky)"
        both = f"{first} and {second}"
        text = f"{both} share blindspots (correlation above 0)"
        yield Claim("sharing", both, text, published, *found, by_sign(*found, 1))


def tuning_claims(study: Study, datapoints: pd.DataFrame) -> Iterator[Claim]:
    """Yield, for each model that is another one with a tuned UNet, whether it comes nearer to the real images."""
    pipelines = study.of_kind(TextToImageModel)
    distance = datapoints.pivot(index="pair_id", columns="model", values="energy_distance")
    rng = np.random.default_rng(study.analysis.seed)
    for tuned in (model for model in pipelines if model.unet):
        plain = [model for model in pipelines if not model.unet and (model.path, model.repo) == (tuned.path, tuned.repo)]
        for base in plain:
            change = (distance[tuned.name], distance[base.name])
            draws = rng.integers(len(distance), size=(study.analysis.n_bootstrap, len(distance)))
            after, before = (side.to_numpy()[draws] for side in change)
            medians = np.median(after, axis=1) / np.median(before, axis=1) - 1
            value = float(change[0].median() / change[1].median() - 1)
            found = value, *map(float, np.quantile(medians, (0.025, 0.975)))
            text = f"{tuned.label} comes nearer to the real images than {base.label} (change of the median distance below 0)"
            yield Claim("tuning", tuned.label, text, "lower median distance (SD 1.5 DPO)", *found, by_sign(*found, -1))


def frequency_claims(study, energies, concepts, tested, labels) -> Iterator[Claim]:
    firings = concepts["firings"].to_numpy()
    for model, label in labels.items():
        c = correlate_error_with_frequency(energies[model], energies["real"], firings, tested[model], study.analysis)
        verdict = HOLDS if c.high < c.chance_low else FAILS if c.low > c.chance_low else OPEN
        level = f" (correlation below {c.chance_low:.2f})" if np.isfinite(c.chance_low) else ""
        text = f"{label}: rare concepts err most, more than by chance{level}"
        yield Claim("rarity", label, text, "rare concepts have the largest errors", c.r, c.low, c.high, verdict)


def copy_claims(datapoints: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[Claim]:
    """Yield whether copies are more frequent among the pairs of smallest distance than among the others."""
    from scipy.stats import binomtest

    for model, label in labels.items():
        table = datapoints[datapoints["model"] == model]
        near = table["energy_distance"] <= table["energy_distance"].quantile(LEAST)
        copied = table["copy_call"] == "copy"
        interval = binomtest(int(copied[near].sum()), int(near.sum())).proportion_ci(method="wilson")
        others = float(copied[~near].mean()) if (~near).any() else np.nan
        verdict = HOLDS if interval.low > others else FAILS if interval.high < others else OPEN
        beside = f"; of the others {100 * others:.1f} %" if np.isfinite(others) else ""
        text = f"{label}: pairs of smallest distance are often copies (fraction of the nearest 5 %{beside})"
        found = float(copied[near].mean()), float(interval.low), float(interval.high)
        yield Claim("copies", label, text, "often memorized", *found, verdict)


def audit_claims(datapoints: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[Claim]:
    audit = caption_audit(datapoints).set_index(["model", "pairs"])
    for model, label in labels.items():
        row = audit.loc[(model, "high discrepancy")]
        right, low, high = 1 - row["wrong"], 1 - min(1.0, 2 * row["high"]), 1 - min(1.0, 2 * row["low"])
        verdict = HOLDS if low > 0.5 else FAILS if high < 0.5 else OPEN
        text = f"{label}: most pairs of high discrepancy have a right caption (estimated fraction)"
        published = "56.3 % are blindspots, the rest noisy or under-specified captions"
        yield Claim("captions", label, text, published, float(right), low, high, verdict)
