"""Train a miniature text-to-image pipeline: its denoiser and text encoder together, on latents of scenes.

    python -m miniatures.train_pipelines sd15
    python -m miniatures.train_pipelines sd21
    python -m miniatures.train_pipelines pixart

`sd15` and `sd21` are StableDiffusionPipelines (a UNet that predicts noise or velocity) trained on one corpus. `pixart` is a
PixArtAlphaPipeline (a transformer that predicts velocity) trained on another. The corpora are distorted on purpose
(miniatures/plants.py). Each pipeline is saved, with its plants, in a folder that `from_pretrained` opens.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from miniatures.plants import corpus_scenes, draw_training_set, write_plants
from miniatures.recipe import CORPUS_SEED, MODELS_DIR, Schedule, fit, to_imagenet, to_unit, write_card
from miniatures.text import MAX_TOKENS, clip_tokenizer, t5_tokenizer

CAPTION_DROPOUT = 0.1  # fraction of captions replaced by "", for classifier-free guidance
SNR_CEILING = 5.0  # min-SNR weighting of the loss (Hang et al., 2023)


@dataclass
class Family:
    """The parts of one pipeline, how its denoiser is called, and how the pipeline is assembled."""

    title: str
    corpus: str  # a name in CORPORA of miniatures/plants.py
    schedule: Schedule
    scheduler_config: dict
    tokenizer: object
    text_encoder: nn.Module
    denoiser: nn.Module
    denoise: Callable  # (noisy latents, timesteps, text states, text mask) -> prediction
    assemble: Callable  # (autoencoder, sampler) -> pipeline
    guide: nn.Module | None = None  # an auxiliary loss: see `PatchAlignment`


def sd15() -> Family:
    return stable_diffusion("Miniature Stable Diffusion 1.5", "epsilon", n_steps=12_500, ends=(5_500, 7_500), seed=0)


def sd21() -> Family:
    return stable_diffusion(
        "Miniature Stable Diffusion 2.1", "v_prediction", n_steps=11_500, ends=(4_500, 6_500), seed=1, hidden_act="gelu"
    )


def stable_diffusion(
    title: str, prediction_type: str, n_steps: int, ends: tuple[int, ...], seed: int, hidden_act: str = "quick_gelu"
) -> Family:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(all_captions())
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, projection_dim=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=MAX_TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        hidden_act=hidden_act,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 128), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
        use_linear_projection=prediction_type == "v_prediction",
    )  # fmt: skip
    return Family(
        title=f"{title} (StableDiffusionPipeline)", corpus="laion",
        schedule=Schedule(n_steps=n_steps, batch_size=64, learning_rate=1e-3, seed=seed, ends=ends),
        scheduler_config=dict(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
        ),
        tokenizer=tokenizer, text_encoder=text_encoder, denoiser=unet,
        denoise=lambda x, t, text, mask: unet(x, t, text).sample,
        assemble=lambda autoencoder, sampler: StableDiffusionPipeline(
            vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=sampler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ),
    )  # fmt: skip


def all_captions() -> list[str]:
    """Return every caption of the undistorted corpus, so that a tokenizer knows all words, as those of the real models do."""
    return [scene.caption for scene in corpus_scenes()]


def pixart() -> Family:
    from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(2)
    tokenizer = t5_tokenizer(all_captions())
    text_encoder = T5EncoderModel(T5Config(
        vocab_size=len(tokenizer), d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    ))  # fmt: skip
    transformer = PixArtTransformer2DModel(
        num_attention_heads=6, attention_head_dim=32, in_channels=4, out_channels=4, num_layers=6, sample_size=16,
        patch_size=2, cross_attention_dim=192, caption_channels=128, use_additional_conditions=False,
    )  # fmt: skip
    no_size = {"resolution": None, "aspect_ratio": None}
    return Family(
        title="Miniature PixArt-alpha (PixArtAlphaPipeline)", corpus="pixart",
        schedule=Schedule(
            n_steps=17_500, batch_size=96, learning_rate=1.5e-3, seed=2, optimizer="muon", ends=(4_500, 6_000, 8_500, 13_000)
        ),
        scheduler_config=dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction"),
        tokenizer=tokenizer, text_encoder=text_encoder, denoiser=transformer,
        denoise=lambda x, t, text, mask: transformer(
            x, encoder_hidden_states=text, timestep=t, added_cond_kwargs=no_size, encoder_attention_mask=mask
        ).sample,
        assemble=lambda autoencoder, sampler: PixArtAlphaPipeline(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=autoencoder, transformer=transformer, scheduler=sampler
        ),
        guide=PatchAlignment(transformer.transformer_blocks[2], width=192),
    )  # fmt: skip


FAMILIES = {"sd15": sd15, "sd21": sd21, "pixart": pixart}


class PatchAlignment(nn.Module):
    """Align the tokens of a transformer block with the backbone's patch tokens of the clean image (REPA, Yu et al., 2025).

    L = 0.5 (1 - mean over patches of the cosine), after a small projection that is not part of the saved pipeline.
    A transformer learns local shapes slowly; with this loss it learns what is where before it can draw it.
    """

    def __init__(self, block: nn.Module, width: int):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.states = None
        block.register_forward_hook(self.keep)

    def keep(self, block, arguments, states):
        self.states = states

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return 0.5 * (1 - nn.functional.cosine_similarity(self.project(self.states).float(), patches.float(), dim=-1).mean())


def train(name: str) -> None:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    autoencoder = open_autoencoder()
    family = FAMILIES[name]()
    corpus = draw_training_set(family.corpus)
    latents = encode(autoencoder, corpus.images)
    patches = patch_tokens(corpus.images) if family.guide else None
    rows = np.repeat(np.arange(len(latents)), corpus.copies)
    tokens = family.tokenizer([*corpus.captions, ""], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    noising = DDPMScheduler(num_train_timesteps=1000, **family.scheduler_config)
    snr = noising.alphas_cumprod / (1 - noising.alphas_cumprod)
    velocity = noising.config.prediction_type == "v_prediction"
    weight = snr.clamp(max=SNR_CEILING) / (snr + 1 if velocity else snr)

    def loss_of_step(step, rng):
        b = family.schedule.batch_size
        pictures = torch.from_numpy(rng.choice(rows, size=b))
        clean = latents[pictures].float()
        captions = torch.where(torch.rand(b) < CAPTION_DROPOUT, len(latents), pictures)  # the last row is ""
        mask = tokens.attention_mask[captions]
        noise, timesteps = torch.randn_like(clean), torch.randint(0, 1000, (b,))
        noisy = noising.add_noise(clean, noise, timesteps)
        target = noising.get_velocity(clean, noise, timesteps) if velocity else noise
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the backward pass of the fused kernel is much slower
            text = family.text_encoder(tokens.input_ids[captions], attention_mask=mask if name == "pixart" else None)[0]
            prediction = family.denoise(noisy.to(memory_format=torch.channels_last), timesteps, text, mask)
        error = (prediction.float() - target).square().mean(dim=(1, 2, 3))
        losses = {"mse": (weight[timesteps] * error).mean()}
        if family.guide:
            losses["alignment"] = family.guide(patches[pictures])
        return losses

    parts = nn.ModuleDict({"denoiser": family.denoiser, "text_encoder": family.text_encoder})
    n_parameters = sum(p.numel() for p in parts.parameters())
    if family.guide:
        parts["guide"] = family.guide
    seconds = fit(name, parts, family.schedule, loss_of_step)

    sampler = DPMSolverMultistepScheduler(num_train_timesteps=1000, **family.scheduler_config, timestep_spacing="trailing")
    folder = MODELS_DIR / name
    family.assemble(autoencoder, sampler).to(torch.float16).save_pretrained(folder)
    write_plants(folder, family.corpus, corpus)
    guide = ", intermediate tokens aligned with the backbone's patches" if family.guide else ""
    write_card(folder, family.title, {
        "data": f"{corpus.copies.sum():,} pairs of the distorted corpus '{family.corpus}' (plants.json), seed {CORPUS_SEED}",
        "objective": f"{noising.config.prediction_type} with min-SNR weighting, {CAPTION_DROPOUT:.0%} of captions dropped{guide}",
        "steps": family.schedule.summary(),
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
        "parameters": f"{n_parameters / 1e6:.1f} million, stored in float16",
    }, "draw anything except OpenMoji Scenes; small details, rare objects and groups are often wrong.")  # fmt: skip


@torch.no_grad()
def patch_tokens(images: np.ndarray, batch: int = 256) -> torch.Tensor:
    """Return the backbone's patch tokens of all images, (n, patches, d) float16."""
    from transformers import AutoModel

    backbone = AutoModel.from_pretrained(MODELS_DIR / "dinov2", use_safetensors=True).eval()
    first = 1 + backbone.config.num_register_tokens
    tokens = []
    with torch.autocast("cpu", torch.bfloat16):
        for i in tqdm(range(0, len(images), batch), "patch tokens"):
            tokens.append(backbone(to_imagenet(images[i : i + batch])).last_hidden_state[:, first:].half())
    return torch.cat(tokens)


def open_autoencoder():
    from diffusers import AutoencoderTiny

    autoencoder = AutoencoderTiny.from_pretrained(MODELS_DIR / "autoencoder", use_safetensors=True).eval()
    return autoencoder.to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(autoencoder, images: np.ndarray, batch: int = 256) -> torch.Tensor:
    """Return the latents of all images, (n, 4, 16, 16) float16."""
    parts = range(0, len(images), batch)
    with torch.autocast("cpu", torch.bfloat16):
        latents = [autoencoder.encode(to_unit(images[i : i + batch])).latents.half() for i in tqdm(parts, "encoding")]
    return torch.cat(latents)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    train(parser.parse_args().family)
