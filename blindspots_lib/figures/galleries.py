"""What the picture figures show: which pairs and concepts, chosen from finished results and laid out as grids."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from blindspots_lib.analysis.delta import ranked_deltas
from blindspots_lib.analysis.energies import cooccurrence
from blindspots_lib.analysis.memorization import extreme_pairs
from blindspots_lib.analysis.results import Results
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.figures.charts import NAMED_FROM
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid, principal_colours

SCALE = (0.0, 0.25, 0.5, 0.75, 1.0)


def caption_of(results: Results, pair_id: str) -> str:
    return results.pairs.captions[results.pairs.pair_ids.index(pair_id)]


def contact_sheet(results: Results, pair_ids: Sequence[str]) -> Figure:
    """One row a pair: the caption t, the real image x, every model's x'."""
    rows = [Row(caption_of(results, p), [Cell(store[p]) for store in results.images.values()]) for p in pair_ids]
    return draw_grid(rows, ["real x", *(f"x′ {model.label}" for model in results.study.models)])


def token_colours(results: Results, patches: dict[str, np.ndarray], side: int) -> Figure:
    """Two rows a source: the images of the first complete pairs and their patch tokens as colours."""
    n = len(next(iter(patches.values())))
    colours = principal_colours(np.concatenate(list(patches.values())), side)
    labels = {"real": "real images", **{model.name: model.label for model in results.study.models}}
    rows = []
    for i, source in enumerate(patches):
        rows.append(Row(labels[source], [Cell(results.images[source][pair_id]) for pair_id in results.pair_ids[:n]]))
        rows.append(Row("patch tokens", [Cell(picture) for picture in colours[i * n : (i + 1) * n]]))
    return draw_grid(rows)


def concept_cell(results: Results, source: str, position: int, concept: int, strength: float, title: str = "") -> Cell:
    """The image of a source at a position among the complete pairs, with the concept's heatmap."""
    pair_id = results.pair_ids[position]
    heatmap = results.codes[source].heatmap(int(results.rows[source][position]), concept)
    return Cell(results.images[source][pair_id], title, heatmap, strength)


def top_images(results: Results, source: str, concept: int, n: int) -> list[int]:
    """Positions among the complete pairs of the at most n images with the most of a concept, strongest first."""
    return [int(position) for position in results.energies[source].stats.top_ids[concept, :n] if position >= 0]


def concept_strength(results: Results, concept: int) -> float:
    """The scale of a concept's heatmaps: its strongest token code on its strongest images of any source."""
    peaks = [0.0]
    for source, codes in results.codes.items():
        for position in top_images(results, source, concept, 3):
            peaks.append(float(codes.heatmap(int(results.rows[source][position]), concept).max()))
    return max(peaks)


def concept_label(results: Results, concept: int, model: str | None = None) -> str:
    """Number, the true concept it goes with where that is known, and delta with its interval for one model."""
    row = results.concepts.loc[concept]
    label = f"concept {concept}"
    if row["goes_with"]:
        named = row["goes_with_auc"] >= NAMED_FROM
        label += f"\nbest match: {row['goes_with']}\n(AUC {row['goes_with_auc']:.2f})" if named else "\nno clear match"
    if model is not None:
        label += f"\nδ = {row[f'delta_{model}']:.2f} [{row[f'low_{model}']:.2f}, {row[f'high_{model}']:.2f}]"
    return label


def top_cells(results: Results, source: str, concept: int, n: int) -> list[Cell | None]:
    """The n images of a source with the most of a concept; empty places where it fires on fewer."""
    strength = concept_strength(results, concept)
    found = top_images(results, source, concept, n)
    cells: list[Cell | None] = [concept_cell(results, source, position, concept, strength) for position in found]
    return cells + [None] * (n - len(cells))


def concept_sheet(results: Results, concepts: Sequence[int], n: int = 8) -> Figure:
    """One row a concept: the real images with the most of it and where it fires."""
    return draw_grid([Row(concept_label(results, c), top_cells(results, "real", c, n)) for c in concepts])


