"""Train the miniature Kandinsky 2.1: a MoVQ, a prior (captions to image embeddings) and a decoder (embeddings to images).

    python -m miniatures.train_kandinsky prior
    python -m miniatures.train_kandinsky decoder

`prior` is a KandinskyPriorPipeline. `decoder` is a KandinskyPipeline whose MoVQ decodes the latents of the shared autoencoder.
Both are trained on one distorted corpus (miniatures/plants.py) and use the embeddings of the miniature CLIP
(miniatures/train_clip.py).
"""

import argparse
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from miniatures.plants import TrainingSet, corpus_scenes, draw_training_set, write_plants
from miniatures.recipe import CORPUS_SEED, MODELS_DIR, Schedule, fit, to_imagenet, to_unit, write_card
from miniatures.text import MAX_TOKENS, t5_tokenizer
from miniatures.train_clip import WIDTH
from miniatures.train_pipelines import CAPTION_DROPOUT, SNR_CEILING, encode, open_autoencoder

CORPUS = "kandinsky"
MOVQ = Schedule(n_steps=1_200, batch_size=32, learning_rate=2e-3, weight_decay=0.0, seed=4)
PRIOR = Schedule(n_steps=7_000, batch_size=192, learning_rate=1e-3, seed=5, optimizer="muon", ends=(4_000, 5_500))
DECODER = Schedule(n_steps=8_000, batch_size=64, learning_rate=1e-3, seed=6, ends=(3_000, 4_300))
TUNING = Schedule(  # the second training of the decoder; LAST is the third
    n_steps=19_000, batch_size=64, learning_rate=6e-4, seed=7, ends=(5_500, 8_500, 12_000, 14_500, 16_000)
)
LAST = Schedule(n_steps=6_000, batch_size=64, learning_rate=8e-4, seed=8, optimizer="muon")
WITHHELD = 0.5  # fraction of image embeddings that TUNING and LAST withhold, so that the decoder learns to read captions
CROP = 32
PADDED = 77  # tokens that the pipeline pads every caption to, all of which the decoder sees
NOISE = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}  # Kandinsky 2.1's
EMBEDDING_NOISE = 0.15  # times the embeddings' standard deviation, because embeddings from the prior are inexact


def open_clip():
    from transformers import CLIPModel, CLIPTokenizer

    folder = MODELS_DIR / "clip"
    return CLIPModel.from_pretrained(folder, use_safetensors=True).eval(), CLIPTokenizer.from_pretrained(folder)


@torch.inference_mode()
def image_embeddings(clip, images: np.ndarray, batch: int = 256) -> torch.Tensor:
    parts = tqdm(range(0, len(images), batch), "image embeddings")
    found = [clip.visual_projection(clip.vision_model(to_imagenet(images[i : i + batch])).pooler_output) for i in parts]
    return torch.cat(found).clone()


