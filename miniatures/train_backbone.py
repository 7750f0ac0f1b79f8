"""Train the miniature DINOv2 with registers: self-distillation on scenes, and a contrastive loss with captions.

    python -m miniatures.train_backbone

The teacher's weights are the moving average of the student's. There are three losses:
- DINO: the student's CLS tokens of two small crops match the teacher's CLS token of the whole image.
- iBOT: the student's token of a masked or redrawn patch matches the teacher's token of that patch.
- captions: each image is compared with every word of the vocabulary. The score of a word is its best match among the patch
  tokens (late interaction, as in FILIP); the loss is the sigmoid loss of SigLIP.

The student sees half of the images redrawn: bent, blurred and with noise, as a generator might draw them.
"""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from blindspots_lib.data.scenes import OBJECTS
from blindspots_lib.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from miniatures.recipe import (
    CORPUS_SEED,
    CORPUS_SIZE,
    HELDOUT_SEED,
    MODELS_DIR,
    Schedule,
    draw_corpus,
    fit,
    write_card,
)  # fmt: skip

PATCH, N_REGISTERS, WIDTH = 8, 4, 192
N_PROTOTYPES = 512
LOCAL_SIZE, N_LOCAL = 32, 2
MASKED_IMAGES, MASKED_PATCHES = 0.5, 0.4  # fraction of images with masked patches, fraction of their patches
REDRAWN = 0.5  # fraction of the images that the student sees redrawn
BEND = 1.5  # standard deviation of the displacement at the knots of a grid, pixels
KNOTS = (5, 9)  # smallest and largest number of knots along each side of that grid
TEACHER_DECAY = 0.996
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05
CAPTION_WEIGHT = 4.0
SCHEDULE = Schedule(n_steps=17_000, batch_size=64, learning_rate=1.5e-3, weight_decay=0.04, ends=(8_000, 11_000))


def build_backbone():
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=6, image_size=64, patch_size=PATCH,
        num_register_tokens=N_REGISTERS, layerscale_value=1.0, attn_implementation="eager",
    )  # fmt: skip
    return Dinov2WithRegistersModel(config)


class Words:
    """The vocabulary of the captions, and for each caption the words that it contains (one 0/1 row per caption)."""

    def __init__(self, captions: list[str]):
        self.vocabulary = sorted({word for caption in captions for word in self.split(caption)})
        column = {word: k for k, word in enumerate(self.vocabulary)}
        self.present = torch.zeros(len(captions), len(self.vocabulary))
        for row, caption in enumerate(captions):
            self.present[row, [column[word] for word in self.split(caption)]] = 1

    @staticmethod
    def split(caption: str) -> list[str]:
        return caption.replace(",", " ").split()


class Heads(nn.Module):
    """Prototypes for self-distillation, and the embeddings of words."""

    def __init__(self, n_words: int):
        super().__init__()
        self.cls_prototypes = self.prototypes()
        self.patch_prototypes = self.prototypes()
        self.patch_projection = nn.Linear(WIDTH, WIDTH)
        self.words = nn.Parameter(torch.randn(n_words, WIDTH) / WIDTH**0.5)
        self.bias = nn.Parameter(torch.full((n_words,), -4.0))
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    @staticmethod
    def prototypes() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 64), UnitNorm(),
                             nn.Linear(64, N_PROTOTYPES, bias=False))  # fmt: skip

    def word_logits(self, patches: torch.Tensor) -> torch.Tensor:
        """Score every word (b, w) by its matches with the patch tokens (b, p, d)."""
        matches = self.sharpness.exp() * self.patch_projection(patches) @ F.normalize(self.words, dim=-1).T  # (b, p, w)
        return matches.float().logsumexp(dim=1) - np.log(patches.shape[1]) + self.bias  # soft maximum over patches


class UnitNorm(nn.Module):
    def forward(self, x):
        return F.normalize(x.float(), dim=-1)