def typical_concepts(results: Results, n: int) -> list[int]:
    """Concepts in equal steps from those that fire on most real images to those that fire on few."""
    table = results.concepts[results.concepts["n_images_real"] >= results.study.analysis.min_images]
    order = table.sort_values(["n_images_real", "concept"], ascending=[False, True])["concept"].to_numpy()
    return [int(c) for c in order[np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)]]


def concept_everywhere(results: Results, concept: int, n: int = 8) -> Figure:
    """One concept: a row of top images for the real images and for each model."""
    rows = [Row("real images\n" + concept_label(results, concept), top_cells(results, "real", concept, n))]
    for model in results.study.models:
        delta = results.concepts.loc[concept, f"delta_{model.name}"]
        rows.append(Row(f"{model.label}\nδ = {delta:.2f}", top_cells(results, model.name, concept, n)))
    return draw_grid(rows)


def well_observed(results: Results, model: str) -> pd.DataFrame:
    """The ranked concepts that fire on at least a hundredth of the images, real and generated; all if they are few."""
    table = results.concepts.loc[ranked_deltas(results.concepts, model).index]
    seen = table["n_images_real"] + table[f"n_images_{model}"]
    often = table[seen >= 0.01 * 2 * len(results.pair_ids)]
    return often if len(often) >= 2 * len(SCALE) else table


def concepts_along_scale(results: Results, model: str) -> list[int]:
    """For each step of `SCALE` the well observed concept of nearest delta; among equals the one that fires most often."""
    table = well_observed(results, model)
    deltas, firings = table[f"delta_{model}"], table["firings"]
    chosen: list[int] = []
    for step in SCALE:
        distance = (deltas - step).abs().round(2).drop(chosen)
        order = pd.DataFrame({"distance": distance, "firings": -firings.drop(chosen)})
        chosen.append(int(order.sort_values(["distance", "firings"]).index[0]))
    return chosen


def scale_figure(results: Results, model: str, concepts: Sequence[int], n: int = 4) -> Figure:
    """Exemplars along delta (`concepts_along_scale`): top real images, then top generated images of each concept."""
    rows = []
    for concept in concepts:
        cells = top_cells(results, "real", concept, n) + top_cells(results, model, concept, n)
        rows.append(Row(concept_label(results, concept, model), cells))
    return draw_grid(rows, [f"real {i + 1}" for i in range(n)] + [f"generated {i + 1}" for i in range(n)])


def numbers_of(results: Results, model: str, concepts: Sequence[int]) -> list[dict]:
    """What a gallery states of its concepts, for its sidecar: name, delta and interval, and the pairs that it shows."""
    columns = {name: name.removesuffix(f"_{model}") for name in (f"delta_{model}", f"low_{model}", f"high_{model}")}
    rows = results.concepts.loc[list(concepts), ["concept", "goes_with", "goes_with_auc", *columns]].rename(columns=columns)
    pairs = [[results.pair_ids[at] for at in telling_pairs(results, model, concept, 4)] for concept in concepts]
    return [row | {"telling_pairs": ids} for row, ids in zip(rows.to_dict("records"), pairs, strict=True)]


def telling_pairs(results: Results, model: str, concept: int, n: int) -> np.ndarray:
    """Positions of the pairs that say most about a concept's delta: the greatest change of its energy, in its direction."""
    generated = results.energies[model].matrix[:, [concept]].toarray()[:, 0]
    real = results.energies["real"].matrix[:, [concept]].toarray()[:, 0]
    change = generated - real if results.concepts.loc[concept, f"delta_{model}"] > 0.5 else real - generated
    return np.argsort(-change, kind="stable")[:n]


