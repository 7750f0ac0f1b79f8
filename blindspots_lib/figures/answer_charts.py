"""Charts of the answers: which families, names and pairs are called, and how sure that is."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from blindspots_lib.analysis.agreement import SHRUNKEN
from blindspots_lib.analysis.delta import deltas_of_tested
from blindspots_lib.analysis.distribution import energy_ratio
from blindspots_lib.core.study import Study
from blindspots_lib.figures.charts import N_LABELS, draw_funnel, label_points, most_extreme, well_apart
from blindspots_lib.figures.image_grid import draw_sentence
from blindspots_lib.figures.selection import SIDES, shown_name
from blindspots_lib.figures.style import DELTA_CMAP, INK, QUIET, literal, model_colour, panels

NOTHING = "#e4e0e6"  # the colour of a value that is not defined
CALL_COLOURS = {"unclear": "#c9c4cd", "aligned": DELTA_CMAP(0.5), "suppressed": "#2f9fbb", "exaggerated": "#d09a22"}
ASKED = {"omission": "omitted", "intrusion": "intruding"}  # what is measured, and what it is called when found
ASKED_LABELS = {
    "omission": "omission: generated / (real + generated), energy where the caption asks",
    "intrusion": "intrusion: generated / (real + generated), images that show it unasked",
}
N_UNCALLED = 10  # words that are shown where none is called


def plot_ma(study: Study, table: pd.DataFrame, families: pd.DataFrame, funnels: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw E' / (E + E') against the mean energy of real and generated images together, with the funnel of chance.

    Concepts that are called are coloured by side; families that are called and named carry their names, ten at most.
    `funnels` holds, per model, the band in which delta lies by chance alone, over that energy (`distribution.null_funnel`).
    """
    figure, axes = panels(len(study.models), width=4.6)
    for axis, model in zip(axes, study.models, strict=True):
        name, tested = model.name, table.loc[deltas_of_tested(table, model.name).index]
        energy = total_energy(tested, name)
        counts = ", ".join(f"{(tested[f'call_{name}'] == call).sum()} {call}" for call in reversed(CALL_COLOURS))
        for call, colour in CALL_COLOURS.items():
            of = (tested[f"call_{name}"] == call).to_numpy()
            axis.scatter(energy[of], energy_ratio(tested, name)[of], color=colour, s=6 + 6 * (call in SIDES), linewidths=0,
                         alpha=0.8, label=call, rasterized=True, zorder=2 + (call in SIDES))  # fmt: skip
        draw_funnel(axis, funnels[name])
        axis.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
        axis.set(xscale="log" if len(tested) else axis.get_xscale(), ylim=(-0.02, 1.02),
                 title=f"{literal(model.label)}\n{counts}", xlabel="mean energy, ξ̄ₖ + ξ̄′ₖ (log scale)")  # fmt: skip
        label_families(axis, most_extreme(families, name), name)
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("raw δ(k) = ξ̄′ₖ / (ξ̄ₖ + ξ̄′ₖ)")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside upper center", ncols=6)
    return figure


def total_energy(table: pd.DataFrame, model: str) -> Float[np.ndarray, "n"]:
    """Return the mean energy of real and generated images together, per concept."""
    return (table["energy_real"] + table[f"energy_{model}"]).to_numpy(float)


def label_families(axis, named: pd.DataFrame, model: str) -> None:
    """Write the names of families where their energy and delta are, without one that would cover an earlier one."""
    places = np.stack([total_energy(named, model), energy_ratio(named, model).to_numpy(float)], axis=1)
    if len(named):
        left, right = np.log(axis.get_xlim()) if axis.get_xscale() == "log" else axis.get_xlim()
        unit = np.concatenate([np.stack([np.log(places[:, 0]), places[:, 1]], axis=1), [[left, 0], [right, 1]]])
        chosen = well_apart(range(len(named)), unit)[:N_LABELS]
        axis.scatter(*places[chosen].T, s=16, facecolors="none", edgecolors=INK, linewidths=0.7, zorder=4, label="called family")
        label_points(axis, named.iloc[chosen], places[chosen])


