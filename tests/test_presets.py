"""The blocks of studies/models.md, on tiny models of the real classes of the installed diffusers."""

import re
from functools import partial

import diffusers
import numpy as np
import pytest
import tiny_models
import tiny_repos
import torch
import yaml

from blindspots_lib.core.config import Backbone, TextToImageModel, TrainedSAE
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.models.pipelines import generate_batch, load_pipeline

PAGE = (PROJECT_ROOT / "studies" / "models.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
PRESETS = {
    block[0]["name"]: TextToImageModel.model_validate(block[0])
    for block in BLOCKS
    if isinstance(block, list) and "steps" in block[0]
}
BUILDERS = {
    "sdxl": tiny_models.build_sdxl, "sdxl-turbo": tiny_models.build_sdxl, "playground": tiny_models.build_sdxl,
    "sd35-medium": tiny_models.build_sd3, "flux-schnell": partial(tiny_models.build_flux, guided=False),
    "flux-dev": partial(tiny_models.build_flux, guided=True), "pixart-sigma": tiny_models.build_pixart_sigma,
    "sana": tiny_models.build_sana, "kandinsky22": tiny_models.build_kandinsky22, "flux2-klein": tiny_models.build_flux2_klein,
    "z-image": tiny_models.build_z_image,
}  # fmt: skip

KANDINSKY_PRIOR = partial(tiny_repos.build_kandinsky_prior, pipeline="KandinskyV22PriorPipeline")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Build a tiny repository once for all presets of its class."""
    made = {}

    def build(builder):
        if builder not in made:
            made[builder] = tmp_path_factory.mktemp("model")
            builder(made[builder])
        return str(made[builder])

    return build


@pytest.fixture
def tiny(folders):
    """Return a preset, on the tiny model of its class: at 64 pixels, in float32, in few steps."""

    def make(name):
        places = {"path": folders(BUILDERS[name]), "repo": None, "revision": None, "image_size": 64, "dtype": "float32",
                  "steps": min(3, PRESETS[name].steps)}  # fmt: skip
        if PRESETS[name].variant != "fp16":
            places["variant"] = None  # only the tiny SDXL has one
        if PRESETS[name].prior:
            places["prior"] = {"path": folders(KANDINSKY_PRIOR)}
        bins = {"use_resolution_binning": False} if name in ("pixart-sigma", "sana") else {}  # to sizes near 1024
        arguments = PRESETS[name].arguments | bins
        return TextToImageModel.model_validate(PRESETS[name].model_dump() | places | {"arguments": arguments})

    return make


def own_call(model: TextToImageModel, caption: str, seed: int) -> np.ndarray:
    """What diffusers itself draws, called as its documentation says."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"num_inference_steps": model.steps, "guidance_scale": model.guidance, "height": 64, "width": 64,
                "output_type": "np", "generator": generator}  # fmt: skip
    pipeline = diffusers.DiffusionPipeline.from_pretrained(model.path, variant=model.variant, torch_dtype=torch.float32)
    if not model.prior:
        return pipeline(prompt=caption, **settings, **model.arguments).images
    prior = diffusers.DiffusionPipeline.from_pretrained(model.prior.path)
    embeds = prior(
        caption, generator=generator, num_inference_steps=model.arguments["prior_num_inference_steps"],
        guidance_scale=model.arguments["prior_guidance_scale"],
    )  # fmt: skip
    return pipeline(embeds.image_embeds, embeds.negative_image_embeds, **settings).images


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_draws_what_diffusers_own_call_draws(tiny, name):
    model = tiny(name)
    captions = ["a dog", "a cat on wood"]
    images = generate_batch(load_pipeline(model), model, captions, [3, 4]).images
    assert captions == ["a dog", "a cat on wood"]
    assert images.shape == (2, 64, 64, 3)
    for image, caption, seed in zip(images, captions, (3, 4), strict=True):
        np.testing.assert_allclose(image[None], own_call(model, caption, seed), atol=1e-5)
    assert np.abs(images[0] - images[1]).max() > 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_says_which_models_load_loras(tiny, name):
    loads = hasattr(load_pipeline(tiny(name)), "load_lora_weights")
    (without,) = re.findall(r"All of these do, except\s+(.*?)\.\n", PAGE)
    assert loads == (re.match(r"\w+", PRESETS[name].label)[0] not in without)


def test_every_block_is_in_the_table_and_pinned():
    assert f"with diffusers {diffusers.__version__};" in PAGE
    table = re.findall(r"^\| \[(.+?)\]\(#(.+?)\)", PAGE, re.MULTILINE)
    titles = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    assert {title for title, _ in table} == set(titles)
    assert len(titles) == len(PRESETS) == len(BUILDERS)
    for title, anchor in table:
        assert re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") == anchor
    parts = {"backbone": Backbone, "sae": TrainedSAE}
    assert [key for block in BLOCKS if isinstance(block, dict) for key in block if parts[key].model_validate(block[key])]


