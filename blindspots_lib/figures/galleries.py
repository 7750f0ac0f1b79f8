"""Galleries of finished results: functions that choose pairs and concepts, and functions that lay them out as grids."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from blindspots_lib.analysis.energies import cooccurrence
from blindspots_lib.analysis.memorization import extreme_pairs
from blindspots_lib.analysis.results import Results
from blindspots_lib.figures.explorer_data import training_image
from blindspots_lib.figures.image_grid import Cell, Row, draw_grid, principal_colours
from blindspots_lib.figures.selection import SIDES, called, called_in_order, shown_name, verdict_lines

N_COLOURED = 4  # images per source whose tokens are shown as colours
SCALE = (0.0, 0.25, 0.5, 0.75, 1.0)  # the values of delta that a scale figure shows


def caption_of(results: Results, pair_id: str) -> str:
    return results.pairs.captions[results.pairs.pair_ids.index(pair_id)]


def contact_sheet(results: Results, pair_ids: Sequence[str]) -> Figure:
    """Draw one row per pair: the caption t, the real image x, every model's x'."""
    rows = [Row(caption_of(results, p), [Cell(store[p]) for store in results.images.values()]) for p in pair_ids]
    return draw_grid(rows, ["real x", *(f"x′ {model.label}" for model in results.study.models)])


def token_colours(results: Results, patches: dict[str, np.ndarray], side: int) -> Figure:
    """Draw one row per source: the first of the complete pairs' images, each beside its patch tokens as colours."""
    colours = np.split(principal_colours(np.concatenate(list(patches.values())), side), len(patches))
    labels = {"real": "real images", **{model.name: model.label for model in results.study.models}}
    rows = []
    for source, pictures in zip(patches, colours, strict=True):
        shown = zip(results.pair_ids[:N_COLOURED], pictures[:N_COLOURED], strict=True)
        rows.append(Row(labels[source], [Cell(cell) for at, tokens in shown for cell in (results.images[source][at], tokens)]))
    return draw_grid(rows, ["image", "its patch tokens"] * min(N_COLOURED, len(results.pair_ids)))


def concept_cell(results: Results, source: str, position: int, concepts: Sequence[int], strength: float) -> Cell:
    """Return the image of a source at a position among the complete pairs, with the heatmap of some concepts together."""
    image = results.images[source][results.pair_ids[position]]
    return Cell(image, "", heatmap(results, source, position, concepts), strength)


def heatmap(results: Results, source: str, position: int, concepts: Sequence[int]) -> Float[np.ndarray, "side side"]:
    """Return the sum of some concepts' codes at every patch of an image."""
    codes = results.codes[source]
    patches = codes.patch_codes(results.rows[source][[position]])[:, list(concepts)]
    return np.asarray(patches.sum(axis=1), np.float32).reshape(codes.layout.patches_per_side, -1)


def summed_energy(results: Results, source: str, concepts: Sequence[int]) -> Float[np.ndarray, "pairs"]:
    """Return the energy of some concepts together, per image of a source."""
    return np.asarray(results.energies[source].matrix[:, list(concepts)].sum(axis=1), np.float64).ravel()


def top_images(results: Results, source: str, concepts: Sequence[int], n: int) -> list[int]:
    """Return the positions of the at most n images with the highest energy of some concepts together, highest first."""
    energy = summed_energy(results, source, concepts)
    return [int(position) for position in np.argsort(-energy, kind="stable")[:n] if energy[position] > 0]


def heatmap_strength(results: Results, sources: Sequence[str], concepts: Sequence[int]) -> float:
    """Return the scale of heatmaps of some concepts together: the highest value on their top images of any of the sources."""
    shown = ((source, position) for source in sources for position in top_images(results, source, concepts, 3))
    return max((float(heatmap(results, *place, concepts).max()) for place in shown), default=0.0)


