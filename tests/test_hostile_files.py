"""Files that would run code if they were loaded as their authors wish: each ends in one line, and none runs."""

import json
import os
import pickle
import shutil

import pytest
import tiny_repos
import torch

from blindspots_lib.core.config import Backbone, TextToImageModel, TrainedSAE
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.models.backbone import TokenExtractor
from blindspots_lib.models.pipelines import load_pipeline
from blindspots_lib.sae.formats import check_trained
from blindspots_lib.sae.weight_files import read_weight_file


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


@pytest.fixture
def marker(tmp_path):
    """The folder that hostile code makes; checked after the test."""
    marker = tmp_path / "it ran"
    yield marker
    assert not marker.exists()


@pytest.fixture
def pipeline(tmp_path):
    """A whole pipeline's folder and its model."""
    folder = tmp_path / "pipeline"
    shutil.copytree(PROJECT_ROOT / "miniatures/weights/sd15", folder)
    model = TextToImageModel(name="sd15", label="SD", path=str(folder), image_size=64, steps=2, guidance=3.0)
    return folder, model


def refused(action, *arguments):
    with pytest.raises(StudyError) as error:
        action(*arguments)
    assert "\n" not in str(error.value)


def write_torchscript(path, marker):
    """A TorchScript archive, which is a program."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def write_hidden(path, marker):
    """A dictionary of tensors with a trap among them."""
    torch.save({"encoder.final_block.0.weight": torch.zeros(2, 2), "x": Trap(marker)}, path)


WRITERS = {
    "torch": lambda path, marker: torch.save(Trap(marker), path),
    "hidden": write_hidden,
    "old torch": lambda path, marker: torch.save(Trap(marker), path, _use_new_zipfile_serialization=False),
    "pickle": lambda path, marker: path.write_bytes(pickle.dumps(Trap(marker))),
    "torchscript": write_torchscript,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("ending", ["pt", "bin", "pth", "safetensors"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_trained_sae(tmp_path, marker, kind, ending):
    file = tmp_path / f"sae.{ending}"
    WRITERS[kind](file, marker)
    refused(read_weight_file, file)
    refused(check_trained, TrainedSAE(path=str(tmp_path), file=file.name, n_concepts=2, top_k=5))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.pt"])
def test_a_backbone_of_pickles(tmp_path, marker, name):
    tiny_repos.build_backbone(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Trap(marker)}, tmp_path / name)
    refused(TokenExtractor, Backbone(path=str(tmp_path), resize=224, crop=224))


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "my_own"])
def test_a_backbone_with_code_of_its_own(tmp_path, marker, kind):
    tiny_repos.build_backbone(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    names = {"AutoModel": "evil.Evil", "AutoConfig": "evil.EvilConfig"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": kind, "auto_map": names}))
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\nclass EvilConfig: pass\n")
    if kind == "my_own":
        refused(TokenExtractor, Backbone(path=str(tmp_path), resize=224, crop=224))
    else:  # its own code is left alone, the library's is used
        assert type(TokenExtractor(Backbone(path=str(tmp_path), resize=224, crop=224)).model).__module__.startswith(
            "transformers."
        )


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_pipeline_of_pickles(pipeline, marker, part):
    folder, model = pipeline
    weights = next((folder / part).glob("*.safetensors"))
    weights.unlink()
    torch.save({"x": Trap(marker)}, weights.with_name("pytorch_model.bin" if part == "text_encoder" else f"{weights.stem}.bin"))
    refused(load_pipeline, model)


@pytest.mark.parametrize("named", [["os", "system"], ["builtins", "eval"], ["subprocess", "Popen"], ["evil", "Evil"],
                                   ["diffusers", "__loader__"], ["unet.evil", "Evil"]])  # fmt: skip
@pytest.mark.parametrize("part", ["unet", "scheduler", "_class_name"])
def test_a_pipeline_that_names_other_code(pipeline, marker, monkeypatch, named, part):
    folder, model = pipeline
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, part: named}))
    for place in (folder, folder / "unet", folder / "scheduler"):
        (place / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\n")
    monkeypatch.chdir(folder)
    refused(load_pipeline, model)
