"""Tiny, randomly initialised repositories with the classes and the component layout of the real ones on the hub."""

from pathlib import Path

import torch

WORDS = """a an the of on in at two three photo dog cat tree house red blue green and with sky wood sand""".split()  # noqa: SIM905
WIDTH = 32  # of every text encoder, backbone and denoiser here
PICTURE = 64  # pixels a side


def build_stable_diffusion(folder: Path, prediction_type: str, checked: bool) -> None:
    """SD 1.5 (with a safety checker) or 2.1 (velocity prediction, without one)."""
    import diffusers
    from transformers import CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_shape(len(tokenizer)), max_position_embeddings=77))
    checker = safety_checker() if checked else None
    scheduler = diffusers.PNDMScheduler if checked else diffusers.DDIMScheduler
    diffusers.StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text_encoder, tokenizer=tokenizer, unet=unet(),
        scheduler=scheduler(beta_schedule="scaled_linear", prediction_type=prediction_type, skip_prk_steps=True, steps_offset=1)
        if checked else scheduler(beta_schedule="scaled_linear", prediction_type=prediction_type),
        safety_checker=checker, feature_extractor=CLIPImageProcessorPil(size=PICTURE, crop_size=PICTURE),
        requires_safety_checker=checked,
    ).to(torch.float16).save_pretrained(folder, variant="fp16")  # fmt: skip


def build_unet(folder: Path, seed: int) -> None:
    """A repository with nothing but another UNet, as the DPO-tuned one."""
    torch.manual_seed(seed)
    unet().save_pretrained(folder / "unet")


def build_pixart(folder: Path) -> None:
    """PixArt-alpha: a transformer, T5 with a sentencepiece model as its only vocabulary, a KL autoencoder."""
    import diffusers
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(2)
    t5 = T5EncoderModel(T5Config(vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=1, num_heads=4))
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        patch_size=2, cross_attention_dim=WIDTH, caption_channels=WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=t5, vae=autoencoder(), transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    ).save_pretrained(folder)  # fmt: skip
    t5.half().save_pretrained(folder / "text_encoder", variant="fp16")  # the other parts have no such variant
    numbers = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece_tokenizer(folder / "tokenizer", "spiece.model", "T5Tokenizer", numbers)
    declare(folder, "tokenizer", ["transformers", "T5Tokenizer"])


def build_kandinsky(folder: Path) -> None:
    """Kandinsky 2.1's decoder: UNet on text and image embeddings, multilingual CLIP, MoVQ."""
    import diffusers
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    torch.manual_seed(3)
    text_encoder = MultilingualCLIP(MCLIPConfig(
        numDims=WIDTH, transformerDimensions=WIDTH, hidden_size=WIDTH, intermediate_size=37, num_attention_heads=4,
        num_hidden_layers=1, vocab_size=256, max_position_embeddings=100,
    ))  # fmt: skip
    diffusers.KandinskyPipeline(
        text_encoder=text_encoder, tokenizer=None, unet=kandinsky_unet("text_image"), movq=movq(),
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
    ).save_pretrained(folder)  # fmt: skip
    sentencepiece_tokenizer(folder / "tokenizer", "sentencepiece.bpe.model", "XLMRobertaTokenizer", {})
    declare(folder, "tokenizer", ["transformers", "XLMRobertaTokenizer"])


def build_kandinsky_prior(folder: Path, pipeline: str = "KandinskyPriorPipeline") -> None:
    """The prior of Kandinsky 2.1 (2.2: KandinskyV22PriorPipeline): from CLIP text embeddings to CLIP image embeddings."""
    import diffusers
    from transformers import CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    torch.manual_seed(4)
    tokenizer = clip_tokenizer()
    prior = diffusers.PriorTransformer(num_attention_heads=2, attention_head_dim=16, embedding_dim=WIDTH, num_layers=1)
    prior.clip_std.data.fill_(1.0)
    getattr(diffusers, pipeline)(
        prior=prior, tokenizer=tokenizer, image_encoder=CLIPVisionModelWithProjection(vision_config()),
        text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**text_shape(len(tokenizer)), max_position_embeddings=77)),
        scheduler=diffusers.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10),
        image_processor=CLIPImageProcessorPil(size=PICTURE, crop_size=PICTURE),
    ).save_pretrained(folder)  # fmt: skip


