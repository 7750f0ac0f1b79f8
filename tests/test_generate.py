import multiprocessing
import shutil
from threading import Barrier, Lock

import numpy as np
import pytest
from conftest import pairs_of

from blindspots_lib.core import parallel
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.storage import read_shard, shards_of
from blindspots_lib.core.study import load_study
from blindspots_lib.data.collect import collect_pairs
from blindspots_lib.data.images import decode_image
from blindspots_lib.data.pairs import read_pair_table
from blindspots_lib.models import generate as generation
from blindspots_lib.models.generate import batches_of, cause_of_loss, generate_images, generate_rows, image_seed, made_by
from blindspots_lib.models.pipelines import Generated, generate_batch, load_pipeline

# A run that kills itself, by SIGKILL, while it writes the third batch of generations.
KILLED_RUN = """
import os, signal
from blindspots_lib.models import generate as generation
from blindspots_lib.run.stages import generate
from blindspots_lib.core.study import load_study

save_generations, written = generation.save_generations, []

def save_or_die(path, rows):
    if len(written) == 2:
        path.with_name(f".{path.name}.{os.getpid()}.partial").write_bytes(b"half a batch")
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    save_generations(path, rows)

generation.save_generations = save_or_die
generate(load_study(os.environ["STUDY_FILE"]))
"""


def test_seed_depends_on_study_model_and_pair():
    seeds = {image_seed(*key) for key in [(0, "sd15", "a"), (1, "sd15", "a"), (0, "pixart", "a"), (0, "sd15", "b")]}
    assert len(seeds) == 4
    assert image_seed(0, "sd15", "a") == image_seed(0, "sd15", "a")
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("value", "cause"), [(0.0, "black"), (np.nan, "not finite"), (0.25, "")])
def test_image_that_is_none_is_lost_not_counted(value, cause):
    image = np.zeros((4, 4, 3))
    image[1, 2] = value
    assert cause_of_loss(image, refused=False) == cause
    assert cause_of_loss(image, refused=True) == "safety checker"


@pytest.mark.parametrize("shard_size", [3, 100])
def test_a_model_whose_first_images_are_all_lost_is_stopped_and_one_good_image_is_enough(make_study, monkeypatch, shard_size):
    one = make_study().model("sd15").model_copy(update={"batch_size": 2})
    study = make_study({"pairs.n": 10, "pairs.shard_size": shard_size, "models": [one.model_dump(mode="json")]})
    good, made = set(), []

    def generate_batch(pipeline, model, captions, seeds):
        made.extend(captions)
        images = np.stack([np.full((4, 4, 3), 0.5 if caption in good else np.nan) for caption in captions])
        return Generated(images, [len(made) <= 2] * len(captions))

    monkeypatch.setattr(generation, "FIRST", 6)
    monkeypatch.setattr(generation, "load_pipelines", lambda model: [None])
    monkeypatch.setattr(generation, "generate_batch", generate_batch)
    message = r"model 'sd15': its first 6 images are all lost \(4 not finite, 2 safety checker\); set dtype: float32 or correct"
    for _ in range(2):  # a second call does not go on behind them
        with pytest.raises(StudyError, match=message):
            generate_images(study.workspace, one, pairs_of(study))
        assert len(made) == 6
    good.add(read_pair_table(pairs_of(study)).captions[5])
    shutil.rmtree(generation.generation_artifact(study.workspace, one, pairs_of(study)).folder)
    made.clear()
    generate_images(study.workspace, one, pairs_of(study))
    assert len(made) == 10


@pytest.mark.parametrize("model", ["sd15", "pixart"])
def test_killed_generation_makes_no_image_twice_and_ends_with_the_same_bytes(
    write_study, make_study, run_python, tmp_path, monkeypatch, model
):
    one = make_study().model(model).model_copy(update={"batch_size": 1})
    changes = {"pairs.n": 6, "pairs.shard_size": 4, "models": [one.model_dump(mode="json")]}
    study = make_study(changes)
    whole = generate_images(study.workspace, one, collect_pairs(study.workspace, study.pairs))
    expected = {path.name: path.read_bytes() for path in shards_of(whole)}
    assert len(expected) == 2

    monkeypatch.setenv("BLINDSPOTS_RUNS", str(tmp_path / "killed"))
    killed = run_python(KILLED_RUN, STUDY_FILE=str(write_study(changes)), BLINDSPOTS_RUNS=str(tmp_path / "killed"))
    assert killed.returncode == -9, killed.stderr
    folder = tmp_path / "killed" / "smoke" / "generations" / model
    assert len(list(folder.glob("batch-shard-00000-*.parquet"))) == 2
    assert not list(folder.glob("shard-*.parquet"))

    made = []
    monkeypatch.setattr(generation, "generate_batch", lambda *given: made.extend(given[2]) or generate_batch(*given))
    resumed = generate_images(study.workspace, one, collect_pairs(study.workspace, study.pairs))
    assert len(made) == 4
    assert {path.name: path.read_bytes() for path in shards_of(resumed)} == expected
    assert {path.name for path in folder.iterdir()} == {*expected, "header.json"}


