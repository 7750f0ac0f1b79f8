import errno
import json
import os

import numpy as np
import pytest

from blindspots_lib.core import artifacts
from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, faults_of
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.files import read_json, replacing


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
    (made.folder / "shard-00000.txt").write_text("first ten")
    made.finish()
    assert artifact(config={"n": 25, "seed": 3}).begin(growing="n") is None
    assert capsys.readouterr().err == "out: goes on, n 10 -> 25\n"
    assert (made.folder / "shard-00000.txt").exists()
    assert artifact(config={"n": 12, "seed": 3}).begin(growing="n").changed == ("n",)  # fewer: made again
    assert not (made.folder / "shard-00000.txt").exists()


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


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("change", "fault"), [
    (lambda path: path.write_bytes(path.read_bytes()[:-2]), "has 142 bytes, and had 144 when it was finished"),
    (flip, "has other content than when it was finished"),
])  # fmt: skip
def test_a_finished_output_whose_file_changed_is_named_with_its_stage(artifact, change, fault):
    made = artifact()
    made.begin()
    for index in range(3):
        np.save(made.folder / f"shard-{index:05d}.npy", np.arange(2) + index)
    made.finish()
    assert made.require().rows("npy") == [2, 2, 2]
    change(made.folder / "shard-00001.npy")
    for look in (artifact().require, artifact().is_complete):
        with pytest.raises(StudyError, match=rf"out/shard-00001.npy: {fault}; delete it and run .*STUDY=one.* \(stage 'test'\)"):
            look()


def test_a_missing_file_is_named_and_only_it_is_made_again(artifact, capsys):
    made = artifact()
    made.begin()
    for name in ("shard-00000.txt", "shard-00001.txt"):
        (made.folder / name).write_text("days of work")
    made.finish()
    (made.folder / "shard-00000.txt").unlink()
    with pytest.raises(StudyError, match=r"out/shard-00000.txt: is missing; run `make figures STUDY=one`.*stage 'test'"):
        artifact().require()
    assert not made.is_complete()
    made.begin()
    assert capsys.readouterr().err == "out: goes on, shard-00000.txt is missing\n"
    assert (made.folder / "shard-00001.txt").exists()


def test_a_shard_that_nobody_made_is_named(artifact):
    made = artifact()
    made.begin()
    (made.folder / "shard-00000.txt").write_text("one")
    made.finish()
    (made.folder / "shard-00001.txt").write_text("from another run")
    with pytest.raises(StudyError, match="shard-00001.txt: was added after it was finished"):
        artifact().require()


def test_large_files_are_read_only_by_a_deep_look(artifact, monkeypatch):
    monkeypatch.setattr(artifacts, "SMALL", 10)
    made = artifact()
    made.begin()
    (made.folder / "weights").write_bytes(bytes(1000))
    made.finish()
    flip(made.folder / "weights")
    assert made.is_complete()
    assert ["other content" in fault.what for fault in faults_of(made.folder, deep=True)] == [True]


KILLS = """
import os, signal
from pathlib import Path
from blindspots_lib.core.artifacts import HEADER, Artifact, Stage, Workspace
from blindspots_lib.core.files import read_json

def artifact(n, folder):
    return Artifact(Workspace("one", folder, 0), "parts/out", Stage("test", 1), {"n": n}, {})

def killed_before(call, action):
    "Run an action in a process that is killed before its n-th change of the file system; return whether it was."
    if not (child := os.fork()):
        calls = 0
        def counting(change):
            def wrapped(*given, **named):
                nonlocal calls
                calls += 1
                if calls == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*given, **named)
            return wrapped
        for name in ("rename", "replace", "mkdir", "unlink", "rmdir"):
            setattr(os, name, counting(getattr(os, name)))
        action()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

n_plain = 0
for linked in (False, True):
    for call in range(1, 100):
        folder = Path(ROOT) / f"{linked}-{call}"
        if linked:
            (folder / "parts").mkdir(parents=True)
            (folder / "parts" / "out").symlink_to(Path("..") / ".." / f"disk-{call}" / "out")
        old, new = artifact(1, folder), artifact(2, folder)
        old.begin()
        (old.folder / "shard-00000.txt").write_text("days of work")
        old.finish()
        was_killed = killed_before(call, new.begin)
        superseded = new.begin()
        assert superseded.changed == ("n",), (linked, call)
        assert (superseded.folder / "shard-00000.txt").read_text() == "days of work"
        assert [path.name for path in new.folder.iterdir()] == [HEADER]
        assert (folder / "parts" / "out").is_symlink() == linked
        assert not list(folder.rglob(".*")), list(folder.rglob(".*"))
        assert len(list(Path(ROOT).rglob("shard-00000.txt"))) == call + n_plain
        if not was_killed:
            break
    n_plain = call
    print(call)
"""


