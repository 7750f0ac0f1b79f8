import numpy as np
import pytest

from blindspots_lib.data.scenes import (
    BACKGROUNDS,
    DEFAULT_PRIOR,
    OBJECTS,
    PHRASINGS,
    Scene,
    background_texture,
    caption_for,
    draw_scene,
    patch_owners,
    render_scene,
    sample_scene,
)


def test_world_holds_what_the_study_needs():
    assert len(OBJECTS) >= 40
    assert {"dvd", "palm tree", "raised hand", "page", "t-shirt", "bird", "hammer", "doughnut"} <= OBJECTS.keys()
    assert {"wood", "white", "brick", "grass", "sand", "water", "sky", "night"} <= BACKGROUNDS.keys()


@pytest.mark.parametrize(
    "weights", [DEFAULT_PRIOR.object_weights, DEFAULT_PRIOR.background_weights, DEFAULT_PRIOR.one_kind_counts]
)
def test_priors_sum_to_one(weights):
    assert sum(weights) == pytest.approx(1)


def test_objects_are_drawn_as_often_as_their_prior_says():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(4000)]
    first = np.array([scene.objects[0][0] == "apple" for scene in scenes]).mean()
    expected = DEFAULT_PRIOR.object_weights[0]
    assert first == pytest.approx(expected, abs=4 * np.sqrt(expected / 4000))
    assert {sum(count for _, count in scene.objects) for scene in scenes} == {1, 2, 3, 4}
    assert any(scene.objects[0][1] == 4 for scene in scenes)


@pytest.mark.parametrize(
    ("objects", "background", "phrasing", "caption"),
    [
        ((("palm tree", 2), ("dvd", 1)), "wood", PHRASINGS[0], "two palm trees and a dvd on wood"),
        ((("umbrella", 1),), "night", PHRASINGS[0], "an umbrella at night"),
        ((("strawberry", 4),), "sky", PHRASINGS[2], "four strawberries, sky background"),
    ],
)
def test_caption_says_what_is_there(objects, background, phrasing, caption):
    assert caption_for(objects, background, phrasing) == caption


def test_scene_depends_on_seed_and_index_alone():
    late = draw_scene(5, 40)
    for index in range(3):
        draw_scene(5, index)
    again = draw_scene(5, 40)
    assert late[0] == again[0]
    np.testing.assert_array_equal(late[1].image, again[1].image)
    assert not np.array_equal(late[1].image, draw_scene(6, 40)[1].image)


def test_pixels_and_owners_agree():
    scene = Scene((("heart", 1),), "white", "")
    image, owner = render_scene(scene, np.random.default_rng(3))
    heart = owner == list(OBJECTS).index("heart")
    assert 300 < heart.sum() < 2200
    red, green, _ = image[heart].astype(int).T
    assert (red - green > 80).mean() > 0.7
    assert (image[owner == -1] > 200).mean() > 0.95  # the rest is the half transparent rim


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_have_few_colours_and_differ(name):
    rng = np.random.default_rng(0)
    texture = background_texture(name, rng).astype(float)
    others = [background_texture(other, rng).astype(float) for other in BACKGROUNDS if other != name]
    assert min(np.abs(texture.mean((0, 1)) - other.mean((0, 1))).max() for other in others) > 4


def test_patch_owners_match_a_count_of_pixels():
    rendering = draw_scene(9, 4)[1]
    owners = patch_owners(9, 4, 8)
    for patch in range(64):
        row, column = divmod(patch, 8)
        window = rendering.owner[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].ravel().tolist()
        most = max(set(window), key=window.count)
        expected = most if most >= 0 and window.count(most) > 32 else -1
        assert owners[patch] == expected
