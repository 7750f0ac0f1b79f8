import io
import os

import numpy as np
import pandas as pd
import pytest
from conftest import pairs_of
from PIL import Image

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import shards_of, write_shard
from blindspots_lib.data.collect import collect_pairs
from blindspots_lib.data.images import decode_image, encode_png
from blindspots_lib.data.pairs import ImageStore, complete_pairs, generation_schema, pair_schema, read_pair_table
from blindspots_lib.data.scene_pairs import shown_concepts
from blindspots_lib.data.scenes import draw_scene

PICTURE = encode_png(np.full((8, 8, 3), 90, np.uint8))


CUT = encode_png(draw_scene(0, 0)[1].image)[:-400]


THIN = encode_png(np.zeros((1, 600, 3), np.uint8))


def row(pair_id="a", image=PICTURE):
    return {"pair_id": pair_id, "caption": "a dvd", "image": {"bytes": image, "path": None}}


@pytest.fixture
def study_of_folder(make_study, tmp_path):
    """A study whose pairs are a folder: (file name, caption, content) a row, content None for a file that is not there."""

    def make(rows, kind="csv", **changes):
        folder = tmp_path / "own"
        folder.mkdir()
        for name, _, content in rows:
            if content is not None:
                (folder / name).write_bytes(content)
        table = pd.DataFrame([(name, caption) for name, caption, _ in rows], columns=["file_name", "caption"])
        path = folder / f"metadata.{kind}"
        {"csv": table.to_csv, "parquet": table.to_parquet}[kind](path, index=False)
        return make_study({"pairs": {"source": "folder", "path": str(folder), "shard_size": 2, **changes}})

    return make


def test_scenes_become_pairs(make_study):
    study = make_study({"pairs.n": 7, "pairs.shard_size": 3})
    artifact = collect_pairs(study.workspace, study.pairs)
    assert len(shards_of(artifact)) == 3
    table = read_pair_table(artifact)
    scene, rendering = draw_scene(study.pairs.seed, 4)
    assert table.captions[4] == scene.caption
    assert shown_concepts(study.pairs, 4) == {**dict(scene.objects), scene.background: 1}
    np.testing.assert_array_equal(np.asarray(ImageStore(artifact)[table.pair_ids[4]]), rendering.image)


def test_datasets_reads_the_shards_as_images(make_study, tmp_path):
    from datasets import Dataset

    artifact = pairs_of(make_study({"pairs.n": 2}))
    loaded = Dataset.from_parquet(str(shards_of(artifact)[0]), cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (64, 64)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_of_ones_own_becomes_pairs(study_of_folder, kind):
    rows = [("b.png", "two dvds, <b>bold</b>", PICTURE), ("a.png", "NA", PICTURE), ("c.png", "1.50", PICTURE)]
    artifact = pairs_of(study_of_folder(rows, kind))
    table = read_pair_table(artifact)
    assert table.pair_ids == ["b", "a", "c"]
    assert table.captions == ["two dvds, <b>bold</b>", "NA", "1.50"]  # text stays text
    assert artifact.facts == {"n_pairs": 3, "candidates": 3, "lost": {}}


def test_a_study_of_which_more_pairs_are_wanted_keeps_those_it_has(study_of_folder):
    study = study_of_folder([(f"{name}.png", f"caption {name}", PICTURE) for name in "abcde"], n=3)
    first = shards_of(pairs_of(study))
    before = [path.stat().st_mtime_ns for path in first]
    grown = pairs_of(study.model_copy(update={"pairs": study.pairs.model_copy(update={"n": 5})}))
    assert read_pair_table(grown).pair_ids == list("abcde")
    assert [path.stat().st_mtime_ns for path in shards_of(grown)[: len(first)]] == before
    assert not (study.folder / "superseded").exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("a.png", "a", PICTURE), ("a.png", "b", PICTURE)], {}, "pair 'a': this pair_id stands twice"),
        ([("a.png", "  ", PICTURE)], {}, "pair 'a': its caption is empty"),
        ([("a.png", None, PICTURE)], {}, "pair 'a': its caption is empty"),
        ([("a.png", "a", b"not an image")], {}, "image of pair 'a': not a readable image .no image format that is read here"),
        ([("a.png", "a", b"")], {}, "image of pair 'a': the file is empty; replace or remove it"),
        ([("a.png", "a", THIN)], {}, "image of pair 'a': 600 x 1 pixels is too thin"),
        ([("a.png", "a", CUT)], {}, "image of pair 'a': not a readable image"),
        ([("a.png", "a", PICTURE), ("b.png", "b", None)], {}, "own: 1 of 2 images are missing, such as 'b.png'"),
        (
            [("a\x00.png", "a", None)],
            {},
            "the table names 'a.x00.png', which no file can be called .embedded null byte.; correct it",
        ),
        (
            [("a" * 300 + ".png", "a", None)],
            {},
            "the table names 'a{59}..., which no file can be called .File name too long.; correct",
        ),
        ([], {}, "own: has no pairs; add some"),
        ([("../a.png", "a", PICTURE)], {}, "the table names '../a.png', which lies outside of the folder"),
        ([("a.png", "a", PICTURE)], {"caption_column": "text"}, "no column 'text'; it has file_name, caption"),
        ([("a.png", "a", PICTURE), ("b.png", "b", PICTURE)], {"n": 5}, "pairs.n = 5: the source has only 2 pairs"),
    ],
)
def test_faults_of_a_folder_are_named_in_one_line(study_of_folder, rows, changes, message, kind):
    study = study_of_folder(rows, kind, **changes)
    with pytest.raises(StudyError, match=message) as error:
        collect_pairs(study.workspace, study.pairs)
    assert "\n" not in str(error.value)


