"""Whole studies with too few pairs, or captions that say nothing: every table and the report are made, and nothing is called."""

import numpy as np
import pytest
from PIL import Image

from blindspots_lib.core.config import FolderPairs
from blindspots_lib.figures.report import report_paths, write_report
from blindspots_lib.run.stages import measure

ONE_MODEL = {"models.1": ..., "stability": ..., "sae.n_steps": 4, "sae.n_concepts": 24, "sae.n_candidates": 24}


def folder_of_pairs(folder, captions):
    """Images of noise, real and generated, with these captions: the changes of a study that reads them."""
    rng = np.random.default_rng(0)
    for side in ("real", "generated"):
        (folder / side).mkdir()
        for number in range(len(captions)):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / side / f"{number}.png")
    lines = [f'{number}.png,"{caption}"' for number, caption in enumerate(captions)]
    (folder / "real" / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]), encoding="utf-8")
    model = {"name": "mine", "label": "Mine", "images": str(folder / "generated")}
    return {"pairs": FolderPairs(source="folder", path=str(folder / "real")).model_dump(exclude_unset=True), "models.0": model}


@pytest.mark.parametrize(
    "captions",
    [["a dog"], ["a dog", "a cat"], ["a thing"] * 30, ["one", "eine", "一つの", "одна", "x"] * 6],
    ids=["one pair", "two pairs", "all the same", "mixed languages"],
)
def test_too_little_gives_every_table_and_calls_nothing(make_study, tmp_path, captions):
    study = make_study(ONE_MODEL | folder_of_pairs(tmp_path, captions))
    results = measure(study)
    assert set(results.concepts["name"]) == {""}
    assert set(results.concepts["call_mine"]) <= {"unclear", "aligned"}
    assert set(results.families["call_mine"]) <= {"unclear", "aligned"}
    assert set(results.asked["omission_call"]) <= {"unclear"}
    assert set(results.datapoints["copy_call"]) == {""}
    assert results.composition.empty
    assert len(results.claims)
    write_report(results)
    page = report_paths(study)[1].read_text(encoding="utf-8")
    assert "Nothing is called" in page
    assert "nan" not in page
