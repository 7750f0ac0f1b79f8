"""How detection depends on top_k, K, the tokens, the reduction of codes to energies, and the number of pairs."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Shaped

from blindspots_lib.analysis.delta import ratio_interval
from blindspots_lib.analysis.energy_definitions import largest_code, mean_code
from blindspots_lib.core.config import SAEConfig
from blindspots_lib.core.study import Study
from blindspots_lib.trial.matching import amounts_of_truths
from blindspots_lib.trial.methods import Methods, judged_config, rival_configs
from blindspots_lib.trial.metrics import detection_table
from blindspots_lib.trial.tables import AmountsOfAll
from blindspots_lib.trial.trial import Trial

SIZES = (25, 50, 100, 200, 400, 700, 1000)  # pairs
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # fraction of a model's images; the others are the perfect generator's
N_DRAWS = 5  # of the pairs, per size and strength


def retrained(config: SAEConfig) -> dict[tuple[str, str], SAEConfig]:
    """Return the SAEs that are trained to be compared with one of `config`: what is varied, to what -> configuration."""
    changes = {("active concepts", f"k = {k}"): {"top_k": k} for k in (1, 5, 10)}
    sizes = (config.n_concepts // 8, config.n_concepts // 2)
    changes |= {("concepts", f"K = {n:,}"): {"n_concepts": n, "n_candidates": n} for n in sizes}
    return {what: config.model_copy(update=change) for what, change in changes.items()}


def judged_configs(study: Study) -> list[SAEConfig]:
    """Return all SAEs that the trial trains."""
    return [*rival_configs(study), *retrained(judged_config(study, study.validation.seeds[0])).values()]


def variants(methods: Methods) -> Iterator[tuple[str, str, AmountsOfAll]]:
    """Yield what is varied, to what, and the amounts that result; the study's own setting comes first."""
    sae = methods.study.sae
    yield "as it is", f"K = {sae.n_concepts:,}, k = {sae.top_k}", methods.amounts(methods.first_codes)
    configs = retrained(judged_config(methods.study, methods.study.validation.seeds[0]))
    methods.fit(configs.values())
    for (varied, value), config in configs.items():
        yield varied, value, methods.amounts(methods.sae_codes(config))
    yield "energy over", "all tokens", methods.amounts(methods.first_codes, tokens="all")
    yield "energy over", "CLS token only", methods.amounts(methods.first_codes, tokens="cls")
    yield "energy", "largest code", methods.amounts(methods.first_codes, reduce=largest_code)
    yield "energy", "mean of firing tokens", methods.amounts(methods.first_codes, reduce=mean_code)


def ablation_table(trial: Trial) -> pd.DataFrame:
    """Return one row per variant, model and side: see `detection_table`."""
    truth, parts = trial.truth, []
    for varied, value, amounts in variants(trial.methods):
        rows = (trial.unit_rows(amounts), trial.truth_rows(amounts))
        units, truths = (table.assign(kind=value, seed=trial.study.validation.seeds[0]) for table in rows)
        parts.append(detection_table(units, truths, truth.sides, truth.change, trial.study.analysis).assign(varied=varied))
    return pd.concat(parts, ignore_index=True)


def power_table(trial: Trial, model: str, null: str) -> pd.DataFrame:
    """Show how many pairs detection takes: return one row per number of pairs, strength, draw and side.

    A fraction `strength` of the pairs has the model's images, the other pairs have those of `null`, the perfect generator.

    found   fraction of the planted ground-truth concepts whose 95 % interval lies on the right side of 0.5
    others  fraction of those not planted whose interval lies on either side of 0.5: at strength 0 these are false alarms, at
            higher strengths also what the model did not learn
    """
    held = amounts_of_truths(trial.methods.amounts(trial.methods.first_codes), trial.truth.present)
    sides = trial.truth.sides[model].to_numpy()
    return pd.DataFrame(power_rows(held["real"], held[model], held[null], sides, trial.study.analysis.seed))


def power_rows(
    real: Float[np.ndarray, "n c"], faulty: Float[np.ndarray, "n c"], perfect: Float[np.ndarray, "n c"],
    sides: Shaped[np.ndarray, "c"], seed: int,
) -> Iterator[dict]:  # fmt: skip
    for draw in range(N_DRAWS):
        rng = np.random.default_rng([seed, draw])
        order, dice = rng.permutation(len(real)), rng.random(len(real))
        for strength in STRENGTHS:
            mixed = np.where((dice < strength)[:, None], faulty, perfect)
            for size in (size for size in SIZES if size <= len(real)):
                low, high = ratio_interval(*(sp.csr_matrix(side[order[:size]]) for side in (mixed, real)))
                others = float(((high < 0.5) | (low > 0.5))[sides == ""].mean())
                for side, hits in (("suppressed", high < 0.5), ("exaggerated", low > 0.5)):
                    found = float(hits[sides == side].mean())
                    yield {"pairs": size, "strength": strength, "draw": draw, "side": side, "found": found, "others": others}
