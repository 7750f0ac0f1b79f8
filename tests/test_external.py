import numpy as np
import pandas as pd
import pytest
from conftest import image_file

from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import read_shard, shards_of
from blindspots_lib.data.collect import collect_pairs
from blindspots_lib.data.images import SUFFIXES, encode_png
from blindspots_lib.data.pairs import ImageStore
from blindspots_lib.models.external import take_images

PICTURES = {name: encode_png(np.full((8, 8, 3), 50 * i, np.uint8)) for i, name in enumerate("abcd")}


@pytest.fixture
def study(make_study, tmp_path):
    """Four pairs a to d of a folder, and a model whose images lie in another."""
    for folder in ("real", "made"):
        (tmp_path / folder).mkdir()
    for name, picture in PICTURES.items():
        (tmp_path / "real" / f"{name}.png").write_bytes(picture)
    table = pd.DataFrame({"file_name": [f"{name}.png" for name in PICTURES], "caption": list(PICTURES)})
    table.to_json(tmp_path / "real" / "metadata.jsonl", orient="records", lines=True)
    pairs = {"source": "folder", "path": str(tmp_path / "real"), "shard_size": 3}
    return make_study({"pairs": pairs, "models": [{"name": "mine", "label": "Mine", "images": str(tmp_path / "made")}]})


def test_images_go_by_their_pairs_and_what_is_missing_is_counted(study, tmp_path):
    made = tmp_path / "made"
    (made / "sub").mkdir()
    (made / "sub" / "d.png").write_bytes(PICTURES["a"])
    (made / "b.webp").write_bytes(b"no image")
    (made / "a.jpg").write_bytes(PICTURES["c"])
    (made / "unasked.png").write_bytes(PICTURES["c"])
    artifact = take_images(study.workspace, study.models[0], collect_pairs(study.workspace, study.pairs))
    rows = [row for path in shards_of(artifact) for row in read_shard(path)]
    assert [(row["pair_id"], row["lost"]) for row in rows] == [
        ("a", ""),
        ("b", "not a readable image"),
        ("c", "missing"),
        ("d", ""),
    ]
    assert np.asarray(ImageStore(artifact)["d"])[0, 0, 0] == 0
    (made / "c.png").write_bytes(PICTURES["c"])  # added later: taken in
    rows = [
        row
        for path in shards_of(take_images(study.workspace, study.models[0], collect_pairs(study.workspace, study.pairs)))
        for row in read_shard(path)
    ]
    assert [row["lost"] for row in rows] == ["", "not a readable image", "", ""]
    before = take_images(study.workspace, study.models[0], collect_pairs(study.workspace, study.pairs)).fingerprint
    for folder in ("made", "real"):
        (tmp_path / folder / ".DS_Store").write_text("left by a file browser")
    assert take_images(study.workspace, study.models[0], collect_pairs(study.workspace, study.pairs)).fingerprint == before


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_format_that_is_promised_is_taken(study, tmp_path, suffix):
    (tmp_path / "made" / f"a{suffix}").write_bytes(image_file(suffix))
    (tmp_path / "made" / "b.png").write_bytes(b"")
    artifact = take_images(study.workspace, study.models[0], collect_pairs(study.workspace, study.pairs))
    rows = [row for path in shards_of(artifact) for row in read_shard(path)]
    assert [row["lost"] for row in rows] == ["", "empty file", "missing", "missing"]


def test_photographs_are_stored_small_and_thin_images_are_lost(study, tmp_path):
    (tmp_path / "made" / "a.jpg").write_bytes(image_file(".jpg", (2000, 1500)))
    (tmp_path / "made" / "b.png").write_bytes(image_file(".png", (600, 1)))
    model = study.models[0]
    artifact = take_images(study.workspace, model, collect_pairs(study.workspace, study.pairs))
    assert [row["lost"] for path in shards_of(artifact) for row in read_shard(path)] == ["", "too thin", "missing", "missing"]
    assert ImageStore(artifact)["a"].size == (512, 512)
    smaller = model.model_copy(update={"store_side": 64})
    assert ImageStore(take_images(study.workspace, smaller, collect_pairs(study.workspace, study.pairs)))["a"].size == (64, 64)


def test_a_table_may_name_the_images(study, tmp_path):
    (tmp_path / "made" / "first try.png").write_bytes(PICTURES["d"])
    (tmp_path / "made" / "images.csv").write_text("pair_id,file_name\nb,first try.png\n")
    model = study.models[0].model_copy(update={"images": str(tmp_path / "made" / "images.csv")})
    artifact = take_images(study.workspace, model, collect_pairs(study.workspace, study.pairs))
    assert np.asarray(ImageStore(artifact)["b"])[0, 0, 0] == 150
    before = artifact.fingerprint
    (tmp_path / "made" / "images.csv").write_text("pair_id,file_name\nc,first try.png\n")  # it belongs to another pair
    assert take_images(study.workspace, model, collect_pairs(study.workspace, study.pairs)).fingerprint != before
    (tmp_path / "made" / "images.csv").write_text("pair_id,file_name\nb,first try.png\n")
    (tmp_path / "made" / "first try.png").write_bytes(PICTURES["b"] + b" ")  # made again, the table as it was
    assert (
        np.asarray(ImageStore(take_images(study.workspace, model, collect_pairs(study.workspace, study.pairs)))["b"])[0, 0, 0]
        == 50
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["img_1.png", "img_2.png"], "no image in .*made has the id of a pair; the pairs are called 'a', 'b', 'c', the images "
         "'img_1', 'img_2'"),
        (["a.png", "a.jpg"], "has more than one image for the pair 'a'; keep one"),
        ([], "no image in .*made has the id of a pair; .* the images none at all"),
    ],
)  # fmt: skip
def test_ids_that_do_not_match_are_shown(study, tmp_path, names, message):
    for name in names:
        (tmp_path / "made" / name).write_bytes(PICTURES["a"])
    with pytest.raises(StudyError, match=message):
        take_images(study.workspace, study.models[0], collect_pairs(study.workspace, study.pairs))
