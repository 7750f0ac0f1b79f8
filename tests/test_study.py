import pytest
from conftest import TRIAL

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study, load_tables_study, reads_tables


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_in_the_project_is_valid(path):
    load = load_tables_study if reads_tables(str(path)) else load_study
    assert load(str(path)).name == path.stem


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pears": 1}, ["pears", "unknown key"]),
        ({"sae.kk": 5}, ["sae.kk", "unknown key"]),
        ({"sae.top_k": ...}, ["sae.top_k", "missing"]),
        ({"backbone.revision": "main"}, ["backbone", "revision: goes with repo"]),
        ({"backbone": {"repo": "a/b", "revision": "main", "resize": 8, "crop": 8}}, ["backbone", "'main'", "not a commit hash"]),
        ({"backbone": {"repo": "a/b", "resize": 8, "crop": 8}}, ["backbone", "revision", "full commit hash"]),
        ({"models.0.path": ...}, ["models.0", "path", "repo"]),
        ({"pairs.n": "many"}, ["pairs.n", "'many'", "integer"]),
        ({"pairs.n": 0}, ["pairs.n", "0", "greater than or equal to 1"]),
        ({"analysis.suppressed_below": 0.7}, ["analysis.suppressed_below", "0.7", "less than 0.5"]),
        ({"analysis.tokens": "registers"}, ["analysis.tokens", "'registers'", "'patches', 'all' or 'cls'"]),
        ({"sae.dictionary": "local", "sae.n_neighbours": 49}, ["sae.n_neighbours = 49", "sae.n_candidates = 48"]),
        ({"sae.top_k": 1000}, ["sae.top_k = 1000", "sae.n_concepts = 48"]),
        ({"models.1.name": "sd15"}, ["'sd15'", "twice"]),
        ({"models.1.name": "real"}, ["'real'", "taken"]),
        ({"models.1.name": "corpus"}, ["'corpus'", "taken"]),
        ({"models.1.name": "captions"}, ["'captions'", "taken"]),
        (TRIAL | {"training_corpus": ...}, ["validation: needs training_corpus"]),
        ({"models": ["sd15"]}, ["models.0", "'sd15'"]),
        ({"sae": None}, ["sae", "None"]),
        ({"pairs.seed": 1}, ["pairs.seed = 1", "training corpus"]),
        ({"sae.corpus": {"source": "scenes", "seed": 11, "n": 9}}, ["sae.corpus.seed = 11", "pairs"]),
        ({"sae.corpus": {"source": "scenes", "seed": 12, "n": "all"}}, ["sae.corpus.n", "'all'"]),
        ({"validation": TRIAL["validation"]}, ["validation", "perfect generator"]),
        (TRIAL | {"validation.seeds": [1]}, ["validation.seeds", "at least 2"]),
        ({"backbone.crop": 128}, ["backbone.crop = 128", "backbone.resize = 64"]),
        ({"sae.learning_rate": float("inf")}, ["sae.learning_rate = inf", "finite"]),
        ({"models.0.guidance": float("nan")}, ["models.0.guidance = nan", "finite"]),
        ({"sae.corpus": {"path": "a", "store_side": 63}}, ["sae.corpus.store_side = 63", "at least backbone.resize = 64"]),
    ],
)
def test_bad_value_is_named_in_one_line(make_study, changes, expected):
    with pytest.raises(StudyError) as error:
        make_study(changes)
    message = str(error.value)
    assert "\n" not in message
    assert "study.yaml" in message
    for part in expected:
        assert part in message


def test_a_study_of_the_project_is_called_as_its_file():
    """Two copies of a template under one name would overwrite each other."""
    path = PROJECT_ROOT / "studies" / "mine-for-a-test.yaml"
    path.write_text((PROJECT_ROOT / "studies" / "template.yaml").read_text())
    try:
        with pytest.raises(StudyError, match="name = 'template': must be 'mine-for-a-test', as the file's"):
            load_study("mine-for-a-test")
    finally:
        path.unlink()


BOMB = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "seed: *i\n"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed\n", "not valid YAML at line 2"),
        (b"name: a\ntitle: b\nname: c\n", "line 3: the key name stands already in line 1; remove one of them"),
        (b"sae: {top_k: 1}\npairs: {n: 1}\nsae: {top_k: 2}\n", "line 3: the key sae stands already in line 1"),
        (BOMB.encode(), "its aliases stand for more than 10,000 values; write out what is meant"),
        (b"a: &a [*a]\n", "an alias that holds itself; write out what is meant"),
        (b"[" * 20_000, "nested too deeply"),
        ("title: caf\u00e9".encode("latin-1"), "not text in UTF-8 .byte 10.; save it as UTF-8"),
        (b"title: \x00", "not valid YAML: special characters are not allowed"),
        (b"seed: " + b"x" * 5000, r"seed = 'x{79}\.\.\.: "),
        (b"models: [{name: a, name: b}]\n", "line 1: the key name stands already in line 1"),
        (None, "a folder, not a study file"),
    ],
)
def test_a_file_that_is_no_study_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "study.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(StudyError, match=message) as error:
        load_study(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_aliases_that_stand_for_little_are_welcome(write_study):
    path = write_study({"stability": ...})
    path.write_text(path.read_text() + "stability: {n_orders: &two 2, n_starts: *two}\n")
    assert load_study(str(path)).stability.n_starts == 2


def test_a_missing_file_is_named():
    with pytest.raises(StudyError, match=r"no such study file.*mini, paper, published, smoke, template"):
        load_study("nowhere")
