"""Backbone tokens: one image transform, one forward pass, the same for real and generated images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16
from PIL import Image
from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, replacing, shard_path
from blindspots_lib.hub import fetch, hashes, weights_fingerprint
from blindspots_lib.images import decode_image, stored_bytes
from blindspots_lib.pairs import read_shard, shards_of
from blindspots_lib.parts import Backbone, contents
from blindspots_lib.pipelines import compute_dtype, naming_load_errors, quiet, variant_of
from blindspots_lib.scenes import draw_scene
from blindspots_lib.study import Study, StudyError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TokenLayout(NamedTuple):
    """What stands where among the t tokens of an image: CLS (or none), registers, then patches row by row."""

    n_registers: int
    patches_per_side: int
    width: int  # d
    has_cls: bool = True

    @property
    def n_tokens(self) -> int:
        return self.has_cls + self.n_registers + self.patches_per_side**2

    @property
    def patches(self) -> slice:
        return slice(self.has_cls + self.n_registers, None)

    def selection(self, tokens: str) -> slice:
        """The positions of `tokens`: "patches", "cls" or "all". Raises StudyError for a CLS token that is not there."""
        if tokens == "cls" and not self.has_cls:
            raise StudyError("tokens: cls: this backbone has no CLS token; write patches or all")
        return {"patches": self.patches, "cls": slice(0, 1), "all": slice(None)}[tokens]


def image_transform(backbone: Backbone, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
    """Resize the short side (bicubic), crop the centre, scale to [0, 1], subtract the mean, divide by the std."""
    from transformers import BitImageProcessorPil

    return BitImageProcessorPil(
        do_resize=True, size={"shortest_edge": backbone.resize}, resample=Image.Resampling.BICUBIC,
        do_center_crop=True, crop_size={"height": backbone.crop, "width": backbone.crop},
        do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=list(mean), image_std=list(std),
        do_convert_rgb=True,
    )  # fmt: skip


def pixel_statistics(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels that a backbone was trained on: those beside its weights, or ImageNet's."""
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return said.get("image_mean", list(IMAGENET_MEAN)), said.get("image_std", list(IMAGENET_STD))


