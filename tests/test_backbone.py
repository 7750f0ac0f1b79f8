import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import pairs_of, without_a_tensor
from PIL import Image

from blindspots_lib.analysis.descriptors import image_descriptor
from blindspots_lib.core.config import Backbone
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.storage import open_array, save_array
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.models.backbone import IMAGENET_MEAN, IMAGENET_STD, TokenExtractor, TokenLayout, image_transform, token_layout
from blindspots_lib.models.tokens import extract_tokens


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
    shards = sorted(extract_tokens(study.workspace, study.backbone, "real", pairs_of(study)).folder.glob("shard-*.npy"))
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


def test_a_full_gpu_is_named_with_what_to_do(make_study, monkeypatch):
    def full(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")

    extractor = TokenExtractor(make_study().backbone)
    monkeypatch.setattr(extractor, "model", full)
    with pytest.raises(StudyError, match=r"backbone: the GPU's memory is full at batch_size = 100; lower it; finished work is"):
        extractor([Image.new("RGB", (64, 64))])
    monkeypatch.setattr("torch.nn.Module.to", full)
    with pytest.raises(StudyError, match="backbone: the GPU's memory is full at batch_size = 100; lower it"):
        TokenExtractor(make_study().backbone)


def test_weights_cut_short_are_named(make_study, tmp_path):
    folder = tmp_path / "dinov2"
    shutil.copytree(PROJECT_ROOT / make_study().backbone.path, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StudyError, match="backbone: .* does not load"):
        TokenExtractor(make_study({"backbone.path": str(folder)}).backbone)


def test_weights_that_lack_a_tensor_are_named(make_study, tmp_path):
    folder = tmp_path / "dinov2"
    shutil.copytree(PROJECT_ROOT / make_study().backbone.path, folder)
    taken = without_a_tensor(folder / "model.safetensors")
    with pytest.raises(StudyError, match=f"^backbone: {folder} lacks 1 tensor, {re.escape(taken)}, which would be random"):
        TokenExtractor(make_study({"backbone.path": str(folder)}).backbone)


def test_tokens_cut_short_are_named(make_study):
    study = make_study({"pairs.n": 2})
    artifact = extract_tokens(study.workspace, study.backbone, "real", pairs_of(study))
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


def tiny_backbone(kind: str):
    """A vision model of another family: (model, tokens an image at 32 pixels, registers, CLS)."""
    import transformers as t

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    clip = {**shape, "intermediate_size": 16}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10}
    torch.manual_seed(0)
    return {
        "dinov2": lambda: (t.Dinov2Model(t.Dinov2Config(**shape, mlp_ratio=2)), 17, 0, True),
        "registers": lambda: (t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**shape, mlp_ratio=2)), 21, 4, True),
        "dinov3": lambda: (t.DINOv3ViTModel(t.DINOv3ViTConfig(**clip, num_register_tokens=3)), 20, 3, True),
        "siglip": lambda: (t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=clip)), 16, 0, False),
        "clip": lambda: (t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=clip, projection_dim=8)), 17, 0, True),
    }[kind]()


@pytest.mark.parametrize("kind", ["dinov2", "registers", "dinov3", "siglip", "clip"])
def test_any_backbone_tells_its_layout_and_gives_normed_tokens(tmp_path, kind):
    model, n_tokens, n_registers, has_cls = tiny_backbone(kind)
    for norm in (m for name, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)):
        torch.nn.init.normal_(norm.bias)  # so that a norm left out, or put in twice, shows
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    extractor = TokenExtractor(Backbone(path=str(tmp_path), resize=40, crop=32))
    layout = extractor.layout
    assert (layout.n_tokens, layout.n_registers, layout.has_cls, layout.patches_per_side) == (n_tokens, n_registers, has_cls, 4)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    tokens = extractor([image])
    assert tokens.shape == (1, n_tokens, 16)

    vision = getattr(model, "vision_model", model).eval()
    pixels = torch.from_numpy(np.asarray(image)[4:36, 4:36] / 127.5 - 1).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        expected = vision(pixel_values=pixels).last_hidden_state
        expected = vision.post_layernorm(expected) if kind == "clip" else expected
    np.testing.assert_allclose(tokens, expected.numpy(), atol=0.1)  # computed in bfloat16
    if not has_cls:
        with pytest.raises(StudyError, match="this backbone has no CLS token"):
            layout.selection("cls")


@pytest.mark.parametrize(
    ("crop", "n_tokens", "message"),
    [(30, 17, "backbone.crop = 30: must be a multiple of the backbone's patch size, 8"),
     (32, 19, r"gives 19 tokens an image where 4 x 4 patches, 0 registers and at most a CLS token were expected")],
)  # fmt: skip
def test_a_layout_that_is_not_known_is_named(crop, n_tokens, message):
    with pytest.raises(StudyError, match=message):
        token_layout(SimpleNamespace(patch_size=8, hidden_size=16), crop, n_tokens)
