"""Widgets whose front end asks the kernel: the way of their questions and answers, and the picture that stands for them.

Nothing of the data is kept in the notebook: a front end asks by messages and gets JSON with binary buffers back. A notebook that
is saved, converted or shown by a code host has a picture in the widget's place.
"""

import base64
import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anywidget
import numpy as np
import traitlets
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from blindspots_lib.analysis.results import Results
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.study import Study
from blindspots_lib.figures.explorer import FRONTEND, WEBP_QUALITY
from blindspots_lib.figures.explorer_data import TRAINING, training_image
from blindspots_lib.figures.style import add_footer

ARRAYS = {"float32": "Float32Array", "int32": "Int32Array", "uint8": "Uint8Array"}  # what the front end calls them
PICTURE_DPI, PICTURE_COLOURS = 80, 32  # 15 KB


class Answering(anywidget.AnyWidget):
    """A widget that answers the questions of its front end.

    What the kernel cannot answer is shown in the widget in one line and kept in `error`, where `make figures` finds it.
    """

    error = traitlets.Unicode("").tag(sync=True)

    def __init__(self, picture: bytes):
        self.picture, self.answering = picture, threading.Lock()  # messages may come in two threads
        super().__init__()
        self.on_msg(self.hear)

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a question asks for. Raises StudyError for a question that cannot be answered."""
        raise NotImplementedError

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

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**options)
        return {**data, "image/png": base64.b64encode(self.picture).decode()}, metadata


def front_end(file: str) -> str:
    """Return the text of a file of the front end."""
    return (FRONTEND / file).read_text(encoding="utf-8")


def script_of(*files: str) -> str:
    """Return a module of the front end that is made of several files."""
    return "\n".join(map(front_end, files))


def opened_again(results: Results) -> Results:
    """Return results that open images and codes for themselves: a front end may ask while a cell runs, in another thread."""
    again = replace(results)
    vars(again).update({name: value for name, value in vars(results).items() if name not in ("images", "codes")})
    return again


def unknown(question: Mapping[str, Any]) -> StudyError:
    asked = {name: value for name, value in question.items() if name != "id"}
    return StudyError(f"the front end asks what the kernel does not know: {asked}; reload the page")


def checked_position(kind: str, position: int, n: int) -> int:
    if not 0 <= position < n:
        raise StudyError(f"no {kind} {position}; they are numbered from 0 to {n - 1}")
    return position


def pair_thumbnail(results: Results, source: str, pair: int, side: int) -> dict[str, Any]:
    """Return the image of a pair in a source, or a training image by its number, `side` pixels a side."""
    if source == TRAINING:
        image = training_image(results, pair)
    elif source in results.images:
        image = results.images[source][results.pair_ids[checked_position("pair", pair, len(results.pair_ids))]]
    else:
        raise StudyError(f"no source {source!r}; this study has {', '.join(results.images)}")
    buffer = io.BytesIO()
    image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=WEBP_QUALITY)
    return {"image": np.frombuffer(buffer.getvalue(), np.uint8), "type": "image/webp"}


def packed(value: Any, buffers: list[memoryview]) -> Any:
    """Return a value as JSON holds it, its arrays moved to `buffers`; `unpacked` in kernel.js puts them in again."""
    match value:
        case np.ndarray():
            buffers.append(memoryview(np.ascontiguousarray(value)).cast("B"))
            return {"$array": ARRAYS[value.dtype.name], "buffer": len(buffers) - 1}
        case dict():
            return {key: packed(part, buffers) for key, part in value.items()}
        case list():
            return [packed(part, buffers) for part in value]
    return value


def small_picture(figure: Figure, study: Study, shows_images: bool) -> bytes:
    """Return a figure as a small PNG, and close it."""
    add_footer(figure, study, shows_images)
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PICTURE_DPI)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(PICTURE_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def one_line(error: Exception) -> str:
    """Return what an error says in one line, with its kind if it is not one of ours."""
    reason = next(iter(str(error).splitlines()), "")
    return reason if isinstance(error, StudyError) else f"{type(error).__name__}: {reason}"
