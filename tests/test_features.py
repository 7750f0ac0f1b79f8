import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from blindspots_lib.features import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TokenExtractor,
    TokenLayout,
    extract_tokens,
    image_descriptor,
    image_transform,
    open_array,
    save_array,
)
from blindspots_lib.pairs import collect_pairs
from blindspots_lib.parts import Backbone
from blindspots_lib.scenes import draw_scene
from blindspots_lib.study import PROJECT_ROOT, StudyError


@pytest.mark.parametrize(("size", "resize", "crop"), [((64, 64), 64, 64), ((400, 300), 256, 224), ((90, 161), 256, 224)])
def test_transform_is_resize_crop_normalize(size, resize, crop):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    scale = resize / min(size)
    resized = image.resize((int(size[0] * scale), int(size[1] * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - crop) // 2, (resized.height - crop) // 2
    cropped = np.asarray(resized.crop((left, top, left + crop, top + crop)), np.float32) / 255
    expected = ((cropped - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    backbone = Backbone(path="unused", resize=resize, crop=crop)
    actual = image_transform(backbone)([image], return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_layout_of_the_papers_backbone():
    layout = TokenLayout(n_registers=4, patches_per_side=16, width=768)
    assert layout.n_tokens == 261
    tokens = np.arange(261)
    assert tokens[layout.selection("patches")].tolist() == list(range(5, 261))
    assert len(tokens[layout.selection("all")]) == 261


def test_tokens_do_not_depend_on_the_batch(make_study):
    extractor = TokenExtractor(make_study().backbone)
    images = [Image.fromarray(draw_scene(3, index)[1].image) for index in range(5)]
    together = extractor(images)
    alone = np.concatenate([extractor([image]) for image in images])
    assert together.shape == (5, extractor.layout.n_tokens, extractor.layout.width)
    assert np.abs(together - alone).max() < 0.05 * np.abs(together).max()  # bfloat16


def test_tokens_on_disk_are_in_the_order_of_the_pairs(make_study):
    study = make_study({"pairs.n": 5, "pairs.shard_size": 2})
    shards = sorted(extract_tokens(study, "real", collect_pairs(study)).folder.glob("shard-*.npy"))
    tokens = np.concatenate([open_array(path) for path in shards])
    extractor = TokenExtractor(study.backbone)
    last = extractor([Image.fromarray(draw_scene(study.pairs.seed, 4)[1].image)])
    np.testing.assert_allclose(tokens[4], last[0], atol=0.05 * np.abs(last).max())


def test_weights_that_are_not_numbers_are_refused(make_study):
    extractor = TokenExtractor(make_study().backbone)
    with torch.no_grad():
        extractor.model.layernorm.weight.fill_(float("nan"))
    with pytest.raises(StudyError, match="NaN or infinity; are its weights whole"):
        extractor([Image.fromarray(draw_scene(3, 0)[1].image)])


def test_weights_cut_short_are_named(make_study, tmp_path):
    folder = tmp_path / "dinov2"
    shutil.copytree(PROJECT_ROOT / make_study().backbone.path, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StudyError, match="backbone: .* does not load"):
        TokenExtractor(make_study({"backbone.path": str(folder)}).backbone)


def test_tokens_cut_short_are_named(make_study):
    study = make_study({"pairs.n": 2})
    artifact = extract_tokens(study, "real", collect_pairs(study))
    shard = next(artifact.folder.glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(StudyError, match="shard-00000.npy: not a whole array"):
        open_array(shard)


def test_descriptor_keeps_where_things_stand(tmp_path):
    layout = TokenLayout(n_registers=0, patches_per_side=2, width=2)
    tokens = np.zeros((2, 5, 2), np.float32)
    tokens[0, 1] = [3, 4]  # upper left patch
    tokens[1, 4] = [3, 4]  # lower right patch
    descriptors = image_descriptor(tokens, layout)
    np.testing.assert_allclose(descriptors, [[0.6, 0.8, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0.6, 0.8]])
    save_array(tmp_path / "a.npy", descriptors)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), descriptors)
