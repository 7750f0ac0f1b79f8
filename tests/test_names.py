import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import chi2_contingency, pearsonr
from sklearn.metrics import average_precision_score

from blindspots_lib.analysis import names as module
from blindspots_lib.analysis.names import (
    Choices,
    acceptance_levels,
    association,
    choose_words,
    name_by_clip,
    name_concepts,
    score_names,
    score_words,
)
from blindspots_lib.analysis.words import caption_words, singular, split_captions

OBJECTS, PLACES = ("apple", "car", "palm tree", "frying pan", "kite"), ("wood", "sand", "the sky")


def world(n, seed, extra=20):
    """Captions of objects in places, and energies of one concept per object and place, then of `extra` that mean nothing."""
    rng = np.random.default_rng(seed)
    objects, places = rng.integers(len(OBJECTS), size=n), rng.integers(len(PLACES), size=n)
    captions = [f"a {OBJECTS[o]} on {PLACES[p]}" for o, p in zip(objects, places, strict=True)]
    shown = np.hstack([objects[:, None] == range(len(OBJECTS)), places[:, None] == range(len(PLACES))])
    fires = np.hstack([shown & (rng.random(shown.shape) < 0.9), rng.random((n, extra)) < 0.1])
    return captions, sp.csr_matrix((fires * rng.lognormal(size=fires.shape)).astype(np.float32))


def has(vocabulary, word):
    return vocabulary.presence[:, [vocabulary.words.index(word)]].toarray().ravel().tolist()


@pytest.mark.parametrize(
    ("caption", "runs"),
    [
        ("Two Palm trees, ON wood", [["two", "palm", "trees"], ["on", "wood"]]),
        ("the dog’s T-shirt & 3D-glasses", [["the", "dog", "t-shirt"], ["3d-glasses"]]),
        ("<b>wood</b> 1920 x&nbsp;2 https://a.b/cat.jpg pan", [["wood"], ["x"], ["pan"]]),
        ("ÉCOLE Straße हिन्दी дом", [["école", "strasse", "हिन्दी", "дом"]]),
        ("木の板 pan", [["木", "の", "板", "pan"]]),
        ("", []),
        ("  --- 12 !", []),
    ],
)
def test_captions_are_split_into_runs_of_words(caption, runs):
    assert list(split_captions([caption])) == [runs]


@pytest.mark.parametrize(
    ("word", "others", "expected"),
    [("apples", "apple", "apple"), ("apples", "", "apples"), ("buses", "bus", "bus"), ("berries", "berry", "berry"),
     ("houses", "house", "house"), ("glass", "glas", "glass"), ("cactus", "cactu", "cactus"), ("gas", "ga", "gas"),
     ("cacti", "cactus", "cactus"), ("cacti", "", "cacti"), ("knives", "knife", "knife"), ("women", "woman", "woman"),
     ("boxes", "box", "box")],
)  # fmt: skip
def test_a_plural_counts_as_its_singular_only_where_both_occur(word, others, expected):
    assert singular(word, {word, *others.split()}) == expected


def test_vocabulary_worked_out_by_hand():
    captions = ["two palm trees on wood", "a palm tree, a palm tree", "palm, trees", "Wood", ""]
    vocabulary = caption_words(captions, least=2)
    assert vocabulary.words == ["palm", "palm tree", "tree", "wood"]  # "on" and "a" are stop words, "two" is in one caption
    assert has(vocabulary, "palm") == has(vocabulary, "tree") == [True, True, True, False, False]
    assert has(vocabulary, "palm tree") == [True, True, False, False, False]
    assert has(vocabulary, "wood") == [True, False, False, True, False]


def test_a_phrase_stands_for_words_that_are_always_in_it():
    captions = ["a light bulb", "two light bulbs", "a traffic light", "the traffic lights"]
    assert caption_words(captions, least=2).words == ["light", "light bulb", "traffic light"]


