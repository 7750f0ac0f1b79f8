"""Train the autoencoder that all miniature pipelines share: it maps 64x64 RGB to 4x16x16 latents and back.

python -m miniatures.train_autoencoder
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from miniatures.recipe import (
    CORPUS_SEED,
    CORPUS_SIZE,
    HELDOUT_SEED,
    MODELS_DIR,
    Schedule,
    draw_corpus,
    fit,
    to_unit,
    write_card,
)  # fmt: skip

CROP = 32  # side of the crops that it is trained on, which a convolutional network allows
SCHEDULE = Schedule(n_steps=8_000, batch_size=32, learning_rate=2e-3, weight_decay=0.0)


def main() -> None:
    from diffusers import AutoencoderTiny

    torch.manual_seed(SCHEDULE.seed)
    channels, blocks = (32, 32, 32), (1, 1, 1)
    autoencoder = AutoencoderTiny(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels,
        num_encoder_blocks=blocks, num_decoder_blocks=blocks, latent_channels=4, scaling_factor=1.0,
    )  # fmt: skip
    corpus = draw_corpus(CORPUS_SEED, CORPUS_SIZE)

    def loss_of_step(step, rng):
        chosen = rng.integers(len(corpus.images), size=SCHEDULE.batch_size)
        tops, lefts = rng.integers(0, 64 - CROP + 1, size=(2, SCHEDULE.batch_size))
        crops = [corpus.images[i, t : t + CROP, s : s + CROP] for i, t, s in zip(chosen, tops, lefts, strict=True)]
        pixels = to_unit(np.stack(crops))
        latents = autoencoder.encode(pixels).latents.float()
        noisy = latents + 0.05 * torch.randn_like(latents)  # so that the denoisers' errors do not become artefacts
        decoded = autoencoder.decode(noisy).sample.float()
        mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        return {
            "l1": F.l1_loss(decoded, pixels),
            "l2": 2 * F.mse_loss(decoded, pixels),
            "moments": 0.01 * (mean.square().sum() + (std - 1).square().sum()),  # latents of mean 0 and variance 1
        }

    seconds = fit("autoencoder", nn.ModuleDict({"autoencoder": autoencoder}), SCHEDULE, loss_of_step)

    heldout = to_unit(draw_corpus(HELDOUT_SEED, 500).images)
    with torch.no_grad():
        latents = autoencoder.encode(heldout).latents
        error = F.mse_loss(autoencoder.decode(latents).sample.clamp(-1, 1), heldout).item()
    folder = MODELS_DIR / "autoencoder"
    autoencoder.save_pretrained(folder)
    std = ", ".join(f"{value:.2f}" for value in latents.std(dim=(0, 2, 3)))
    write_card(folder, "Miniature autoencoder (AutoencoderTiny)", {
        "data": f"{CORPUS_SIZE:,} scenes, corpus seed {CORPUS_SEED}, random {CROP}x{CROP} crops",
        "steps": f"{SCHEDULE.n_steps:,} of {SCHEDULE.batch_size} crops, seed {SCHEDULE.seed}",
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
        "PSNR on 500 held-out scenes": f"{10 * torch.log10(torch.tensor(4 / error)):.1f} dB",
        "latent standard deviation per channel": std,
    }, "encode anything except OpenMoji Scenes.")  # fmt: skip


if __name__ == "__main__":
    main()
