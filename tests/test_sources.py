import io
import tarfile

import numpy as np
import pandas as pd
import pytest
from conftest import pairs_of
from PIL import Image
from standin_hub import COMMIT

from blindspots_lib.core.config import SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import shards_of
from blindspots_lib.data.collect import collect_corpus
from blindspots_lib.data.images import encode_png, shrunk
from blindspots_lib.data.pairs import ImageStore, read_pair_table
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.data.sources import corpus_inputs

PICTURES = [encode_png(np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(12)]


def value_of(image):
    return int(np.asarray(image)[0, 0, 0]) // 10


@pytest.fixture
def study_of(make_study):
    return lambda **pairs: make_study({"pairs": {"shard_size": 3, **pairs}})


def test_a_set_on_this_machine_is_read_in_its_seeded_order_and_goes_on_where_it_stopped(study_of, tmp_path, monkeypatch):
    images = [{"bytes": picture, "path": None} for picture in PICTURES]
    images[4] = None
    images[7] = {"bytes": b"no image", "path": None}
    table = pd.DataFrame({"picture": images, "text": [f"caption {i}" for i in range(12)]})
    table.loc[2, "text"] = None
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train.parquet", index=False)
    config = {"source": "dataset", "path": str(tmp_path / "set"), "caption_column": "text", "image_column": "picture",
              "n": 9, "seed": 1}  # fmt: skip
    whole = pairs_of(study_of(**config))
    captions = read_pair_table(whole).captions
    assert sorted(captions) == sorted(f"caption {i}" for i in range(12) if i not in (2, 4, 7))
    assert captions != sorted(captions)
    assert whole.facts == {"n_pairs": 9, "candidates": 12, "lost": {"no caption": 1, "no image": 1, "not a readable image": 1}}
    store, table = ImageStore(whole), read_pair_table(whole)
    for pair_id, caption in zip(table.pair_ids, table.captions, strict=True):
        assert value_of(store[pair_id]) == int(caption.split()[1])
    expected = {path.name: path.read_bytes() for path in shards_of(whole)}

    from blindspots_lib.data import collect

    monkeypatch.setenv("BLINDSPOTS_RUNS", str(tmp_path / "again"))
    write, written = collect.write_shard, []
    monkeypatch.setattr(
        collect, "write_shard", lambda path, *rest: written.append(path) or ((1 / (len(written) < 3)) and write(path, *rest))
    )
    with pytest.raises(ZeroDivisionError):
        pairs_of(study_of(**config))
    monkeypatch.setattr(collect, "write_shard", write)
    again = pairs_of(study_of(**config))
    assert {path.name: path.read_bytes() for path in shards_of(again)} == expected
    assert again.facts == whole.facts


def test_a_set_without_the_column_is_named(study_of, tmp_path):
    (tmp_path / "set").mkdir()
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(StudyError, match="no column 'caption'; it has text"):
        pairs_of(study_of(source="dataset", path=str(tmp_path / "set"), n=1))


def test_an_img2dataset_folder_becomes_pairs_and_what_failed_is_counted(study_of, tmp_path):
    samples = {"0001": ("jpg", "a cat"), "0002": (None, "a link that was dead"), "0003": ("png", "a dog"), "0004": ("jpg", " ")}
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for i, (key, (suffix, caption)) in enumerate(samples.items()):
            files = {"txt": caption.encode(), "json": b"{}"} | ({suffix: PICTURES[i]} if suffix else {})
            for ending, content in files.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    artifact = pairs_of(study_of(source="webdataset", path=str(tmp_path), n=2))
    assert read_pair_table(artifact)[:2] == (["00000-0001", "00000-0003"], ["a cat", "a dog"])
    assert artifact.facts["lost"] == {"no image": 1}
    (tmp_path / "00001.tar").write_bytes((tmp_path / "00000.tar").read_bytes()[:700])
    with pytest.raises(StudyError, match=r"00001.tar: not a whole archive"):
        pairs_of(study_of(source="webdataset", path=str(tmp_path), n=5))


def test_an_sae_learns_from_a_folder_of_images_at_any_depth(make_study, tmp_path):
    for i, picture in enumerate(PICTURES):
        (tmp_path / f"class-{i % 2}").mkdir(exist_ok=True)
        (tmp_path / f"class-{i % 2}" / f"{i}.png").write_bytes(picture)
    (tmp_path / "notes.txt").write_text("no image")
    study = make_study({"sae.corpus": {"path": str(tmp_path), "n": 7, "seed": 2, "shard_size": 4}})
    assert isinstance(study.sae, SAEConfig)
    artifact = collect_corpus(study.workspace, study.sae.corpus)
    store = ImageStore(artifact)
    values = [value_of(store[f"image-{i:08d}"]) for i in range(7)]
    assert len(set(values)) == 7
    assert max(path.stat().st_size for path in shards_of(artifact)) < 8_000  # named where they lie, not copied
    with pytest.raises(StudyError, match=r"sae.corpus.n = 50: .* has only 12 images"):
        corpus_of(make_study({"sae.corpus": {"path": str(tmp_path), "n": 50}}))
    before = corpus_inputs(study.sae.corpus)
    next(tmp_path.rglob("*.png")).write_bytes(PICTURES[0] + b" ")  # the same name, another image
    assert corpus_inputs(study.sae.corpus) != before


def test_a_corpus_may_be_scenes_of_its_own(make_study):
    artifact = corpus_of(make_study({"sae.corpus": {"source": "scenes", "seed": 12, "n": 5, "shard_size": 2}}))
    images = ImageStore(artifact)
    assert len(images.row_of) == artifact.facts["n_images"] == 5
    assert np.array_equal(images["image-00000004"], draw_scene(12, 4)[1].image)


def test_a_large_photograph_is_kept_smaller_and_a_small_one_as_it_is():
    assert shrunk(PICTURES[0], 8, "a") == PICTURES[0]
    wide = encode_png(np.full((40, 100, 3), 77, np.uint8))
    small = Image.open(io.BytesIO(shrunk(wide, 20, "a")))
    assert small.size == (50, 20)
    assert abs(value_of(small.convert("RGB")) - 7) <= 1


def test_a_set_of_files_in_an_archive_is_read_too(study_of, tmp_path):
    import zipfile

    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set" / "train.zip", "w") as archive:
        archive.writestr("metadata.csv", "file_name,caption\n" + "".join(f"{i}.png,caption {i}\n" for i in range(4)))
        for i in range(4):
            archive.writestr(f"{i}.png", PICTURES[i])
    artifact = pairs_of(study_of(source="dataset", path=str(tmp_path / "set"), n=4))
    assert sorted(read_pair_table(artifact).captions) == [f"caption {i}" for i in range(4)]
    assert artifact.facts["lost"] == {}


def corpus_of(study):
    return collect_corpus(study.workspace, study.sae.corpus)


FROM_THE_HUB = """
import os
from blindspots_lib.core.artifacts import read_json
from blindspots_lib.data.pairs import ImageStore, read_pair_table
from blindspots_lib.data.collect import collect_corpus, collect_pairs
from blindspots_lib.core.study import load_study

study = load_study(os.environ["STUDY_FILE"])
pairs, corpus = collect_pairs(study.workspace, study.pairs), collect_corpus(study.workspace, study.sae.corpus)
print(sorted(read_pair_table(pairs).captions), read_json(pairs.folder / "revision.json")["revision"])
print([ImageStore(corpus)[f"image-{i:08d}"].size for i in range(5)])
"""


def test_a_set_on_the_hub_is_pinned_when_the_run_begins(hub, hub_environment, write_study, run_python, tmp_path):
    images = [{"bytes": picture, "path": None} for picture in PICTURES]
    (tmp_path / "set" / "data").mkdir(parents=True)
    table = pd.DataFrame({"image": images, "caption": [f"caption {i}" for i in range(12)]})
    table.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", index=False)
    hub.add("owner/pictures", tmp_path / "set", kind="datasets")
    place = {"repo": "owner/pictures", "revision": "latest"}
    file = write_study({"pairs": {"source": "dataset", "n": 12, **place}, "sae.corpus": {"n": 5, **place}})
    process = run_python(FROM_THE_HUB, STUDY_FILE=str(file), **hub_environment)
    assert process.stdout.splitlines() == [f"{sorted(table['caption'])} {COMMIT}", f"{[(8, 8)] * 5}"], process.stderr
