"""A stage whose output has changed must have another version, or finished outputs would pass for what they no longer are."""

import json

import numpy as np
import pytest
from golden import GOLDEN, differs, observe

from blindspots_lib.core.study import load_study

EXPECTED = json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def observed(smoke):
    return observe(load_study(str(smoke)).folder)


def test_every_stage_has_a_golden_output(observed):
    assert observed.keys() == EXPECTED.keys(), "run `make golden`"


@pytest.mark.parametrize("stage", EXPECTED)
def test_an_output_changes_only_with_the_version_of_its_stage(observed, stage):
    expected, actual = EXPECTED[stage], observed[stage]
    assert actual["version"] == expected["version"], f"{stage}: the version is another one; run `make golden`"
    assert actual["outputs"].keys() == expected["outputs"].keys(), f"{stage}: other outputs; run `make golden`"
    changed = [name for name, output in expected["outputs"].items() if differs(stage, output, actual["outputs"][name])]
    assert not changed, f"{stage}: {changed} changed; raise the stage's version and run `make golden`, or undo the change"


@pytest.mark.parametrize("stage", ["tokens", "SAE"])
def test_a_sketch_tells_another_output_from_rounding(stage):
    output = next(iter(EXPECTED[stage]["outputs"].values()))
    numbers = np.array(output["numbers"])
    assert not differs(stage, output, output | {"numbers": (numbers * 1.01).tolist()})
    assert differs(stage, output, output | {"numbers": np.roll(numbers, 1).tolist()})
    assert differs(stage, output, output | {"numbers": [numbers[0] * 1.5, *numbers[1:]]})
    assert differs(stage, output, output | {"texts": "another caption"})
