import errno
import json

import pytest

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, replacing
from blindspots_lib.core.errors import StudyError


@pytest.fixture
def artifact(tmp_path):
    def make(study="one", config=None, inputs=None, version=1):
        return Artifact(Workspace(study, tmp_path, 0), "out", Stage("test", version), config or {"n": 1}, inputs or {})

    return make


def test_only_a_finished_folder_of_the_same_inputs_is_complete(artifact):
    made = artifact()
    made.begin()
    assert not made.is_complete()
    made.finish(n=3)
    assert made.is_complete()
    assert made.facts == {"n": 3}
    assert not artifact(config={"n": 2}).is_complete()
    assert not artifact(inputs={"pairs": "other"}).is_complete()


def test_begin_keeps_finished_shards_of_the_same_inputs_and_clears_others(artifact):
    made = artifact()
    made.begin()
    (made.folder / "shard-00000.npy").write_text("done")
    (made.folder / ".shard-00001.npy.77.partial").write_text("half")
    artifact().begin()
    assert [path.name for path in made.folder.glob("*shard*")] == ["shard-00000.npy"]
    artifact(config={"n": 2}).begin()
    assert not list(made.folder.glob("*shard*"))


def test_folder_of_another_study_or_of_nobody_is_left_alone(artifact, tmp_path):
    artifact(study="one").begin()
    with pytest.raises(StudyError, match="belongs to the study 'one', not to 'two'"):
        artifact(study="two").begin()
    (tmp_path / "out" / "header.json").unlink()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(StudyError, match="holds files that no study made"):
        artifact().begin()
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_header_cut_short_is_named(artifact):
    made = artifact()
    made.begin()
    header = made.folder / "header.json"
    header.write_text(header.read_text()[:40])
    with pytest.raises(StudyError, match="header.json: not readable as JSON"):
        made.is_complete()


def test_replacing_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_full_disk_is_one_clear_line(tmp_path, error):
    with pytest.raises(StudyError, match="the disk is full.*finished work is kept"), replacing(tmp_path / "a") as partial:
        partial.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_header_says_what_made_the_folder(artifact):
    made = artifact(inputs={"pairs": "abc"})
    made.begin()
    header = json.loads((made.folder / "header.json").read_text())
    assert (header["study"], header["inputs"], header["config"]) == ("one", {"pairs": "abc"}, {"n": 1})
    assert header["code"]["modules"] == ["scenes"]
