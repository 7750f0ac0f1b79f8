"""Tiny, randomly initialised repositories of the models in studies/models.md, in their real classes."""

from pathlib import Path

import tiny_repos
import torch
from tiny_repos import (
    WIDTH,
    WORDS,
    autoencoder,
    clip_tokenizer,
    declare,
    kandinsky_unet,
    movq,
    sentencepiece_tokenizer,
    text_shape,
)


def build_sdxl(folder: Path) -> None:
    """SDXL, SDXL-Turbo and Playground: a UNet that also reads image sizes, two CLIP text encoders."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(**text_shape(len(tokenizer)), max_position_embeddings=77)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=2 * WIDTH, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH, use_linear_projection=True,
    )  # fmt: skip
    diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(), text_encoder=CLIPTextModel(text), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text), tokenizer_2=tokenizer, unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"), add_watermarker=False,
    ).to(torch.float16).save_pretrained(folder, variant="fp16")  # fmt: skip


def build_sd3(folder: Path) -> None:
    """Stable Diffusion 3.5: a transformer trained by flow matching, two CLIP text encoders and T5."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(1)
    tokenizer = clip_tokenizer()
    text = CLIPTextConfig(**text_shape(len(tokenizer)), max_position_embeddings=77)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=2 * WIDTH, caption_projection_dim=32, pooled_projection_dim=2 * WIDTH, qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )  # fmt: skip
    diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=shifted_autoencoder(),
        text_encoder=CLIPTextModelWithProjection(text), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text), tokenizer_2=tokenizer, text_encoder_3=t5(2 * WIDTH), tokenizer_3=None,
    ).save_pretrained(folder)  # fmt: skip
    with_t5_tokenizer(folder, "tokenizer_3")


def build_flux(folder: Path, guided: bool) -> None:
    """FLUX.1: dev takes the guidance scale as an input, schnell takes none; CLIP and T5."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(2)
    tokenizer = clip_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=guided,
    )  # fmt: skip
    diffusers.FluxPipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guided),
        vae=shifted_autoencoder(), tokenizer=tokenizer, text_encoder_2=t5(WIDTH), tokenizer_2=None,
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_shape(len(tokenizer)), max_position_embeddings=77)),
    ).save_pretrained(folder)  # fmt: skip
    with_t5_tokenizer(folder, "tokenizer_2")


def build_pixart_sigma(folder: Path) -> None:
    """PixArt-Sigma: as PixArt-alpha, with longer captions and without the conditions on the image's size."""
    import diffusers

    torch.manual_seed(3)
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        patch_size=2, cross_attention_dim=WIDTH, caption_channels=WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    diffusers.PixArtSigmaPipeline(
        tokenizer=None, text_encoder=t5(WIDTH), vae=autoencoder(), transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    ).save_pretrained(folder)  # fmt: skip
    with_t5_tokenizer(folder, "tokenizer")


def build_sana(folder: Path) -> None:
    """Sana: a linear transformer trained by flow matching, an autoencoder that shrinks 32 times, Gemma."""
    import diffusers
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(4)
    tokenizer = chat_tokenizer("GemmaTokenizerFast")
    gemma = Gemma2Model(Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH, sample_size=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    diffusers.SanaPipeline(
        tokenizer=tokenizer, text_encoder=gemma, vae=vae, transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ).save_pretrained(folder)  # fmt: skip


def build_kandinsky22(folder: Path) -> None:
    """Kandinsky 2.2's decoder, which reads image embeddings only."""
    import diffusers

    torch.manual_seed(5)
    diffusers.KandinskyV22Pipeline(
        unet=kandinsky_unet("image"), scheduler=diffusers.DDIMScheduler(clip_sample=False), movq=movq()
    ).save_pretrained(folder)


def build_flux2_klein(folder: Path) -> None:
    """FLUX.2 klein: a distilled transformer that reads three layers of Qwen3."""
    import diffusers
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(7)
    tokenizer = chat_tokenizer("Qwen2TokenizerFast")
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * 16, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8,) * 4, latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=tiny_repos.PICTURE
    )
    diffusers.Flux2KleinPipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae,
        text_encoder=Qwen3ForCausalLM(qwen3(len(tokenizer), layers=28)), tokenizer=tokenizer, is_distilled=True,
    ).save_pretrained(folder)  # fmt: skip


def build_z_image(folder: Path) -> None:
    """Z-Image: one stream of text and image tokens, Qwen3."""
    import diffusers
    from transformers import Qwen3Model

    torch.manual_seed(8)
    tokenizer = chat_tokenizer("Qwen2TokenizerFast")
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 4, 8],
        axes_lens=[1024, 64, 64],
    )  # fmt: skip
    diffusers.ZImagePipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=shifted_autoencoder(),
        text_encoder=Qwen3Model(qwen3(len(tokenizer), layers=2)), tokenizer=tokenizer,
    ).save_pretrained(folder)  # fmt: skip


def t5(width: int):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=128, d_model=width, d_kv=8, d_ff=48, num_layers=1, num_heads=4))


def with_t5_tokenizer(folder: Path, part: str) -> None:
    numbers = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece_tokenizer(folder / part, "spiece.model", "T5Tokenizer", numbers)
    declare(folder, part, ["transformers", "T5Tokenizer"])


def qwen3(vocabulary: int, layers: int):
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip


def shifted_autoencoder():
    """An autoencoder of a model trained by flow matching: its latents are scaled and shifted, and not quantized."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=tiny_repos.PICTURE, use_quant_conv=False, use_post_quant_conv=False,
        shift_factor=0.0609, scaling_factor=1.5,
    )  # fmt: skip


def chat_tokenizer(kind: str):
    """A tokenizer of letters with a chat template, in the class that the model names."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted({letter for word in WORDS for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789,.:'\"-<>|/ \n"))
    tokens = ["<pad>", "<bos>", "<eos>", "<unk>", *letters]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", model_max_length=512,
        chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
    )  # fmt: skip
    tokenizer.__class__ = getattr(transformers, kind, transformers.PreTrainedTokenizerFast)
    return tokenizer