@torch.no_grad()
def balanced_targets(logits: torch.Tensor) -> torch.Tensor:
    """Return soft assignments in which every prototype is used equally often (Sinkhorn-Knopp)."""
    q = (logits.float() / TEACHER_TEMPERATURE).softmax(dim=-1)
    for _ in range(3):
        q = q / q.sum(dim=0, keepdim=True).clamp_min(1e-6)
        q = q / q.sum(dim=1, keepdim=True)
    return q


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(targets * (logits.float() / STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1).mean()


def normalized(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


def redrawn(pixels: torch.Tensor) -> torch.Tensor:
    """Return the images as a generator might draw them: shapes bent by one or two pixels, blurred, with noise."""
    b, _, h, w = pixels.shape
    n_knots = int(torch.randint(KNOTS[0], KNOTS[1] + 1, ()))
    knots = torch.randn(b, 2, n_knots, n_knots) * torch.rand(b, 1, 1, 1) * 2 * BEND
    bend = F.interpolate(knots, size=(h, w), mode="bicubic", align_corners=True).permute(0, 2, 3, 1) / (w / 2)
    straight = F.affine_grid(torch.eye(2, 3).expand(b, 2, 3), [b, 1, h, w], align_corners=False)
    bent = F.grid_sample(pixels, straight + bend, padding_mode="reflection", align_corners=False)
    blurred = F.interpolate(F.avg_pool2d(bent, 2), scale_factor=2, mode="bilinear")
    return torch.lerp(bent, blurred, torch.rand(b, 1, 1, 1)) + 0.3 * torch.rand(b, 1, 1, 1) * torch.randn_like(bent)


def main() -> None:
    torch.manual_seed(SCHEDULE.seed)
    corpus = draw_corpus(CORPUS_SEED, CORPUS_SIZE)
    words = Words(corpus.captions)
    student = nn.ModuleDict({"backbone": build_backbone(), "heads": Heads(len(words.vocabulary))})
    student["teacher"] = copy.deepcopy(student).requires_grad_(False)
    teacher = student["teacher"]
    n_patches = (64 // PATCH) ** 2

    def tokens_of(module, pixels, masked=None):
        return module["backbone"](pixel_values=pixels, bool_masked_pos=masked).last_hidden_state

    def loss_of_step(step, rng):
        b = SCHEDULE.batch_size
        chosen = rng.integers(len(corpus.images), size=b)
        images = corpus.images[chosen]
        flip = rng.random(b) < 0.5
        images[flip] = images[flip, :, ::-1]
        pixels = normalized(images) * (1 + 0.1 * torch.randn(b, 1, 1, 1)) + 0.1 * torch.randn(b, 3, 1, 1)
        masked = torch.rand(b, n_patches) < MASKED_PATCHES
        masked[torch.rand(b) > MASKED_IMAGES] = False
        worse = torch.rand(b) < REDRAWN
        seen = torch.where(worse.view(b, 1, 1, 1), redrawn(pixels), pixels)
        asked = masked | worse.view(b, 1)

        with torch.no_grad():
            target = tokens_of(teacher, pixels)
            cls_target = balanced_targets(teacher["heads"].cls_prototypes(target[:, 0]))
            patch_target = balanced_targets(teacher["heads"].patch_prototypes(target[:, 1 + N_REGISTERS :][asked]))

        tokens = tokens_of(student, seen, masked)
        patches = tokens[:, 1 + N_REGISTERS :]
        heads = student["heads"]
        # the captions' loss uses only images without masked patches: with 40 % masked, a word may be impossible to see
        whole = ~masked.any(dim=1)
        captions = F.binary_cross_entropy_with_logits(
            heads.word_logits(patches[whole]), words.present[chosen][whole], reduction="none"
        )
        corners = rng.integers(0, 64 - LOCAL_SIZE + 1, size=(N_LOCAL, b, 2))
        local = torch.cat([
            torch.stack([x[:, r : r + LOCAL_SIZE, c : c + LOCAL_SIZE] for x, (r, c) in zip(seen, view, strict=True)])
            for view in corners
        ])  # fmt: skip
        local_cls = tokens_of(student, local)[:, 0]
        return {
            "dino": cross_entropy(heads.cls_prototypes(local_cls), cls_target.repeat(N_LOCAL, 1)),
            "ibot": cross_entropy(heads.patch_prototypes(patches[asked]), patch_target),
            "captions": CAPTION_WEIGHT * captions.sum(dim=1).mean() / 10,
        }

    def update_teacher(step):
        with torch.no_grad():
            for key in ("backbone", "heads"):
                for slow, fast in zip(teacher[key].parameters(), student[key].parameters(), strict=True):
                    slow.lerp_(fast, 1 - TEACHER_DECAY)

    seconds = fit("backbone", student, SCHEDULE, loss_of_step, update_teacher)
    backbone = student["backbone"]
    folder = MODELS_DIR / "dinov2"
    backbone.save_pretrained(folder)
    facts = probe_facts(backbone)
    write_card(folder, "Miniature DINOv2 with registers (Dinov2WithRegistersModel)", {
        "data": f"{CORPUS_SIZE:,} scenes, corpus seed {CORPUS_SEED}, flipped and tinted at random, half of them redrawn",
        "losses": "DINO, masked patches (iBOT), and captions word by word (sigmoid loss on the best-matching patch)",
        "steps": SCHEDULE.summary(),
        "training time": f"{seconds / 60:.0f} minutes on a CPU", **facts,
    }, "describe anything except OpenMoji Scenes; its features represent what captions name.")  # fmt: skip


def probe_facts(backbone, n_train: int = 4_000, n_test: int = 1_500) -> dict[str, str]:
    """Measure linear probes on held-out scenes: which objects are in the image, and which object covers a patch."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import accuracy_score, average_precision_score

    corpus = draw_corpus(HELDOUT_SEED, n_train + n_test)
    train, test = slice(0, n_train), slice(n_train, None)
    presence = corpus.presence[:, : len(OBJECTS)]
    covers = corpus.owners.reshape(-1, 8, PATCH, 8, PATCH).transpose(0, 1, 3, 2, 4).reshape(-1, 64, PATCH * PATCH)
    covered = np.stack([(covers == k).mean(-1) for k in range(len(OBJECTS))], -1)  # fraction of a patch, (n, 64, objects)
    facts = {}
    torch.manual_seed(0)
    for label, model in (("", backbone), (" (random network of the same shape)", build_backbone())):
        model.eval()
        with torch.inference_mode():
            patches = torch.cat([
                model(pixel_values=normalized(part)).last_hidden_state[:, 1 + N_REGISTERS :]
                for part in np.array_split(corpus.images, 40)
            ]).float().numpy()  # fmt: skip
        pooled = np.concatenate([patches.mean(1), patches.max(1)], axis=1)
        pooled = (pooled - pooled[train].mean(0)) / (pooled[train].std(0) + 1e-6)
        scores = Ridge(alpha=30.0).fit(pooled[train], presence[train]).predict(pooled[test])
        facts[f"mean average precision of a linear probe over {len(OBJECTS)} objects, patch mean and max{label}"] = (
            f"{average_precision_score(presence[test], scores, average='macro'):.3f}"
        )
        rows, columns = np.nonzero(covered.max(-1) > 0.5)  # patches of which one object covers more than half
        train_rows = rows < 1_500
        x, y = patches[rows, columns], covered[rows, columns].argmax(-1)
        x = (x - x.mean(0)) / (x.std(0) + 1e-6)
        probe = LogisticRegression(C=0.1, max_iter=200).fit(x[train_rows][:20_000], y[train_rows][:20_000])
        held = rows >= n_train
        facts[f"accuracy of a linear probe on single patches: which of {len(OBJECTS)} objects covers it{label}"] = (
            f"{accuracy_score(y[held], probe.predict(x[held])):.3f}"
        )
    return facts


if __name__ == "__main__":
    main()
