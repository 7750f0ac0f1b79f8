"""A widget that lets a model of the study draw a caption again: other seed, guidance, steps; energies beside the real image's."""

import io

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from PIL import Image

from blindspots_lib.analysis.energies import encode_images
from blindspots_lib.analysis.results import Results
from blindspots_lib.analysis.statistics import image_energies
from blindspots_lib.core.config import TextToImageModel
from blindspots_lib.core.errors import StudyError, first_line
from blindspots_lib.figures.galleries import caption_of
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid, printable
from blindspots_lib.figures.style import add_footer
from blindspots_lib.models.backbone import TokenExtractor
from blindspots_lib.models.generate import image_seed, to_pixels
from blindspots_lib.models.pipelines import generate_batch, load_pipeline
from blindspots_lib.sae.model import TopKSAE, load_sae

N_SHOWN = 8  # concepts of the table: those of which any of the three images holds most
WIDE = {"description_width": "110px"}


class GenerateAgain(widgets.VBox):
    """Choose a pair, a model, a seed, guidance and steps, and generate again; nothing is kept.

    Shown are the real image, the stored generation and the new one, and what each holds of the concepts that are strongest in
    any of them, once the study has an SAE. A fault is shown in one line.
    """

    def __init__(self, results: Results):
        self.results, self.loaded, self.energies = results, {}, pd.DataFrame()
        self.reader: tuple[TokenExtractor, TopKSAE] | None = None
        pipelines = {model.label: model for model in results.study.pipelines}
        self.pair = widgets.IntSlider(
            0, 0, max(0, len(results.pair_ids) - 1), description="pair", continuous_update=False, style=WIDE
        )
        self.model = widgets.Dropdown(options=pipelines, description="model", style=WIDE)
        self.seed = widgets.Text(description="seed", style=WIDE)  # a text: browsers round large numbers
        self.guidance = widgets.FloatSlider(7.5, min=0, max=15, step=0.5, description="guidance", style=WIDE)
        self.steps = widgets.IntSlider(20, 1, 100, description="solver steps", style=WIDE)
        self.button = widgets.Button(description="generate again", button_style="primary")
        self.said, self.picture, self.table = widgets.Label(), widgets.Image(format="png"), widgets.HTML()
        settings = [self.pair, self.model, self.seed, self.guidance, self.steps, self.button, self.said]
        super().__init__([*settings, widgets.HBox([self.picture, self.table])])
        if not pipelines:
            self.button.disabled, self.said.value = True, "no model of this study draws here: its images were made elsewhere"
            return
        for control in (self.pair, self.model):
            control.observe(self.start_over, names="value")
        self.button.on_click(self.generate)
        self.start_over()

    def start_over(self, _change=None) -> None:
        """Take the settings with which the stored generation was made; on a CPU they give the same image again."""
        model, pair_id = self.model.value, self.results.pair_ids[self.pair.value]
        self.seed.value = str(image_seed(self.results.study.seed, model.name, pair_id))
        self.guidance.max, self.steps.max = max(15.0, model.guidance), max(100, model.steps)
        self.guidance.value, self.steps.value = model.guidance, model.steps
        self.said.value = printable(caption_of(self.results, pair_id))

    def generate(self, _button=None) -> None:
        """Draw and compare."""
        self.button.disabled, self.said.value = True, "generating …"
        try:
            model = self.model.value.model_copy(update={"guidance": self.guidance.value, "steps": self.steps.value})
            pair_id = self.results.pair_ids[self.pair.value]
            images = {
                "real x": self.results.images["real"][pair_id], "x′ stored": self.results.images[model.name][pair_id],
                "x′ new": self.draw(model, caption_of(self.results, pair_id), whole_number(self.seed.value)),
            }  # fmt: skip
            self.picture.value = as_png(self.results, images)
            self.table.value = self.compare(images)
            self.said.value = f"seed {self.seed.value}, guidance {model.guidance:g}, {model.steps} steps"
        except Exception as error:  # in a callback nobody else would show it
            self.said.value = str(error) if isinstance(error, StudyError) else f"{type(error).__name__}: {first_line(error)}"
        finally:
            self.button.disabled = False

    def draw(self, model: TextToImageModel, caption: str, seed: int) -> Image.Image:
        if model.name not in self.loaded:
            self.loaded = {model.name: load_pipeline(model)}  # one at a time
        made = generate_batch(self.loaded[model.name], model, [caption], [seed])
        if made.refused[0]:
            raise StudyError("the pipeline's safety checker refused this image; try another seed")
        return Image.fromarray(to_pixels(made.images[0]))

    def compare(self, images: dict[str, Image.Image]) -> str:
        """Return the energies of the strongest concepts as a table in HTML, or what is missing for it."""
        if not self.results.sae.is_complete():
            return "energies can be compared once notebook 3 has trained the SAE"
        self.reader = self.reader or (TokenExtractor(self.results.study.backbone), load_sae(self.results.sae.folder))
        self.energies = energies_of(self.results, images, *self.reader)
        return self.energies.to_html(border=0)


def whole_number(text: str) -> int:
    if not text.strip().isdecimal() or int(text) >= 2**63:
        raise StudyError(f"seed {text!r}: give a whole number from 0 to 2^63 - 1")
    return int(text)


def energies_of(results: Results, images: dict[str, Image.Image], extractor: TokenExtractor, sae: TopKSAE) -> pd.DataFrame:
    """Return the energies of the concepts that any of some images holds most of, one column per image, with their names."""
    tokens = extractor([image.convert("RGB") for image in images.values()]).astype(np.float16)
    codes = encode_images(sae, tokens)
    chosen = extractor.layout.selection(results.study.analysis.tokens)
    energies = image_energies(codes.at(np.arange(len(images)), chosen)).toarray()
    strongest = np.argsort(-energies.max(axis=0), kind="stable")[:N_SHOWN]
    try:
        names = [" ".join(printable(name).split()) for name in results.concepts["name"].loc[strongest]]
    except StudyError:  # not measured yet
        names = [""] * len(strongest)
    table = pd.DataFrame(energies[:, strongest].T.round(2), columns=list(images))
    table.index = [
        f"{name} ({concept})" if name else f"concept {concept}" for name, concept in zip(names, strongest, strict=True)
    ]
    return table


def as_png(results: Results, images: dict[str, Image.Image]) -> bytes:
    figure, buffer = (
        draw_grid([Row("", [Cell(image) for image in images.values()])], list(images), cell_size=1.5, label_width=0.2),
        io.BytesIO(),
    )
    add_footer(figure, results.study, shows_images=True)
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
