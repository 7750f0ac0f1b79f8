"""Train a miniature text-to-image pipeline: denoiser and text encoder together, on latents of scenes.

    python -m models.train_pipelines sd15
    python -m models.train_pipelines pixart

`sd15` is a StableDiffusionPipeline (UNet, noise prediction), `pixart` a PixArtAlphaPipeline (transformer, velocity
prediction). Both are saved as folders that `from_pretrained` opens.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from models.recipe import (
    CORPUS_SEED,
    CORPUS_SIZE,
    MODELS_DIR,
    Corpus,
    Schedule,
    draw_corpus,
    fit,
    to_unit,
    write_card,
)  # fmt: skip
from models.text import MAX_TOKENS, clip_tokenizer, t5_tokenizer

CAPTION_DROPOUT = 0.1  # share of captions replaced by "", for classifier-free guidance
SNR_CEILING = 5.0  # min-SNR weighting of the loss (Hang et al., 2023)


@dataclass
class Family:
    """One pipeline class: its parts, how its denoiser is called, how it is put together."""

    title: str
    schedule: Schedule
    scheduler_config: dict
    tokenizer: object
    text_encoder: nn.Module
    denoiser: nn.Module
    denoise: Callable  # (noisy latents, timesteps, text states, text mask) -> prediction
    assemble: Callable  # (autoencoder, sampler) -> pipeline


def sd15(corpus: Corpus) -> Family:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer(corpus)
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, projection_dim=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=MAX_TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 112), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip
    return Family(
        title="Miniature Stable Diffusion 1.5 (StableDiffusionPipeline)",
        schedule=Schedule(n_steps=2_700, batch_size=64, learning_rate=1e-3),
        scheduler_config=dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon"),
        tokenizer=tokenizer, text_encoder=text_encoder, denoiser=unet,
        denoise=lambda x, t, text, mask: unet(x, t, text).sample,
        assemble=lambda autoencoder, sampler: StableDiffusionPipeline(
            vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=sampler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ),
    )  # fmt: skip


def pixart(corpus: Corpus) -> Family:
    from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = t5_tokenizer(corpus)
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
        title="Miniature PixArt-alpha (PixArtAlphaPipeline)",
        schedule=Schedule(n_steps=2_000, batch_size=128, learning_rate=1.5e-3),
        scheduler_config=dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction"),
        tokenizer=tokenizer, text_encoder=text_encoder, denoiser=transformer,
        denoise=lambda x, t, text, mask: transformer(
            x, encoder_hidden_states=text, timestep=t, added_cond_kwargs=no_size, encoder_attention_mask=mask
        ).sample,
        assemble=lambda autoencoder, sampler: PixArtAlphaPipeline(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=autoencoder, transformer=transformer, scheduler=sampler
        ),
    )  # fmt: skip


FAMILIES = {"sd15": sd15, "pixart": pixart}


def train(name: str) -> None:
    from diffusers import AutoencoderTiny, DDPMScheduler, DPMSolverMultistepScheduler

    torch.manual_seed(0)
    autoencoder = AutoencoderTiny.from_pretrained(MODELS_DIR / "autoencoder", use_safetensors=True).eval()
    autoencoder.to(memory_format=torch.channels_last)
    corpus = draw_corpus(CORPUS_SEED, CORPUS_SIZE)
    family = FAMILIES[name](corpus)
    latents = encode(autoencoder, corpus.images)
    tokens = family.tokenizer([*corpus.captions, ""], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    noising = DDPMScheduler(num_train_timesteps=1000, **family.scheduler_config)
    snr = noising.alphas_cumprod / (1 - noising.alphas_cumprod)
    velocity = noising.config.prediction_type == "v_prediction"
    weight = snr.clamp(max=SNR_CEILING) / (snr + 1 if velocity else snr)

    def loss_of_step(step, rng):
        b = family.schedule.batch_size
        chosen = torch.from_numpy(rng.integers(len(latents), size=b))
        clean = latents[chosen].float()
        chosen[torch.rand(b) < CAPTION_DROPOUT] = len(latents)  # the row of ""
        mask = tokens.attention_mask[chosen]
        noise, timesteps = torch.randn_like(clean), torch.randint(0, 1000, (b,))
        noisy = noising.add_noise(clean, noise, timesteps)
        target = noising.get_velocity(clean, noise, timesteps) if velocity else noise
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the backward pass of the fused kernel is far slower
            text = family.text_encoder(tokens.input_ids[chosen], attention_mask=mask if name == "pixart" else None)[0]
            prediction = family.denoise(noisy.to(memory_format=torch.channels_last), timesteps, text, mask)
        error = (prediction.float() - target).square().mean(dim=(1, 2, 3))
        return {"mse": (weight[timesteps] * error).mean()}

    parts = nn.ModuleDict({"denoiser": family.denoiser, "text_encoder": family.text_encoder})
    seconds = fit(name, parts, family.schedule, loss_of_step)

    sampler = DPMSolverMultistepScheduler(num_train_timesteps=1000, **family.scheduler_config, timestep_spacing="trailing")
    folder = MODELS_DIR / name
    family.assemble(autoencoder, sampler).to(torch.float16).save_pretrained(folder)
    write_card(folder, family.title, {
        "data": f"{CORPUS_SIZE:,} scenes and captions, corpus seed {CORPUS_SEED}",
        "objective": f"{noising.config.prediction_type} with min-SNR weighting, {CAPTION_DROPOUT:.0%} of captions dropped",
        "steps": f"{family.schedule.n_steps:,} of {family.schedule.batch_size} images, seed {family.schedule.seed}",
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
        "parameters": f"{sum(p.numel() for p in parts.parameters()) / 1e6:.1f} million, stored in float16",
    }, "draw anything but OpenMoji Scenes; small details, rare objects and groups are often wrong.")  # fmt: skip


@torch.no_grad()
def encode(autoencoder, images: np.ndarray, batch: int = 256) -> torch.Tensor:
    """Latents of all images, (n, 4, 16, 16) float16."""
    parts = range(0, len(images), batch)
    with torch.autocast("cpu", torch.bfloat16):
        latents = [autoencoder.encode(to_unit(images[i : i + batch])).latents.half() for i in tqdm(parts, "encoding")]
    return torch.cat(latents)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    train(parser.parse_args().family)
