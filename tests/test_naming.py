import numpy as np
import pytest
import scipy.sparse as sp
from test_concepts import ANALYSIS, CAPTIONS, one_token_images

from blindspots_lib.analysis import names as module
from blindspots_lib.analysis.concepts import concept_table, family_table, name_table
from blindspots_lib.analysis.names import ClipVocabulary, name_by_clip
from blindspots_lib.core.config import Naming
from blindspots_lib.core.errors import StudyError
from blindspots_lib.models.clip import read_words
from blindspots_lib.run.check import check
from blindspots_lib.run.remote import parts_of
from blindspots_lib.run.stages import measure, open_results

CLIP = {"path": "miniatures/weights/clip"}
BACKGROUNDS = ["white", "grass", "sand", "wood", "brick", "water", "night", "sky", "tiles", "stripes"]


@pytest.fixture
def world():
    """Concepts 0 and 1 fire on dvds and cats, which captions say; 2 and 3 on red and blue images, 4 on a few, 5 never.

    Red images with cats are red to CLIP, too. It knows the words "blue", "red" and "dvd", the last of which fits no image.
    """
    rng = np.random.default_rng(0)
    red = rng.random(80) < 0.5
    codes = np.zeros((80, 6))
    codes[::2, 0], codes[1::2, 1], codes[red, 2], codes[~red, 3], codes[:2, 4] = 2, 1, 1, 3, 1
    images = np.where(red[:, None], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    return one_token_images(codes), ClipVocabulary(["blue", "red", "dvd"], np.eye(3), images)


def test_clip_names_only_what_captions_leave_unnamed(world):
    real, by_clip = world
    table = name_table(real, CAPTIONS, np.eye(6), 0, by_clip)
    assert table["name"].tolist() == ["dvd", "cat", "red", "blue", "", ""]
    assert table["name_from"].tolist() == ["captions", "captions", "clip", "clip", "", ""]
    assert table["name_lift"].notna().tolist() == table["name_r"].notna().tolist() == [True, True, False, False, False, False]
    assert table["name_z"].notna().tolist() == [False, False, True, True, False, False]
    without = name_table(real, CAPTIONS, np.eye(6), 0)
    assert without["name"].tolist() == ["dvd", "cat", "", "", "", ""]
    assert without.columns.tolist() == ["concept", "name", "name_lift", "name_r", "family"]


def test_names_of_both_kinds_are_one_family_only_if_they_are_equal(world):
    real, by_clip = world
    near = np.eye(6)
    near[2] = near[0]  # what captions name "dvd" and what CLIP names "red" are linked by their atoms
    assert name_table(real, CAPTIONS, near, 0)["family"].tolist() == [0, 1, 0, 2, 3, 4]
    apart = name_table(real, CAPTIONS, near, 0, by_clip)
    assert apart["family"].tolist() == [0, 1, 2, 3, 4, 5]
    same = name_table(real, CAPTIONS, np.eye(6), 0, by_clip._replace(words=["cat", "red", "dvd"]))
    assert same["family"].tolist() == [0, 1, 2, 1, 3, 4]
    matrices = {"real": real.matrix, "one": real.matrix}
    families = family_table(matrices, CAPTIONS, same, ANALYSIS)
    assert families["name"].tolist() == ["dvd", "cat", "red", "", ""]
    assert families["name_from"].tolist() == ["captions", "captions", "clip", "", ""]
    assert families["name_r"].notna().tolist() == [True, True, False, False, False]
    assert concept_table({"real": real, "one": real}, same, ANALYSIS)["name_from"].equals(same["name_from"])


def test_a_familys_name_by_clip_has_no_scores_on_captions_even_if_captions_have_the_word(world):
    real, by_clip = world
    names = name_table(real, CAPTIONS, np.eye(6), 0, by_clip).assign(name_from="clip")
    assert family_table({"real": real.matrix, "one": real.matrix}, CAPTIONS, names, ANALYSIS)["name_lift"].isna().all()


@pytest.mark.parametrize("words", [1, 2, 7, 512])
@pytest.mark.parametrize("rows", [3, 4096])
def test_names_by_clip_are_the_same_in_any_blocks(monkeypatch, words, rows):
    rng = np.random.default_rng(3)
    energies = sp.csr_matrix(rng.random((50, 9)) * (rng.random((50, 9)) < 0.4))
    images, vectors = rng.normal(size=(50, 4)), rng.normal(size=(7, 4))
    images[energies[:, [4]].toarray().ravel() > 0] += vectors[5]
    whole = name_by_clip(energies, images, vectors, 0)
    monkeypatch.setattr(module, "WORDS", words)
    monkeypatch.setattr(module, "ROWS", rows)
    blocks = name_by_clip(energies, images, vectors, 0)
    assert whole[0][4] == 5
    np.testing.assert_array_equal(blocks[0], whole[0])
    np.testing.assert_allclose(blocks[1], whole[1])


def test_few_concepts_are_named_when_images_are_permuted():
    rng = np.random.default_rng(4)
    energies = sp.csr_matrix(rng.random((200, 300)) * (rng.random((200, 300)) < 0.1))
    images, words = rng.normal(size=(200, 16)), rng.normal(size=(40, 16))
    images, words = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (images, words))
    assert (name_by_clip(energies, images, words, 0)[0] >= 0).mean() <= 0.05