def test_neighbours_by_chance_are_no_phrase():
    captions = ["wood showing a cat", "wood, cat", "wood", "showing cats", "showing a dog"]
    assert caption_words(captions, least=1).words == ["cat", "dog", "showing", "wood"]


def test_neighbours_in_a_script_without_spaces_are_a_phrase():
    assert caption_words(["木の板", "木の", "木"], least=2).words == ["木", "木の"]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # 8 images, the concept fires on 4 and 4 have the word: 3 in common where chance expects 2
        ((3, 4, 4, 8), np.sqrt(2 * (2 * 3 * np.log(3 / 2) + 2 * np.log(1 / 2)))),
        ((1, 4, 4, 8), -np.sqrt(2 * (2 * 3 * np.log(3 / 2) + 2 * np.log(1 / 2)))),
        ((4, 4, 4, 8), np.sqrt(16 * np.log(2))),  # together always: finite
        ((2, 4, 4, 8), 0.0),
        ((8, 8, 8, 8), 0.0),
    ],
)  # fmt: skip
def test_association_worked_out_by_hand(counts, expected):
    *table, n = counts
    assert association(*(np.array([count]) for count in table), n)[0] == pytest.approx(expected, abs=1e-12)


def test_association_agrees_with_scipy_on_a_table():
    found = association(np.array([7]), np.array([20]), np.array([15]), 100)[0]
    assert found**2 == pytest.approx(chi2_contingency([[7, 13], [8, 72]], correction=False, lambda_="log-likelihood").statistic)


def test_scores_are_average_precision_and_pearson():
    rng = np.random.default_rng(0)
    energies = rng.integers(0, 4, (60, 3)) * (rng.random((60, 3)) < 0.5)  # with ties
    presence = rng.random((60, 2)) < 0.3
    choices = Choices(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 0]))
    scores = score_words(sp.csc_matrix(energies.astype(np.float32)), sp.csr_matrix(presence), choices)
    for concept, word, lift, r in zip(*choices, *scores, strict=True):
        precision = average_precision_score(presence[:, word], energies[:, concept])
        assert lift == pytest.approx(precision / presence[:, word].mean())
        assert r == pytest.approx(pearsonr(energies[:, concept], presence[:, word]).statistic)


@pytest.mark.parametrize("entries", [module.ENTRIES, 50])
def test_the_word_of_the_strongest_association_is_chosen_in_any_blocks(monkeypatch, entries):
    monkeypatch.setattr(module, "ENTRIES", entries)
    rng = np.random.default_rng(1)
    energies, presence = rng.random((80, 6)) * (rng.random((80, 6)) < 0.3), rng.random((80, 12)) < 0.2
    energies[:, 4] = 0
    chosen = choose_words(sp.csc_matrix(energies), sp.csr_matrix(presence))
    assert chosen.concepts.tolist() == [0, 1, 2, 3, 5]
    for concept, word in zip(*chosen, strict=True):
        fires = energies[:, concept] > 0
        table = [[(fires & has).sum(), fires.sum(), has.sum()] for has in presence.T]
        strength = [association(*np.array(row)[:, None], 80)[0] for row in table]
        assert word == np.argmax(strength)


def test_levels_leave_two_percent_of_each_stratum(monkeypatch):
    monkeypatch.setattr(module, "STRATUM", 100)
    rng = np.random.default_rng(0)
    n_images = np.repeat([3, 300], 100)
    null = rng.normal(size=(50, 200)) * np.where(n_images == 3, 0.3, 0.05)
    levels = acceptance_levels(null, n_images)
    assert len(set(levels[:100])) == 1
    np.testing.assert_allclose([levels[0], levels[-1]], [2.054 * 0.3, 2.054 * 0.05], rtol=0.1)
    assert (null > levels).mean() <= 0.02


def test_a_world_is_named_after_its_captions():
    captions, real = world(400, 0)
    table = name_concepts(real, captions, 0)
    assert table.columns.tolist() == ["name", "lift", "r"]
    assert table.name.tolist()[:8] == ["apple", "car", "palm tree", "frying pan", "kite", "wood", "sand", "sky"]
    assert (table.lift[:5] > 3).all()
    assert (table.r[:8] > 0.4).all()
    assert (table.name[8:] != "").sum() <= 3
    assert table[table.name == ""][["lift", "r"]].isna().all(axis=None)
    assert name_concepts(real, captions, 0).equals(table)


