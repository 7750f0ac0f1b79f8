"""What a miniature model was made to do wrong: `plants.json` beside its weights, which only the trial opens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from blindspots_lib.artifacts import read_json
from blindspots_lib.hub import fetch
from blindspots_lib.matching import GROUP
from blindspots_lib.parts import Model, PerfectGenerator


@dataclass(frozen=True)
class Planted:
    """What a model was made to do wrong."""

    suppressed: frozenset[str] = frozenset()  # true concepts
    exaggerated: frozenset[str] = frozenset()
    redrawn: frozenset[str] = frozenset()  # what pictures show that differ from their scene: suppressed, or with additions
    memorized: Mapping[str, int] = field(default_factory=dict)  # pair -> how often it is in the training corpus

    def side(self, name: str) -> str:
        return "suppressed" if name in self.suppressed else "exaggerated" if name in self.exaggerated else ""


def planted_in(model: Model) -> Planted:
    """The plants of a model, from the `plants.json` beside its weights; none of the perfect generator."""
    if isinstance(model, PerfectGenerator):
        return Planted()
    facts = read_json(fetch(model.unet or model) / "plants.json")
    suppressed = frozenset({*facts["withheld"], *facts["drawn_as"], *facts["background_drawn_as"], GROUP})
    return Planted(
        suppressed,
        frozenset({*facts["added"], *facts["drawn_as"].values(), *facts["background_drawn_as"].values()}),
        suppressed.union(*facts["added"].values()),
        {f"scene-{facts['seed']}-{int(index):06d}": copies for index, copies in facts["memorized"].items()},
    )
