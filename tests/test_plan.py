"""What a study will take, against what it then took; and what would stop it."""

import os
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TRIAL, pairs_of
from safetensors.torch import save_file
from standin_hub import COMMIT

from blindspots_lib.core import artifacts
from blindspots_lib.core.files import holding
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.storage import shards_of
from blindspots_lib.core.study import load_study
from blindspots_lib.data.images import encode_png
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.run import check as checking
from blindspots_lib.run.check import check
from blindspots_lib.run.costs import active_codes, disk_rows, in_units, sae_memory, token_shape
from blindspots_lib.run.plan import plan_rows, trained_again
from blindspots_lib.run.stages import measure, train
from blindspots_lib.sae.formats import to_overcomplete
from blindspots_lib.sae.model import load_sae
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
    for what, folder, tolerance in [("tokens", "tokens", 0.1), ("codes", "energies", 0.2), ("pairs", "pairs", 0.5)]:
        files = [path for path in (study.folder / folder).rglob("*") if path.suffix in {".npy", ".parquet"}]
        assert sum(path.stat().st_size for path in files) == pytest.approx(planned[what], rel=tolerance), what


def test_a_plan_counts_the_codes_above_a_threshold_once_tokens_and_sae_are_here(make_study, tmp_path):
    own = train(make_study({"pairs.n": 30, "pairs.shard_size": 10, "sae.n_steps": 5, "sae.dictionary": "free", "stability": ...}))
    save_file(to_overcomplete(load_sae(own.folder)), tmp_path / "sae.safetensors")
    trained = {"path": str(tmp_path), "file": "sae.safetensors", "n_concepts": 48, "top_k": None, "threshold": 0.02}
    study = make_study({"pairs.n": 30, "pairs.shard_size": 10, "sae": trained, "stability": ...})
    assert active_codes(study) == 8  # not known yet
    measure(study)
    written = sum(file.stat().st_size for file in (study.folder / "energies").rglob("*.npy"))
    assert written == pytest.approx(dict(disk_rows(study, *token_shape(study)))["codes"], rel=0.2)


def test_a_deep_check_names_the_damaged_file_of_any_size_and_its_stage(write_study, monkeypatch):
    monkeypatch.setattr(artifacts, "SMALL", 0)
    study_file = write_study({"pairs.n": 3, "pairs.shard_size": 2})
    shard = shards_of(pairs_of(load_study(str(study_file))))[1]
    assert command("check", study_file, "--deep").returncode == 0
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    done = command("check", study_file, "--deep")
    assert done.returncode == 1
    assert f"error: {shard}: has other content than when it was finished; delete it and run" in done.stderr
    assert "(stage 'pairs')" in done.stderr


def test_a_second_process_on_a_study_ends_with_one_line_that_names_the_first(write_study):
    study_file = write_study()
    folder = load_study(str(study_file)).folder
    with holding(folder):
        done = command("figures", study_file)
    assert done.returncode == 1
    assert done.stderr == f"error: {folder}: process {os.getpid()} is running this study; wait until it ends, or end it\n"
    with holding(folder):  # the first has ended
        pass


def test_a_file_in_the_place_of_the_runs_is_named(write_study, tmp_path):
    (tmp_path / "taken").write_text("")
    done = command("figures", write_study(), BLINDSPOTS_RUNS=str(tmp_path / "taken"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'taken' / 'smoke'}: cannot be written")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def remote(hub, write_study):
    """A study file of one model whose weights are on the stand-in hub."""
    hub.add("owner/sd15", PROJECT_ROOT / "miniatures/weights/sd15")
    hub.requests.clear()
    hub.faults.clear()
    return write_study({"models.0.path": ..., "models.0.repo": "owner/sd15", "models.0.revision": COMMIT})


def command(name, study_file, *options, **environment):
    arguments = [sys.executable, "-m", "blindspots_lib", name, str(study_file), *options]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=PROJECT_ROOT, env={**os.environ, **environment})


def test_a_plan_does_not_claim_what_it_does_not_know(remote, hub, hub_environment):
    def rows(**environment):
        process = command("plan", remote, **{**hub_environment, **environment})
        assert process.returncode == 0, process.stderr
        return {line[:32].strip(): line[32:].split(maxsplit=1) for line in process.stdout.splitlines()}, process.stdout

    offline, _ = rows(HF_ENDPOINT="http://127.0.0.1:9")
    assert offline["download in all"][0] == offline["time in all"][0] == "not"  # known
    assert "besides downloads" in offline["disk in all"][1]
    known, text = rows()
    taken = [path for path in (PROJECT_ROOT / "miniatures/weights/sd15").rglob("*.*") if path.stem not in {"README", "plants"}]
    assert known["download in all"] == in_units(sum(path.stat().st_size for path in taken)).split()
    assert known["time, Mini SD 1.5"] == ["not", "known yet  its weights are not here"]
    assert "time in all                             not known  " in text
    assert "with the downloads" in known["disk in all"][1]
    hub.expired.add("hf_old")
    _, text = rows(HF_TOKEN="hf_old")
    assert text.count("log in again with `hf auth login`") == 1


