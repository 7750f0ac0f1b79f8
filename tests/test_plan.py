"""What a study will take, against what it then took; and what would stop it."""

import io
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
from PIL import Image
from safetensors.torch import save_file
from standin_hub import COMMIT

from blindspots_lib.core import artifacts
from blindspots_lib.core.artifacts import HEADER
from blindspots_lib.core.files import holding
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.storage import shards_of
from blindspots_lib.core.study import load_study
from blindspots_lib.data.images import encode_png
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.run import check as checking
from blindspots_lib.run import published_speeds
from blindspots_lib.run.check import check
from blindspots_lib.run.costs import in_units, sae_memory, token_shape, trained_again
from blindspots_lib.run.disk import bytes_here, disk_rows
from blindspots_lib.run.gpu_memory import gpu_rows, need_of
from blindspots_lib.run.plan import plan_rows
from blindspots_lib.run.published_speeds import SPEEDS, first_guess, seconds_by_gpu
from blindspots_lib.run.stages import measure, train
from blindspots_lib.run.times import image_task, tasks_of
from blindspots_lib.sae.model import load_sae
from blindspots_lib.sae.overcomplete import to_overcomplete
from blindspots_lib.sae.stability import run_configs
from blindspots_lib.sae.train import make_sae
from blindspots_lib.trial.methods import rival_configs


def bytes_in(*folders):
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != HEADER)


def test_a_plan_counts_what_the_study_then_writes(make_study):
    study = make_study({"pairs.n": 30, "pairs.shard_size": 10, "sae.n_steps": 5, "stability": ...})
    rows = {row.what: row for row in plan_rows(study)}
    assert (rows["pairs"].value, rows["pairs"].note) == ("30", "90 images in all")
    assert rows["tokens"].value == f"{90 * 69:,}"
    assert rows["download in all"].value == "nothing"
    assert rows["time, Mini SD 1.5"].note.endswith("images per second")
    assert rows["time, codes and tables"].note == "tables and map by a first guess: 1 s"  # 30 pairs, 2 models, 48 concepts
    planned = {row.what: row.size for row in disk_rows(study, *token_shape(study))}
    measure(study)
    for what, folder, tolerance in [("tokens", "tokens", 0.1), ("codes", "energies", 0.3), ("pairs", "pairs", 0.2)]:
        assert bytes_in(study.folder / folder) == pytest.approx(planned[what], rel=tolerance), what
    rows = {row.what: row for row in plan_rows(study)}
    for what in ("Mini SD 1.5", "Mini PixArt", "tokens"):
        assert (rows[f"time, {what}"].value, rows[f"time, {what}"].note) == ("0 s", "finished"), what
    assert rows["time, SAE"].value == rows["time, codes and tables"].value == "0 s"
    assert rows["disk, generations"].note == "as written"


