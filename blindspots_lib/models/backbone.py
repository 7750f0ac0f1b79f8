"""The backbone: images to tokens, by the same transform and forward pass for real and generated images."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from blindspots_lib.core.config import Backbone
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import fetch
from blindspots_lib.models.loading import (
    compute_dtype,
    conditions,
    device_kind,
    load_whole,
    naming_full_gpu,
    naming_load_errors,
    quiet,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TokenLayout(NamedTuple):
    """The order of the t tokens of an image: CLS (if any), registers, then patches row by row."""

    n_registers: int
    patches_per_side: int
    width: int  # d
    has_cls: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_tokens, self.width

    @property
    def n_tokens(self) -> int:
        return self.has_cls + self.n_registers + self.patches_per_side**2

    @property
    def patches(self) -> slice:
        return slice(self.has_cls + self.n_registers, None)

    def selection(self, tokens: str) -> slice:
        """Return the positions of "patches", "cls" or "all" tokens. Raises StudyError if there is no CLS token."""
        if tokens == "cls" and not self.has_cls:
            raise StudyError("tokens: cls: this backbone has no CLS token; write patches or all")
        return {"patches": self.patches, "cls": slice(0, 1), "all": slice(None)}[tokens]


def image_transform(backbone: Backbone, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
    """Return a transform: resize the short side (bicubic), crop the centre, scale to [0, 1], subtract mean, divide by std."""
    from transformers import BitImageProcessorPil

    return BitImageProcessorPil(
        do_resize=True, size={"shortest_edge": backbone.resize}, resample=Image.Resampling.BICUBIC,
        do_center_crop=True, crop_size={"height": backbone.crop, "width": backbone.crop},
        do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=list(mean), image_std=list(std),
        do_convert_rgb=True,
    )  # fmt: skip


def pixel_statistics(folder: Path) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of a backbone's training pixels: those beside its weights, else ImageNet's."""
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return said.get("image_mean", list(IMAGENET_MEAN)), said.get("image_std", list(IMAGENET_STD))


class TokenExtractor:
    """A frozen backbone with its image transform. It turns images into tokens after the final layer norm.

    Takes any vision transformer that `AutoModel` knows; of a model of images and texts (CLIP, SigLIP) the vision part.
    Raises StudyError if it does not load or its tokens are not CLS, registers and a square of patches.
    """

    def __init__(self, backbone: Backbone):
        quiet("transformers")
        from transformers import AutoModel

        folder = fetch(backbone)
        self.device, self.dtype = device_kind(), compute_dtype()
        self.conditions = conditions(self.dtype, "transformers")
        self.naming_full_gpu = partial(naming_full_gpu, "backbone", f" at batch_size = {backbone.batch_size}; lower it")
        model = load_whole(AutoModel, "backbone", folder, backbone.variant, dtype=self.dtype, trust_remote_code=False)
        with naming_load_errors("backbone", folder), self.naming_full_gpu():
            self.model = getattr(model, "vision_model", model).eval().to(self.device)
            self.transform = image_transform(backbone, *pixel_statistics(folder))
            blank = self.hidden_states([Image.new("RGB", (backbone.crop, backbone.crop))])
        self.layout = token_layout(self.model.config, backbone.crop, blank.shape[1])

    def hidden_states(self, images: Sequence[Image.Image]):
        """Return the last layer's tokens after the final layer norm; CLIP applies that norm to its pooled token only."""
        import torch

        pixels = self.transform(list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = self.model(pixel_values=pixels.to(self.device, self.dtype)).last_hidden_state
            return self.model.post_layernorm(tokens) if self.model.config.model_type == "clip_vision_model" else tokens

    def __call__(self, images: Sequence[Image.Image]) -> Float[np.ndarray, "b t d"]:
        """Return the tokens of a batch of images. Raises StudyError if any of them is not finite."""
        with self.naming_full_gpu():
            tokens = self.hidden_states(images).float().cpu().numpy()
        if not np.isfinite(tokens).all():
            raise StudyError("backbone: its tokens hold NaN or infinity; are its weights whole?")
        return tokens


def token_layout(config, crop: int, n_tokens: int) -> TokenLayout:
    """Return the token layout by a backbone's config. Raises StudyError if the backbone's number of tokens contradicts it."""
    patch, n_registers = getattr(config, "patch_size", None), getattr(config, "num_register_tokens", 0)
    if not isinstance(patch, int) or crop % patch:
        raise StudyError(f"backbone.crop = {crop}: must be a multiple of the backbone's patch size, {patch}")
    side = crop // patch
    n_cls = n_tokens - n_registers - side**2
    if n_cls not in (0, 1):
        raise StudyError(
            f"backbone: gives {n_tokens} tokens an image where {side} x {side} patches, {n_registers} registers and at most a "
            "CLS token were expected; its layout is not known here"
        )
    return TokenLayout(n_registers, side, config.hidden_size, has_cls=n_cls == 1)