def test_killed_while_an_outdated_output_is_set_aside_nothing_is_lost(run_python, tmp_path):
    done = run_python(f"ROOT = {str(tmp_path)!r}\n{KILLS}")
    assert done.returncode == 0, done.stderr
    assert min(map(int, done.stdout.split())) > 5  # so many changes, a kill before each


def test_a_folder_with_nothing_but_a_half_written_header_is_taken(artifact):
    made = artifact()
    made.folder.mkdir()
    (made.folder / ".header.json.77.partial").write_text("{")
    made.begin()
    assert [path.name for path in made.folder.iterdir()] == ["header.json"]


def test_an_output_behind_a_link_is_set_aside_and_made_again_where_the_link_leads(artifact, tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "out").symlink_to("big disk")
    made = artifact()
    made.begin()
    (made.folder / "shard-00000.txt").write_text("old")
    made.finish()
    superseded = artifact(config={"n": 2}).begin()
    assert (tmp_path / "out").is_symlink()
    assert (superseded.folder / "shard-00000.txt").read_text() == "old"
    assert [path.name for path in (tmp_path / "big disk").iterdir()] == ["header.json"]
    assert not artifact().is_complete()


@pytest.mark.parametrize(("content", "fault"), [
    ([1, 2], "header.json: holds no object"),
    ({}, "header.json: has no 'schema'"),
    ({"schema": 2, "study": "one"}, "header.json: has no 'stage'"),
])  # fmt: skip
def test_a_header_without_its_keys_is_named(artifact, content, fault):
    made = artifact()
    made.begin()
    (made.folder / "header.json").write_text(json.dumps(content))
    for look in (made.is_complete, made.require, made.begin, lambda: made.facts):
        with pytest.raises(StudyError, match=fault):
            look()


def test_a_header_of_an_older_format_without_our_keys_is_made_again(artifact):
    made = artifact()
    made.folder.mkdir()
    (made.folder / "header.json").write_text(json.dumps({"schema": 1, "study": "one", "fingerprint": made.fingerprint}))
    assert not made.is_complete()
    assert made.begin().changed == ("format of the header",)


def test_json_of_another_kind_is_named(tmp_path):
    (tmp_path / "progress.json").write_text("[]")
    with pytest.raises(StudyError, match="progress.json: holds no object"):
        read_json(tmp_path / "progress.json")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    made = Artifact(Workspace("one", tmp_path / "runs" / "one", 0), "out", Stage("test", 1), {}, {})
    with pytest.raises(StudyError, match="runs/one/out.*: cannot be written .*BLINDSPOTS_RUNS"):
        made.begin()


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
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError("67108864 requested and 1048544 written"),  # np.save
    ],
)
def test_full_disk_is_one_clear_line(tmp_path, error):
    with pytest.raises(StudyError, match="the disk is full.*finished work is kept"), replacing(tmp_path / "a") as partial:
        partial.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_place_that_is_read_only_is_one_clear_line(tmp_path, number):
    with pytest.raises(StudyError, match="a: cannot be written .*; make its folder writable"), replacing(tmp_path / "a"):
        raise OSError(number, os.strerror(number))


def test_header_says_what_made_the_folder(artifact):
    made = artifact(inputs={"pairs": "abc"})
    made.begin()
    header = json.loads((made.folder / "header.json").read_text())
    assert (header["study"], header["inputs"], header["config"]) == ("one", {"pairs": "abc"}, {"n": 1})
    assert (header["stage"], header["version"]) == ("test", 1)