def surest_families(study: Study, families: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the n named families that are called for some model and whose shrunken interval is furthest from 0.5 there.

    The order is by shrunken delta, lowest over the models that call it (highest for what they exaggerate).
    """
    named = families[families["name"] != ""].copy()
    sureness, leading = np.full(len(named), -np.inf), np.full(len(named), 0.5)
    for model in study.models:
        shrunken, low, high = (named[f"{column}_{model.name}"].to_numpy(float) for column in SHRUNKEN)
        away = np.where(named[f"call_{model.name}"].isin(SIDES), np.maximum(low - 0.5, 0.5 - high), -np.inf)
        leading = np.where(away > sureness, shrunken, leading)
        sureness = np.maximum(sureness, away)
    named = named.assign(sureness=sureness, leading=leading)
    named = named[np.isfinite(sureness)].sort_values(["sureness", "family"], ascending=[False, True]).head(n)
    return named.sort_values(["leading", "family"]).drop(columns=["sureness", "leading"])


def plot_surest(study: Study, families: pd.DataFrame, n: int = 20) -> Figure:
    """Draw shrunken delta with its interval per model, of the n surest named families (`surest_families`); filled if called."""
    rows = surest_families(study, families, n)
    if rows.empty:
        return draw_sentence("no named family is called suppressed or exaggerated")
    figure, axis = plt.subplots(figsize=(7.2, 1.2 + 0.34 * len(rows)), layout="constrained")
    for place, model in enumerate(study.models):
        values = tuple(rows[f"{column}_{model.name}"].to_numpy(float) for column in SHRUNKEN)
        filled = rows[f"call_{model.name}"].isin(SIDES).to_numpy()
        draw_dots(axis, lanes(len(rows), place, len(study.models)), values, filled, model_colour(study, model.name))
    finish_rows(axis, study, [f"{shown_name(row)} ({row['n_concepts']})" for _, row in rows.iterrows()])
    axis.set(xlabel="shrunken δ with its 95 % interval; a filled dot is called", ylabel="family (number of its concepts)")
    return figure


def lanes(n_rows: int, place: int, n_models: int) -> Float[np.ndarray, "n_rows"]:
    """Return where the dots of one model stand: a row per name, within it a lane per model."""
    return np.arange(n_rows) + (place - (n_models - 1) / 2) * 0.76 / n_models


def draw_dots(axis, at: np.ndarray, values: tuple[np.ndarray, ...], filled: np.ndarray, colour: str) -> None:
    """Draw values with their intervals from left to right; a dot that is not filled is not called."""
    middle, low, high = values
    for chosen, face, fades in ((~filled, "white", 0.55), (filled, colour, 1.0)):
        axis.hlines(at[chosen], low[chosen], high[chosen], color=colour, linewidth=1.1, alpha=fades)
        axis.plot(middle[chosen], at[chosen], "o", color=colour, markerfacecolor=face, markersize=3.6, markeredgewidth=0.9,
                  alpha=fades)  # fmt: skip


def finish_rows(axis, study: Study, names: list[str]) -> None:
    """Write the names of rows from top to bottom, the thresholds of the paper, and the models' colours."""
    axis.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=7.5)
    axis.set(xlim=(-0.01, 1.01), ylim=(max(len(names), 1) - 0.5, -0.5))
    axis.axvline(0.5, color=QUIET, linewidth=0.8)
    for threshold in (study.analysis.suppressed_below, study.analysis.exaggerated_above):
        axis.axvline(threshold, color=QUIET, linestyle=":", linewidth=1)
    for border in np.arange(0.5, len(names) - 1):
        axis.axhline(border, color=QUIET, linewidth=0.3, alpha=0.5)
    handles = [plt.Line2D([], [], color=model_colour(study, m.name), marker="o", markersize=3.6, label=literal(m.label))
               for m in study.models]  # fmt: skip
    axis.legend(handles=handles, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


def plot_differences(study: Study, families: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    """Draw shrunken delta with its interval per model, of the families of `surest_differences`, with the difference in words."""
    if differences.empty:
        return draw_sentence("no two models differ surely on a named family")
    rows = families.set_index("family", drop=False).loc[differences["family"]]
    figure, axis = plt.subplots(figsize=(9.6, 1.2 + 0.34 * len(rows)), layout="constrained")
    for place, model in enumerate(study.models):
        values = tuple(rows[f"{column}_{model.name}"].to_numpy(float) for column in SHRUNKEN)
        is_one = ((differences["first"] == model.name) | (differences["second"] == model.name)).to_numpy()
        draw_dots(axis, lanes(len(rows), place, len(study.models)), values, is_one, model_colour(study, model.name))
    finish_rows(axis, study, [shown_name(row) for _, row in rows.iterrows()])
    for place, row in enumerate(differences.itertuples()):
        first, second = (literal(study.model(name).label) for name in (row.first, row.second))
        text = f"{second} − {first}: {row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
        axis.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
    axis.set(xlabel="shrunken δ with its 95 % interval; filled: the two models that differ most surely", ylabel="family")
    return figure


def telling_words(asked: pd.DataFrame, measure: str, n: int) -> list[str]:
    """Return at most n words whose omission (or intrusion) is called: for most models first, then the most extreme value first.

    If none is called, return the words that most captions ask for: values that are not called are no reason to show a word.
    """
    asked = asked[asked[f"{measure}_value"].notna()]
    if asked.empty:
        return []
    sign = 1 if measure == "omission" else -1
    rows = asked.assign(is_called=asked[f"{measure}_call"] == ASKED[measure], value=sign * asked[f"{measure}_value"])
    grouped = rows.groupby("word").agg(n_called=("is_called", "sum"), value=("value", "min"), n_asked=("n_asked", "max"))
    if not grouped["n_called"].any():
        return grouped.sort_values(["n_asked", "word"], ascending=[False, True]).index.tolist()[: min(n, N_UNCALLED)]
    called = grouped[grouped["n_called"] > 0].reset_index()
    return called.sort_values(["n_called", "value", "word"], ascending=[False, True, True])["word"].tolist()[:n]


def plot_asked(study: Study, asked: pd.DataFrame, n: int = 25) -> Figure:
    """Draw omission and intrusion per word and model, with intervals; filled dots are called, dotted lines are thresholds.

    Each side shows the n words of which it has most to say (`telling_words`).
    """
    chosen = {measure: telling_words(asked, measure, n) for measure in ASKED}
    if not any(chosen.values()):
        return draw_sentence("no name can be held to what captions ask for")
    height = 1.2 + 0.32 * max(map(len, chosen.values()))
    figure, axes = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
    for axis, (measure, words) in zip(axes, chosen.items(), strict=True):
        for place, model in enumerate(study.models):
            rows = asked[asked["model"] == model.name].set_index("word").reindex(words)
            values = tuple(rows[f"{measure}_{end}"].to_numpy(float) for end in ("value", "low", "high"))
            filled = (rows[f"{measure}_call"] == ASKED[measure]).to_numpy()
            draw_dots(axis, lanes(len(words), place, len(study.models)), values, filled, model_colour(study, model.name))
        finish_rows(axis, study, [shown_word(word) for word in words])
        axis.set_xlabel(ASKED_LABELS[measure] if words else f"{measure}: nothing to show")
    return figure


def shown_word(word: str) -> str:
    return shown_name(pd.Series({"name": word, "concept": -1}))


def plot_asked_matrix(
    study: Study, asked: pd.DataFrame, n: int = 40, planted: Mapping[str, Mapping[str, str]] | None = None
) -> Figure:  # fmt: skip
    """Draw omission and intrusion as two matrices, names x models, in the colours of delta; a dot marks what is called.

    `planted` says for each model on which side words were planted; they are shown too, and a square marks them. A planted word
    without a dot is missed. Grey cells are not defined, as for words that the concepts do not see.
    """
    sides = {"omission": "suppressed", "intrusion": "exaggerated"}
    known = {measure: {(word, model): side == sides[measure] for model, words in (planted or {}).items()
                       for word, side in words.items()} for measure in ASKED}  # fmt: skip
    chosen = {}
    for measure in ASKED:
        words = telling_words(asked, measure, n)
        chosen[measure] = words + sorted({word for (word, _), is_one in known[measure].items() if is_one} - set(words))
    if not any(chosen.values()):
        return draw_sentence("no name can be held to what captions ask for")
    models = [model.name for model in study.models]
    height = 1.9 + 0.19 * max(map(len, chosen.values()))
    figure, axes = plt.subplots(1, 2, figsize=(4.6 + 0.9 * len(models), height), layout="constrained")
    cmap, note = DELTA_CMAP.with_extremes(bad=NOTHING), "dot: called, square: planted" if planted else "dot: called"
    for axis, (measure, words) in zip(axes, chosen.items(), strict=True):
        tables = [asked.pivot(index="word", columns="model", values=column).reindex(index=words, columns=models)
                  for column in (f"{measure}_value", f"{measure}_call")]  # fmt: skip
        axis.set_title(f"{measure} ({note})" if words else f"{measure}: nothing to show", fontsize=9)
        axis.tick_params(length=0)
        axis.set_xticks(range(len(models)), [literal(m.label) for m in study.models], fontsize=7, rotation=35, ha="right")
        axis.set_yticks(range(len(words)), [literal(shown_word(word)) for word in words], fontsize=7)
        if not words:
            continue
        values, calls = tables[0].to_numpy(float), tables[1].to_numpy() == ASKED[measure]
        drawn = axis.imshow(values, cmap=cmap, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axis.plot(*np.nonzero(calls)[::-1], "o", color="white", markersize=3.2, markeredgecolor=INK, markeredgewidth=0.6)
        if not planted:
            continue
        squares = np.array([[known[measure].get((word, model), False) for model in models] for word in words])
        axis.plot(*np.nonzero(squares)[::-1], "s", color="none", markersize=7.5, markeredgecolor="white", markeredgewidth=1.1)
    figure.colorbar(drawn, ax=list(axes), label="generated / (real + generated); grey: not defined", shrink=0.5)
    return figure
