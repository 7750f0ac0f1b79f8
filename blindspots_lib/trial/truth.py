"""The ground truth of a study: what real images show, what was planted in the models, what the oracle sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from blindspots_lib.analysis.results import Results, Sources
from blindspots_lib.core.config import PerfectGenerator
from blindspots_lib.data.scene_pairs import are_public, caption_owners
from blindspots_lib.trial.matching import GROUP, GROUP_WORD, NAMES, match_concepts, true_presence
from blindspots_lib.trial.metrics import concept_change
from blindspots_lib.trial.oracle import open_verdicts
from blindspots_lib.trial.plants import Plants


@dataclass(frozen=True)
class Known:
    """What judges the answers of a method; the captions are the only part of it that the method is given."""

    captions: list[str]
    present: Bool[np.ndarray, "pairs names"]  # which ground-truth concepts the real images show
    sides: Mapping[str, pd.Series]  # where each was planted, per model
    change: Mapping[str, pd.Series]  # true change of each, per model
    shown: Mapping[str, Bool[np.ndarray, "pairs names"]]  # what the images of each source show, by the oracle
    perfect: frozenset[str]  # models without faults


@dataclass(frozen=True)
class Truth:
    """Everything that the trial knows and the instrument does not."""

    results: Results
    plants: Mapping[str, Plants]  # of each model
    verdicts_of: Sources  # the oracle's verdicts on each source

    @cached_property
    def present(self) -> Bool[np.ndarray, "pairs names"]:
        """Which ground-truth concepts the real images show."""
        return true_presence(self.results.study.pairs, self.results.rows["real"], NAMES)

    @cached_property
    def named(self) -> Bool[np.ndarray, "pairs names"]:
        """Which ground-truth concepts the captions name: those of another pair where captions are noise."""
        owners = caption_owners(self.results.study.pairs)[self.results.rows["real"]]
        return true_presence(self.results.study.pairs, owners, NAMES)

    @cached_property
    def public(self) -> Bool[np.ndarray, "pairs"]:
        """Which pairs the models may have been trained on."""
        return are_public(self.results.study.pairs, self.results.rows["real"])

    @cached_property
    def noisy(self) -> Bool[np.ndarray, "pairs"]:
        """Which pairs carry the caption of another."""
        rows = self.results.rows["real"]
        return caption_owners(self.results.study.pairs)[rows] != rows

    @cached_property
    def sides(self) -> dict[str, pd.Series]:
        """For each model the side on which each ground-truth concept was planted, "" for none."""
        return {model: pd.Series({name: plants.side(name) for name in NAMES}) for model, plants in self.plants.items()}

    @cached_property
    def planted_words(self) -> dict[str, dict[str, str]]:
        """For each model the words of what was planted, with its side."""
        return {
            model: {GROUP_WORD if name == GROUP else name: side for name, side in sides[sides != ""].items()}
            for model, sides in self.sides.items()
        }

    @cached_property
    def planted_concepts(self) -> dict[str, list[str]]:
        """For each model and concept of the SAE, the side on which what it is matched to was planted, "" for none."""
        truth = match_concepts(self.results.matrices["real"], self.present).truth
        return {model: [sides.iloc[at] if at >= 0 else "" for at in truth] for model, sides in self.sides.items()}

    @cached_property
    def verdicts(self) -> dict[str, Float[np.ndarray, "pairs names"]]:
        """The oracle's probability of every ground-truth concept in every image."""
        rows = self.results.rows
        return {source: open_verdicts(artifact).of(NAMES)[rows[source]] for source, artifact in self.verdicts_of.items()}

    @cached_property
    def change(self) -> dict[str, pd.Series]:
        """The true change of frequency of every ground-truth concept, by the oracle: f' / (f + f')."""
        real = self.verdicts["real"]
        return {model: pd.Series(concept_change(self.verdicts[model], real), index=NAMES) for model in self.plants}

    @cached_property
    def copies(self) -> dict[str, Mapping[str, int]]:
        """Number of copies of each pair in a model's training corpus; if it has none, in any other's (for chance level)."""
        of_any = {pair: copies for plants in self.plants.values() for pair, copies in plants.copies.items()}
        return {model: plants.copies or of_any for model, plants in self.plants.items()}

    @cached_property
    def untouched(self) -> dict[str, Bool[np.ndarray, "pairs"]]:
        """For each model the pairs that show nothing that it was trained to draw otherwise; all copied pairs are among them."""
        redrawn = {model: np.isin(NAMES, list(plants.redrawn)) for model, plants in self.plants.items()}
        return {model: ~self.present[:, names].any(axis=1) for model, names in redrawn.items()}

    @cached_property
    def known(self) -> Known:
        """What judges the answers."""
        perfect = frozenset(model.name for model in self.results.study.of_kind(PerfectGenerator))
        shown = {source: verdicts > 0.5 for source, verdicts in self.verdicts.items()}
        return Known(self.results.captions, self.present, self.sides, self.change, shown, perfect)
