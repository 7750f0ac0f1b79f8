"""SAEs of other libraries against those libraries, or their published formula where they do not install."""

import pytest

from benchmarks.libraries import MAKERS, deviation_of


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_read_gives_the_same_codes_and_reconstructions(tmp_path, name):
    try:
        codes, reconstruction = deviation_of(MAKERS[name][1], tmp_path)
    except ImportError as error:
        pytest.skip(str(error))
    assert codes < 2e-6
    assert reconstruction < 2e-6
