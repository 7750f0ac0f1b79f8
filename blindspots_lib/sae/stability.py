"""Does another training find the same concepts? SAEs are trained again, from the same start and from independent starts.

*Stability*: the same k-means candidates, another order of the tokens. *Stabilization*: other k-means candidates too. The
archetypal constraint is reported to make SAEs stable (arXiv 2502.12892), and that effect to come from the shared start
("Ablating Archetypes", 2026). So both are measured, with and without the constraint, and compared with the untrained
candidates of independent k-means.
"""

import itertools
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from blindspots_lib.core.artifacts import Artifact, Workspace
from blindspots_lib.core.config import SAEConfig, Stability
from blindspots_lib.models.tokens import TokenSource
from blindspots_lib.sae.metrics import coherence, effective_rank, hull_distance, match_atoms, measure_coding
from blindspots_lib.sae.model import TopKSAE, load_sae
from blindspots_lib.sae.train import fit_saes

SAMPLE = 20_000  # tokens on which active concepts and reconstruction are measured
HULL_SAMPLE = 64  # atoms whose distance from the hull is measured
ALIKE = 0.9  # least cosine at which two atoms count as the same concept


class Run(NamedTuple):
    """One trained SAE; run 0 is the same for both starts."""

    kind: str
    start: str
    number: int
    artifact: Artifact


def run_configs(own: SAEConfig, stability: Stability) -> dict[tuple[str, str, int], SAEConfig]:
    """Return the configuration of every SAE to compare, by (kind, start, number): the study's own with other seeds."""
    kinds = {"RA-SAE": "dense" if own.dictionary == "free" else own.dictionary, "TopK": "free"}
    n_runs = {"same": stability.n_orders, "independent": stability.n_starts}
    return {
        (kind, start, run): own.model_copy(update={
            "dictionary": dictionary, "seed": own.seed + run,
            "kmeans_seed": own.kmeans_seed + (run if start == "independent" else 0),
        })
        for (kind, dictionary), start in itertools.product(kinds.items(), n_runs)
        for run in range(n_runs[start])
    }  # fmt: skip


def train_runs(workspace: Workspace, tokens: TokenSource, own: SAEConfig, stability: Stability) -> list[Run]:
    """Train the SAEs to compare, unless they are there already."""
    configs = run_configs(own, stability)
    trained = fit_saes(workspace, tokens, configs.values())
    return [Run(*run, trained[config]) for run, config in configs.items()]


def compare_runs(sample: Float[Tensor, "n d"], runs: list[Run]) -> pd.DataFrame:
    """Compare each two runs of the same kind and start: one row per pair of runs, with the cosines of their matched atoms."""
    rows = []
    for (kind, start), some in itertools.groupby(runs, key=lambda run: (run.kind, run.start)):
        saes = [load_sae(run.artifact.folder) for run in some]
        compared = {kind: [active_atoms(sae, sample) for sae in saes]}
        if (kind, start) == ("RA-SAE", "independent"):
            compared["k-means"] = [sae.dictionary.candidates for sae in saes]
        for name, atoms in compared.items():
            for first, second in itertools.combinations(range(len(atoms)), 2):
                cosines = match_atoms(atoms[first], atoms[second])
                rows.append({
                    "kind": name, "start": start, "first": first, "second": second, "n_matched": len(cosines),
                    "mean_cosine": float(cosines.mean()), "share_alike": float((cosines >= ALIKE).mean()),
                })  # fmt: skip
    return pd.DataFrame(rows)


def active_atoms(sae: TopKSAE, sample: Float[Tensor, "n d"]) -> Float[Tensor, "u d"]:
    """Return the atoms of concepts that fire on the sample; dead ones stay at their start and would look stable."""
    return sae.dictionary.atoms().detach()[measure_coding(sae, sample).fires]


def describe_runs(sample: Float[Tensor, "n d"], runs: list[Run]) -> pd.DataFrame:
    """Describe every trained SAE: one row each, with the measures of `describe_sae`."""
    started = {(run.start, run.number): run.artifact.folder for run in runs if run.kind == "RA-SAE"}
    described, rows = {}, []
    for run in runs:
        folder = run.artifact.folder
        if folder not in described:  # run 0 of both starts is the same
            candidates = load_sae(started[run.start, run.number]).dictionary.candidates
            described[folder] = describe_sae(load_sae(folder), sample, candidates)
        rows.append({"kind": run.kind, "start": run.start, "run": run.number} | described[folder])
    return pd.DataFrame(rows)


def describe_sae(sae: TopKSAE, sample: Float[Tensor, "n d"], candidates: Float[Tensor, "c d"]) -> dict[str, float]:
    """Measure one SAE. `hull_distance` is the median over some atoms, from the hull of `candidates`, in mean atom lengths."""
    coding = measure_coding(sae, sample)
    atoms = sae.dictionary.atoms().detach()[coding.fires]
    chosen = atoms[torch.randperm(len(atoms), generator=torch.Generator().manual_seed(0))[:HULL_SAMPLE]]
    return {
        "r2": coding.r2, "l0": coding.l0, "dead_share": coding.dead_share, "code_energy": coding.code_energy,
        "coherence": coherence(atoms).median().item(), "effective_rank": effective_rank(atoms),
        "hull_distance": (hull_distance(chosen, candidates).median() / atoms.norm(dim=1).mean()).item(),
    }  # fmt: skip
