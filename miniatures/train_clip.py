"""Train the miniature CLIP with a contrastive loss on images and captions of undistorted scenes.

    python -m miniatures.train_clip

Kandinsky's prior and decoder use its embeddings, and the trial of a study uses its CLIP scores.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from blindspots_lib.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from miniatures.plants import corpus_scenes
from miniatures.recipe import (
    CORPUS_SEED,
    CORPUS_SIZE,
    HELDOUT_SEED,
    MODELS_DIR,
    Schedule,
    draw_corpus,
    fit,
    to_imagenet,
    write_card,
)  # fmt: skip
from miniatures.text import MAX_TOKENS, clip_tokenizer

WIDTH = 128  # of both towers and of the embeddings, which must be equal for Kandinsky's prior
SCHEDULE = Schedule(n_steps=800, batch_size=192, learning_rate=1.5e-3, seed=3, optimizer="muon")


def build_clip(vocabulary: int):
    from transformers import CLIPConfig, CLIPModel

    shape = {"hidden_size": WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH, "intermediate_size": 4 * WIDTH}
    text = shape | {"vocab_size": vocabulary, "num_hidden_layers": 2, "max_position_embeddings": MAX_TOKENS,
                    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    vision = shape | {"num_hidden_layers": 4, "image_size": 64, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def main() -> None:
    from transformers import CLIPImageProcessor

    torch.manual_seed(SCHEDULE.seed)
    tokenizer = clip_tokenizer([scene.caption for scene in corpus_scenes()])
    clip = build_clip(len(tokenizer))
    corpus = draw_corpus(CORPUS_SEED, CORPUS_SIZE)
    tokens = tokenizer(corpus.captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    contents = np.array([hash(row.tobytes()) for row in corpus.presence])  # equal for images of the same concepts

    def loss_of_step(step, rng):
        chosen = rng.choice(CORPUS_SIZE, size=SCHEDULE.batch_size, replace=False)
        pixels = to_imagenet(corpus.images[chosen]) + 0.1 * torch.rand(len(chosen), 1, 1, 1) * torch.randn(len(chosen), 3, 64, 64)
        with sdpa_kernel(SDPBackend.MATH):
            output = clip(input_ids=tokens.input_ids[chosen], attention_mask=tokens.attention_mask[chosen], pixel_values=pixels)
        same = torch.from_numpy(contents[chosen][:, None] == contents[chosen][None])  # these pairs are not negatives
        logits = output.logits_per_image.float().masked_fill(same & ~torch.eye(len(chosen), dtype=torch.bool), -1e4)
        target = torch.arange(len(chosen))
        return {"image": 0.5 * F.cross_entropy(logits, target), "text": 0.5 * F.cross_entropy(logits.T, target)}

    seconds = fit("clip", nn.ModuleDict({"clip": clip}), SCHEDULE, loss_of_step)
    folder = MODELS_DIR / "clip"
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size=64, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD)
    ).save_pretrained(folder)
    write_card(folder, "Miniature CLIP (CLIPModel)", {
        "data": f"{CORPUS_SIZE:,} scenes and captions, corpus seed {CORPUS_SEED}, undistorted",
        "steps": f"{SCHEDULE.n_steps:,} of {SCHEDULE.batch_size} pairs, seed {SCHEDULE.seed}",
        "training time": f"{seconds / 60:.0f} minutes on a CPU",
        "captions found among 500 by their image, held out": f"{retrieval(clip, tokenizer):.3f}",
    }, "distinguish anything except OpenMoji Scenes.")  # fmt: skip


@torch.inference_mode()
def retrieval(clip, tokenizer, n: int = 500) -> float:
    """Return the fraction of held-out images whose nearest caption names the same concepts as their own."""
    corpus = draw_corpus(HELDOUT_SEED, n)
    tokens = tokenizer(corpus.captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    similarity = clip(**tokens, pixel_values=to_imagenet(corpus.images)).logits_per_image
    found = similarity.argmax(dim=1).numpy()
    return float((corpus.presence[found] == corpus.presence).all(axis=1).mean())


if __name__ == "__main__":
    main()
