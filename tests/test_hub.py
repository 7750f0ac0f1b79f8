"""What is fetched from the hub, through the real clients, from a stand-in that misbehaves on demand."""

import errno
import json
import re

import pytest
from standin_hub import COMMIT

from blindspots_lib.core import hub as hub_files
from blindspots_lib.core.config import TrainedSAE, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import weights_fingerprint

# Fetches a model of the repository in $REPO and says where it lies, or what went wrong; waits are counted, not slept.
FETCH = f"""
import os
from blindspots_lib.core import hub
from blindspots_lib.core.config import Weights
from blindspots_lib.core.errors import StudyError

hub.patiently.__defaults__ = (lambda seconds: print("waited", seconds),)
try:
    folder = hub.fetch(Weights(repo=os.environ["REPO"], revision="{COMMIT}", variant="fp16"))
    print(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
except StudyError as error:
    print("error:", error)
"""


@pytest.fixture
def repository(hub, tmp_path):
    """A pipeline's files, with everything that must be left alone beside them; returns its id."""
    folder = tmp_path / "repo"
    parts = {"_class_name": "Pipeline"} | {part: ["library", "class"] for part in ("unet", "vae", "text_encoder", "tokenizer")}
    files = {
        "model_index.json": json.dumps(parts), "text_encoders/t5xxl_fp16.safetensors": "again", "vae_old/config.json": "{}",
        "vae_old/diffusion_pytorch_model.bin": "pickle", "README.md": "card", "whole.safetensors": "x" * 50,
        "unet/config.json": "[1]",
        "unet/diffusion_pytorch_model.safetensors": "full", "unet/diffusion_pytorch_model.fp16.safetensors": "half",
        "unet/diffusion_pytorch_model.non_ema.safetensors": "no", "unet/diffusion_pytorch_model.bin": "pickle",
        "unet/code.py": "import os", "vae/config.json": "{}", "vae/diffusion_pytorch_model.safetensors": "only full",
        "vae/diffusion_pytorch_model.bin": "pickle", "text_encoder/config.json": "{}", "tokenizer/spiece.model": "words",
        "text_encoder/model.fp16-00001-of-00002.safetensors": "a", "text_encoder/model.fp16-00002-of-00002.safetensors": "b",
        "text_encoder/model.safetensors.index.fp16.json": "{}", "text_encoder/model-00001-of-00001.safetensors": "c",
        "text_encoder/model.safetensors.index.json": "{}",
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    repo = f"owner/{tmp_path.name}"
    hub.add(repo, folder)
    hub.requests.clear()
    hub.faults.clear()
    return repo


def test_one_set_of_safe_weights_is_taken_and_the_cache_serves_without_a_network(hub, repository, run_python, hub_environment):
    first = run_python(FETCH, REPO=repository, **hub_environment)
    assert any(request.startswith("GET") and "/cdn/unet/diffusion_pytorch_model.fp16" in request for request in hub.requests)
    assert json.loads(first.stdout.replace("'", '"')) == [
        "model_index.json", "text_encoder/config.json", "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.fp16-00002-of-00002.safetensors", "text_encoder/model.safetensors.index.fp16.json",
        "tokenizer/spiece.model", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ], first.stderr  # fmt: skip
    asked = len(hub.requests)
    again = run_python(FETCH, REPO=repository, **{**hub_environment, "HF_HUB_OFFLINE": "1"})
    assert again.stdout == first.stdout, again.stderr
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("ending", "faults", "expected"),
    [
        (f"/revision/{COMMIT}", [429, 503], "waited 0.0\nwaited 0.0\n['model_index.json'"),
        ("unet/config.json", [500], "['model_index.json'"),  # the client itself asks again
        ("fp16.safetensors", ["cut"], "['model_index.json'"),
        ("unet/config.json", ["wrong"], "unet/config.json came with a wrong hash and was thrown away; run again"),
        ("unet/diffusion_pytorch_model.fp16.safetensors", ["wrong"], "came with a wrong hash and was thrown away; run again"),
        ("vae/config.json", [404] * 9, "is missing from the repository; choose another revision"),
        (f"/revision/{COMMIT}", [503] * 9, "the hub answered 503; run again later, what came is kept"),
        ("unet/config.json", [504] * 99, "unet/config.json: the hub answered 504; run again later, what came is kept"),
    ],
)
def test_faults_of_the_hub_are_waited_out_or_named(hub, repository, run_python, hub_environment, ending, faults, expected):
    hub.faults[ending] = list(faults)
    process = run_python(FETCH, REPO=repository, **hub_environment)
    assert expected in process.stdout, process.stderr
    hub.faults.clear()
    assert "['model_index.json'" in run_python(FETCH, REPO=repository, **hub_environment).stdout  # what came was kept


