import numpy as np

from blindspots_lib.core.config import ScenePairs, Scenes
from blindspots_lib.data.scenes import BACKGROUNDS, OBJECTS, draw_scene
from blindspots_lib.trial.probe import patch_labels, probe_amounts


def test_patches_are_labelled_by_what_covers_most_of_them():
    config = ScenePairs(source="scenes", n=3, seed=9, public=Scenes(seed=1, n=1))
    present = np.zeros((2, len(OBJECTS) + len(BACKGROUNDS)), bool)
    present[0, -1] = present[1, len(OBJECTS)] = True
    labels = patch_labels(config, np.array([2, 0]), present, 8)
    for found, (seed, index), background in zip(labels, ((9, 1), (1, 0)), (present.shape[1] - 1, len(OBJECTS)), strict=True):
        owner = draw_scene(seed, index)[1].owner
        for place in range(64):
            row, column = divmod(place, 8)
            patch = owner[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].ravel()
            most = np.bincount(patch + 1).argmax() - 1
            covered = most if most >= 0 and (patch == most).sum() > 32 else background
            assert found[place] == covered


def test_the_probe_judges_no_pair_that_it_was_fitted_to():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=(40, 6))
    labels[7, :] = 3  # shown by one pair alone: whoever judges it has never seen it
    tokens = 20.0 * np.eye(4)[labels] + rng.normal(size=(40, 6, 4))
    found = probe_amounts({"real": tokens, "model": tokens[:, ::-1]}, labels, 5, seed=0)
    counts = (labels[:, :, None] == np.arange(5)).sum(axis=1)
    others = np.arange(40) != 7
    for amounts in found.values():
        np.testing.assert_allclose(amounts.toarray()[others], counts[others], atol=1e-3)
        assert amounts[7, 3] == 0
