"""Pipelines put together from parts: a safety checker, another scheduler, a LoRA, other arguments."""

import re
import shutil

import numpy as np
import pytest
import tiny_repos
import torch
from conftest import without_a_tensor

from blindspots_lib.core.config import TextToImageModel, Weights
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.hub import weights_fingerprint
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.models.generate import generate_rows
from blindspots_lib.models.loading import compute_dtype
from blindspots_lib.models.pipelines import generate_batch, load_pipeline, load_whole_parts, place

ROWS = [{"pair_id": "a", "caption": "a dog"}, {"pair_id": "b", "caption": "a cat on wood"}]


def drawn(model):
    return generate_batch(load_pipeline(model), model, ["a dog"], [3]).images


def test_what_the_safety_checker_takes_is_lost_and_says_so(sd15_with):
    pipeline = load_pipeline(sd15_with())
    assert [row["lost"] for row in generate_rows(0, sd15_with(), pipeline, ROWS)] == ["", ""]
    pipeline.safety_checker.concept_embeds_weights.data.fill_(-2.0)  # every cosine is above
    rows = generate_rows(0, sd15_with(), pipeline, ROWS)
    assert [(row["lost"], row["image"]) for row in rows] == [("safety checker", None)] * 2


def test_another_scheduler_keeps_the_noise_schedule_and_draws_otherwise(sd15_with):
    scheduler = {"name": "EulerDiscreteScheduler", "arguments": {"use_karras_sigmas": True}}
    pipeline = load_pipeline(sd15_with(scheduler=scheduler))
    assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    assert (pipeline.scheduler.config.beta_schedule, pipeline.scheduler.config.use_karras_sigmas) == ("scaled_linear", True)
    assert not np.array_equal(drawn(sd15_with(scheduler=scheduler)), drawn(sd15_with()))
    with pytest.raises(StudyError, match="EulerDiscreteScheduler takes no argument 'use_karras_sigma'"):
        load_pipeline(sd15_with(scheduler={**scheduler, "arguments": {"use_karras_sigma": True}}))
    with pytest.raises(StudyError, match="scheduler 'UNet2DModel' is no scheduler of diffusers"):
        load_pipeline(sd15_with(scheduler={"name": "UNet2DModel"}))


def test_a_lora_is_laid_over_the_weights_with_its_scale(sd15_with, tmp_path):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = load_pipeline(sd15_with()).unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {name: 30 * tensor for name, tensor in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    full, none = ({"path": str(tmp_path), "scale": scale} for scale in (1.0, 0.0))
    plain = drawn(sd15_with())
    assert np.abs(drawn(sd15_with(lora=full)) - plain).max() > 0.01
    np.testing.assert_allclose(drawn(sd15_with(lora=none)), plain, atol=1e-5)
    with pytest.raises(StudyError, match=r"model 'sd15', lora: .* does not load"):
        load_pipeline(sd15_with(lora={"path": str(tmp_path), "file": "other.safetensors"}))


@pytest.mark.parametrize("part", ["unet", "text_encoder", "safety_checker", "vae"])
def test_weights_that_lack_a_tensor_are_named(sd15_with, tiny_sd15, tmp_path, part):
    shutil.copytree(tiny_sd15, tmp_path / "sd")
    taken = without_a_tensor(next((tmp_path / "sd" / part).glob("*.fp16.safetensors")))
    with pytest.raises(StudyError, match=f"^model 'sd15', {part}: .*/{part} lacks 1 tensor, {re.escape(taken)}, which"):
        load_pipeline(sd15_with(path=str(tmp_path / "sd")))


@pytest.mark.parametrize("build", [tiny_repos.build_pixart, tiny_repos.build_kandinsky, tiny_repos.build_kandinsky_prior])
def test_the_real_layouts_lack_nothing(sd15_with, tmp_path, build):
    build(tmp_path)
    assert len(load_whole_parts("it", tmp_path, None, "fp16", ())) >= 3


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of the attention in older autoencoders


def test_names_of_older_files_are_no_false_alarm(sd15_with, tiny_sd15, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_sd15, tmp_path / "sd")
    vae, text = (next((tmp_path / "sd" / part).glob("*.safetensors")) for part in ("vae", "text_encoder"))
    older = {}
    for name, tensor in load_file(vae).items():
        now = next((now for now in OLD_NAMES if f".{now}." in name), None)
        older[name.replace(f".{now}.", f".{OLD_NAMES[now]}.") if now else name] = tensor
    assert len(older.keys() - load_file(vae).keys()) == 16
    save_file(older, vae, metadata={"format": "pt"})
    save_file({**load_file(text), "text_model.embeddings.position_ids": torch.arange(77)[None]}, text, metadata={"format": "pt"})
    torch.testing.assert_close(
        load_pipeline(sd15_with(path=str(tmp_path / "sd"))).vae.state_dict(), load_pipeline(sd15_with()).vae.state_dict()
    )


@pytest.mark.parametrize("name", ["sd15", "sd21", "pixart", "kandinsky", "kandinsky-prior"])
def test_the_miniatures_lack_nothing(name):
    assert load_whole_parts("it", PROJECT_ROOT / "miniatures/weights" / name, None, None, ())


@pytest.mark.parametrize(
    ("variant", "named", "gpu", "expected"),
    [("fp16", "auto", True, torch.float16), (None, "auto", True, torch.float32), ("fp16", "auto", False, compute_dtype()),
     ("fp16", "bfloat16", True, torch.bfloat16)],
)  # fmt: skip
def test_a_gpu_computes_in_the_dtype_of_the_weights(sd15_with, tiny_sd15, tmp_path, monkeypatch, variant, named, gpu, expected):
    shutil.copytree(tiny_sd15 / "unet", tmp_path / "sd" / "unet")
    tiny_repos.unet().save_pretrained(tmp_path / "sd" / "unet")  # float32, beside those of the variant
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **given: True)
    assert compute_dtype(named, Weights(path=str(tmp_path / "sd"), variant=variant)) == expected


