"""A widget on single patches: which concepts a patch has, and what the reconstruction would be with more or less of one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from blindspots_lib.analysis.results import Results
from blindspots_lib.figures.answering import Answering, front_end, opened_again, pair_thumbnail, script_of, small_picture, unknown
from blindspots_lib.figures.galleries import caption_of, concept_cell, concept_label, heatmap_strength, top_images
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid, printable
from blindspots_lib.sae.model import TopKSAE

THUMB = 128  # pixels of an image's side


class PatchConcepts(Answering):
    """Show an image: the patch under the pointer shows its concepts; a slider scales the code of one of them.

    With the code z of concept k scaled by s, the reconstruction of a token moves by (s - 1) z_k D_k. The colours show its length
    as a fraction of the length of the whole reconstruction. What it would look like is not shown: tokens have no decoder.
    """

    _esm = script_of("kernel.js", "patches.js")

    def __init__(self, results: Results, sae: TopKSAE):
        self.results, self.atoms = opened_again(results), sae.dictionary.atoms().detach().cpu().numpy()
        super().__init__(small_picture(self.example(), results.study, shows_images=True))

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a question asks for: "start", or "patches" with `source` and `pair` (a position)."""
        match question:
            case {"ask": "start"}:
                labels = {"real": "real images"} | {model.name: model.label for model in self.results.study.models}
                side = self.results.codes["real"].layout.patches_per_side
                return {
                    "sources": labels,
                    "n_pairs": len(self.results.pair_ids),
                    "side": side,
                    "style": front_end("explorer.css"),
                }
            case {"ask": "patches", "source": str(source), "pair": int(pair)}:
                thumb = pair_thumbnail(self.results, source, pair, THUMB)
                return {**thumb, **self.patches(source, pair), "caption": printable(self.results.captions[pair])}
        raise unknown(question)

    def patches(self, source: str, pair: int) -> dict[str, Any]:
        """Return the codes of an image's patches.

        counts: active concepts per patch; concepts, codes, moves: of all patches, one behind the other, the strongest first; a
        move is the length of z_k D_k over that of the patch's reconstruction; names: of these concepts, "" for none.
        """
        codes = self.results.codes[source].patch_codes(self.results.rows[source][[pair]]).tocsr()
        patch, concepts = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr)), codes.indices
        order = np.lexsort((concepts, -codes.data, patch))
        patch, concepts, values = patch[order], concepts[order], codes.data[order].astype(np.float64)
        moves = values * np.linalg.norm(self.atoms[concepts], axis=1) / reconstruction_lengths(codes, self.atoms)[patch]
        names = self.results.concepts["name"]
        return {
            "counts": np.diff(codes.indptr).astype(np.int32), "concepts": concepts.astype(np.int32),
            "codes": values.astype(np.float32), "moves": moves.astype(np.float32),
            "names": {str(k): " ".join(printable(names[k]).split()) for k in np.unique(concepts).tolist()},
        }  # fmt: skip

    def example(self):
        """Draw the first pair's image with the concept that is strongest in it, for where no kernel runs."""
        results = self.results
        concept = int(np.asarray(results.energies["real"].matrix[[0]].todense()).argmax())
        strength = heatmap_strength(results, ["real"], [concept])
        shown = top_images(results, "real", [concept], 4)
        label = concept_label(results, concept)
        image = Cell(results.images["real"][results.pair_ids[0]])
        cells = [image, *(concept_cell(results, "real", at, [concept], strength) for at in (0, *shown))]
        title = f"“{caption_of(results, results.pair_ids[0])}” and the strongest of its concepts; more in JupyterLab"
        return draw_grid([Row(label, cells)], title=title)

    def __repr__(self) -> str:
        return f"PatchConcepts({self.results.study.name})"


def reconstruction_lengths(codes, atoms: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "p"]:
    """Return the length of each patch's reconstruction z D, of codes (p, k) in CSR; 1 where no concept is active."""
    lengths = np.linalg.norm(codes @ atoms, axis=1)
    return np.where(lengths > 0, lengths, 1.0)