def test_an_expired_token_is_named_once(hub, repository, run_python, hub_environment):
    hub.expired.add("hf_old")
    process = run_python(FETCH * 2, REPO=repository, HF_TOKEN="hf_old", **hub_environment)
    line = "error: the hub does not take this machine's token (401), it may have expired; log in again with `hf auth login`\n"
    assert process.stdout == 2 * line, process.stderr  # the same words for every repository, so that `check` says them once


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Data processing error: CAS service error: 500\nmore"), "large file: the hub's storage failed (Data proc"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_a_download_that_fails_on_either_side_ends_in_one_line(monkeypatch, tmp_path, error, expected):
    def fail(*arguments, **settings):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "not" / "there"))
    weights = Weights(repo="owner/none", revision=COMMIT)
    with pytest.raises(StudyError, match=re.escape(expected)) as raised:
        hub_files.download(weights, [hub_files.RemoteFile("large file", 10, None, "")], checked=False)
    assert "\n" not in str(raised.value)


def test_a_trained_sae_is_identified_by_its_one_file(tmp_path):
    (tmp_path / "sae.pt").write_text("weights")
    sae = TrainedSAE(path=str(tmp_path), file="sae.pt", n_concepts=8, top_k=5)
    before = weights_fingerprint(sae)
    (tmp_path / "photograph.png").write_text("a file of the same folder")
    assert weights_fingerprint(sae) == before
    (tmp_path / "sae.pt").write_text("other weights")
    assert weights_fingerprint(sae) != before
    with_settings = sae.model_copy(update={"settings": "cfg.json"})
    prints = set()
    for content in ('{"k": 1}', '{"k": 2}'):
        (tmp_path / "cfg.json").write_text(content)
        prints.add(weights_fingerprint(with_settings))
    assert len(prints) == 2
    with pytest.raises(StudyError, match=r"has no file 'none.pt'; correct sae.path or sae.file$"):
        weights_fingerprint(sae.model_copy(update={"file": "none.pt"}))


SAE_OF_TWO_FILES = (
    FETCH.replace("import Weights", "import TrainedSAE")
    .replace("hub.fetch(Weights(", "hub.obtain(TrainedSAE(")
    .replace('variant="fp16"', 'file="layer/sae.safetensors", settings=os.environ["SETTINGS"], n_concepts=8')
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [("cfg.json", "['layer/cfg.json', 'layer/sae.safetensors']\n"), ("none.json", "has no file 'layer/none.json'; correct it")],
)
def test_an_sae_comes_with_its_settings(hub, repository, run_python, hub_environment, settings, expected):
    folder = hub.repos["models", repository] / "layer"
    folder.mkdir()
    for name in ("sae.safetensors", "cfg.json", "other.json"):
        (folder / name).write_text(name)
    taken = run_python(SAE_OF_TWO_FILES, REPO=repository, SETTINGS=settings, **hub_environment)
    assert expected in taken.stdout, taken.stderr


NAMED = 'LoRA(file="Hyper-SD15-1step-lora.safetensors", repo='
LORA = FETCH.replace("import Weights", "import LoRA").replace("Weights(repo=", NAMED)


def test_one_file_of_many_is_taken_by_its_name(hub, repository, run_python, hub_environment):
    folder = hub.repos["models", repository]
    for name in ("Hyper-SD15-1step-lora.safetensors", "other-lora.safetensors"):
        (folder / name).write_text(name)
    taken = run_python(LORA, REPO=repository, **hub_environment)
    assert taken.stdout == "['Hyper-SD15-1step-lora.safetensors']\n", taken.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"REPO": "owner/none"}, "owner/none@c0ffeec0: no such repository, or a private one; correct repo, or log in"),
        ({"REPO": "owner/gated"}, "is gated; accept its agreement at https://huggingface.co/owner/gated and log in"),
        ({"REPO": "owner/pickled"}, "unet has pickled weights only, which are not read"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub is out of reach (ConnectError); connect and run again"),
        ({"HF_HUB_OFFLINE": "1"}, "is not in the cache and HF_HUB_OFFLINE is set; unset it once to download"),
    ],
)
def test_what_cannot_be_had_is_named_in_one_line(hub, repository, run_python, hub_environment, tmp_path, change, message):
    (tmp_path / "pickled" / "unet").mkdir(parents=True)
    for name in ("config.json", "diffusion_pytorch_model.bin"):
        (tmp_path / "pickled" / "unet" / name).write_text("{}")
    hub.add("owner/pickled", tmp_path / "pickled")
    hub.add("owner/gated", tmp_path / "pickled", gated=True)
    process = run_python(FETCH, **{**hub_environment, "REPO": repository, **change})
    assert message in process.stdout, process.stderr
    assert process.stdout.count("\n") == 1