def concept_label(results: Results, concept: int, model: str | None = None) -> str:
    """Return a concept's name and number; for one model also its call, its shrunken delta with the interval, and its delta."""
    row = results.concepts.loc[concept]
    label = [shown_name(row)] + [f"concept {concept}"] * bool(row["name"])
    return "\n".join(label + (verdict_lines(row, model) if model is not None else []))


def top_cells(results: Results, source: str, concept: int, n: int) -> list[Cell | None]:
    """Return the n top images of a concept; None where it fires on fewer."""
    strength, found = heatmap_strength(results, list(results.codes), [concept]), top_images(results, source, [concept], n)
    cells = [concept_cell(results, source, position, [concept], strength) for position in found]
    return cells + [None] * (n - len(cells))


def concept_sheet(results: Results, concepts: Sequence[int], n: int = 8) -> Figure:
    """Draw one row per concept: its top real images, with heatmaps."""
    rows = [Row(concept_label(results, c) + "\n" + seen_on(results, c), top_cells(results, "real", c, n)) for c in concepts]
    return draw_grid(rows, title="real images with the most of each concept; outlined where it fires")


def on_one_line(label: str) -> str:
    return ", ".join(label.split("\n"))


def seen_on(results: Results, concept: int) -> str:
    return f"on {int(results.concepts.loc[concept, 'n_images_real']):,} of {len(results.pair_ids):,} images"


def typical_concepts(results: Results, n: int) -> list[int]:
    """Return n concepts in equal steps from those that fire on most real images to those that fire on few.

    They fire on a real image and are tested for some model; where none is, any concept may stand here.
    """
    tested = results.concepts[[f"tested_{model.name}" for model in results.study.models]].any(axis=1)
    tested &= results.concepts["n_images_real"] > 0
    table = results.concepts[tested if tested.any() else slice(None)]
    order = table.sort_values(["n_images_real", "concept"], ascending=[False, True])["concept"].to_numpy()
    return [int(c) for c in order[np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)]]


def surest_concept(results: Results, model: str) -> int | None:
    """Return the concept that is called most surely for a model, whose posterior interval is furthest from 0.5; None if none is.

    A named one comes before all others.
    """
    rows = called_in_order(results.concepts, model)
    away = np.maximum(rows[f"shrunken_low_{model}"] - 0.5, 0.5 - rows[f"shrunken_high_{model}"])
    rows = rows.assign(away=away, named=rows["name"] != "").sort_values(["named", "away"], ascending=False, kind="stable")
    return int(rows["concept"].iloc[0]) if len(rows) else None


def concept_page(results: Results, concept: int, n: int = 6) -> Figure:
    """Draw one concept on a page: per source its top images with heatmaps and captions, and what is found for each model.

    Where it fires on no image of a model, the page shows what the model drew for the captions of the top real images.
    """
    row = results.concepts.loc[concept]
    labels = {"real": "real images"} | {
        model.name: "\n".join([model.label, *verdict_lines(row, model.name)]) for model in results.study.models
    }
    rows, strength = [], heatmap_strength(results, list(results.codes), [concept])
    for source, label in labels.items():
        positions = top_images(results, source, [concept], n)
        if not positions:
            label, positions = f"{label}\nfires on none; for the captions above:", top_images(results, "real", [concept], n)
        cells = [concept_cell(results, source, position, [concept], strength) for position in positions]
        captions = [caption_of(results, results.pair_ids[position]) for position in positions]
        empty = n - len(positions)
        rows.append(Row(label, cells + [None] * empty, captions + [""] * empty))
    title = f"{on_one_line(concept_label(results, concept))}: fires {seen_on(results, concept)}"
    return draw_grid(rows, label_width=2.0, wrap=30, title=title)


