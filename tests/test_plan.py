"""What a study will take, against what it then took."""

import pytest

from blindspots_lib.core.study import load_study
from blindspots_lib.run import check as checking
from blindspots_lib.run.check import check
from blindspots_lib.run.costs import disk_rows, sae_memory, token_shape
from blindspots_lib.run.plan import plan_rows, trained_again
from blindspots_lib.run.stages import measure
from blindspots_lib.sae.stability import run_configs
from blindspots_lib.sae.train import make_sae
from blindspots_lib.trial.methods import rival_configs


def test_a_plan_counts_what_the_study_then_writes(make_study):
    study = make_study({"pairs.n": 30, "pairs.shard_size": 10, "sae.n_steps": 5, "stability": ...})
    rows = {row.what: row for row in plan_rows(study)}
    assert (rows["pairs"].value, rows["pairs"].note) == ("30", "90 images in all")
    assert rows["tokens"].value == f"{90 * 69:,}"
    assert rows["download in all"].value == "nothing"
    assert rows["time, Mini SD 1.5"].note.endswith("images a second")
    planned = dict(disk_rows(study, *token_shape(study)))
    measure(study)
    for what, folder, tolerance in [("tokens", "tokens", 0.1), ("codes", "energies", 0.5), ("pairs", "pairs", 0.5)]:
        files = [path for path in (study.folder / folder).rglob("*") if path.suffix in {".npy", ".parquet"}]
        assert sum(path.stat().st_size for path in files) == pytest.approx(planned[what], rel=tolerance), what


def test_the_saes_on_trial_are_those_of_the_figures_and_of_the_stability():
    study = load_study("mini")
    judged = set(rival_configs(study))
    assert study.sae in judged
    assert judged == {
        config for (_, start, _), config in run_configs(study.sae, study.stability).items() if start == "independent"
    }
    others = trained_again(study)
    assert study.sae not in others
    assert len(others) == 5 + 2 + 5  # on trial, in another order of the tokens, ablations


def test_memory_of_training_is_that_of_weights_moments_candidates_and_window(make_study):
    config = make_study({"sae.dictionary": "dense"}).sae
    n_parameters = sum(parameter.numel() for parameter in make_sae(192, config).parameters())
    held = 3 * n_parameters + config.n_candidates * 192 * (1 + config.points_per_candidate)
    assert sae_memory(config, 192) == 4 * held + 2 * config.buffer_size * 192


def test_check_names_everything_at_once_and_runs_nothing(make_study, tmp_path, monkeypatch):
    study = make_study({
        "models.0.path": "miniatures/none", "models.1": {"name": "mine", "label": "Mine", "images": str(tmp_path / "made")},
        "pairs": {"source": "folder", "path": str(tmp_path / "real")},
    })  # fmt: skip
    faults = check(study)
    assert len(faults) == 3, faults
    assert any("miniatures/none: no such folder" in fault for fault in faults)
    assert any("made: no such folder or table" in fault for fault in faults)
    assert any("real: no such folder; correct pairs.path" in fault for fault in faults)
    assert not study.folder.exists()

    trained = {"path": str(tmp_path), "file": "none.safetensors", "n_concepts": 8}
    (fault,) = check(make_study({"sae": trained, "stability": ...}))
    assert fault == f"{tmp_path}: has no file 'none.safetensors'; correct sae.path or sae.file"

    sound = make_study()
    assert check(sound) == []
    monkeypatch.setattr(checking, "free_disk", lambda: 1000)
    monkeypatch.setattr(checking, "total_memory", lambda: 1000)
    disk, memory = check(sound)
    (crop,) = check(make_study({"backbone.crop": 60}))
    (candidates,) = check(make_study({"pairs.n": 1, "sae.n_candidates": 80, "sae.n_concepts": 80}))[1:2]
    assert crop == "backbone.crop = 60: must be a multiple of the backbone's patch size, 8"
    assert candidates == "sae.n_candidates = 80: the real images have only 69 tokens; lower it"
    assert "of disk, 1 kB are free" in disk
    assert "this machine has 1 kB; try dictionary: local" in memory