def test_a_folder_without_its_table_is_named(make_study, tmp_path):
    (tmp_path / "own").mkdir()
    with pytest.raises(StudyError, match="holds none of metadata.csv, metadata.jsonl, metadata.parquet"):
        pairs_of(make_study({"pairs": {"source": "folder", "path": str(tmp_path / "own")}}))


def test_shard_cut_short_is_named(make_study):
    artifact = pairs_of(make_study({"pairs.n": 2}))
    shard = shards_of(artifact)[0]
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(StudyError, match="shard-00000.parquet: not a whole Parquet file"):
        read_pair_table(artifact)


def test_enormous_image_is_refused_before_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, format="PNG")
    with pytest.raises(StudyError, match="9000 x 9000 pixels is too large"):
        decode_image(buffer.getvalue(), "bomb")


def test_an_image_stands_upright_and_no_reader_that_starts_programs_is_asked():
    sideways, buffer = Image.new("RGB", (20, 10), "red"), io.BytesIO()
    exif = sideways.getexif()
    exif[0x0112] = 6  # turned by a quarter, as a telephone writes it
    sideways.save(buffer, format="JPEG", exif=exif)
    assert decode_image(buffer.getvalue(), "photograph").size == (10, 20)
    buffer = io.BytesIO()
    sideways.save(buffer, format="EPS")  # reading it would start Ghostscript
    with pytest.raises(StudyError, match="page: not a readable image"):
        decode_image(buffer.getvalue(), "page")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_shard_of_pairs_is_never_made_up_for_by_the_others(study_of_folder, lost):
    study = study_of_folder([(f"{name}.png", f"caption {name}", PICTURE) for name in "abcdef"], n=5)
    artifact = pairs_of(study)
    path = shards_of(artifact)[lost]
    path.unlink()
    with pytest.raises(StudyError, match=rf"pairs/{path.name}: is missing; run `make figures STUDY=smoke`.*stage 'pairs'"):
        artifact.require()
    for n in (5, 6, 6):  # again; more pairs are wanted
        with pytest.raises(StudyError, match=rf"pairs/{path.name}: is missing"):
            pairs_of(study.model_copy(update={"pairs": study.pairs.model_copy(update={"n": n})}))


def test_corrected_captions_are_seen_whatever_the_time_and_size_of_the_table(study_of_folder, tmp_path):
    study, table = study_of_folder([("a.png", "a dog", PICTURE), ("b.png", "a cat", PICTURE)]), tmp_path / "own" / "metadata.csv"
    first, times = pairs_of(study), table.stat()
    table.write_text(table.read_text().replace("a dog", "a cow"))
    os.utime(table, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = pairs_of(study)
    assert again.fingerprint != first.fingerprint
    assert read_pair_table(again).captions == ["a cow", "a cat"]


def test_a_pair_counts_only_with_all_its_sides(tmp_path):
    def artifact(name, rows, schema):
        made = Artifact(Workspace("study", tmp_path, 0), name, Stage("pairs", 1), {}, {})
        write_shard(made.folder / "shard-00000.parquet", rows, schema)
        return made

    def generation(pair_id, lost=""):
        return {"pair_id": pair_id, "caption": "a dvd", "image": None if lost else {"bytes": PICTURE, "path": None}, "lost": lost}

    ids, lost = complete_pairs({
        "real": artifact("real", [row(pair_id) for pair_id in "abcd"], pair_schema()),
        "one": artifact("one", [generation(i, "black" if i == "b" else "") for i in "dcba"], generation_schema()),
        "two": artifact("two", [generation("a"), generation("b"), generation("d")], generation_schema()),
    })  # fmt: skip
    assert ids == ["a", "d"]
    assert lost == {"real": {}, "one": {"black": 1}, "two": {"no row": 1}}
