import numpy as np
import pytest
from conftest import TRIAL, smoke_with

from blindspots_lib.core.study import load_study
from blindspots_lib.data.collect import collect_pairs
from blindspots_lib.models.perfect import draw_afresh
from blindspots_lib.trial.matching import NAMES, true_presence
from blindspots_lib.trial.metrics import concept_change
from blindspots_lib.trial.oracle import judge_images, open_verdicts
from blindspots_lib.trial.plants import planted_in


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Real and fresh draws of 150 scenes, judged: the study, its pairs, verdicts of both."""
    folder = tmp_path_factory.mktemp("oracle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLINDSPOTS_RUNS", str(folder / "runs"))
        changes = {"pairs.n": 150, "pairs.shard_size": 80, "models": [TRIAL["models.2"]], "validation": TRIAL["validation"]}
        file = folder / "study.yaml"
        file.write_text(smoke_with(changes))
        study = load_study(str(file))
        pairs = collect_pairs(study.workspace, study.pairs)
        drawn = draw_afresh(study.workspace, study.models[0], study.pairs, pairs)
        verdicts = [
            open_verdicts(judge_images(study.workspace, study.validation.oracle, name, images))
            for name, images in (("real", pairs), ("perfect", drawn))
        ]
        yield study, pairs, [of_source.of(NAMES) for of_source in verdicts]


def test_the_oracle_sees_what_is_there(judged):
    study, _, (real, _) = judged
    present = true_presence(study.pairs, np.arange(150), NAMES)
    assert ((real > 0.5) == present).mean() > 0.995


def test_the_perfect_generator_is_calibrated(judged):
    study, _, (real, fresh) = judged
    assert planted_in(study.models[0]).copies == {}
    assert np.abs(real.mean(axis=0) - fresh.mean(axis=0)).max() < 0.02
    frequent = real.mean(axis=0) > 0.05
    np.testing.assert_allclose(concept_change(fresh, real)[frequent], 0.5, atol=0.06)