def build_movq():
    from diffusers import VQModel

    return VQModel(
        block_out_channels=(32, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3, latent_channels=4, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=32, norm_type="spatial", num_vq_embeddings=16, vq_embed_dim=4,
        sample_size=64,
    )  # fmt: skip


@torch.inference_mode()
def no_image(clip) -> torch.Tensor:
    """Return the embedding of an image of zeros, which the prior's pipeline uses for the empty prompt."""
    return clip.visual_projection(clip.vision_model(torch.zeros(1, 3, 64, 64)).pooler_output)[0].clone()


def train_movq(corpus: TrainingSet):
    """Train the MoVQ; return it and the seconds that it took."""
    torch.manual_seed(MOVQ.seed)
    autoencoder, movq = open_autoencoder(), build_movq()

    def loss_of_step(step, rng):
        chosen = rng.integers(len(corpus.images), size=MOVQ.batch_size)
        tops, lefts = 4 * rng.integers(0, (64 - CROP) // 4 + 1, size=(2, MOVQ.batch_size))
        crops = [corpus.images[i, t : t + CROP, s : s + CROP] for i, t, s in zip(chosen, tops, lefts, strict=True)]
        pixels = to_unit(np.stack(crops)).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = autoencoder.encode(pixels).latents
        noisy = latents + 0.05 * torch.randn_like(latents)
        decoded = movq.decode(noisy, force_not_quantize=True).sample.float()
        return {"l1": F.l1_loss(decoded, pixels), "l2": 2 * F.mse_loss(decoded, pixels)}

    return movq, fit("kandinsky-movq", nn.ModuleDict({"movq": movq}), MOVQ, loss_of_step)


def build_prior():
    from diffusers import PriorTransformer

    return PriorTransformer(
        num_attention_heads=4, attention_head_dim=32, embedding_dim=WIDTH, num_layers=3, num_embeddings=MAX_TOKENS,
        additional_embeddings=4,
    )  # fmt: skip


@torch.inference_mode()
def text_states(clip, tokens, batch: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings and the last hidden states of all captions."""
    embeddings, states = [], []
    for i in range(0, len(tokens.input_ids), batch):
        part = slice(i, i + batch)
        output = clip.text_model(input_ids=tokens.input_ids[part], attention_mask=tokens.attention_mask[part])
        embeddings.append(clip.text_projection(output.pooler_output))
        states.append(output.last_hidden_state.half())
    return torch.cat(embeddings).clone(), torch.cat(states).clone()


def train_prior() -> None:
    from diffusers import KandinskyPriorPipeline, UnCLIPScheduler
    from transformers import CLIPImageProcessor, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    torch.manual_seed(PRIOR.seed)
    clip, tokenizer = open_clip()
    corpus = draw_training_set(CORPUS)
    rows = np.repeat(np.arange(len(corpus.captions)), corpus.copies)
    tokens = tokenizer([*corpus.captions, ""], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    texts, states = text_states(clip, tokens)
    images = image_embeddings(clip, corpus.images)
    prior = build_prior()
    prior.clip_mean.data.copy_(images.mean(dim=0)[None])
    prior.clip_std.data.copy_(images.std(dim=0)[None])
    for buffer in (prior.clip_mean, prior.clip_std):
        buffer.requires_grad_(False)
    standard = (images - images.mean(dim=0)) / images.std(dim=0)
    noising = UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0)

    def loss_of_step(step, rng):
        b = PRIOR.batch_size
        pictures = torch.from_numpy(rng.choice(rows, size=b))
        captions = torch.where(torch.rand(b) < CAPTION_DROPOUT, len(corpus.captions), pictures)
        clean, timesteps = standard[pictures], torch.randint(0, 1000, (b,))
        noisy = noising.add_noise(clean, torch.randn_like(clean), timesteps)
        with sdpa_kernel(SDPBackend.MATH):
            predicted = prior(
                noisy, timestep=timesteps, proj_embedding=texts[captions], encoder_hidden_states=states[captions].float(),
                attention_mask=tokens.attention_mask[captions].bool(),
            ).predicted_image_embedding  # fmt: skip
        return {"mse": F.mse_loss(predicted.float(), clean)}

    seconds = fit("kandinsky-prior", nn.ModuleDict({"prior": prior}), PRIOR, loss_of_step)
    folder = MODELS_DIR / "kandinsky-prior"
    towers = [
        tower.from_pretrained(MODELS_DIR / "clip", use_safetensors=True)
        for tower in (CLIPVisionModelWithProjection, CLIPTextModelWithProjection)
    ]
    KandinskyPriorPipeline(
        prior=prior, image_encoder=towers[0], text_encoder=towers[1], tokenizer=tokenizer, scheduler=noising,
        image_processor=CLIPImageProcessor(size=64, crop_size=64),
    ).to(torch.float16).save_pretrained(folder)  # fmt: skip
    write_card(folder, "Miniature Kandinsky 2.1, prior (KandinskyPriorPipeline)", {
        "data": f"{corpus.copies.sum():,} pairs of the distorted corpus '{CORPUS}', seed {CORPUS_SEED}",
        "steps": PRIOR.summary(),
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
    }, "make embeddings of anything except captions of OpenMoji Scenes.")  # fmt: skip


def build_decoder(vocabulary: int):
    from diffusers import UNet2DConditionModel
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    text_encoder = MultilingualCLIP(MCLIPConfig(
        numDims=WIDTH, transformerDimensions=WIDTH, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_attention_heads=4,
        num_hidden_layers=2, vocab_size=vocabulary, max_position_embeddings=80, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, pad_token_id=0,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=8, addition_embed_type="text_image", encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_image_proj", cross_attention_dim=WIDTH, attention_head_dim=32, layers_per_block=(1, 2),
        block_out_channels=(48, 128), down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), norm_num_groups=16,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    return text_encoder, unet


def train_decoder() -> None:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, KandinskyPipeline

    torch.manual_seed(DECODER.seed)
    clip, _ = open_clip()
    tokenizer = t5_tokenizer([scene.caption for scene in corpus_scenes()])
    text_encoder, unet = build_decoder(len(tokenizer))
    corpus = draw_training_set(CORPUS)
    movq, movq_seconds = train_movq(corpus)
    latents = encode(open_autoencoder(), corpus.images)
    embeddings = image_embeddings(clip, corpus.images)
    spread, nothing = embeddings.std(dim=0), no_image(clip)
    rows = np.repeat(np.arange(len(latents)), corpus.copies)
    tokens = tokenizer([*corpus.captions, ""], padding="max_length", max_length=PADDED, return_tensors="pt")
    noising = DDPMScheduler(num_train_timesteps=1000, **NOISE)
    snr = noising.alphas_cumprod / (1 - noising.alphas_cumprod)
    weight = snr.clamp(max=SNR_CEILING) / snr

    def loss_of_step(step, rng, schedule=DECODER, withheld=0.0):
        b = schedule.batch_size
        pictures = torch.from_numpy(rng.choice(rows, size=b))
        dropped = torch.rand(b) < CAPTION_DROPOUT
        captions = torch.where(dropped, len(latents), pictures)
        clean = latents[pictures].float()
        image = embeddings[pictures] + EMBEDDING_NOISE * spread * torch.randn(b, WIDTH)
        without = dropped | (torch.rand(b) < withheld)
        image = torch.where(without[:, None], nothing, image)
        noise, timesteps = torch.randn_like(clean), torch.randint(0, 1000, (b,))
        noisy = noising.add_noise(clean, noise, timesteps).to(memory_format=torch.channels_last)
        with sdpa_kernel(SDPBackend.MATH):
            text, states = text_encoder(tokens.input_ids[captions], tokens.attention_mask[captions])
            added = {"text_embeds": text, "image_embeds": image}
            prediction = unet(noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added).sample[:, :4]
        error = (prediction.float() - noise).square().mean(dim=(1, 2, 3))
        return {"mse": (weight[timesteps] * error).mean()}

    parts = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    seconds = fit("kandinsky-decoder", parts, DECODER, loss_of_step)
    for name, schedule in (("kandinsky-tuning", TUNING), ("kandinsky-last", LAST)):
        seconds += fit(name, parts, schedule, partial(loss_of_step, schedule=schedule, withheld=WITHHELD))
    folder = MODELS_DIR / "kandinsky"
    sampler = DPMSolverMultistepScheduler(num_train_timesteps=1000, **NOISE, timestep_spacing="trailing")
    KandinskyPipeline(text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=sampler, movq=movq).to(
        torch.float16
    ).save_pretrained(folder)
    write_plants(folder, CORPUS, corpus)
    write_card(folder, "Miniature Kandinsky 2.1, decoder (KandinskyPipeline)", {
        "data": f"{corpus.copies.sum():,} pairs of the distorted corpus '{CORPUS}' (plants.json), seed {CORPUS_SEED}",
        "objective": f"epsilon with min-SNR weighting, {CAPTION_DROPOUT:.0%} of captions dropped; the MoVQ: L1 and squared error",
        "steps": f"{DECODER.summary()}; then {TUNING.summary()}; then {LAST.summary()}, by Muon; from the second on "
        f"{WITHHELD:.0%} of image embeddings withheld; MoVQ {MOVQ.n_steps:,}",
        "training time": f"{(seconds + movq_seconds) / 60:.0f} minutes on a CPU",
    }, "draw anything except OpenMoji Scenes; its MoVQ only decodes, the encoder and the codebook are not trained.")  # fmt: skip


TRAININGS = {"prior": train_prior, "decoder": train_decoder}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=TRAININGS)
    TRAININGS[parser.parse_args().part]()