def test_few_concepts_get_a_name_when_captions_are_permuted():
    captions, real = world(300, 1, extra=300)
    shuffled = np.random.default_rng(5).permutation(captions).tolist()
    assert (name_concepts(real, shuffled, 0).name != "").mean() <= 0.05


@pytest.mark.parametrize(
    "captions",
    [[""] * 40, ["the same picture"] * 40, ["<p>&#x0;</p>"] * 40, ["x" * 10_000] * 40, [f"word{i}" for i in range(40)],
     ["картина с деревом", "木の板の上"] * 20],
    ids=["empty", "same", "markup", "long", "unique", "mixed"],
)  # fmt: skip
@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_captions_that_say_nothing_name_nothing_and_raise_nothing(captions, n):
    rng = np.random.default_rng(0)
    energies = rng.random((n, 12)) * (rng.random((n, 12)) < 0.3) * (np.arange(12) != 3)  # concept 3 never fires
    real = sp.csr_matrix(energies.astype(np.float32))
    table = name_concepts(real, captions[:n], 0)
    assert len(table) == 12
    assert table.name[3] == ""
    assert (table.name != "").sum() <= 2


def test_clip_names_concepts_that_captions_never_mention():
    rng = np.random.default_rng(0)
    words, kind = np.eye(6), rng.integers(5, size=200)  # no image is of the last word
    images = words[kind] + 0.1 * rng.normal(size=(200, 6))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    energies = np.hstack([kind[:, None] == range(5), rng.random((200, 100)) < 0.1, np.zeros((200, 1))]) * rng.random((200, 106))
    word, score = name_by_clip(sp.csr_matrix(energies.astype(np.float32)), images, words, 0)
    assert word[:5].tolist() == [0, 1, 2, 3, 4]
    assert (word[5:] >= 0).mean() <= 0.06
    assert word[-1] == -1
    assert np.isnan(score).tolist() == (word < 0).tolist()


def test_clip_scores_are_sums_in_units_of_their_deviation_over_orders_of_the_images():
    rng = np.random.default_rng(1)
    energies, images, words = rng.random((30, 1)), rng.normal(size=(30, 4)), rng.normal(size=(3, 4))
    images[:, :] = np.where(energies > 0.5, words[1], images)
    cosines = images @ words.T / 0.1
    p = np.exp(cosines - cosines.max(axis=1, keepdims=True))
    evidence = np.log(1 + 0.99 * (p / p.sum(axis=1, keepdims=True) - 1))
    orders = np.array([(energies[rng.permutation(30)] * evidence).sum(axis=0) for _ in range(20_000)])
    z = ((energies * evidence).sum(axis=0) - orders.mean(axis=0)) / orders.std(axis=0)
    word, score = name_by_clip(sp.csr_matrix(energies), images, words, 0)
    assert word[0] == z.argmax()
    assert score[0] == pytest.approx(z.max(), rel=0.03)


@pytest.mark.parametrize(("n", "w"), [(0, 3), (1, 3), (5, 0), (5, 1)])
def test_clip_without_images_or_words_names_nothing(n, w):
    word, score = name_by_clip(sp.csr_matrix((n, 4)), np.ones((n, 2)), np.ones((w, 2)), 0)
    assert word.tolist() == [-1] * 4
    assert np.isnan(score).all()


def test_scores_of_known_names_are_those_of_the_table():
    captions, real = world(200, 0)
    table = name_concepts(real, captions, 3)
    scored = score_names(real, captions, table.name.tolist(), 3)
    np.testing.assert_array_equal(scored[["lift", "r"]], table[["lift", "r"]])
    assert score_names(real, captions, ["absent"] * real.shape[1], 3).isna().all(axis=None)
