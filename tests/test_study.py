import pytest
from conftest import TRIAL

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.paths import PROJECT_ROOT
from blindspots_lib.core.study import load_study


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_in_the_project_is_valid(path):
    assert load_study(str(path)).name == path.stem


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


def test_missing_file_and_broken_yaml_are_named(tmp_path):
    with pytest.raises(StudyError, match=r"no such study file.*mini, paper, smoke, template"):
        load_study("nowhere")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [unclosed\n")
    with pytest.raises(StudyError, match="not valid YAML at line 2"):
        load_study(str(broken))