def build_backbone(folder: Path) -> None:
    """DINOv2 with registers: 1 + 4 + 256 tokens at 224 pixels."""
    import json

    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(5)
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, mlp_ratio=2, patch_size=14, image_size=224,
    )).save_pretrained(folder)  # fmt: skip
    processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def build_sae(folder: Path, n_concepts: int, n_candidates: int = 24) -> None:
    """The tensors of the published RA-SAE: an encoder, a layer norm over its concepts, W, C and a relaxation."""
    torch.manual_seed(6)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({
        "encoder.final_block.0.weight": torch.randn(n_concepts, WIDTH), "encoder.final_block.0.bias": torch.zeros(n_concepts),
        "encoder.final_block.1.weight": torch.ones(n_concepts), "encoder.final_block.1.bias": torch.zeros(n_concepts),
        "dictionary.W": torch.rand(n_concepts, n_candidates), "dictionary.C": torch.randn(n_candidates, WIDTH),
        "dictionary.Relax": 0.1 * torch.randn(n_concepts, WIDTH), "dictionary.multiplier": torch.zeros(()),
    }, folder / "RA-SAE-DINOv2-32k.pth")  # fmt: skip


def build_links(folder: Path, links: list[str], captions: list[str]) -> None:
    """A set of links and captions."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"url": links, "caption": captions, "similarity": 0.3, "key": range(len(links))})
    table.to_parquet(folder / "part-00000.parquet", index=False)


def text_shape(vocabulary: int) -> dict:
    return dict(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=37, projection_dim=WIDTH, num_hidden_layers=1,
        num_attention_heads=4, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def vision_config(size: int = PICTURE, patch: int = 16):
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=37, projection_dim=WIDTH, num_hidden_layers=1, num_attention_heads=4,
        image_size=size, patch_size=patch,
    )  # fmt: skip


def safety_checker():
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    checker = StableDiffusionSafetyChecker(CLIPConfig(
        projection_dim=WIDTH, text_config=text_shape(64), vision_config=vision_config().to_dict()
    ))  # fmt: skip
    checker.concept_embeds_weights.data.fill_(2.0)  # cosines above 2: nothing is taken, until a test lowers it
    checker.special_care_embeds_weights.data.fill_(2.0)
    return checker


def autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=PICTURE,
    )  # fmt: skip


def unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )  # fmt: skip


def kandinsky_unet(reads: str):
    """A UNet on "text_image" embeddings, as in Kandinsky 2.1, or on "image" embeddings alone, as in 2.2."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=4, out_channels=8, addition_embed_type=reads, encoder_hid_dim=WIDTH, sample_size=8,
        encoder_hid_dim_type=f"{reads}_proj", cross_attention_dim=WIDTH, attention_head_dim=4, layers_per_block=1,
        block_out_channels=(16, 32), down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), norm_num_groups=8,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip


def movq():
    from diffusers import VQModel

    return VQModel(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=32, norm_type="spatial",
        num_vq_embeddings=12, vq_embed_dim=4,
    )  # fmt: skip


def stable_diffusion(folder: Path, **changes):
    """Return the part of a study that names the repository of `build_stable_diffusion`, with changes."""
    from blindspots_lib.core.config import TextToImageModel

    common = {"name": "sd15", "label": "SD", "path": str(folder), "variant": "fp16", "dtype": "float32", "image_size": 64,
              "steps": 2, "guidance": 3.0}  # fmt: skip
    return TextToImageModel.model_validate({**common, **changes})


def clip_tokenizer():
    from transformers import CLIPTokenizer

    letters = sorted({letter for word in WORDS for letter in word} | set("0123456789,.$<>&'\"/"))
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def sentencepiece_tokenizer(folder: Path, file: str, kind: str, pieces: dict) -> None:
    """A tokenizer folder with a sentencepiece model and no tokenizer.json, as older repositories have."""
    import json

    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "words.txt"
    text.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "model"), vocab_size=60, minloglevel=2, hard_vocab_limit=False, **pieces
    )
    (folder / "model.model").rename(folder / file)
    (folder / "model.vocab").unlink()
    text.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, "model_max_length": 77}))


def declare(folder: Path, part: str, kind: list[str]) -> None:
    """Name the class of a part in model_index.json."""
    import json

    index = json.loads((folder / "model_index.json").read_text())
    index[part] = kind
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