def concepts_along_scale(results: Results, model: str) -> list[int]:
    """Return for each step of `SCALE` the tested concept of nearest shrunken delta, each of another family.

    Among equally near ones a named concept comes first, then the most frequent one. Fewer than five where fewer are tested.
    """
    left, chosen = results.concepts[results.concepts[f"tested_{model}"]], []
    for step in SCALE:
        if len(left):
            distance = (left[f"shrunken_{model}"] - step).abs().round(2)
            order = left.assign(distance=distance, unnamed=left["name"] == "")
            nearest = order.sort_values(["distance", "unnamed", "firings", "concept"], ascending=[True, True, False, True]).iloc[
                0
            ]
            chosen.append(int(nearest["concept"]))
            left = left[left["family"] != nearest["family"]]
    return chosen


def scale_figure(results: Results, model: str, concepts: Sequence[int], n: int = 4) -> Figure:
    """Draw one row per concept (`concepts_along_scale`): its top real images, then its top generated images."""
    rows = [Row(concept_label(results, c, model), top_cells(results, "real", c, n) + top_cells(results, model, c, n))
            for c in concepts]  # fmt: skip
    titles, label = [f"{kind} {i + 1}" for kind in ("real", "generated") for i in range(n)], results.study.model(model).label
    title = f"{label}: concepts along the scale of δ"
    return draw_grid(rows, titles, label_width=2.0, wrap=30, title=title, nothing="no concept is tested")


VERDICT = ("call", "delta", "low", "high", "shrunken", "shrunken_low", "shrunken_high", "q")


def numbers_of(results: Results, model: str, concepts: Sequence[int]) -> list[dict]:
    """Return what a figure of concepts states of them, for its sidecar."""
    return stated(results.concepts.loc[list(concepts)], model, ["concept", "name"])


def stated(table: pd.DataFrame, model: str, columns: list[str]) -> list[dict]:
    verdict = {f"{column}_{model}": column for column in VERDICT}
    return table[[*columns, *verdict]].rename(columns=verdict).to_dict("records")


def family_members(results: Results, family: int) -> list[int]:
    """Return the concepts of a family."""
    return results.concepts.loc[results.concepts["family"] == family, "concept"].tolist()


def family_row(results: Results, family: int) -> pd.Series:
    return results.families.set_index("family", drop=False).loc[family]


def clearest_blindspots(results: Results, model: str, n: int) -> dict[str, list[int]]:
    """Return at most n families that are called "suppressed" and "exaggerated", in the order of `selection.called`."""
    return {side: called(results.families, model, side)["family"].tolist()[:n] for side in SIDES}


def telling_pairs(results: Results, model: str, concepts: Sequence[int], rises: bool, n: int) -> Int[np.ndarray, "pairs"]:
    """Return the positions of the n pairs in which some concepts together rise (or fall) most from x to x'."""
    gain = summed_energy(results, model, concepts) - summed_energy(results, "real", concepts)
    return np.argsort(-gain if rises else gain, kind="stable")[:n]


def pairs_of_family(results: Results, model: str, family: int, n: int) -> Int[np.ndarray, "pairs"]:
    """Return the positions of the n pairs whose energy of a family changes most, in the direction of its shrunken delta."""
    rises = bool(family_row(results, family)[f"shrunken_{model}"] > 0.5)
    return telling_pairs(results, model, family_members(results, family), rises, n)


def family_label(row: pd.Series, model: str) -> str:
    """Return the lines that a gallery states of a family."""
    size = "1 concept" if row["n_concepts"] == 1 else f"{row['n_concepts']} concepts"
    return "\n".join([shown_name(row), *verdict_lines(row, model), size])


