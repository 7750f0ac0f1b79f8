"""The tables of concepts and of families: one row per unit, with its name, delta(k), interval and call for every model.

Units are concepts, or families of concepts that mean the same. Energies are CSR matrices (pairs, units).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from blindspots_lib.analysis.calls import make_calls
from blindspots_lib.analysis.delta import column_sums, measure_difference
from blindspots_lib.analysis.energies import Energies
from blindspots_lib.analysis.families import concept_families, family_energies, family_names, leading_concepts
from blindspots_lib.analysis.names import ClipVocabulary, name_by_clip, name_concepts, score_names
from blindspots_lib.core.config import Analysis


def name_table(
    real: Energies, captions: list[str], atoms: Float[np.ndarray, "k d"], seed: int, by_clip: ClipVocabulary | None = None
) -> pd.DataFrame:
    """Return one row per concept, from the real images, their captions and the dictionary's atoms.

    concept: its number; name ("" for none), name_lift, name_r (`name_concepts`); family (`concept_families`). With `by_clip`
    also the columns of `add_clip_names`.
    """
    table = name_concepts(real.matrix, captions, seed).rename(columns={"lift": "name_lift", "r": "name_r"})
    if by_clip is not None:
        table = add_clip_names(table, real.matrix, by_clip, seed)
    families = concept_families(table["name"].tolist(), real.stats.together, real.stats.firings, atoms)
    return table.assign(family=families).rename_axis("concept").reset_index()


def add_clip_names(table: pd.DataFrame, real: sp.csr_matrix, by_clip: ClipVocabulary, seed: int) -> pd.DataFrame:
    """Return a table of names in which CLIP has named what it can of the concepts without a name, with two more columns:

    - name_from: "captions", "clip", or "" for no name;
    - name_z: how strongly the concept goes with its name by CLIP (`name_by_clip`); nan for other names. Names by CLIP have no
      name_lift and name_r, which are scores on captions.
    """
    unnamed = np.flatnonzero(table["name"] == "")
    word, score = name_by_clip(real[:, unnamed], by_clip.images, by_clip.vectors, seed)
    named, names, z = word >= 0, table["name"].to_numpy(object, copy=True), np.full(len(table), np.nan)
    origins = np.where(names != "", "captions", "").astype(object)
    names[unnamed[named]], origins[unnamed[named]] = np.array(by_clip.words, object)[word[named]], "clip"
    z[unnamed] = score
    return table.assign(name=names, name_from=origins, name_z=z)


def concept_table(energies: Mapping[str, Energies], names: pd.DataFrame, analysis: Analysis) -> pd.DataFrame:
    """Return one row per concept; `energies` holds "real" and every model, `names` has one row per concept (`name_table`).

    - concept: its number; name ("" for none), name_lift, name_r, family, and name_from, name_z if any: from `names`;
    - firings: number of real tokens it fires on;
    - n_images_S, energy_S: number of images it fires on, and mean energy, of source S ("real" or a model);
    - the columns of `model_columns` for every model M.
    """
    real = energies["real"]
    table = names.assign(firings=real.stats.firings, **source_columns("real", real.matrix))
    models = {source: of_source.matrix for source, of_source in energies.items() if source != "real"}
    columns = [model_columns(model, matrix, real.matrix, analysis) for model, matrix in models.items()]
    return pd.concat([table, *(pd.DataFrame(each) for each in columns)], axis=1)


def family_table(
    energies: Mapping[str, sp.csr_matrix], captions: list[str], names: pd.DataFrame, analysis: Analysis
) -> pd.DataFrame:
    """Return one row per family, with the columns of `concept_table` for the sums of its concepts' energies, except firings, and:

    - family: its number; name; name_lift, name_r: how well the name fits the family's energies (`names.score_names`), nan for a
      name by CLIP; name_from, if `names` has it: "captions" if any of its concepts is named by captions;
    - concept: the number of its concept of greatest energy, real and generated; n_concepts: how many it has.
    """
    families = names["family"].to_numpy()
    summed = {source: family_energies(matrix, families) for source, matrix in energies.items()}
    total = sum(column_sums(matrix) for matrix in energies.values())
    table = pd.DataFrame({
        "family": np.arange(summed["real"].shape[1]), "concept": leading_concepts(families, total),
        "name": family_names(names["name"].tolist(), families),
    })  # fmt: skip
    on_captions = table["name"]
    if "name_from" in names:
        table["name_from"] = family_origins(names, len(table))
        on_captions = on_captions.where(table["name_from"] != "clip", "")
    scores = score_names(summed["real"], captions, on_captions.tolist(), analysis.seed)
    n_concepts = np.bincount(families, minlength=len(table))
    table = table.assign(name_lift=scores["lift"], name_r=scores["r"], n_concepts=n_concepts)
    table = table.assign(**source_columns("real", summed["real"]))
    columns = [model_columns(model, summed[model], summed["real"], analysis) for model in energies if model != "real"]
    return pd.concat([table, *(pd.DataFrame(each) for each in columns)], axis=1)


def family_origins(names: pd.DataFrame, n_families: int) -> np.ndarray:
    """Return where the name of each family comes from, (f,): "captions" if they name any of its concepts, else "clip", or ""."""
    origins = np.full(n_families, "", object)
    for origin in ("clip", "captions"):
        origins[names.loc[names["name_from"] == origin, "family"]] = origin
    return origins


def source_columns(source: str, matrix: sp.csr_matrix) -> dict[str, Any]:
    images = np.bincount(matrix.indices[matrix.data > 0], minlength=matrix.shape[1])
    return {f"n_images_{source}": images, f"energy_{source}": column_sums(matrix) / matrix.shape[0]}


def model_columns(model: str, generated: sp.csr_matrix, real: sp.csr_matrix, analysis: Analysis) -> dict[str, Any]:
    """Return the columns of one model M:

    - n_images_M, energy_M;
    - delta_M, low_M, high_M: delta(k) and its 95 % interval, for one concept that was chosen beforehand;
    - tested_M: whether it has enough energy to be tested; p_M, q_M, p_max_M: p-value, Benjamini-Hochberg's q-value and
      family-wise p-value of its difference;
    - shrunken_M, shrunken_low_M, shrunken_high_M: delta after shrinkage, with a 95 % interval that also holds for the most
      extreme concepts; lfsr_M, s_M: local false sign rate and s-value;
    - beyond_M: whether it is surely beyond the paper's threshold; call_M: "suppressed", "exaggerated", "aligned" or "unclear".
    """
    difference, calls = measure_difference(generated, real, analysis), make_calls(generated, real, analysis)
    return source_columns(model, generated) | {
        f"delta_{model}": difference.delta, f"low_{model}": difference.low, f"high_{model}": difference.high,
        f"tested_{model}": calls.tested, f"p_{model}": calls.p, f"q_{model}": calls.q, f"p_max_{model}": calls.p_max,
        f"shrunken_{model}": calls.shrunken, f"shrunken_low_{model}": calls.shrunken_low,
        f"shrunken_high_{model}": calls.shrunken_high, f"lfsr_{model}": calls.lfsr, f"s_{model}": calls.s_value,
        f"beyond_{model}": calls.beyond, f"call_{model}": calls.call,
    }  # fmt: skip
