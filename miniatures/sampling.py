"""How the miniature pipelines are sampled: solver steps, guidance and arguments, chosen on the held-out corpus.

The training of `sd15-dpo` and the judging use these settings. `studies/mini.yaml` must state the same ones; a test compares them.
"""

from blindspots_lib.core.config import TextToImageModel, Weights

WEIGHTS = "miniatures/weights"  # relative to the project


def pipeline(name: str, label: str, steps: int, guidance: float, weights: str = "", **settings) -> TextToImageModel:
    """The settings of the pipeline whose weights are in the folder `weights` (default: the folder of its name)."""
    path = f"{WEIGHTS}/{weights or name}"
    return TextToImageModel(name=name, label=label, path=path, image_size=64, steps=steps, guidance=guidance, **settings)


PIPELINES = {model.name: model for model in (
    pipeline("sd15", "Mini SD 1.5", steps=6, guidance=3.0),
    pipeline("sd15-dpo", "Mini SD 1.5 DPO", steps=6, guidance=3.0, weights="sd15", unet=Weights(path=f"{WEIGHTS}/sd15-dpo")),
    pipeline("sd21", "Mini SD 2.1", steps=6, guidance=3.0),
    pipeline("pixart", "Mini PixArt", steps=8, guidance=2.5,
             arguments={"clean_caption": False, "use_resolution_binning": False, "max_sequence_length": 20}),
    pipeline("kandinsky", "Mini Kandinsky", steps=6, guidance=2.5, prior=Weights(path=f"{WEIGHTS}/kandinsky-prior"),
             arguments={"prior_num_inference_steps": 10, "prior_guidance_scale": 2.0}),
)}  # fmt: skip
