"""The explorer in a notebook: a widget that shows the front end of `explorer` and answers what it asks."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.errors import StudyError
from blindspots_lib.figures import explorer_data
from blindspots_lib.figures.answer_charts import plot_surest
from blindspots_lib.figures.answering import (
    Answering,
    checked_position,
    front_end,
    opened_again,
    pair_thumbnail,
    script_of,
    small_picture,
    unknown,
)
from blindspots_lib.figures.explorer import SCRIPTS, thumb_side
from blindspots_lib.figures.style import REPLICA_NOTE

STATE = (  # what `firstState` in selection.js begins with
    "view", "model", "second", "delta", "low", "high", "energy", "q", "top", "call", "shared", "planted", "images", "find",
    "region", "concept", "pair", "once", "opacity", "apart", "pairs", "words", "page",
)  # fmt: skip


class ConceptExplorer(Answering):
    """Show the explorer of finished results: overview, concept cards, search, pairs.

    `state` is what is shown first, in the words of the front end: `ConceptExplorer(results, model="sd15", concept=12)`.
    `plants` says where faults were put on purpose (`Truth.planted_concepts`), which then can be chosen too.
    Raises StudyError if the study has no such model or concept.
    """

    _esm = script_of("kernel.js", "notebook.js")

    def __init__(self, results: Results, plants: explorer_data.Planted | None = None, **state: Any):
        self.source, self.state = KernelSource(results, plants), checked_state(results, state)
        self.start = self.source.start()  # here, so that a fault stops the notebook
        super().__init__(small_picture(plot_surest(results.study, results.families), results.study, shows_images=False))

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a question asks for.

        "start"; "definitions" (of energy); "concept" with `k`; "pair" (the concepts of its patches) and "thumb" (of a
        `source`) with `pair`, a position.
        """
        match question:
            case {"ask": "start"}:
                return {"code": script_of(*SCRIPTS), "style": front_end("explorer.css"), "state": self.state, **self.start}
            case {"ask": "definitions"}:
                return explorer_data.definition_deltas(self.source.results)
            case {"ask": "concept", "k": int(concept)}:
                return self.source.concept(concept)
            case {"ask": "pair", "pair": int(pair)}:
                results = self.source.results
                return explorer_data.pair_patches(results, checked_position("pair", pair, len(results.pair_ids)))
            case {"ask": "thumb", "source": str(source), "pair": int(pair)}:
                return pair_thumbnail(self.source.results, source, pair, self.source.side)
        raise unknown(question)

    def __repr__(self) -> str:
        return f"ConceptExplorer({self.source.results.study.name})"


def checked_state(results: Results, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of the front end. Raises StudyError for a word, model, concept or pair that there is not."""
    names = [model.name for model in results.study.models]
    if unknown := sorted(set(state) - set(STATE)):
        raise StudyError(f"ConceptExplorer: a state has no {unknown[0]!r}; it may have {', '.join(STATE)}")
    for key in ("model", "second"):
        if state.get(key, names[0]) not in names:
            raise StudyError(f"ConceptExplorer: no model {state[key]!r}; this study has {', '.join(names)}")
    for key, n in (("concept", len(results.concepts)), ("pair", len(results.pair_ids))):
        if state.get(key) is not None:
            checked_position(key, state[key], n)
    return dict(state)


class KernelSource:
    """What the front end asks for."""

    def __init__(self, results: Results, plants: explorer_data.Planted | None = None):
        self.results, self.plants = opened_again(results), plants

    def start(self) -> dict[str, Any]:
        """Return all that the front end holds from the beginning: everything except heatmaps and images."""
        results, top = self.results, explorer_data.top_images(self.results.energies["real"].stats).positions
        note = REPLICA_NOTE if results.study.replica else ""
        return {
            "meta": {**explorer_data.explorer_meta(results), "thumb": self.side, "note": note},
            "tops": {"per_concept": top.shape[1], "pair": top.ravel().astype(np.int32)},
            "columns": explorer_data.concept_columns(results, results.places, self.plants),
            "families": explorer_data.family_columns(results), "asked": explorer_data.asked_rows(results),
            "pairs": explorer_data.pair_columns(results),
        }  # fmt: skip

    @cached_property
    def side(self) -> int:
        return thumb_side(self.results)

    @cached_property
    def overlap(self) -> sp.csr_matrix:
        return self.results.energies["real"].stats.overlap()

    def concept(self, concept: int) -> dict[str, Any]:
        checked_position("concept", concept, len(self.results.concepts))
        found = explorer_data.concept_images(self.results, concept)
        top = {source: [{"pair": pair, "energy": energy, "heat": heat} for pair, energy, heat in images]
               for source, images in found.items()}  # fmt: skip
        others, overlaps = (row[0] for row in explorer_data.strongest_overlaps(self.overlap[[concept]]))
        together = [{"concept": int(other), "overlap": float(value)} for other, value in zip(others, overlaps, strict=True)]
        return {"top": top, "together": [row for row in together if row["concept"] >= 0]}