def test_a_process_per_gpu_makes_the_same_bytes_and_one_that_dies_costs_nothing(make_study, tmp_path, monkeypatch):
    one = make_study().model("sd15").model_copy(update={"batch_size": 2})
    study = make_study({"pairs.n": 10, "pairs.shard_size": 3, "models": [one.model_dump(mode="json")]})
    whole = generate_images(study.workspace, one, pairs_of(study))
    expected = {path.name: path.read_bytes() for path in shards_of(whole)}

    monkeypatch.setenv("BLINDSPOTS_RUNS", str(tmp_path / "gpus"))
    monkeypatch.setattr(parallel, "n_gpus", lambda: 2)
    study, reports = load_study(str(tmp_path / "study.yaml")), []

    def kill(model, causes, lost, n_pairs):
        reports.extend(lost)
        for child in multiprocessing.active_children() if len(reports) >= 6 else ():
            child.kill()

    with monkeypatch.context() as patch, pytest.raises(StudyError, match="was killed by SIGKILL"):
        patch.setattr(generation, "check_losses", kill)
        generate_images(study.workspace, one, pairs_of(study))
    assert multiprocessing.active_children() == []
    monkeypatch.setattr(parallel, "n_gpus", lambda: 1)
    again = generate_images(study.workspace, one, pairs_of(study))
    assert {path.name: path.read_bytes() for path in shards_of(again)} == expected
    assert {path.name for path in again.folder.iterdir()} == {*expected, "header.json"}


def test_a_growing_study_keeps_its_images(make_study, monkeypatch, capsys):
    one = make_study().model("sd15").model_copy(update={"batch_size": 2})
    small, large = ({"pairs.n": n, "pairs.shard_size": 3, "models": [one.model_dump(mode="json")]} for n in (4, 7))
    study = make_study(small)
    first = generate_images(study.workspace, one, pairs_of(study))
    kept = [row for path in shards_of(first) for row in read_shard(path)]
    made = []
    monkeypatch.setattr(generation, "generate_batch", lambda *given: made.extend(given[2]) or generate_batch(*given))
    study = make_study(large)
    grown = generate_images(study.workspace, one, pairs_of(study))
    rows = [row for path in shards_of(grown) for row in read_shard(path)]
    assert len(made) == 3
    assert rows[:4] == kept
    assert "generations/sd15: made again, pairs changed" in capsys.readouterr().err
    assert [row["caption"] for row in rows[4:]] == made


def test_batch_size_does_not_decide_what_is_drawn(make_study):
    study = make_study({"pairs.n": 9})
    model = study.model("sd15")
    rows = read_shard(shards_of(collect_pairs(study.workspace, study.pairs))[0], ["pair_id", "caption"])
    for dtype in ("bfloat16", "float32"):
        pipeline = load_pipeline(model.model_copy(update={"dtype": dtype}))
        drawn = {size: draw(pipeline, model, rows, size) for size in (1, 3, 8)}
        for size in (1, 3):
            np.testing.assert_array_equal(drawn[size], drawn[8])


def test_pipelines_draw_at_once_but_none_two_batches_and_the_order_stays():
    together = Barrier(2, timeout=60)  # broken if they draw one after the other

    def generate(pipeline, batch):
        assert pipeline.acquire(blocking=False)
        together.wait()
        pipeline.release()
        return batch

    batches = [[{"pair_id": str(n)}] for n in range(6)]
    with made_by([Lock(), Lock()], batches, generate) as made:
        assert list(made) == batches
    with made_by([None], batches, lambda pipeline, batch: batch) as made:
        assert list(made) == batches


def draw(pipeline, model, rows, size):
    batches = batches_of(rows, size)
    made = [row for batch in batches for row in generate_rows(0, model, pipeline, batch)]
    return np.stack([np.asarray(decode_image(row["image"]["bytes"], row["pair_id"])) for row in made])


def test_weights_cut_short_are_named(make_study, tmp_path):
    study = make_study()
    folder = tmp_path / "sd15"
    shutil.copytree(PROJECT_ROOT / study.models[0].path, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StudyError, match="model 'sd15', unet: .* does not load") as error:
        load_pipeline(study.models[0].model_copy(update={"path": str(folder)}))
    assert "\n" not in str(error.value)
