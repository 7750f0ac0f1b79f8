"""Fixtures that several tests share. Shapes and types of the package are checked while tests run, and only then."""

import copy
import io
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import yaml
from jaxtyping import install_import_hook

pytest_plugins = ["browser"]  # fixtures of a real browser, and the line that says what was left out without one
install_import_hook("blindspots_lib", "beartype.beartype")
os.environ["BLINDSPOTS_ALLOW_PRIVATE_LINKS"] = "1"  # the stand-in hub is on this machine

from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study
from blindspots_lib.data.collect import collect_pairs

TRIAL = {  # the smoke study with all that notebook 06 judges
    "pairs.public": {"seed": 1, "n": 12}, "pairs.caption_noise": 0.1, "sae.corpus": {"source": "scenes", "seed": 12, "n": 40},
    "models.2": {"name": "perfect", "label": "Perfect generator", "draws": "afresh"},
    "validation": {"oracle": {"path": "miniatures/weights/oracle"}, "clip": {"path": "miniatures/weights/clip"}, "seeds": [1, 2]},
}  # fmt: skip


def smoke_with(changes):
    """The smoke study as YAML, with changes {"pairs.n": 12, ...}; the value ... removes a key."""
    content = yaml.safe_load((PROJECT_ROOT / "studies" / "smoke.yaml").read_text())
    for key, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        place = content
        for parent in parents:
            place = place[parent]
        value = copy.deepcopy(value)
        if value is ...:
            del place[last]
        elif last == len(place):
            place.append(value)
        else:
            place[last] = value
    return yaml.safe_dump(content, sort_keys=False)


def image_file(suffix, size=(8, 8), value=90):
    """A grey image as a file of the format that an ending promises."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 3), value, np.uint8)).save(buffer, Image.registered_extensions()[suffix])
    return buffer.getvalue()


def ragged(indices, values, n_concepts):
    """The codes of padded tables (images, tokens, active concepts)."""
    from blindspots_lib.analysis.statistics import ShardCodes

    fires = values > 0
    offsets = np.concatenate([[0], fires.sum(axis=-1).ravel().cumsum()])
    return ShardCodes((*indices.shape[:2], n_concepts), offsets, indices[fires], values[fires])


def pairs_of(study):
    return collect_pairs(study.workspace, study.pairs)


def without_a_tensor(file):
    """Write a .safetensors file again without its last tensor; returns that one's name."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = sorted(tensors)[-1]
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, file, metadata={"format": "pt"})
    return name


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The smoke study with a trial, run once through papermill from nothing: its study file."""
    from blindspots_lib.run import notebooks

    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLINDSPOTS_RUNS", str(folder / "runs"))
        patch.setenv("BLINDSPOTS_FIGURES", str(folder / "figures"))
        study_file = folder / "smoke.yaml"
        study_file.write_text(smoke_with(TRIAL))
        notebooks.run_study(str(study_file))
        yield study_file


@pytest.fixture(scope="session")
def tiny_sd15(tmp_path_factory):
    """The folder of a tiny Stable Diffusion 1.5 with a safety checker; no test changes it."""
    import tiny_repos

    folder = tmp_path_factory.mktemp("sd15")
    tiny_repos.build_stable_diffusion(folder, "epsilon", checked=True)
    return folder


@pytest.fixture
def sd15_with(tiny_sd15):
    """The part of a study that names it, with changes."""
    import tiny_repos

    return partial(tiny_repos.stable_diffusion, tiny_sd15)


@pytest.fixture
def write_study(tmp_path, monkeypatch):
    """Write a study file, the smoke study with changes, outputs in a temporary folder; returns its path."""
    monkeypatch.setenv("BLINDSPOTS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BLINDSPOTS_FIGURES", str(tmp_path / "figures"))

    def write(changes=None):
        path = tmp_path / "study.yaml"
        path.write_text(smoke_with(changes or {}))
        return path

    return write


@pytest.fixture
def make_study(write_study):
    """The validated smoke study with changes."""
    return lambda changes=None: load_study(str(write_study(changes)))


@pytest.fixture
def run_python():
    """Run a script in a fresh process of the same Python; returns the finished process with its output as text."""

    def run(script: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT_ROOT, env={**os.environ, **environment},
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def hub():
    """A stand-in hub on a loopback port; tests add repositories of their own names."""
    from standin_hub import StandinHub

    server = StandinHub()
    yield server
    server.close()


@pytest.fixture
def hub_environment(hub, tmp_path):
    """The environment of a process that takes the stand-in for the hub, with an empty cache."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