def test_words_are_read_from_a_file_or_a_list(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeffRed\n  Palm   tree \r\n\nred\nÉcole\n".encode())
    assert read_words(Naming(clip=CLIP, words=str(file))) == ["red", "palm tree", "école"]
    assert read_words(Naming(clip=CLIP, words=["Red", " red", "glossy"])) == ["red", "glossy"]


@pytest.mark.parametrize(("content", "reason"), [(b"", "holds no words"), (b"\n  \n", "holds no words"), (b"\xff\xfe", "UTF-8")])
def test_a_file_without_words_is_one_line(tmp_path, content, reason):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(StudyError, match=reason) as raised:
        read_words(Naming(clip=CLIP, words=str(file)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "key"),
    [([], "naming.words"), (None, "naming.words = None"), (["red", 3], "naming.words.1 = 3"), ({}, "naming.words")],
)
def test_wrong_words_are_named_by_their_key(make_study, words, key):
    with pytest.raises(StudyError, match=key):
        make_study({"naming": {"clip": CLIP, "words": words}})


def test_check_names_what_is_missing(make_study, tmp_path):
    study = make_study({"naming": {"clip": CLIP | {"subfolder": "none"}, "words": str(tmp_path / "words.txt")}})
    assert dict(parts_of(study))["naming"] == study.naming.clip
    clip, words = check(study)
    assert "clip/none: no such folder" in clip
    assert (
        words == f"{tmp_path}/words.txt: no such file; correct naming.words, or write the file with one word or phrase per line"
    )


def test_a_study_names_concepts_by_clip(make_study):
    changes = {
        "models": [{"name": "perfect", "label": "Perfect", "draws": "afresh"}], "stability": ..., "sae.n_steps": 20,
        "pairs.n": 24, "analysis.n_swaps": 100, "naming": {"clip": CLIP, "words": BACKGROUNDS},
    }  # fmt: skip
    results = measure(make_study(changes))
    assert {"name_from", "name_z"} <= set(results.names) & set(results.concepts)
    assert "name_from" in results.families
    by_clip = results.concepts[results.concepts["name_from"] == "clip"]
    assert set(by_clip["name"]) <= set(BACKGROUNDS)
    assert len(by_clip)
    plain = open_results(results.study.model_copy(update={"naming": None})).names_artifact
    assert set(plain.inputs) == {"real", "sae"}
    other = results.study.naming.model_copy(update={"words": ("sky",)})
    changed = open_results(results.study.model_copy(update={"naming": other})).names_artifact
    assert len({artifact.fingerprint for artifact in (plain, changed, results.names_artifact)}) == 3