def test_another_unet_takes_the_place_of_the_pipelines_own(sd15_with, tmp_path):
    tiny_repos.build_unet(tmp_path, seed=7)
    other = load_pipeline(sd15_with(unet={"path": str(tmp_path), "subfolder": "unet"})).unet
    torch.manual_seed(7)
    torch.testing.assert_close(other.conv_in.weight.contiguous(), tiny_repos.unet().conv_in.weight)


def test_an_argument_that_the_pipeline_does_not_take_is_named(sd15_with):
    with pytest.raises(
        StudyError, match=r"model 'sd15': StableDiffusionPipeline takes no argument 'colour'; it takes prompt, height"
    ):
        drawn(sd15_with(arguments={"colour": "red"}))
    with pytest.raises(StudyError, match="the argument 'num_inference_steps' is set by the study itself"):
        drawn(sd15_with(arguments={"num_inference_steps": 3}))


def test_a_two_stage_pipeline_takes_its_prior_and_another_scheduler(tmp_path):
    tiny_repos.build_kandinsky(tmp_path / "decoder")
    tiny_repos.build_kandinsky_prior(tmp_path / "prior")
    kandinsky = TextToImageModel.model_validate({
        "name": "kandinsky", "label": "K", "path": str(tmp_path / "decoder"), "prior": {"path": str(tmp_path / "prior")},
        "scheduler": {"name": "DDPMScheduler"}, "image_size": 64, "steps": 2, "guidance": 4.0, "variant": "fp16",
    })  # fmt: skip
    pipeline = load_pipeline(kandinsky)  # fp16 is asked for where there is none: the plain files serve
    assert type(pipeline.decoder_pipe.scheduler).__name__ == "DDPMScheduler"
    with pytest.raises(StudyError, match="PixArtAlphaPipeline has no unet to replace"):
        tiny_repos.build_pixart(tmp_path / "pixart")
        tiny_repos.build_unet(tmp_path / "other", seed=1)
        changes = {"path": str(tmp_path / "pixart"), "prior": None, "scheduler": None}
        other = {"unet": {"path": str(tmp_path / "other"), "subfolder": "unet"}}
        load_pipeline(TextToImageModel.model_validate({**kandinsky.model_dump(), **changes, **other}))


def test_the_subfolder_of_a_part_is_part_of_what_was_drawn(sd15_with, tmp_path):
    for seed, name in ((1, "a"), (2, "b")):
        tiny_repos.build_unet(tmp_path / name, seed)
    prints = {weights_fingerprint(sd15_with(unet={"path": str(tmp_path), "subfolder": f"{name}/unet"}).unet) for name in "ab"}
    assert len(prints) == 2


def test_a_full_gpu_is_named_with_what_to_do(sd15_with, monkeypatch):
    class Full:
        dtype, device = torch.float16, torch.device("cuda")

        def __call__(self, *arguments, **settings):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(StudyError, match="the GPU's memory is full at batch_size = 25; lower it, or set offload: sequential"):
        generate_batch(Full(), sd15_with(), ["a"], [0])
    monkeypatch.setattr("blindspots_lib.models.pipelines.place", Full())
    with pytest.raises(
        StudyError,
        match=r"model 'sd15': the GPU's memory is full while it loads \(its weights take 0.0 GB, .*\); set offload: sequential",
    ):
        load_pipeline(sd15_with())


@pytest.mark.parametrize(
    ("offload", "free", "expected"),
    [
        ("auto", 10**12, "to cuda"),
        ("auto", 1_500_000, "model"),
        ("auto", 1000, "sequential"),
        ("never", 1000, "to cuda"),
        ("sequential", 10**12, "sequential"),
    ],
)
def test_parts_wait_in_main_memory_where_the_gpu_is_too_small(sd15_with, monkeypatch, offload, free, expected):
    pipeline, done = load_pipeline(sd15_with()), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    monkeypatch.setattr(type(pipeline), "to", lambda self, device: done.append(f"to {device}"))
    monkeypatch.setattr(type(pipeline), "enable_model_cpu_offload", lambda self: done.append("model"))
    monkeypatch.setattr(type(pipeline), "enable_sequential_cpu_offload", lambda self: done.append("sequential"))
    place(pipeline, sd15_with(offload=offload))
    assert done == [expected]
