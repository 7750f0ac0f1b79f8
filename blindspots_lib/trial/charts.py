"""Charts of the trial: one function per figure."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blindspots_lib.data.scenes import OBJECTS
from blindspots_lib.figures.charts import well_apart
from blindspots_lib.figures.style import GRADIENT, INK, MODEL_COLOURS, QUIET, literal, model_colour, panels, say_start
from blindspots_lib.trial.methods import KMEANS, RA_SAE, TOPK_SAE
from blindspots_lib.trial.metrics import SIDES, Measure, over_seeds
from blindspots_lib.trial.scorecard import COPY_SCORES, HIGH_DISCREPANCY
from blindspots_lib.trial.trial import Trial

SIDE_COLOURS = {"suppressed": GRADIENT[1], "exaggerated": GRADIENT[3], "": QUIET}
METHOD_MARKS = {RA_SAE: "o", TOPK_SAE: "s", KMEANS: "D"}
FOUND = {
    "name_accuracy": "names right", "called_recall": "called", "called_max_recall": "called, family-wise",
    "omission_recall": "omission", "intrusion_ap": "intrusion (average precision)", "shown_coverage": "intervals of the shown",
}  # fmt: skip
FALSE = {
    "name_false_share": "names from permuted captions", "false_call_share": "false calls of directions",
    "omission_false_share": "false omissions", "intrusion_false_share": "false intrusions",
    "composition_false_share": "false calls of pairs of words",
}  # fmt: skip
OUTLIER = 0.15  # distance of delta from the true change from which a concept is named
SIDE_MARKS = {"suppressed": "o", "exaggerated": "s", "": "."}


def draw_dots(axis: Axes, names: Sequence[str], measures: Sequence[Measure], offset: float, **style) -> None:
    """Draw one row per name, from the top: a dot with its interval."""
    places = np.arange(len(names)) + offset
    values = np.array([measure.value for measure in measures])
    reach = np.array([(m.value - m.low, m.high - m.value) for m in measures]).T
    axis.errorbar(
        values, places, xerr=np.nan_to_num(np.maximum(reach, 0)), linestyle="none", markersize=5, elinewidth=1.2, **style
    )
    axis.set_yticks(np.arange(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def plot_detection(trial: Trial, detection: pd.DataFrame) -> Figure:
    """Draw the average precision of every method, one panel per model with plants, with intervals over seeds.

    Filled: over the objects; hollow: over all ground-truth concepts. Dotted: a random order of the objects.
    """
    models = [model for model in trial.study.models if trial.truth.plants[model.name].suppressed]
    kinds = list(detection["kind"].unique())
    marks = {"ap_of_objects": ("full", "objects"), "ap_of_truths": ("none", "all ground-truth concepts")}
    figure, axes = panels(len(models), width=4.4, height=4.2)
    for axis, model in zip(axes, models, strict=True):
        for side, place in zip(SIDES, (-0.2, 0.2), strict=True):
            rows = detection[(detection["model"] == model.name) & (detection["side"] == side)]
            for (column, (fill, over)), shift in zip(marks.items(), (-0.08, 0.08), strict=True):
                measures = [precision_of(rows.loc[rows["kind"] == kind, column]) for kind in kinds]
                style = dict(fmt=SIDE_MARKS[side], color=SIDE_COLOURS[side], fillstyle=fill)
                draw_dots(axis, kinds, measures, place + shift, label=f"planted as {side}, {over}", **style)
            axis.axvline(chance(trial, model.name, side), color=SIDE_COLOURS[side], linestyle=":", linewidth=1,
                         label=f"a random order, {side}")  # fmt: skip
        axis.axhspan(-0.5, 0.5, color="#f3f0f5", zorder=0)
        axis.set(xlim=(0, 1.02), title=literal(model.label), xlabel="average precision")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def precision_of(values: pd.Series) -> Measure:
    """Return the mean over seeds; a method without seeds has no interval."""
    return over_seeds(values, 0.0, 1.0) if len(values) > 1 else Measure(float(values.iloc[0]), np.nan, np.nan)


def chance(trial: Trial, model: str, side: str) -> float:
    """Return the average precision of a random order of the objects: the fraction that is planted."""
    return float((trial.truth.sides[model][list(OBJECTS)] == side).mean())


def plot_against_oracle(trial: Trial, detection: pd.DataFrame) -> tuple[Figure, dict[str, dict]]:
    """Draw delta of each ground-truth concept, by the concepts matched to it, median over seeds, against the true change."""
    figure, axes = panels(len(trial.study.models), width=3.9, height=3.7)
    numbers = {}
    truths = trial.truths[trial.truths["kind"] == RA_SAE]
    rows = detection[(detection["kind"] == RA_SAE) & (detection["side"] == "suppressed")]
    for axis, model in zip(axes, trial.study.models, strict=True):
        deltas = truths[truths["model"] == model.name].groupby("truth")["delta"].median()
        change, sides = trial.truth.change[model.name][deltas.index], trial.truth.sides[model.name][deltas.index]
        axis.plot((0, 1), (0, 1), color=QUIET, linewidth=0.8, linestyle=":")
        for side, colour in SIDE_COLOURS.items():
            of_side = sides == side
            label = side or "not planted"
            axis.plot(
                change[of_side], deltas[of_side], SIDE_MARKS[side], color=colour, markersize=5, linestyle="none", label=label
            )
        name_outliers(axis, change.to_numpy(), deltas)
        rho = over_seeds(rows.loc[rows["model"] == model.name, "oracle_rho"], -1.0, 1.0)
        numbers[model.name] = {"rho": rho._asdict(), "delta": deltas.to_dict(), "true change": change.to_dict()}
        axis.text(
            0.03, 0.97, f"ρ = {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]", transform=axis.transAxes, va="top", fontsize=8
        )
        axis.set(
            xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=literal(model.label), xlabel="true change f′ / (f + f′), by the oracle"
        )
    axes[0].set_ylabel("δ by the concepts matched to it")
    axes[0].legend(fontsize=7.5, loc="lower right")
    return figure, numbers


def name_outliers(axis: Axes, change: Float[np.ndarray, "c"], deltas: pd.Series) -> None:
    """Write the names of the concepts whose delta is far from their true change, the farthest first where they are crowded."""
    places, apart = np.stack([change, deltas.to_numpy()], axis=1), np.abs(change - deltas.to_numpy())
    far = [at for at in np.argsort(-apart, kind="stable") if apart[at] > OUTLIER]
    for at in well_apart(far, np.concatenate([places, [[0, 0], [1, 1]]]), tall=2):
        axis.annotate(deltas.index[at], places[at], (4, 2), textcoords="offset points", fontsize=6.5)


def plot_copies(trial: Trial, card: dict[str, dict[str, Measure]]) -> tuple[Figure, dict[str, dict]]:
    """Draw how well scores separate copies from other public pairs: AUC and precision at 1 % false positives."""
    models = [model for model in trial.study.models if trial.truth.plants[model.name].memorized]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True, layout="constrained")
    labels = {"auroc": "area under the ROC curve", "precision": "precision at 1 % false positives"}
    for axis, (measure, label) in zip(axes, labels.items(), strict=True):
        for number, model in enumerate(models):
            offset = 0.14 * (number - (len(models) - 1) / 2)
            measures = [card[model.name][f"{short}_{measure}"] for short in COPY_SCORES.values()]
            colour = model_colour(trial.study, model.name)
            draw_dots(axis, list(COPY_SCORES), measures, offset, fmt="o", color=colour, label=literal(model.label))
        axis.set(xlabel=label)
    axes[0].axvline(0.5, color=QUIET, linestyle=":", linewidth=1)
    axes[0].annotate("chance", (0.5, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points",
                     fontsize=7.5, color=QUIET)  # fmt: skip
    axes[0].set_xlim(min(0.48, axes[0].get_xlim()[0]), 1.02)
    axes[1].set_xlim(-0.02, 1.02)
    axes[1].legend(fontsize=7.5)
    shown = [f"{short}_{measure}" for short in COPY_SCORES.values() for measure in labels]
    return figure, {model.name: {name: card[model.name][name]._asdict() for name in shown} for model in models}


def plot_noise(trial: Trial) -> Figure:
    """Draw the energy distance of each pair against the agreement of its caption and real image; wrong captions are dark."""
    figure, axes = panels(len(trial.study.models), width=3.9, height=3.3)
    for axis, model in zip(axes, trial.study.models, strict=True):
        table = trial.discrepancies[trial.discrepancies["model"] == model.name]
        for noisy, colour, label in ((False, "#cfc9d4", "own caption"), (True, INK, "another's caption, planted")):
            rows = table[table["noisy"] == noisy]
            axis.plot(rows["energy_distance"], rows["agreement"], ".", color=colour, markersize=4, label=label)
        axis.axvline(table["energy_distance"].quantile(HIGH_DISCREPANCY), color=QUIET, linestyle=":", linewidth=1,
                     label=f"right of it: the {1 - HIGH_DISCREPANCY:.0%} most distant")  # fmt: skip
        axis.set(title=literal(model.label), xlabel="energy distance ‖ξ(x′) − ξ(x)‖₂")
    axes[0].set_ylabel("caption–image agreement (CLIP cosine)")
    axes[0].legend(fontsize=7.5, loc="lower left")
    return figure


def plot_ablations(trial: Trial, table: pd.DataFrame) -> Figure:
    """Draw the average precision over objects of each variant, mean over the models with plants; single models as faint dots."""
    names = list(dict.fromkeys(zip(table["varied"], table["kind"], strict=True)))
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.36 * len(names) + 1.1), sharey=True, layout="constrained")
    for axis, side in zip(axes, SIDES, strict=True):
        rows = table[(table["side"] == side) & table["ap_of_objects"].notna()]
        for place, (varied, kind) in enumerate(names):
            values = rows.loc[(rows["varied"] == varied) & (rows["kind"] == kind), "ap_of_objects"]
            axis.plot(values, [place] * len(values), SIDE_MARKS[side], color=SIDE_COLOURS[side], alpha=0.3, markersize=4)
            axis.plot(values.mean(), place, SIDE_MARKS[side], color=SIDE_COLOURS[side], markersize=7)
        own = rows.loc[rows["varied"] == names[0][0], "ap_of_objects"].mean()
        axis.axvline(own, color=QUIET, linestyle=":", linewidth=1, label="the study's own settings")
        axis.set(xlim=(0, 1.02), xlabel="average precision over objects", title=side)
    axes[0].set_yticks(range(len(names)), [kind if varied == "as it is" else f"{varied}: {kind}" for varied, kind in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].legend(fontsize=7.5, loc="lower left")
    return figure


def card_table(card: dict[str, dict[str, Measure]]) -> pd.DataFrame:
    """Return the scorecard as text: one row per measure, one column per model."""

    def told(measure: Measure) -> str:
        if np.isnan(measure.value):
            return "–"
        return f"{measure.value:.3g}" + ("" if np.isnan(measure.low) else f" [{measure.low:.3g}, {measure.high:.3g}]")

    return pd.DataFrame({model: {name: told(measure) for name, measure in measures.items()} for model, measures in card.items()})


def plot_power(table: pd.DataFrame) -> Figure:
    """Draw the fraction of planted ground-truth concepts found against the number of pairs, one line per strength."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
    for axis, side in zip(axes, SIDES, strict=True):
        rows = table[table["side"] == side]
        nothing, *strengths = sorted(rows["strength"].unique())
        for strength, alpha in zip(strengths, np.linspace(0.3, 1, len(strengths)), strict=True):
            found = rows[rows["strength"] == strength].groupby("pairs")["found"].mean()
            axis.plot(found.index, found, "o-", color=SIDE_COLOURS[side], alpha=alpha, markersize=4, label=f"{strength:.0%}")
        for strength, dashes in ((nothing, ":"), (strengths[-1], "--")):
            others = rows[rows["strength"] == strength].groupby("pairs")["others"].mean()
            axis.plot(others.index, others, dashes, color=INK, linewidth=1, label=f"{strength:.0%}, not planted")
        axis.set(xscale="log", xlabel="pairs (log scale)", title=side, ylim=(-0.02, 1.02))
        axis.set_xticks(sorted(rows["pairs"].unique()), [str(n) for n in sorted(rows["pairs"].unique())])
        axis.minorticks_off()
    axes[0].set_ylabel("fraction with an interval beyond 0.5")
    axes[1].legend(fontsize=7.5, title="images with the fault", title_fontsize=7.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def plot_token_map(places: Float[np.ndarray, "n 2"], owners: list[str], accuracy: float) -> Figure:
    """Draw the UMAP of single patch tokens, coloured by the object that covers the patch, with its name on the largest island."""
    figure, axis = plt.subplots(figsize=(6.4, 5), layout="constrained")
    names = sorted(set(owners))
    for name, colour in zip(names, sns.color_palette("husl", len(names)), strict=True):
        own = places[np.array(owners) == name]
        axis.scatter(*own.T, s=9, color=colour, linewidths=0)
        axis.annotate(name, middle_of_largest(own), ha="center", va="center", fontsize=8.5, weight="bold",
                      path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")])  # fmt: skip
    axis.set(xlabel="UMAP 1 of patch tokens (cosine)", ylabel="UMAP 2", xticks=[], yticks=[],
             title=f"Nearest-neighbour accuracy on these tokens: {accuracy:.0%}")  # fmt: skip
    return figure


def middle_of_largest(places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "2"]:
    """Return the point in the middle of the largest cluster: its mean distance to the nearest third of the others is least."""
    distances = np.sort(np.linalg.norm(places[:, None] - places[None], axis=2), axis=1)
    return places[distances[:, : max(2, len(places) // 3)].mean(axis=1).argmin()]


def plot_answers(answers: pd.DataFrame) -> Figure:
    """Draw the measures of `answers.answer_table` for every method: means over the models, with intervals over the seeds.

    Left: what should be found; dotted: the 95 % that intervals should hold. Right: what should not be called; dotted: the 5 %
    that are allowed.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    by_seed = answers.groupby(["kind", "seed", "measure"])["value"].mean()
    for axis, rows in zip(axes, (FOUND, FALSE), strict=True):
        for place, (kind, mark) in enumerate(METHOD_MARKS.items()):
            measures = [over_seeds(by_seed.loc[kind].xs(name, level="measure"), 0.0, 1.0) for name in rows]
            colour = MODEL_COLOURS[place]
            draw_dots(axis, list(rows.values()), measures, 0.22 * (place - 1), fmt=mark, color=colour, label=kind)
        axis.set(xlabel="fraction (mean over the models)")
    axes[0].axvline(0.95, color=QUIET, linestyle=":", linewidth=1)
    axes[0].set(xlim=(None, 1.02), title="should be found")
    say_start(axes[0], "x")
    axes[1].axvline(0.05, color=QUIET, linestyle=":", linewidth=1)
    axes[1].set(xlim=(-0.004, max(0.1, axes[1].get_xlim()[1])), title="should not be called")
    axes[0].legend(fontsize=8, loc="lower left")
    return figure


def plot_calibration(table: pd.DataFrame) -> Figure:
    """Draw, against the frequency of the concept, what is called falsely and how many intervals hold the true delta.

    Dotted: the 5 % that are allowed, the 95 % that intervals should hold.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    bins = sorted(table["images"].unique())
    ends = [f"{low} to {high - 1}" for low, high in itertools.pairwise(bins)] + [f"{bins[-1]} or more"]
    for place, (case, rows) in enumerate(table.groupby("case", sort=False)):
        at = [bins.index(images) for images in rows["images"]]
        for axis, column in zip(axes, ("false", "covered"), strict=True):
            axis.plot(at, rows[column], "o-", color=MODEL_COLOURS[place], linewidth=1.2, markersize=5, label=case)
    for axis, level in zip(axes, (0.05, 0.95), strict=True):
        axis.axhline(level, color=QUIET, linestyle=":", linewidth=1)
        axis.set_xticks(range(len(bins)), ends)
        axis.set_xlabel("images that the concept fires on, both sides together")
    axes[0].set(ylabel="fraction called falsely", ylim=(-0.002, 0.06))
    axes[1].set(ylabel="fraction of intervals that hold the true δ", ylim=(None, 1.005))
    say_start(axes[1], "y")
    axes[1].legend(fontsize=8, loc="lower left")
    return figure
