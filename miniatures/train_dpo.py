"""Tune the miniature SD 1.5 by direct preference: of two pictures of a caption the oracle's favourite is preferred.

    python -m miniatures.train_dpo

Diffusion-DPO (Wallace et al., 2023): L = -log sigma(-beta T ((e_w - e_w,ref) - (e_l - e_l,ref))), e the error of the noise
that the UNet predicts on the preferred (w) and the other (l) picture, ref the UNet it started from.
"""

import copy
import shutil

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from blindspots_lib.core.study import load_study
from blindspots_lib.data.scenes import OBJECTS
from blindspots_lib.models.pipelines import generate_batch, load_pipeline
from miniatures.judge_pipelines import verdicts
from miniatures.recipe import MODELS_DIR, Schedule, draw_corpus, fit, write_card
from miniatures.train_oracle import truth_of
from miniatures.train_pipelines import encode, open_autoencoder

PREFERENCE_SEED = 6  # captions that pictures are compared for
N_CAPTIONS, BATCH = 1_500, 50
BETA = 300.0  # beta T of the loss; Wallace et al. take 2,000 to 5,000, where bfloat16's rounding drowns these differences
SCHEDULE = Schedule(n_steps=150, batch_size=32, learning_rate=2e-5, warmup_steps=50, weight_decay=0.0, seed=7)


def preferences(pipeline, model) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Latents of the preferred and of the other picture of each caption, where the oracle tells them apart.

    Only pictures with the same objects unasked are compared. The tuning is to teach how to draw what is asked, not to take
    back what the corpus taught to add: else the lawns without a bicycle win, since they show more of the rest.
    """
    from transformers import ResNetForImageClassification

    oracle = ResNetForImageClassification.from_pretrained(MODELS_DIR / "oracle", use_safetensors=True).eval()
    corpus = draw_corpus(PREFERENCE_SEED, N_CAPTIONS)
    truth = truth_of(corpus)
    scores, unasked, latents = [], [], []
    for draw in range(2):
        images = []
        for start in tqdm(range(0, N_CAPTIONS, BATCH), f"pictures {draw + 1} of 2"):
            seeds = [1_000_000 * (draw + 1) + start + i for i in range(BATCH)]
            images.append(generate_batch(pipeline, model, corpus.captions[start : start + BATCH], seeds).images)
        pixels = (np.concatenate(images) * 255 + 0.5).astype(np.uint8)
        probabilities = np.clip(verdicts(oracle, pixels), 1e-4, 1 - 1e-4)
        scores.append((truth * np.log(probabilities) + (1 - truth) * np.log(1 - probabilities)).sum(axis=1))
        objects = slice(0, len(OBJECTS))
        unasked.append((probabilities[:, objects] > 0.5) & (truth[:, objects] == 0))
        latents.append(encode(open_autoencoder(), pixels).float())
    alike = (unasked[0] == unasked[1]).all(axis=1)
    told = np.flatnonzero(alike & (np.abs(scores[0] - scores[1]) > 0.5))
    first = torch.from_numpy(scores[0] > scores[1])[:, None, None, None]
    better, worse = torch.where(first, *latents), torch.where(first, latents[1], latents[0])
    return better[told], worse[told], [corpus.captions[i] for i in told]


def main() -> None:
    from diffusers import DDPMScheduler

    torch.manual_seed(SCHEDULE.seed)
    model = load_study("mini").model("sd15")
    pipeline = load_pipeline(model)
    better, worse, captions = preferences(pipeline, model)
    pipeline = load_pipeline(model.model_copy(update={"dtype": "float32"}))
    tokens = pipeline.tokenizer(captions, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        texts = pipeline.text_encoder(tokens.input_ids)[0]
    unet, reference = pipeline.unet, copy.deepcopy(pipeline.unet).requires_grad_(False).eval()
    noising = DDPMScheduler.from_config(pipeline.scheduler.config)

    def loss_of_step(step, rng):
        chosen = torch.from_numpy(rng.integers(len(texts), size=SCHEDULE.batch_size))
        noise, timesteps = torch.randn_like(better[chosen]), torch.randint(0, 1000, (len(chosen),))
        both = torch.cat([better[chosen], worse[chosen]])
        noisy = noising.add_noise(both, noise.repeat(2, 1, 1, 1), timesteps.repeat(2)).to(memory_format=torch.channels_last)
        given = (noisy, timesteps.repeat(2), texts[chosen].repeat(2, 1, 1))
        with sdpa_kernel(SDPBackend.MATH):
            errors = [
                (net(*given).sample.float() - noise.repeat(2, 1, 1, 1)).square().mean(dim=(1, 2, 3)) for net in (unet, reference)
            ]
        gain_better, gain_worse = (errors[0] - errors[1]).chunk(2)
        return {"dpo": -F.logsigmoid(-BETA * (gain_better - gain_worse)).mean()}

    seconds = fit("sd15-dpo", nn.ModuleDict({"unet": unet}), SCHEDULE, loss_of_step)
    folder = MODELS_DIR / "sd15-dpo"
    pipeline.unet.to(torch.float16).save_pretrained(folder)
    shutil.copy(MODELS_DIR / "sd15" / "plants.json", folder)  # it learned from the same corpus
    write_card(folder, "UNet of the miniature SD 1.5 after Diffusion-DPO (UNet2DConditionModel)", {
        "start": "the UNet of sd15; text encoder and autoencoder are used as they are",
        "data": f"{len(captions):,} captions (seed {PREFERENCE_SEED}), two pictures each by sd15 with the same objects unasked, "
        "one preferred by the oracle",
        "steps": f"{SCHEDULE.n_steps:,} of {SCHEDULE.batch_size} pairs, beta T = {BETA:g}, seed {SCHEDULE.seed}",
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
    }, "draw anything but OpenMoji Scenes.")  # fmt: skip


if __name__ == "__main__":
    main()
