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


def test_begin_keeps_finished_shards_of_the_same_inputs_and_sets_others_aside(artifact, tmp_path, capsys):
    made = artifact()
    made.begin()
    (made.folder / "shard-00000.npy").write_text("done")
    (made.folder / ".shard-00001.npy.77.partial").write_text("half")
    artifact().begin()
    assert [path.name for path in made.folder.glob("*shard*")] == ["shard-00000.npy"]
    superseded = artifact(config={"n": 2}).begin()
    assert capsys.readouterr().err == "out: made again, n 1 -> 2\n"
    assert not list(made.folder.glob("*shard*"))
    assert superseded.folder.parent == tmp_path / "superseded"
    assert (superseded.folder / "shard-00000.npy").read_text() == "done"
    assert superseded.changed == ("n",)
    assert artifact(config={"n": 2}).begin() == superseded  # an interrupted run still knows what it took over from


@pytest.mark.parametrize(("changes", "reason"), [
    ({"version": 2}, "stage version 1 -> 2"),
    ({"config": {"n": 1, "guidance": 3.0}}, "guidance default -> 3.0"),
    ({"config": {"n": 1, "lora": {"scale": 2}}}, "lora.scale default -> 2"),
    ({"inputs": {"pairs": "new"}, "config": {"n": 4}}, "n 1 -> 4, pairs changed"),
])  # fmt: skip
def test_the_reason_is_said_before_work_is_done_again(artifact, capsys, changes, reason):
    artifact(inputs={"pairs": "old"}).begin()
    artifact(**{"inputs": {"pairs": "old"}} | changes).begin()
    assert capsys.readouterr().err == f"out: made again, {reason}\n"


def test_what_only_grows_is_kept(artifact, capsys):
    made = artifact(config={"n": 10, "seed": 3})
    made.begin(growing="n")
    (made.folder / "shard-00000.npy").write_text("first ten")
    made.finish()
    assert artifact(config={"n": 25, "seed": 3}).begin(growing="n") is None
    assert capsys.readouterr().err == "out: goes on, n 10 -> 25\n"
    assert (made.folder / "shard-00000.npy").exists()
    assert artifact(config={"n": 12, "seed": 3}).begin(growing="n").changed == ("n",)  # fewer: made again
    assert not (made.folder / "shard-00000.npy").exists()


def test_a_half_made_output_goes_on_only_under_the_same_conditions(artifact, monkeypatch):
    gpu, cpu = {"device": "cuda", "dtype": "float16"}, {"device": "cpu", "dtype": "bfloat16"}
    artifact().begin(gpu)
    with pytest.raises(StudyError, match=r"device cuda there, cpu here; dtype float16 there, bfloat16 here.*BLINDSPOTS_MIX=1"):
        artifact().begin(cpu)
    artifact().begin(gpu)
    monkeypatch.setenv("BLINDSPOTS_MIX", "1")
    artifact().begin(cpu)
    assert artifact().header()["conditions"] == cpu | {"mixed with": gpu}
    artifact().finish()
    monkeypatch.delenv("BLINDSPOTS_MIX")
    assert artifact().is_complete()  # a finished one is accepted on any machine


def test_a_half_made_output_goes_on_with_another_batch_size_and_says_so(artifact, capsys):
    artifact().begin({"device": "cpu", "batch_size": 25})
    artifact().begin({"device": "cpu", "batch_size": 8})  # after memory was full
    assert capsys.readouterr().err == "out: goes on, batch_size 25 there, 8 here\n"
    assert artifact().header()["conditions"]["mixed with"] == {"device": "cpu", "batch_size": 25}


def test_a_header_of_an_older_format_is_made_again(artifact, capsys):
    made = artifact()
    made.begin()
    header = json.loads((made.folder / "header.json").read_text())
    (made.folder / "header.json").write_text(json.dumps({**header, "schema": 1, "fingerprint": "0123456789abcdef"}))
    assert not made.is_complete()
    made.begin()
    assert capsys.readouterr().err == "out: made again, format of the header 1 -> 2\n"


def test_what_is_not_made_yet_is_said_in_one_line(artifact):
    with pytest.raises(StudyError, match=r"out is not made yet; run `make figures STUDY=one`$"):
        artifact().require()


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
    assert (header["stage"], header["version"]) == ("test", 1)