# -- sizes ---------------------------------------------------------------------------------------------------------------


def clip(width: int, layers: int, heads: int, kind: str = "CLIPTextModel", **more):
    import transformers

    config = transformers.CLIPVisionConfig if "Vision" in kind else transformers.CLIPTextConfig
    return getattr(transformers, kind)(config(
        hidden_size=width, intermediate_size=more.pop("inner", 4 * width), num_hidden_layers=layers, num_attention_heads=heads,
        projection_dim=more.pop("projection", width), **more,
    ))  # fmt: skip


def published_sizes() -> dict[str, list[int]]:
    """Parameters of each part of the published models, by their published configurations; no memory is taken for them."""
    import transformers as t

    clips = [clip(768, 12, 12), clip(1280, 32, 20, "CLIPTextModelWithProjection")]
    t5 = t.T5EncoderModel(t.T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    ))  # fmt: skip
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = diffusers.AutoencoderKL(**blocks, block_out_channels=(128, 256, 512, 512), layers_per_block=2)
    cross, plain = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
    sdxl = diffusers.UNet2DConditionModel(
        sample_size=128, down_block_types=("DownBlock2D", *cross), up_block_types=(*plain, "UpBlock2D"), cross_attention_dim=2048,
        block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    sd35 = diffusers.SD3Transformer2DModel(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384, qk_norm="rms_norm",
        dual_attention_layers=tuple(range(13)),
    )  # fmt: skip
    sigma = diffusers.PixArtTransformer2DModel(sample_size=128, cross_attention_dim=1152, caption_channels=4096)
    qwen = t.Qwen3ForCausalLM(t.Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ))  # fmt: skip
    klein = diffusers.Flux2Transformer2DModel(
        num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
    )
    kinds, sizes = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3, {"scaling_factor": 0.41407}
    dcae = diffusers.AutoencoderDC(
        encoder_block_types=kinds, decoder_block_types=kinds, downsample_block_type="conv", upsample_block_type="interpolate",
        **sizes,
    )  # fmt: skip
    kandinsky = diffusers.UNet2DConditionModel(
        in_channels=4, out_channels=8, addition_embed_type="image", encoder_hid_dim=1280, encoder_hid_dim_type="image_proj",
        cross_attention_dim=768, attention_head_dim=64, layers_per_block=3, block_out_channels=(384, 768, 1152, 1536),
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    movq = diffusers.VQModel(
        block_out_channels=(128, 256, 256, 512), layers_per_block=2, num_vq_embeddings=16384, vq_embed_dim=4, norm_type="spatial",
        latent_channels=4, down_block_types=(*("DownEncoderBlock2D",) * 3, "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 3),
    )  # fmt: skip
    vision = clip(1664, 48, 16, "CLIPVisionModelWithProjection", inner=8192, projection=1280, patch_size=14)
    prior = diffusers.PriorTransformer(num_attention_heads=32, attention_head_dim=64, embedding_dim=1280, num_layers=20)
    flux = diffusers.FluxTransformer2DModel(guidance_embeds=True)
    parts = {
        "SDXL": [sdxl, *clips, vae], "SDXL-Turbo": [sdxl, *clips, vae], "Playground 2.5": [sdxl, *clips, vae],
        "Stable Diffusion 3.5 medium": [sd35, *clips, t5, vae], "FLUX.1-schnell": [flux, clips[0], t5, vae],
        "FLUX.1-dev": [flux, clips[0], t5, vae], "PixArt-Sigma": [sigma, t5, vae],
        "Sana 1.6B": [diffusers.SanaTransformer2DModel(), t.Gemma2Model(t.Gemma2Config()), dcae],
        "Kandinsky 2.2": [kandinsky, movq, prior, clips[1], vision], "FLUX.2 klein 4B": [klein, qwen, vae],
        "Z-Image": [diffusers.ZImageTransformer2DModel(), qwen, vae],
    }  # fmt: skip
    return {name: [number_of(part) for part in some] for name, some in parts.items()}


def number_of(module: torch.nn.Module) -> int:
    """Parameters; weights that are tied to others, which are separate tensors where there is no memory, count once."""
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    return sum(weight.numel() for name, weight in module.named_parameters() if name not in tied)


def test_the_table_says_how_large_the_published_weights_are():
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        sizes = published_sizes()
    stated = {title: (whole, largest) for title, whole, largest in re.findall(
        r"^\| \[(.+?)\]\(.+?\).*? \| .*? \| ([\d.]+) GB \| ([\d.]+) GB \|", PAGE, re.MULTILINE)}  # fmt: skip
    assert stated == {title: (f"{2 * sum(some) / 1e9:.1f}", f"{2 * max(some) / 1e9:.1f}") for title, some in sizes.items()}