def blindspot_gallery(
    results: Results, model: str, families: Sequence[int], n: int = 4, side: str = " or ".join(SIDES)
) -> Figure:
    """Draw one row per family: the pairs in which it changes most, real x and the model's x' with its heatmaps, and captions.

    `side` says of what there is nothing where no family is given.
    """
    rows, label = [], results.study.model(model).label
    for family in families:
        members = family_members(results, family)
        strength = heatmap_strength(results, ("real", model), members)
        found = [int(position) for position in pairs_of_family(results, model, family, n)]
        cells = [concept_cell(results, source, position, members, strength) for position in found for source in ("real", model)]
        captions = [caption_of(results, results.pair_ids[position]) for position in found]
        rows.append(Row(family_label(family_row(results, family), model), cells, captions))
    title, nothing = f"{label}: {side} families of concepts", f"{label}: nothing is called {side}"
    return draw_grid(rows, ["real x", f"x′ {label}"] * n, label_width=2.0, wrap=30, title=title * bool(rows), nothing=nothing)


def numbers_of_families(results: Results, model: str, families: Sequence[int], n: int = 4) -> list[dict]:
    """Return what a gallery states of its families, for its sidecar, with the pairs that it shows."""
    table = results.families.set_index("family", drop=False).loc[list(families)]
    pairs = [[results.pair_ids[at] for at in pairs_of_family(results, model, family, n)] for family in families]
    rows = stated(table, model, ["family", "name", "concept", "n_concepts"])
    return [row | {"telling_pairs": ids} for row, ids in zip(rows, pairs, strict=True)]


def named_cooccurrence(results: Results, n: int) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Return labels and co-occurrence counts, real and per model, of n concepts.

    They are the named concepts that fire on most images, one per name; where nothing is named, any that fire on most images.
    """
    table = results.concepts.sort_values(["n_images_real", "concept"], ascending=[False, True])
    named = table[table["name"] != ""].drop_duplicates("name")
    table = (named if len(named) else table)[:n].sort_values(["name", "concept"])
    chosen = table["concept"].to_numpy()
    labels = [shown_name(row) if row["name"] else str(row["concept"]) for _, row in table.iterrows()]
    counts = {source: cooccurrence(energies.matrix[:, chosen]).toarray() for source, energies in results.energies.items()}
    return labels, counts["real"], {model.label: counts[model.name] for model in results.study.models}


def extreme_pairs_sheet(results: Results, model: str, side: str, n: int) -> Figure:
    """Draw the pairs with the "least" or the "greatest" energy distance: caption, x, x', nearest training image of x'."""
    least, greatest = extreme_pairs(results.datapoints, model, n)
    rows = []
    for pair in (least if side == "least" else greatest).itertuples():
        cells = [*(Cell(results.images[source][pair.pair_id]) for source in ("real", model)), *training_cells(results, pair)]
        rows.append(Row(f"{caption_of(results, pair.pair_id)}\ndistance {pair.energy_distance:.1f}", cells))
    label = results.study.model(model).label
    titles = ["real x", f"x′ {label}"] + ["nearest training"] * (results.study.training_corpus is not None)
    return draw_grid(rows, titles, label_width=2.2, wrap=30, title=f"{label}: pairs with the {side} distance")


def training_cells(results: Results, pair) -> list[Cell]:
    """Return the nearest training image of a generation, if the study knows its training corpus."""
    if results.study.training_corpus is None:
        return []
    return [Cell(training_image(results, int(pair.training_index)), f"similarity {pair.training_similarity:.3f}")]


def nearest_training_sheet(results: Results, model: str, n: int = 6) -> Figure:
    """Draw the generations that are nearest to a training image: caption, x', that image, and x for comparison."""
    rows, table = [], results.datapoints[results.datapoints["model"] == model]
    for pair in table.sort_values(["training_similarity", "pair_id"], ascending=[False, True]).head(n).itertuples():
        cells = [Cell(results.images[model][pair.pair_id]), *training_cells(results, pair)]
        rows.append(Row(caption_of(results, pair.pair_id), [*cells, Cell(results.images["real"][pair.pair_id])]))
    label = results.study.model(model).label
    titles = [f"x′ {label}", "nearest training", "real x"]
    return draw_grid(rows, titles, label_width=2.2, wrap=30, title=f"{label}: nearest to a training image")
