"""What a GPU computes, on a real one: `make test-gpu`. Skipped without a GPU, unless BLINDSPOTS_GPU=required."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from blindspots_lib.analysis.energies import encode_images
from blindspots_lib.core.config import SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.study import load_study
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.models.backbone import TokenExtractor
from blindspots_lib.models.pipelines import generate_batch, load_pipeline
from blindspots_lib.sae.dictionaries import decode
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.sae.topk import products_above, top_products
from blindspots_lib.sae.train import Trainer, make_sae

GPU = "cuda"
REQUIRED = os.environ.get("BLINDSPOTS_GPU") == "required"
pytestmark = pytest.mark.skipif(not (torch.cuda.is_available() or REQUIRED), reason="there is no GPU; `make test-gpu` needs one")
CAPTIONS, SEEDS = ["a dog", "a cat on wood", "two red trees"], [3, 4, 5]


@pytest.fixture(autouse=True)
def emptied():
    """Give memory back that a test left on the GPU."""
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_image_is_the_same_alone_and_in_a_batch(sd15_with, dtype):
    pipeline = load_pipeline(sd15_with(dtype=dtype, offload="never"))
    assert pipeline.device.type == GPU
    together = generate_batch(pipeline, sd15_with(dtype=dtype), CAPTIONS, SEEDS).images
    alone = [generate_batch(pipeline, sd15_with(dtype=dtype), [c], [s]).images[0] for c, s in zip(CAPTIONS, SEEDS, strict=True)]
    assert np.abs(together - np.stack(alone)).mean() < (1e-4 if dtype == "float32" else 0.02)
    assert np.abs(together[0] - together[1]).max() > 0.1


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_parts_in_main_memory_change_no_image(sd15_with, offload):
    whole, parts = (load_pipeline(sd15_with(offload=way)) for way in ("never", offload))
    images = [generate_batch(pipeline, sd15_with(), CAPTIONS[:1], SEEDS[:1]).images for pipeline in (whole, parts)]
    np.testing.assert_allclose(*images, atol=1e-4)


def test_the_same_noise_is_drawn_as_on_a_cpu(sd15_with, monkeypatch):
    """Noise is drawn on the CPU; what is left of the difference is the rounding of other products."""
    on_gpu = generate_batch(load_pipeline(sd15_with(offload="never")), sd15_with(), CAPTIONS[:1], SEEDS[:1]).images
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = generate_batch(load_pipeline(sd15_with()), sd15_with(), CAPTIONS[:1], SEEDS[:1]).images
    assert np.abs(on_gpu - on_cpu).mean() < 0.01


def test_a_full_gpu_ends_in_one_line(sd15_with):
    pipeline = load_pipeline(sd15_with(offload="never"))
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(
            StudyError, match="model 'sd15': the GPU's memory is full at batch_size = 25; lower it, or set offload"
        ):
            generate_batch(pipeline, sd15_with(image_size=2048), CAPTIONS, SEEDS)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_tokens_are_those_of_the_cpu(monkeypatch):
    backbone = load_study("mini").backbone
    images = [Image.fromarray(draw_scene(3, index)[1].image) for index in range(8)]
    on_gpu = TokenExtractor(backbone)(images)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = TokenExtractor(backbone)(images)
    difference = np.abs(on_gpu - on_cpu)
    assert difference.mean() < 0.01 * np.abs(on_cpu).mean()
    assert difference.max() < 0.1 * np.abs(on_cpu).max()  # bfloat16


@pytest.mark.parametrize("top_k", [1, 5, 40])
def test_the_largest_products_are_those_of_a_dense_one(top_k):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1500, 64), torch.randn(5000, 64), torch.randn(5000)
    found = top_products(x.to(GPU), weight.to(GPU), bias.to(GPU), top_k)
    dense = (x.double() @ weight.double().T + bias).topk(top_k)
    torch.testing.assert_close(found.values.cpu().double(), dense.values, atol=1e-3, rtol=1e-5)
    assert (found.indices.cpu() == dense.indices).float().mean() > 0.999  # products that differ by less than float32 tells


def test_products_above_a_threshold_are_those_of_a_dense_one():
    torch.manual_seed(0)
    x, weight, bias = (t.to(GPU) for t in (torch.randn(300, 64), torch.randn(3000, 64), torch.randn(3000)))
    found, product = products_above(x, weight, bias, torch.tensor(20.0, device=GPU)), x @ weight.T + bias
    dense = torch.zeros_like(product).scatter_add(1, found.indices, found.values)
    torch.testing.assert_close(dense, torch.where(product >= 20, product, 0), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dictionary", ["dense", "local", "free"])
def test_training_takes_the_same_steps_as_on_a_cpu(dictionary):
    torch.manual_seed(1)
    candidates, batches = torch.randn(60, 16), torch.randn(30, 128, 16)
    config = SAEConfig(
        n_concepts=90, top_k=4, n_candidates=60, dictionary=dictionary, n_neighbours=8, n_steps=30, dead_after=5, aux_coeff=1e-3
    )
    losses, atoms = {}, {}
    for device in ("cpu", GPU):
        trainer = Trainer(make_sae(16, config).to(device), config)
        trainer.sae.start_from(candidates.to(device), token_length=4.0)
        trainer.variance = 1.0
        trainer.sae.dictionary.prepare_training(torch.float32)
        losses[device] = [trainer.step(x.to(device), 1e-3)["mse"] for x in batches]
        atoms[device] = trainer.sae.dictionary.atoms().detach().cpu()
    np.testing.assert_allclose(losses[GPU], losses["cpu"], rtol=1e-3)
    assert losses["cpu"][-1] < losses["cpu"][0]
    torch.testing.assert_close(atoms[GPU], atoms["cpu"], atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("top_k", [5, None])
def test_codes_of_images_are_those_of_the_cpu(top_k):
    torch.manual_seed(2)
    sae = TopKSAE(32, 500, top_k, n_candidates=1, dictionary="free")
    sae.start_from(torch.randn(500, 32), token_length=1.0)
    sae.threshold.fill_(1.5)
    tokens = np.random.default_rng(0).normal(size=(6, 20, 32)).astype(np.float16)
    on_cpu, on_gpu = encode_images(sae.eval(), tokens), encode_images(sae.to(GPU), tokens)
    np.testing.assert_allclose(*(codes.matrix(np.float64).toarray() for codes in (on_gpu, on_cpu)), atol=2e-2)


def test_a_reconstruction_is_the_sum_of_its_atoms():
    torch.manual_seed(3)
    sae = TopKSAE(16, 200, 5, 50, dictionary="local", n_neighbours=8).to(GPU)
    sae.start_from(torch.randn(50, 16, device=GPU), token_length=2.0)
    x = torch.randn(40, 16, device=GPU)
    reconstruction, codes = sae(x)
    torch.testing.assert_close(reconstruction, decode(codes, sae.dictionary.atoms()), atol=1e-4, rtol=1e-4)
