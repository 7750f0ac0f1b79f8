"""What a study will take, against what it then took; and what would stop it."""

import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest
from conftest import TRIAL

from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study
from blindspots_lib.data.images import encode_png
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
    assert rows["time, Mini SD 1.5"].note.endswith("images per second")
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
    (candidates,) = check(make_study({"pairs.n": 2, "sae.n_candidates": 160, "sae.n_concepts": 160}))[1:2]
    assert crop == "backbone.crop = 60: must be a multiple of the backbone's patch size, 8"
    assert candidates == "sae.n_candidates = 160: the real images have only 138 tokens; lower it"
    assert "of disk, 1 kB are free" in disk
    assert "this machine has 1 kB; try dictionary: local" in memory


def test_check_names_what_a_trial_lacks(make_study, tmp_path):
    assert check(make_study(TRIAL)) == []
    judges = {"oracle": {"path": "miniatures/none"}, "clip": {"path": "miniatures/weights/clip", "subfolder": "none"}}
    oracle, clip = check(make_study(TRIAL | {"validation": judges | {"seeds": [1, 2]}}))
    assert oracle.startswith(f"{PROJECT_ROOT}/miniatures/none: no such folder; correct the path in the study")
    assert clip == f"{PROJECT_ROOT}/miniatures/weights/clip/none: no such folder; correct subfolder in the study"
    model = tmp_path / "model"
    shutil.copytree(PROJECT_ROOT / "miniatures/weights/sd15", model, ignore=shutil.ignore_patterns("plants.json"))
    (fault,) = check(make_study(TRIAL | {"models.0.path": str(model)}))
    assert fault.startswith(f"{model}/plants.json: no such file; the trial needs models whose faults are known")
    assert check(make_study({"models.0.path": str(model)})) == []  # without a trial nobody asks for it


def folder_of_pairs(folder, n):
    """A folder of n images with their table; returns the study's part that names it."""
    folder.mkdir()
    for i in range(n):
        (folder / f"{i}.png").write_bytes(encode_png(np.full((64, 64, 3), i, np.uint8)))
    pd.DataFrame({"file_name": [f"{i}.png" for i in range(n)], "caption": "a dvd"}).to_csv(folder / "metadata.csv", index=False)
    return {"source": "folder", "path": str(folder)}


def test_check_names_a_missing_column_of_ids(make_study, tmp_path):
    pairs = folder_of_pairs(tmp_path / "real", 9)
    assert check(make_study({"pairs": pairs, "training_corpus": ...})) == []
    (fault,) = check(make_study({"pairs": pairs | {"id_column": "number"}, "training_corpus": ...}))
    assert fault == f"{tmp_path}/real/metadata.csv: no column 'number'; it has file_name, caption"


@pytest.mark.parametrize("source", ["scenes", "folder", "first of a folder", "webdataset"])
def test_check_names_a_single_pair(make_study, tmp_path, source):
    changes = {"pairs.n": 1}
    if source == "webdataset":
        with tarfile.open(tmp_path / "00000.tar", "w") as archive:
            archive.add(PROJECT_ROOT / "LICENSE", "1.txt")
        changes = {"pairs": {"source": "webdataset", "path": str(tmp_path), "n": 1}}
    elif source != "scenes":
        pairs = folder_of_pairs(tmp_path / "real", 3 if source == "first of a folder" else 1)
        changes = {"pairs": pairs | ({"n": 1} if source == "first of a folder" else {})}
    (fault,) = check(make_study(changes))
    assert fault == "pairs: 1 is too few; a study needs at least 2 pairs, so add some"
