"""Find the concepts that a text-to-image model suppresses, exaggerates or memorizes.

Eight rooms, each of which uses only those before it:

core      the study file, outputs on disk, the hub
data      where pairs (x, t) come from
models    generations x' = g(t); the backbone that turns images into tokens
sae       the sparse autoencoder: tokens to codes of concepts
analysis  energies, the energy difference delta(k), names, calls, what captions ask for, memorization
figures   charts, galleries, widgets and the report of finished results
trial     the instrument on trial, on models whose faults are known
run       the stages in order, the notebooks, the command line

What a reader's own notebook needs is exported here, and imported when it is first used.
"""

import importlib

__version__ = "0.2.0"

EXPORTS = {
    "load_study": "core.study",
    "generate": "run.stages", "extract_tokens": "run.stages", "train": "run.stages", "measure": "run.stages",
    "judge": "run.stages", "open_results": "run.stages", "open_stability": "run.stages",
    "energy_difference": "analysis.delta", "ratio_interval": "analysis.delta", "deltas_of_tested": "analysis.delta",
    "TopKSAE": "sae.model", "load_sae": "sae.model", "read_sae": "sae.formats", "ConceptExplorer": "figures.live",
}  # fmt: skip
__all__ = sorted(EXPORTS)


def __getattr__(name: str):
    if name not in EXPORTS:
        raise AttributeError(f"module 'blindspots_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"blindspots_lib.{EXPORTS[name]}"), name)