def blindspot_gallery(results: Results, model: str, concepts: Sequence[int], n: int = 4) -> Figure:
    """One row a concept: pairs of real x and the model's x' with heatmaps, where the concept changes most."""
    rows = []
    for concept in concepts:
        strength = concept_strength(results, concept)
        cells = []
        for position in telling_pairs(results, model, concept, n):
            cells += [concept_cell(results, source, int(position), concept, strength) for source in ("real", model)]
        rows.append(Row(concept_label(results, concept, model), cells))
    return draw_grid(rows, ["real x", f"x′ {results.study.model(model).label}"] * n)


def clearest_blindspots(results: Results, model: str, n: int) -> dict[str, list[int]]:
    """The n concepts that are surest to be "suppressed" (lowest upper end of the interval) and "exaggerated"."""
    table = well_observed(results, model)
    return {
        "suppressed": first_of_each_name(table.sort_values([f"high_{model}", "concept"]))[:n],
        "exaggerated": first_of_each_name(table.sort_values([f"low_{model}", "concept"], ascending=[False, True]))[:n],
    }


def first_of_each_name(table: pd.DataFrame) -> list[int]:
    """The concepts of a table in its order, but of those named after one true concept only the first."""
    named = table["goes_with_auc"] >= NAMED_FROM
    again = named & table["goes_with"].where(named).duplicated()
    return table.loc[~again, "concept"].tolist()


def named_cooccurrence(results: Results, n: int) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Labels and co-occurrence counts, real and per model, of n concepts.

    Where true concepts are known: the best match of each, the n best; else the n that fire on most images.
    """
    table = results.concepts.sort_values(["goes_with_auc", "n_images_real", "concept"], ascending=[False, False, True])
    named = table[table["goes_with_auc"] >= NAMED_FROM].drop_duplicates("goes_with")
    frequent = table.sort_values(["n_images_real", "concept"], ascending=[False, True])
    chosen = (named if len(named) else frequent)["concept"].to_numpy()[:n]
    chosen = chosen[np.argsort([results.concepts.loc[c, "goes_with"] for c in chosen], kind="stable")]
    labels = [results.concepts.loc[c, "goes_with"] or str(c) for c in chosen]
    counts = {source: cooccurrence(energies.matrix[:, chosen]).toarray() for source, energies in results.energies.items()}
    return labels, counts["real"], {model.label: counts[model.name] for model in results.study.models}


def extreme_pairs_sheet(results: Results, model: str, side: str, n: int) -> Figure:
    """The pairs with the "least" or the "greatest" energy distance: caption, x, x', nearest training image of x'."""
    least, greatest = extreme_pairs(results.datapoints, model, n)
    rows = []
    for pair in (least if side == "least" else greatest).itertuples():
        cells = [Cell(results.images["real"][pair.pair_id]), Cell(results.images[model][pair.pair_id])]
        cells += training_cells(results, pair)
        rows.append(Row(f"{caption_of(results, pair.pair_id)}\ndistance {pair.energy_distance:.1f}", cells))
    titles = ["real x", "x′", "nearest training"] if results.study.training_corpus else ["real x", "x′"]
    return draw_grid(rows, titles, label_width=2.2, wrap=30)


def training_cells(results: Results, pair) -> list[Cell]:
    """The nearest training image of a generation, if the study knows its training corpus."""
    corpus = results.study.training_corpus
    if corpus is None:
        return []
    image = Image.fromarray(draw_scene(corpus.seed, int(pair.training_index))[1].image)
    return [Cell(image, f"similarity {pair.training_similarity:.3f}")]


def nearest_training_sheet(results: Results, model: str, n: int = 6) -> Figure:
    """The generations that are nearest to a training image: caption, x', that image, and x for comparison."""
    rows = []
    table = results.datapoints[results.datapoints["model"] == model]
    for pair in table.sort_values(["training_similarity", "pair_id"], ascending=[False, True]).head(n).itertuples():
        cells = [Cell(results.images[model][pair.pair_id]), *training_cells(results, pair)]
        rows.append(Row(caption_of(results, pair.pair_id), [*cells, Cell(results.images["real"][pair.pair_id])]))
    return draw_grid(rows, ["x′", "nearest training", "real x"], label_width=2.2, wrap=30)
