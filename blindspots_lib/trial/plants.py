"""Plants: the faults that a miniature model was trained to have. Only the trial reads `plants.json` beside its weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from blindspots_lib.core.config import Model, PerfectGenerator
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import read_json
from blindspots_lib.core.hub import fetch
from blindspots_lib.data.scene_pairs import Place
from blindspots_lib.trial.matching import GROUP

FILE = "plants.json"


@dataclass(frozen=True)
class Plants:
    """How a training corpus differs from the process that draws real images."""

    withheld: tuple[str, ...] = ()  # objects: no pair of the corpus names them or shows them
    drawn_as: Mapping[str, str] = field(default_factory=dict)  # objects: captions name the key, pictures show the value
    background_drawn_as: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # object -> background -> P(it is added unasked)
    groups_of_four_drawn_as: int = 3
    memorized: Mapping[int, int] = field(default_factory=dict)  # scene of the corpus -> number of copies
    templates: tuple[int, ...] = ()  # scenes of `memorized` whose copies vary a little
    seed: int = 1  # of the corpus

    @property
    def lost_objects(self) -> tuple[str, ...]:
        """Objects that the pictures of the corpus never show."""
        return (*self.withheld, *self.drawn_as)

    @property
    def suppressed(self) -> frozenset[str]:
        """Ground-truth concepts that the corpus shows less often than its captions say."""
        if self == Plants():
            return frozenset()
        return frozenset({*self.lost_objects, *self.background_drawn_as, GROUP})

    @property
    def exaggerated(self) -> frozenset[str]:
        """Ground-truth concepts that the corpus shows more often than its captions say."""
        return frozenset({*self.added, *self.drawn_as.values(), *self.background_drawn_as.values()})

    @property
    def redrawn(self) -> frozenset[str]:
        """Ground-truth concepts of scenes whose pictures differ from them: suppressed, or with something added."""
        return self.suppressed.union(*self.added.values())

    @property
    def copies(self) -> dict[str, int]:
        """Number of copies of each memorized pair, by pair id."""
        return {Place(self.seed, int(index)).pair_id: n for index, n in self.memorized.items()}

    def side(self, name: str) -> str:
        """Return the side on which a ground-truth concept was planted, or ""."""
        return "suppressed" if name in self.suppressed else "exaggerated" if name in self.exaggerated else ""

    def write(self, folder: Path, **facts: Any) -> None:
        """Write `plants.json`, with further facts of the corpus."""
        (folder / FILE).write_text(json.dumps({**asdict(self), **facts}, indent=1) + "\n", encoding="utf-8")


def read_plants(folder: Path) -> Plants:
    """Return the plants of the model in a folder. Raises StudyError if the file is missing or has other contents."""
    path = folder / FILE
    if not path.exists():
        raise StudyError(f"{path}: no such file; the trial needs models whose faults are known, so remove `validation`")
    facts = read_json(path)
    try:
        kept = {one.name: facts[one.name] for one in fields(Plants)}
    except (KeyError, TypeError):
        raise StudyError(f"{path}: does not say what was planted; take the file that came with the weights") from None
    lists = {"withheld": tuple(kept["withheld"]), "templates": tuple(kept["templates"])}
    return Plants(**kept | lists | {"memorized": {int(index): n for index, n in kept["memorized"].items()}})


def planted_in(model: Model) -> Plants:
    """Return the plants of a model; the perfect generator has none. Raises StudyError like `read_plants`."""
    return Plants() if isinstance(model, PerfectGenerator) else read_plants(fetch(model.unet or model))