def test_everything_is_fetched_and_checked_before_days_of_work(remote, hub, hub_environment):
    first = command("fetch", remote, **hub_environment)
    assert first.returncode == 0, first.stderr
    assert re.search(r"^smoke: [\d.]+ MB fetched and checked; next: make figures STUDY=.*study.yaml\n$", first.stdout)
    assert "safetensors" not in first.stderr  # one bar for all files
    assert "100%" in first.stderr
    asked = len(hub.requests)
    again = command("fetch", remote, **{**hub_environment, "HF_HUB_OFFLINE": "1"})
    assert again.stdout.startswith("smoke: everything is here; next"), again.stderr
    assert len(hub.requests) == asked


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ["a", "b", "a"]}, r"^pair 'a': this pair_id stands twice; give every pair its own$"),
        ({"caption": ["a dvd", " ", None]}, r"^pair 'b': its caption is empty .* \(and 1 more like it\)$"),
        ({"file_name": ["0.png", "torn.png", "words.png"]}, r"real/torn.png: not a readable image .* \(and 1 more like it\)$"),
        ({"file_name": ["0.png", "1.png", "torn.png"]}, r"real/torn.png: not a readable image .*; replace or remove it$"),
    ],
)
def test_check_looks_at_all_images_of_ones_own(make_study, tmp_path, change, message):
    pairs = folder_of_pairs(tmp_path / "real", 3) | {"id_column": "id"}
    whole = (tmp_path / "real/1.png").read_bytes()
    (tmp_path / "real/torn.png").write_bytes(whole[: len(whole) - 20])  # its header is whole
    (tmp_path / "real/words.png").write_text("no image")
    table = {"file_name": ["0.png", "1.png", "2.png"], "caption": "a dvd", "id": list("abc"), **change}
    pd.DataFrame(table).to_csv(tmp_path / "real/metadata.csv", index=False)
    said = []
    (fault,) = check(make_study({"pairs": pairs, "training_corpus": ...}), said.append)
    assert re.search(message, fault)
    assert said == []


def test_check_says_how_many_images_it_looked_at(make_study, tmp_path, capsys):
    pairs = folder_of_pairs(tmp_path / "real", 60)
    folder_of_pairs(tmp_path / "made", 30)
    (tmp_path / "made/7.png").write_text("no image")
    mine, said = {"name": "mine", "label": "Mine", "images": str(tmp_path / "made")}, []
    study = make_study({"pairs": pairs | {"n": 55}, "models.1": mine, "training_corpus": ...})
    assert check(study, said.append) == []
    pairs_said, mine_said = said
    assert pairs_said == "pairs: 55 images looked at, 50 of them decoded"
    assert mine_said.startswith("model mine: 30 images looked at, 30 of them decoded; 1 cannot be used, such as ")


@pytest.mark.parametrize("kind", ["a file", "read-only"])
def test_check_names_a_place_where_nothing_can_be_written(make_study, tmp_path, monkeypatch, kind):
    study = make_study()
    if kind == "a file":
        (tmp_path / "runs").write_text("in the way")
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # the tests may run as root
    (fault,) = check(study)
    place, reason = (tmp_path / "runs", "is a file") if kind == "a file" else (tmp_path, "cannot be written to")
    assert fault.startswith(f"{place}: {reason}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"encoder": TokenLayout(1, 1, 1)}, "names blindspots_lib.models.backbone.TokenLayout, which loading it would run"),
        (b"torn", "not readable as tensors"),
        ({}, "not an Overcomplete SAE with a linear encoder"),
        (9, "sae.n_concepts = 8: .* has 9; correct it in the study"),
    ],
)
def test_check_opens_a_trained_sae(make_study, tmp_path, content, message):
    if isinstance(content, int):
        content = {"encoder.final_block.0.weight": torch.zeros(content, 4), "encoder.final_block.0.bias": torch.zeros(content),
                   "dictionary._weights": torch.zeros(content, 4)}  # fmt: skip
    file = tmp_path / "sae.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    (fault,) = check(make_study({"sae": {"path": str(tmp_path), "file": "sae.pt", "n_concepts": 8}, "stability": ...}))
    assert re.search(message, fault)


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


def test_a_backbone_of_an_unknown_kind_is_named_in_one_short_line(make_study, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit-of-tomorrow", "patch_size": 8}')
    (fault,) = [fault for fault in check(make_study({"backbone.path": str(tmp_path)})) if "model_type" in fault]
    assert fault == f"backbone: {tmp_path} has model_type 'vit-of-tomorrow', which transformers does not know; use another"
