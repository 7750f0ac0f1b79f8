import io

import numpy as np
import pytest
from PIL import Image

from blindspots_lib.artifacts import Artifact
from blindspots_lib.pairs import (
    ImageStore,
    collect_pairs,
    complete_pairs,
    decode_image,
    encode_png,
    generation_schema,
    pair_schema,
    read_pair_table,
    shards_of,
    write_shard,
)
from blindspots_lib.scenes import draw_scene
from blindspots_lib.study import StudyError

PICTURE = encode_png(np.full((8, 8, 3), 90, np.uint8))


def row(pair_id="a", caption="a dvd", image=PICTURE):
    return {"pair_id": pair_id, "caption": caption, "image": {"bytes": image, "path": None}, "concepts": []}


@pytest.fixture
def study_of_rows(make_study, tmp_path):
    """A study whose pairs are these rows of one Parquet file."""

    def make(rows, n=None):
        write_shard(tmp_path / "source" / "pairs.parquet", rows, pair_schema())
        return make_study({"pairs": {"source": "parquet", "path": str(tmp_path / "source"), "n": n or len(rows)}})

    return make


def test_scenes_become_pairs_with_their_concepts(make_study):
    study = make_study({"pairs.n": 7, "pairs.shard_size": 3})
    artifact = collect_pairs(study)
    assert len(shards_of(artifact)) == 3
    table = read_pair_table(artifact)
    scene, rendering = draw_scene(study.pairs.seed, 4)
    assert table.captions[4] == scene.caption
    assert {c["name"] for c in table.concepts[4]} == {name for name, _ in scene.objects} | {scene.background}
    np.testing.assert_array_equal(np.asarray(ImageStore(artifact)[table.pair_ids[4]]), rendering.image)


def test_datasets_reads_the_shards_as_images(make_study, tmp_path):
    from datasets import Dataset

    artifact = collect_pairs(make_study({"pairs.n": 2}))
    loaded = Dataset.from_parquet(str(shards_of(artifact)[0]), cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (64, 64)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row()], "pair 'a': this pair_id stands twice"),
        ([row(caption="  ")], "pair 'a': its caption is empty"),
        ([row(image=b"not an image")], "image of pair 'a': not a readable image"),
        ([row(image=encode_png(draw_scene(0, 0)[1].image)[:-400])], "image of pair 'a': not a readable image"),
    ],
)
def test_unfit_pairs_are_refused_in_one_line(study_of_rows, rows, message):
    with pytest.raises(StudyError, match=message) as error:
        collect_pairs(study_of_rows(rows))
    assert "\n" not in str(error.value)


def test_too_few_pairs_are_named(study_of_rows):
    with pytest.raises(StudyError, match="pairs.n = 5: the source has only 2 pairs"):
        collect_pairs(study_of_rows([row("a"), row("b")], n=5))


def test_shard_cut_short_is_named(make_study):
    artifact = collect_pairs(make_study({"pairs.n": 2}))
    shard = shards_of(artifact)[0]
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(StudyError, match="shard-00000.parquet: not a whole Parquet file"):
        read_pair_table(artifact)


def test_enormous_image_is_refused_before_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, format="PNG")
    with pytest.raises(StudyError, match="9000 x 9000 pixels is too large"):
        decode_image(buffer.getvalue(), "bomb")


def test_a_pair_counts_only_with_all_its_sides(tmp_path):
    def artifact(name, rows, schema):
        made = Artifact(tmp_path / name, "study", {}, {}, ("pairs",))
        write_shard(made.folder / "shard-00000.parquet", rows, schema)
        return made

    def generation(pair_id, lost=""):
        return {"pair_id": pair_id, "image": None if lost else {"bytes": PICTURE, "path": None}, "lost": lost}

    ids, lost = complete_pairs({
        "real": artifact("real", [row(i) for i in "abcd"], pair_schema()),
        "one": artifact("one", [generation(i, "black" if i == "b" else "") for i in "dcba"], generation_schema()),
        "two": artifact("two", [generation("a"), generation("b"), generation("d")], generation_schema()),
    })  # fmt: skip
    assert ids == ["a", "d"]
    assert lost == {"real": {}, "one": {"black": 1}, "two": {"no row": 1}}