def photograph(side, detail, rng):
    """An image of 4 : 3 with `detail` patches along its short side, and noise."""
    patches = Image.fromarray(rng.integers(0, 255, (detail, detail * 4 // 3, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((side * 4 // 3, side), Image.Resampling.BICUBIC), float)
    return Image.fromarray((smooth + rng.normal(0, 5, (side, side * 4 // 3, 1))).clip(0, 255).astype(np.uint8))


def test_disk_is_what_a_study_of_photographs_then_takes(make_study, tmp_path):
    """Half of the photographs are larger than they are stored, none of two is equally large, and most of the codes vary."""
    rng = np.random.default_rng(0)
    for folder, suffixes in (("real", ["jpg"]), ("made", ["png", "jpg"])):
        (tmp_path / folder).mkdir()
        for i in range(120):
            file = tmp_path / folder / f"{i}.{suffixes[i % len(suffixes)]}"
            photograph(64 * (1 + i % 2), (4, 8, 16, 32)[i % 4], rng).save(file, quality=90)
    names = [f"{i}.jpg" for i in range(120)]
    pd.DataFrame({"file_name": names, "caption": names}).to_csv(tmp_path / "real" / "metadata.csv", index=False)
    study = make_study({
        "pairs": {"source": "folder", "path": str(tmp_path / "real"), "store_side": 64, "shard_size": 40}, "stability": ...,
        "training_corpus": ..., "sae.n_steps": 5, "sae.n_concepts": 256, "sae.n_candidates": 64,
        "models": [{"name": "mine", "label": "Mine", "images": str(tmp_path / "made"), "store_side": 64}],
    })  # fmt: skip
    shape = token_shape(study)
    before = sum(row.size for row in disk_rows(study, *shape))
    measure(study)
    assert bytes_in(study.folder) == pytest.approx(before, rel=0.15)
    rows = disk_rows(study, *shape)
    assert bytes_in(study.folder) == pytest.approx(sum(row.size for row in rows), rel=0.05)
    counted = [study.folder / name for name in ("pairs", "generations", "tokens", "energies")]
    assert bytes_here(study) == pytest.approx(bytes_in(*counted) + bytes_in(study.folder / "saes"), rel=0.01)


def test_tokens_that_are_not_kept_are_counted_where_they_are_read(make_study):
    """Of 10 pairs and two models: 30 images for the energies, 10 twice more for the SAE's errors, once more for a training."""
    corpus = {"sae.corpus": {"source": "scenes", "seed": 12, "n": 40}}
    computed = {"pairs.n": 10, "backbone.keep_tokens": False, "stability": ...}
    studies = [make_study(changes) for changes in (computed | {"backbone.keep_tokens": True}, computed, computed | corpus)]
    tasks = [{task.what: task for task in tasks_of(study, 192)} for study in studies]
    assert [of_study["tokens"].notebook for of_study in tasks] == ["02_dinov2_features", *["03_rasae_training"] * 2]
    numbers = [task["tokens"].seconds * float(task["tokens"].note.split()[0]) for task in tasks]
    assert numbers == pytest.approx([30, 60, 50], rel=0.06)  # the note has two digits


def test_what_settings_have_outdated_takes_disk_too(make_study):
    changes = {"pairs.n": 4, "pairs.shard_size": 2, "models.0.batch_size": 2}
    study = make_study(changes)
    pairs = pairs_of(study)
    size = bytes_in(pairs.folder)
    study = make_study(changes | {"pairs.seed": 12})
    rows = {row.what: row for row in disk_rows(study, *token_shape(study))}
    assert rows["set aside"].size == size
    pairs_of(study)
    assert {row.what: row.size for row in disk_rows(study, *token_shape(study))}["set aside"] == bytes_in(
        study.folder / "superseded"
    )


def test_a_plan_counts_the_codes_above_a_threshold_once_tokens_and_sae_are_here(make_study, tmp_path):
    own = train(make_study({"pairs.n": 30, "pairs.shard_size": 10, "sae.n_steps": 5, "sae.dictionary": "free", "stability": ...}))
    save_file(to_overcomplete(load_sae(own.folder)), tmp_path / "sae.safetensors")
    trained = {"path": str(tmp_path), "file": "sae.safetensors", "n_concepts": 48, "top_k": None, "threshold": 0.02,
               "normalization": "identity"}  # fmt: skip
    study = make_study({"pairs.n": 30, "pairs.shard_size": 10, "sae": trained, "stability": ...})
    shape = token_shape(study)
    assert {row.what: row.how for row in disk_rows(study, *shape)}["codes"] == "a first guess"
    train(study)
    planned = {row.what: row for row in disk_rows(study, *shape)}
    assert planned["codes"].how == planned["statistics"].how == "by some real images"
    measure(study)
    for what, folder in (("codes", "energies"), ("statistics", "statistics")):
        assert bytes_in(study.folder / folder) == pytest.approx(planned[what].size, rel=0.2), what


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


def test_a_first_guess_is_given_per_kind_of_gpu_for_networks_that_others_measured(monkeypatch):
    """10,000 images of 50 steps, 4 x 11.6 of which an A100 does per second: 3.0 hours. Other sizes count by their pixels."""
    models = {model.name: model for model in load_study("paper").pipelines}
    assert seconds_by_gpu(models["sd15"])["A100"] == pytest.approx(50 / 46.4)
    assert seconds_by_gpu(models["sd15-dpo"]) == seconds_by_gpu(models["sd15"])
    schnell = models["sd15"].model_copy(update={"repo": "black-forest-labs/FLUX.1-schnell", "steps": 4})
    assert seconds_by_gpu(schnell) == {"L40S": pytest.approx(4 * 8.71 / 50)}
    large = models["sd21"].model_copy(update={"image_size": 1024})
    assert seconds_by_gpu(large)["P100"] == pytest.approx(4 * seconds_by_gpu(models["sd21"])["P100"])
    assert all(len(seconds_by_gpu(model)) >= 2 for model in models.values())
    task = image_task(
        "PixArt", "01_generation", 10_000, [models["pixart"]], "its", lambda: 1.0, first_guess(models["pixart"], 10_000)
    )
    assert task.seconds is None
    assert task.note == (
        "its weights are not here; a first guess, from others' measurements: 86 min on one A100, 25.1 h on one P100"
    )
    monkeypatch.setattr(published_speeds, "gpu_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert first_guess(models["pixart"], 10_000) == "a first guess, from others' measurements: 86 min on one A100"
    assert "A10," in first_guess(models["kandinsky"], 10), "an A100 is no A10"
    assert first_guess(models["pixart"].model_copy(update={"repo": "owner/other"}), 10) == ""


def test_a_plan_says_what_gpu_a_model_needs(tmp_path, monkeypatch, make_study):
    """The fp16 variant has parts of 1.5 and, for want of one, 1 kB; a GPU needs 1.3 times that."""
    for path, size in {
        "unet/model.safetensors": 3000,
        "unet/model.fp16.safetensors": 1500,
        "vae/model.safetensors": 1000,
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(bytes(size))
    study = make_study({"models.0.path": str(tmp_path), "models.0.variant": "fp16"})
    assert need_of(study.models[0]) == (2500, 1500)
    ((label, sizes, note), *_) = gpu_rows(study)
    assert (label, sizes, note) == (study.models[0].label, "3.25 kB; part by part 1.95 kB", "as stored; there is no GPU here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ways = {4000: "as a whole (offload: never)", 2000: "part by part (offload: model)", 900: "layer by layer, which is slow"}
    for free, way in ways.items():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        assert f"free, so it runs {way}" in next(gpu_rows(study))[2]


def test_the_page_of_studies_lists_the_published_speeds():
    page = (PROJECT_ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    for speed in SPEEDS:
        assert f"| `{speed.repo}` | {speed.gpu} | {speed.step:.3f} | {speed.source} |" in page


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


def test_a_storage_that_fails_is_named_soon_and_plain_downloads_come_without_it(remote, hub, hub_environment, monkeypatch):
    """Large files come through Xet, by a client that asks a failing storage again for minutes if nobody tells it to stop."""
    monkeypatch.setitem(hub.xet, "owner/sd15", 503)
    monkeypatch.setenv("HF_XET_TELEMETRY_ENABLED", "0")
    asked = {**hub_environment, "HF_HUB_DISABLE_XET": "0", "HF_XET_CLIENT_RETRY_BASE_DELAY": "100ms"}
    failed = command("fetch", remote, **asked)
    assert failed.returncode == 1
    assert re.fullmatch(r"error: owner/sd15@c0ffeec0: .*: the hub's storage failed \(.*503.*\); run again, or set HF_HUB_DISABLE_"
                        r"XET=1", failed.stderr.splitlines()[-1])  # fmt: skip
    assert 1 < sum("/reconstructions/" in request for request in hub.requests) <= 3
    assert command("fetch", remote, **hub_environment).returncode == 0


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

    trained = {"path": str(tmp_path), "file": "none.safetensors", "n_concepts": 8, "top_k": 5}
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


def archive_of(file, images):
    with tarfile.open(file, "w") as archive:
        for i, image in enumerate(images):
            for suffix, content in ((".png", image), (".txt", b"a dvd")):
                member = tarfile.TarInfo(f"{i}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_check_looks_at_all_samples_of_archives_and_at_the_images_that_an_sae_learns_from(make_study, tmp_path):
    picture = encode_png(np.full((64, 64, 3), 7, np.uint8))
    for folder in ("tars", "corpus"):
        (tmp_path / folder).mkdir()
    archive_of(tmp_path / "tars" / "00000.tar", [picture, b"", picture[: len(picture) // 2]])
    archive_of(tmp_path / "tars" / "00001.tar", [b"words", picture, picture])
    for i in range(60):
        (tmp_path / "corpus" / f"{i}.png").write_bytes(picture)
    corpus = {"path": str(tmp_path / "corpus")}
    changes = {"pairs": {"source": "webdataset", "path": str(tmp_path / "tars"), "n": 3}, "training_corpus": ...}
    said = []
    assert check(make_study(changes | {"sae.corpus": corpus}), said.append) == []
    assert said == [
        "pairs: 6 samples looked at, 3 of them decoded; 3 are lost (1 no image, 2 not a readable image)",
        "sae.corpus: 60 images looked at, 50 of them decoded",
    ]
    (tmp_path / "corpus" / "7.png").write_bytes(b"words")
    (tmp_path / "corpus" / "8.png").write_bytes(b"")
    more = {"pairs": changes["pairs"] | {"n": 4}, "sae.corpus": corpus}
    few, unreadable = check(make_study(changes | more))
    assert few.startswith("pairs.n = 4: of 6 samples in ")
    assert few.endswith("3 become pairs; 3 are lost (1 no image, 2 not a readable image); lower it")
    assert re.search(r"corpus/7.png: not a readable image .*; replace or remove it \(and 1 more like it\)$", unreadable)
    (many,) = check(make_study({"sae.corpus": corpus | {"n": 61}}))
    assert many == f"sae.corpus.n = 61: {tmp_path}/corpus has only 60 images; lower it"


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
        ({}, "an SAE of no library that is known; found nothing"),
        (9, "sae.n_concepts = 8: .* has 9; correct it in the study"),
    ],
)
def test_check_opens_a_trained_sae(make_study, tmp_path, content, message):
    if isinstance(content, int):
        content = {"encoder.final_block.0.weight": torch.zeros(content, 4), "encoder.final_block.0.bias": torch.zeros(content),
                   "dictionary._weights": torch.zeros(content, 4)}  # fmt: skip
    file = tmp_path / "sae.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    trained = {"path": str(tmp_path), "file": "sae.pt", "n_concepts": 8, "top_k": 5}
    (fault,) = check(make_study({"sae": trained, "stability": ...}))
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
