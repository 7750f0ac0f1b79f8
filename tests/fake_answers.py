"""Results whose tables are made up: all that figures and reports read, without any stage."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from PIL import Image

from blindspots_lib.analysis.results import Results

CALLS = ("suppressed", "exaggerated", "aligned", "unclear")


def verdicts(model, deltas, calls):
    """The columns of one model's verdicts: intervals of half length 0.04, shrunken a tenth of the way to 0.5."""
    deltas = np.asarray(deltas, float)
    shrunken = deltas + 0.1 * (0.5 - deltas)
    return {
        f"n_images_{model}": 20, f"energy_{model}": deltas, f"delta_{model}": deltas, f"low_{model}": deltas - 0.04,
        f"high_{model}": deltas + 0.04, f"tested_{model}": True, f"p_{model}": 0.01, f"q_{model}": 0.02, f"p_max_{model}": 0.2,
        f"shrunken_{model}": shrunken, f"shrunken_low_{model}": shrunken - 0.04, f"shrunken_high_{model}": shrunken + 0.04,
        f"lfsr_{model}": 0.01, f"s_{model}": 0.01, f"beyond_{model}": False, f"call_{model}": list(calls),
    }  # fmt: skip


def side_of(delta):
    return "suppressed" if delta < 0.35 else "exaggerated" if delta > 0.65 else "unclear"


def fake_table(models, deltas, names, **columns):
    """A table of concepts (or families, with their columns) that have these deltas for every model, called if far from 0.5."""
    n = len(names)
    table = {"concept": np.arange(n), "name": names, "name_lift": 2.0, "name_r": 0.5, "family": np.arange(n),
             "firings": 10 * (np.arange(n) + 1), "n_images_real": 20, "energy_real": 1 - np.asarray(deltas, float)}  # fmt: skip
    for model in models:
        table |= verdicts(model, deltas, map(side_of, deltas))
    return pd.DataFrame(table | columns)


def asked_rows(model, words):
    """Rows of `asked.parquet`: word -> (number of captions that ask, omission, intrusion)."""
    return [{"word": word, "model": model, "n_asked": n, "gain": 0.5, "detectable": 0.2, "reason": "",
             "explained_by": "", "intrusion_rate": 0.03,
             "omission_value": out, "omission_low": max(0, out - 0.05), "omission_high": out + 0.05, "omission_q": 0.01,
             "omission_call": "omitted" if out < 0.3 else "aligned",
             "intrusion_value": more, "intrusion_low": more - 0.05, "intrusion_high": min(1, more + 0.05), "intrusion_q": 0.01,
             "intrusion_call": "intruding" if more > 0.7 else "aligned"}
            for word, (n, out, more) in words.items()]  # fmt: skip


ASKED = list(asked_rows("", {"x": (9, 0.1, 0.5)})[0])
COMPOSITION = ["first", "second", "model", "difference", "low", "high", "q", "call"]


class FakeCodes:
    """Codes of 4 x 4 patches: concept k fires on patch k of every image that has it."""

    layout = SimpleNamespace(patches_per_side=4)

    def __init__(self, energies):
        self.energies = energies

    def patch_codes(self, rows):
        codes = np.zeros((16, self.energies.shape[1]))
        for concept in range(self.energies.shape[1]):
            codes[concept % 16, concept] = self.energies[rows[0], concept]
        return sp.csr_matrix(codes)


def fake_results(study, concepts, families=None, asked=(), composition=(), captions=(), energies=None, copies=()):
    """Results of tables; `copies` are positions of pairs that the first model copied."""
    models = [model.name for model in study.models]
    captions = list(captions) or [f"caption {number}" for number in range(4)]
    n_pairs, rng = len(captions), np.random.default_rng(0)
    pair_ids = [f"p{number}" for number in range(n_pairs)]
    if energies is None:
        energies = {source: rng.random((n_pairs, len(concepts))) for source in ("real", *models)}
    pictures = {pair_id: Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)) for pair_id in pair_ids}
    points = pd.DataFrame([
        {"pair_id": pair_id, "model": model, "copy_p": 0.001 if number in copies and model == models[0] else 0.5,
         "copy_call": "copy" if number in copies and model == models[0] else "", "copy_group": int(number in copies)}
        for model in models for number, pair_id in enumerate(pair_ids)
    ])  # fmt: skip
    codes = {source: FakeCodes(np.asarray(rows)) for source, rows in energies.items()}
    results = object.__new__(FakeResults)
    results.__dict__.update(
        study=study,
        concepts=concepts, families=with_members(concepts if families is None else families),
        asked=pd.DataFrame(list(asked), columns=ASKED), composition=pd.DataFrame(list(composition), columns=COMPOSITION),
        datapoints=points, completeness=(pair_ids, {model: {} for model in models}),
        pairs=SimpleNamespace(pair_ids=pair_ids, captions=captions), images={source: pictures for source in energies},
        rows={source: np.arange(n_pairs) for source in energies}, codes=codes,
        energies={source: SimpleNamespace(matrix=sp.csr_matrix(np.asarray(rows, float))) for source, rows in energies.items()},
    )  # fmt: skip
    return results


def with_members(table):
    return table if "n_concepts" in table else table.assign(n_concepts=1)


class FakeResults(Results):
    attrition = {"dead link": 3}  # noqa: RUF012
    concepts_artifact = families_artifact = asked_artifact = SimpleNamespace(fingerprint="abc123")
    composition_artifact = datapoints_artifact = claims_artifact = concepts_artifact
    claims = pd.DataFrame([{"claim": "skewness of δ is negative", "published": "-0.40", "value": -0.2, "low": -0.3, "high": 0.1,
                            "verdict": "not shown"}])  # fmt: skip
