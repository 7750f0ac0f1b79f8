"""The explorer in a notebook: a widget that shows the front end of `explorer` and answers what it asks.

Nothing of the data is kept in the notebook: the front end asks by messages and gets JSON with binary buffers back. A notebook
that is saved, converted or shown by a code host has a picture in the widget's place.
"""

import base64
import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import anywidget
import numpy as np
import scipy.sparse as sp
import traitlets
from matplotlib import pyplot as plt
from PIL import Image

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.errors import StudyError
from blindspots_lib.figures import explorer_data
from blindspots_lib.figures.answer_charts import plot_surest
from blindspots_lib.figures.explorer import FRONTEND, SCRIPTS, WEBP_QUALITY, thumb_side
from blindspots_lib.figures.style import REPLICA_NOTE, add_footer

ARRAYS = {"float32": "Float32Array", "int32": "Int32Array", "uint8": "Uint8Array"}  # what the front end calls them
STATE = (  # what `firstState` in selection.js begins with
    "view", "model", "second", "delta", "low", "high", "energy", "q", "top", "call", "shared", "images", "find", "region",
    "concept", "pair", "once", "opacity", "apart", "pairs", "words", "page",
)  # fmt: skip
PICTURE_DPI, PICTURE_COLOURS = 80, 32  # 15 KB


class ConceptExplorer(anywidget.AnyWidget):
    """Show the explorer of finished results: overview, concept cards, search, pairs.

    `state` is what is shown first, in the words of the front end: `ConceptExplorer(results, model="sd15", concept=12)`. Raises
    StudyError if the study has no such model or concept. What the kernel cannot answer is shown in the widget in one line
    and kept in `error`, where `make figures` finds it.
    """

    _esm = FRONTEND / "notebook.js"
    error = traitlets.Unicode("").tag(sync=True)

    def __init__(self, results: Results, **state: Any):
        self.source, self.answering = KernelSource(results), threading.Lock()  # messages may come in two threads
        self.state = checked_state(results, state)
        self.picture = picture_of(results)
        self.start = self.source.start()  # here, so that a fault stops the notebook
        super().__init__()
        self.on_msg(self.hear)

    def hear(self, _widget: object, message: Mapping[str, Any], _buffers: list) -> None:
        """Answer the questions of one message, those for images in the order in which they lie on disk."""
        for question in sorted(message["questions"], key=lambda asked: (asked.get("source", ""), asked.get("pair", 0))):
            reply, buffers = {"id": question["id"]}, []
            try:
                with self.answering:
                    reply["answer"] = packed(self.answer(question), buffers)
            except Exception as error:  # whatever it is, the reader sees it
                reply["error"] = self.error = one_line(error)
            self.send(reply, buffers)

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a question asks for: "start", "concept" with `k`, or "thumb" with `source` and `pair` (a position)."""
        match question:
            case {"ask": "start"}:
                code, style = "\n".join(map(front_end, SCRIPTS)), front_end("explorer.css")
                return {"code": code, "style": style, "state": self.state, **self.start}
            case {"ask": "concept", "k": int(concept)}:
                return self.source.concept(concept)
            case {"ask": "thumb", "source": str(source), "pair": int(pair)}:
                return self.source.thumb(source, pair)
        asked = {name: value for name, value in question.items() if name != "id"}
        raise StudyError(f"the explorer asks what the kernel does not know: {asked}; reload the page")

    def __repr__(self) -> str:
        return f"ConceptExplorer({self.source.results.study.name})"

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**options)
        return {**data, "image/png": base64.b64encode(self.picture).decode()}, metadata


def front_end(file: str) -> str:
    return (FRONTEND / file).read_text(encoding="utf-8")


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


def checked_position(kind: str, position: int, n: int) -> int:
    if not 0 <= position < n:
        raise StudyError(f"ConceptExplorer: no {kind} {position}; they are numbered from 0 to {n - 1}")
    return position


class KernelSource:
    """What the front end asks for, from results whose images and codes it opens for itself.

    A front end may ask while a cell runs; the kernel then answers in another thread.
    """

    def __init__(self, results: Results):
        self.results = replace(results)
        shared = {name: value for name, value in vars(results).items() if name not in ("images", "codes")}
        vars(self.results).update(shared)

    def start(self) -> dict[str, Any]:
        """Return all that the front end holds from the beginning: everything except heatmaps and images."""
        results, top = self.results, explorer_data.top_images(self.results.energies["real"].stats).positions
        note = REPLICA_NOTE if results.study.replica else ""
        return {
            "meta": {**explorer_data.explorer_meta(results), "thumb": self.side, "note": note},
            "tops": {"per_concept": top.shape[1], "pair": top.ravel().astype(np.int32)},
            "columns": explorer_data.concept_columns(results, results.places),
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

    def thumb(self, source: str, pair: int) -> dict[str, Any]:
        if source not in self.results.images:
            raise StudyError(f"ConceptExplorer: no source {source!r}; this study has {', '.join(self.results.images)}")
        image = self.results.images[source][self.results.pair_ids[checked_position("pair", pair, len(self.results.pair_ids))]]
        buffer = io.BytesIO()
        image.resize((self.side, self.side), Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=WEBP_QUALITY)
        return {"image": np.frombuffer(buffer.getvalue(), np.uint8), "type": "image/webp"}


def packed(value: Any, buffers: list[memoryview]) -> Any:
    """Return a value as JSON holds it, its arrays moved to `buffers`; `unpacked` in notebook.js puts them in again."""
    match value:
        case np.ndarray():
            buffers.append(memoryview(np.ascontiguousarray(value)).cast("B"))
            return {"$array": ARRAYS[value.dtype.name], "buffer": len(buffers) - 1}
        case dict():
            return {key: packed(part, buffers) for key, part in value.items()}
        case list():
            return [packed(part, buffers) for part in value]
    return value


def picture_of(results: Results) -> bytes:
    """Return the picture that stands for the explorer where no kernel runs: the surest families, as a small PNG."""
    figure, buffer = plot_surest(results.study, results.families), io.BytesIO()
    add_footer(figure, results.study, shows_images=False)
    figure.savefig(buffer, format="png", dpi=PICTURE_DPI)
    plt.close(figure)
    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(PICTURE_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def one_line(error: Exception) -> str:
    """Return what an error says in one line, with its kind if it is not one of ours."""
    reason = next(iter(str(error).splitlines()), "")
    return reason if isinstance(error, StudyError) else f"{type(error).__name__}: {reason}"