class TokenExtractor:
    """A frozen backbone with its image transform: images in, final-layer-normed tokens out.

    Any vision transformer that `AutoModel` knows will do; of a model of images and texts (CLIP, SigLIP) the part for images
    is taken. Raises StudyError if it does not load or its tokens are not CLS, registers and a square of patches.
    """

    def __init__(self, backbone: Backbone):
        import torch

        quiet("transformers")
        from transformers import AutoModel

        folder = fetch(backbone)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = compute_dtype()
        with naming_load_errors("backbone", folder):
            model = AutoModel.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                dtype=self.dtype,
                trust_remote_code=False,
                variant=variant_of(backbone, folder),
            )
            self.model = getattr(model, "vision_model", model).eval().to(self.device)
            self.transform = image_transform(backbone, *pixel_statistics(folder))
            blank = self.hidden_states([Image.new("RGB", (backbone.crop, backbone.crop))])
        self.layout = token_layout(self.model.config, backbone.crop, blank.shape[1])

    def hidden_states(self, images: Sequence[Image.Image]):
        """The last layer's tokens with the final layer norm, which CLIP alone keeps for its pooled token."""
        import torch

        pixels = self.transform(list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = self.model(pixel_values=pixels.to(self.device, self.dtype)).last_hidden_state
            return self.model.post_layernorm(tokens) if self.model.config.model_type == "clip_vision_model" else tokens

    def __call__(self, images: Sequence[Image.Image]) -> Float[np.ndarray, "b t d"]:
        """The tokens of a batch of images. Raises StudyError if any of them is not finite."""
        tokens = self.hidden_states(images).float().cpu().numpy()
        if not np.isfinite(tokens).all():
            raise StudyError("backbone: its tokens hold NaN or infinity; are its weights whole?")
        return tokens


def token_layout(config, crop: int, n_tokens: int) -> TokenLayout:
    """The layout that a backbone's config says, held against the number of tokens that it gives."""
    patch, n_registers = getattr(config, "patch_size", None), getattr(config, "num_register_tokens", 0)
    if not isinstance(patch, int) or crop % patch:
        raise StudyError(f"backbone.crop = {crop}: must be a multiple of the backbone's patch size, {patch}")
    side = crop // patch
    left = n_tokens - n_registers - side**2
    if left not in (0, 1):
        raise StudyError(
            f"backbone: gives {n_tokens} tokens an image where {side} x {side} patches, {n_registers} registers and at most a "
            "CLS token were expected; its layout is not known here"
        )
    return TokenLayout(n_registers, side, config.hidden_size, has_cls=left == 1)


def features_artifact(study: Study, source: str, images: Artifact) -> Artifact:
    """The output folder of `extract_tokens`; `source` is "real" or a model's name."""
    inputs = {"images": images.fingerprint, "backbone": weights_fingerprint(study.backbone)}
    config = contents(study.backbone, "path", "batch_size", "keep_tokens")
    return Artifact(study.folder / "features" / source, study.name, config, inputs, ("features",))


def extract_tokens(study: Study, source: str, images: Artifact) -> Artifact:
    """Tokens of all images of a source, one (b, t, d) float16 .npy a shard; rows of lost images are NaN."""
    artifact = features_artifact(study, source, images)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    extractor = TokenExtractor(study.backbone)
    for index, path in enumerate(tqdm(shards_of(images), desc=f"tokens, {source}", unit="shard")):
        target = shard_path(artifact.folder, index, "npy")
        if not target.exists():
            save_array(target, image_tokens(extractor, path, study.backbone.batch_size))
    artifact.finish(layout=extractor.layout._asdict(), files=hashes(study.backbone))
    return artifact


def image_tokens(extractor: TokenExtractor, path: Path, batch_size: int) -> Float16[np.ndarray, "b t d"]:
    """The tokens of all images in one shard of pairs or generations; NaN where there is no image."""
    rows = read_shard(path, ["pair_id", "image"])
    tokens = np.full((len(rows), extractor.layout.n_tokens, extractor.layout.width), np.nan, np.float16)
    present = [position for position, row in enumerate(rows) if row["image"] is not None]
    for start in range(0, len(present), batch_size):
        chosen = present[start : start + batch_size]
        names = [f"image of pair {rows[i]['pair_id']!r} in {path}" for i in chosen]
        tokens[chosen] = extractor(
            [decode_image(stored_bytes(rows[i]["image"], name), name) for i, name in zip(chosen, names, strict=True)]
        )
    return tokens


def save_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as partial, open(partial, "wb") as file:
        np.save(file, array)


def open_array(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped. Raises StudyError if it is not whole."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StudyError(f"{path}: not a whole array ({error}); delete {path.parent} and run again") from None


def training_corpus_artifact(study: Study) -> Artifact:
    """The output folder of `embed_training_corpus`."""
    config = {
        "corpus": contents(study.training_corpus),
        "backbone": contents(study.backbone, "path", "batch_size", "keep_tokens"),
    }
    inputs = {"backbone": weights_fingerprint(study.backbone)}
    return Artifact(study.folder / "features" / "training-corpus", study.name, config, inputs, ("features", "scenes"))


def embed_training_corpus(study: Study, shard_size: int = 2000) -> Artifact:
    """One feature vector (`image_descriptor`) for every scene that the models were trained on."""
    artifact = training_corpus_artifact(study)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    extractor = TokenExtractor(study.backbone)
    corpus = study.training_corpus
    for index, start in enumerate(tqdm(range(0, corpus.n, shard_size), desc="training corpus", unit="shard")):
        target = shard_path(artifact.folder, index, "npy")
        if target.exists():
            continue
        descriptors = []
        for first in range(start, min(start + shard_size, corpus.n), study.backbone.batch_size):
            last = min(first + study.backbone.batch_size, start + shard_size, corpus.n)
            scenes = [Image.fromarray(draw_scene(corpus.seed, i)[1].image) for i in range(first, last)]
            descriptors.append(image_descriptor(extractor(scenes), extractor.layout))
        save_array(target, np.concatenate(descriptors).astype(np.float16))
    artifact.finish(layout=extractor.layout._asdict())
    return artifact


def image_descriptor(tokens: Float[np.ndarray, "b t d"], layout: TokenLayout) -> Float[np.ndarray, "b d4"]:
    """A unit vector an image for nearest-neighbour search: the mean patch token of each quadrant, side by side.

    Quadrants keep where things stand, so a copy is nearer than another image of the same things.
    """
    side, half = layout.patches_per_side, layout.patches_per_side // 2
    grid = np.asarray(tokens, np.float32)[:, layout.patches].reshape(len(tokens), side, side, layout.width)
    quadrants = [grid[:, rows, columns].mean(axis=(1, 2)) for rows in (slice(half), slice(half, None))
                 for columns in (slice(half), slice(half, None))]  # fmt: skip
    descriptor = np.concatenate(quadrants, axis=1)
    return descriptor / np.linalg.norm(descriptor, axis=1, keepdims=True)
