import shutil

import numpy as np
import pytest

from blindspots_lib.generation import cause_of_loss, generate_images, image_seed, load_pipeline
from blindspots_lib.pairs import collect_pairs, shards_of
from blindspots_lib.study import PROJECT_ROOT, StudyError

# A run that kills itself, by SIGKILL, while it writes the second shard of generations.
KILLED_RUN = """
import os, signal
from blindspots_lib import generation
from blindspots_lib.results import collect_images
from blindspots_lib.study import load_study

write_shard, written = generation.write_shard, []

def write_or_die(path, rows, schema):
    if written:
        path.with_name(f".{path.name}.{os.getpid()}.partial").write_bytes(b"half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write_shard(path, rows, schema)

generation.write_shard = write_or_die
collect_images(load_study(os.environ["STUDY_FILE"]))
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
    assert cause_of_loss(image) == cause


@pytest.mark.parametrize("model", ["sd15", "pixart"])
def test_killed_generation_resumes_to_the_same_bytes(write_study, make_study, run_python, tmp_path, monkeypatch, model):
    changes = {"pairs.n": 6, "pairs.shard_size": 2}
    study = make_study(changes)
    study = study.model_copy(update={"models": (study.model(model),)})
    whole = generate_images(study, study.models[0], collect_pairs(study))
    expected = {path.name: path.read_bytes() for path in shards_of(whole)}
    assert len(expected) == 3

    monkeypatch.setenv("BLINDSPOTS_RUNS", str(tmp_path / "killed"))
    file = write_study({**changes, "models": [study.models[0].model_dump(mode="json")]})
    killed = run_python(KILLED_RUN, STUDY_FILE=str(file), BLINDSPOTS_RUNS=str(tmp_path / "killed"))
    assert killed.returncode == -9, killed.stderr
    folder = tmp_path / "killed" / "smoke" / "generations" / model
    assert [path.name for path in folder.glob("*.parquet")] == ["shard-00000.parquet"]
    before = (folder / "shard-00000.parquet").stat().st_mtime_ns

    resumed = generate_images(study, study.models[0], collect_pairs(study))
    assert {path.name: path.read_bytes() for path in shards_of(resumed)} == expected
    assert (folder / "shard-00000.parquet").stat().st_mtime_ns == before
    assert not list(folder.glob(".*"))


def test_weights_cut_short_are_named(make_study, tmp_path):
    study = make_study()
    folder = tmp_path / "sd15"
    shutil.copytree(PROJECT_ROOT / study.models[0].path, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StudyError, match="model 'sd15': .* does not load as a pipeline") as error:
        load_pipeline(study.models[0].model_copy(update={"path": str(folder)}))
    assert "\n" not in str(error.value)
