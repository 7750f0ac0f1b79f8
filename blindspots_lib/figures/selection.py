"""Which rows of the tables of answers are shown, in which order, and in which words."""

import math

import pandas as pd

from blindspots_lib.figures.image_grid import printable

SIDES = ("suppressed", "exaggerated")
NAME_LENGTH = 40  # letters shown of a name


def called(table: pd.DataFrame, model: str, side: str) -> pd.DataFrame:
    """Return the rows that are called "suppressed" or "exaggerated" for a model: the named ones first, then the unnamed ones.

    In both groups the most extreme shrunken delta stands first. Fragments without a name would else hide what has one.
    """
    chosen = table[table[f"call_{model}"] == side]
    chosen = chosen.sort_values([f"shrunken_{model}", "concept"], ascending=[side == "suppressed", True])
    return chosen.sort_values("name", key=lambda names: names == "", kind="stable")


def called_in_order(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the called rows of both sides, from the most suppressed to the most exaggerated shrunken delta."""
    chosen = table[table[f"call_{model}"].isin(SIDES)]
    return chosen.sort_values([f"shrunken_{model}", "concept"])


def shown_name(row: pd.Series) -> str:
    """Return the name of a concept or family, or "unnamed" with the number of the (leading) concept."""
    name = " ".join(printable(row["name"]).split())
    if not name:
        return f"unnamed (concept {int(row['concept'])})"
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def with_range(value: float, low: float, high: float) -> str:
    """Write a value with its interval, a dash for what is not defined."""
    return f"{number(value)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def verdict_lines(row: pd.Series, model: str) -> list[str]:
    """Return the call of a concept or family for a model, its shrunken delta with the interval, and its raw delta."""
    shrunken = with_range(*(float(row[f"{column}_{model}"]) for column in ("shrunken", "shrunken_low", "shrunken_high")))
    return [row[f"call_{model}"], f"shrunken δ {shrunken}", f"raw δ {number(row[f'delta_{model}'])}"]
