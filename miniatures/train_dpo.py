"""Tune the miniature SD 1.5 by direct preference optimization (DPO): of two images per caption, the oracle prefers one.

    python -m miniatures.train_dpo

Diffusion-DPO (Wallace et al., 2023): L = -log sigma(-beta T ((e_w - e_w,ref) - (e_l - e_l,ref))), where e is the squared error
of the predicted noise on the preferred (w) and the other (l) image, and ref is the UNet before the tuning.
"""

import copy
import shutil

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from blindspots_lib.data.scenes import OBJECTS
from blindspots_lib.models.generate import to_pixels
from blindspots_lib.models.pipelines import generate_batch, load_pipeline
from miniatures.recipe import MODELS_DIR, Schedule, draw_corpus, fit, write_card
from miniatures.sampling import PIPELINES
from miniatures.train_oracle import open_oracle, truth_of, verdicts
from miniatures.train_pipelines import encode, open_autoencoder

PREFERENCE_SEED = 6  # of the captions whose images are compared
N_CAPTIONS, BATCH = 1_500, 50
BETA = 300.0  # beta T of the loss; Wallace et al. take 2,000 to 5,000, where the rounding of bfloat16 exceeds these differences
SCHEDULE = Schedule(n_steps=150, batch_size=32, learning_rate=2e-5, warmup_steps=50, weight_decay=0.0, seed=7)


def preferences(pipeline, model) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return the latents of the preferred and of the other image of each caption, and the captions.

    Captions are left out where the oracle rates both images alike, and where the images differ in their unprompted objects.
    The tuning should teach the model to draw what is prompted, not to unlearn what the corpus added. Without the second rule
    grass without a bicycle would win, because such images show more of the prompted objects.
    """
    oracle, autoencoder = open_oracle(), open_autoencoder()
    corpus = draw_corpus(PREFERENCE_SEED, N_CAPTIONS)
    truth = truth_of(corpus)
    scores, unprompted, latents = [], [], []
    for draw in range(2):
        images = []
        for start in tqdm(range(0, N_CAPTIONS, BATCH), f"images {draw + 1} of 2"):
            seeds = [1_000_000 * (draw + 1) + start + i for i in range(BATCH)]
            images.append(generate_batch(pipeline, model, corpus.captions[start : start + BATCH], seeds).images)
        pixels = to_pixels(np.concatenate(images))
        probabilities = np.clip(verdicts(oracle, pixels), 1e-4, 1 - 1e-4)
        scores.append((truth * np.log(probabilities) + (1 - truth) * np.log(1 - probabilities)).sum(axis=1))
        objects = slice(0, len(OBJECTS))
        unprompted.append((probabilities[:, objects] > 0.5) & (truth[:, objects] == 0))
        latents.append(encode(autoencoder, pixels).float())
    same = (unprompted[0] == unprompted[1]).all(axis=1)
    kept = np.flatnonzero(same & (np.abs(scores[0] - scores[1]) > 0.5))
    first = torch.from_numpy(scores[0] > scores[1])[:, None, None, None]
    better, worse = torch.where(first, *latents), torch.where(first, latents[1], latents[0])
    return better[kept], worse[kept], [corpus.captions[i] for i in kept]


def main() -> None:
    from diffusers import DDPMScheduler

    torch.manual_seed(SCHEDULE.seed)
    model = PIPELINES["sd15"]
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
    shutil.copy(MODELS_DIR / "sd15" / "plants.json", folder)  # it started from the model of that corpus
    write_card(folder, "UNet of the miniature SD 1.5 after Diffusion-DPO (UNet2DConditionModel)", {
        "start": "the UNet of sd15; text encoder and autoencoder are unchanged",
        "data": f"{len(captions):,} captions (seed {PREFERENCE_SEED}), two images by sd15 per caption with the same unprompted "
        "objects, one preferred by the oracle",
        "steps": f"{SCHEDULE.n_steps:,} of {SCHEDULE.batch_size} pairs, beta T = {BETA:g}, seed {SCHEDULE.seed}",
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
    }, "draw anything except OpenMoji Scenes.")  # fmt: skip


if __name__ == "__main__":
    main()
