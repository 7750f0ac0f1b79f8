import io
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import image_file, pairs_of
from PIL import Image
from standin_hub import COMMIT

from blindspots_lib.core.config import DatasetPairs, LinkedPairs, SAEConfig
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import read_shard, shards_of
from blindspots_lib.data.collect import collect_corpus
from blindspots_lib.data.images import SUFFIXES, encode_png, shrunk
from blindspots_lib.data.pairs import ImageStore, read_pair_table
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.data.sources import Lost, cell_image, corpus_inputs, stream

PICTURES = [encode_png(np.full((8, 8, 3), 10 * i, np.uint8)) for i in range(12)]


def value_of(image):
    return int(np.asarray(image)[0, 0, 0]) // 10


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """`datasets` waits 5 s for its threads wherever reading a set ends."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


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


def own_folder(folder, captions, files):
    """Write a folder of one's own, with its table; returns what a study says of it."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pd.DataFrame({"file_name": list(files), "caption": captions}).to_parquet(folder / "metadata.parquet")
    return {"source": "folder", "path": str(folder)}


def written_set(folder, **columns):
    """Write a set of one file; returns what a study says of it."""
    folder.mkdir()
    pd.DataFrame(columns).to_parquet(folder / "train.parquet")
    return {"path": str(folder), "shuffle_buffer": 1}


def cells(pictures):
    return [{"bytes": picture, "path": None} for picture in pictures]


@pytest.mark.parametrize("source", ["folder", "dataset", "links"])
def test_photographs_are_stored_small_thin_images_are_lost_and_the_rest_keep_their_bytes(study_of, hub, tmp_path, source):
    lost = {} if source == "folder" else {"too thin": 1}  # in a folder of one's own it stops the run
    files = {"thin.png": image_file(".png", (600, 1))} if lost else {}
    files |= {f"{i}.jpg": image_file(".jpg", (2000, 1500)) for i in range(3)} | {"small.png": PICTURES[3]}
    hub.links |= {name: (200, {"Content-Type": "image/png"}, content) for name, content in files.items()}
    captions, links = list(files), [f"{hub.url}/link/{name}" for name in files]
    place = {
        "folder": lambda path: own_folder(path, captions, files),
        "dataset": lambda path: written_set(path, caption=captions, image=cells(files.values())) | {"source": "dataset"},
        "links": lambda path: written_set(path, caption=captions, url=links) | {"source": "links"},
    }[source](tmp_path / "own")
    artifact = pairs_of(study_of(n=4, store_side=64, **place))
    kept = {row["caption"]: row["image"]["bytes"] for path in shards_of(artifact) for row in read_shard(path)}
    assert [Image.open(io.BytesIO(kept[f"{i}.jpg"])).size for i in range(3)] == [(85, 64)] * 3
    assert kept["small.png"] == PICTURES[3]
    assert artifact.facts["lost"] == lost


@pytest.mark.parametrize("source", ["folder", "dataset", "links"])
def test_every_format_that_is_promised_becomes_pairs(study_of, hub, tmp_path, source):
    files = {f"{suffix[1:]}{suffix}": image_file(suffix) for suffix in sorted(SUFFIXES)}
    hub.links |= {name: (200, {"Content-Type": "Image/JPEG"}, content) for name, content in files.items()}
    captions, links = list(files), [f"{hub.url}/link/{name}" for name in files]
    place = {
        "folder": lambda path: own_folder(path, captions, files),
        "dataset": lambda path: written_set(path, caption=captions, image=cells(files.values())) | {"source": "dataset"},
        "links": lambda path: written_set(path, caption=captions, url=links) | {"source": "links"},
    }[source](tmp_path / "own")
    artifact = pairs_of(study_of(n=len(files), **place))
    assert sorted(read_pair_table(artifact).captions) == sorted(files)
    assert artifact.facts["lost"] == {}


@pytest.mark.parametrize(
    ("captions", "expected", "lost"),
    [
        ([["", "a cat", "a dog"], ["a page"]], ["a cat", "a page"], {}),
        ([b"caf\xc3\xa9", b"a dog"], ["caf\u00e9", "a dog"], {}),
        ([["  "], ["a dog"]], ["a dog"], {"no caption": 1}),
        ([{"raw": "a cat"}, {"raw": "a dog"}], [], {"no caption": 2}),
        ([7.5, 1.0], [], {"no caption": 2}),
    ],
)
def test_captions_are_texts_or_are_made_so_or_count_as_lost(study_of, tmp_path, captions, expected, lost):
    place = written_set(tmp_path / "set", caption=captions, image=cells(PICTURES[:2]))
    if not expected:
        with pytest.raises(StudyError, match="none of its 2 candidates became a pair .no caption: 2"):
            pairs_of(study_of(source="dataset", n=1, **place))
        return
    artifact = pairs_of(study_of(source="dataset", n=len(expected), **place))
    assert (read_pair_table(artifact).captions, artifact.facts["lost"]) == (expected, lost)


@pytest.mark.parametrize(("caption", "expected"), [(["", "a cat"], "a cat"), (b"a cat", "a cat"), (7, None), ({"a": "b"}, None)])
def test_captions_of_ones_own_are_texts_or_stop_the_run(study_of, tmp_path, caption, expected):
    study = study_of(**own_folder(tmp_path / "own", [caption], {"a.png": PICTURES[0]}))
    if expected is None:
        with pytest.raises(StudyError, match="pair 'a': its caption is empty or not a text"):
            pairs_of(study)
    else:
        assert read_pair_table(pairs_of(study)).captions == [expected]


def test_a_sample_is_drawn_from_all_files_of_a_set_and_from_all_of_a_file(tmp_path):
    for number in range(20):
        table = pd.DataFrame({"url": [f"{number}/{row}" for row in range(100)], "caption": "a", "other": b"large"})
        table.to_parquet(tmp_path / f"train-{number:05d}-of-00020.parquet", row_group_size=10)
    config = LinkedPairs(source="links", path=str(tmp_path), n=50, shuffle_buffer=100, seed=3)

    def drawn(config, skip=0):
        return [row["url"] for row in stream(config, None, ["url", "caption"], None, skip)]

    urls = drawn(config)
    assert len(set(urls)) == len(urls) == 2000
    files, rows = np.array([url.split("/") for url in urls[:50]], int).T
    assert len(set(files)) > 12  # of 20: the first 32 of 200 row groups
    assert 0.3 < (rows < 50).mean() < 0.7
    assert drawn(config, skip=150) == urls[150:]
    assert drawn(config.model_copy(update={"seed": 4})) != urls


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


def test_a_file_in_an_archive_that_claims_30_gigabytes_is_lost(study_of, tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for key in ("0001", "0002"):
            for ending, content in {"png": PICTURES[0], "txt": b"a cat", "json": b"{}"}.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                if key == "0001" and ending != "txt":
                    member.size, member.pax_headers = 0, {"GNU.sparse.map": "0,0", "GNU.sparse.size": "30000000000"}
                archive.addfile(member, io.BytesIO(content))
    artifact = pairs_of(study_of(source="webdataset", path=str(tmp_path), n=1))
    assert (read_pair_table(artifact).pair_ids, artifact.facts["lost"]) == (["00000-0002"], {"too large": 1})


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
from blindspots_lib.core.files import read_json
from blindspots_lib.data.pairs import ImageStore, read_pair_table
from blindspots_lib.data.collect import collect_corpus, collect_pairs
from blindspots_lib.core.study import load_study

study = load_study(os.environ["STUDY_FILE"])
pairs, corpus = collect_pairs(study.workspace, study.pairs), collect_corpus(study.workspace, study.sae.corpus)
print(sorted(read_pair_table(pairs).captions), read_json(pairs.folder / "revision.json")["revision"])
print([ImageStore(corpus)[f"image-{i:08d}"].size for i in range(5)])
"""


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("file://{folder}/a.png", "a file outside of the set"),
        ("file://../../../../../../../../../../{folder}/a.png", "a file outside of the set"),
        ("{folder}/a.png", "a file outside of the set"),
        ("zip://a.png::{folder}/a.zip", "a file outside of the set"),
        ("zip://a.png::file://{folder}/a.zip", "a file outside of the set"),
        ("hf://datasets/other/set@main/a.png", "a file outside of the set"),
        ("file://{folder}/a.png::hf://datasets/owner/set@main/a.zip", "a file outside of the set"),
        ("{url}/link/a.png", ""),
        ("{url}/link/nowhere.png", "status 404"),
    ],
)
def test_a_set_from_the_hub_reads_no_files_of_this_machine(hub, tmp_path, path, lost):
    hub.links["a.png"] = (200, {"Content-Type": "image/png"}, PICTURES[1])
    (tmp_path / "a.png").write_bytes(PICTURES[1])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", PICTURES[1])
    config = DatasetPairs(source="dataset", repo="owner/set", revision="latest", n=1)
    found = cell_image({"bytes": None, "path": path.format(folder=tmp_path, url=hub.url)}, config)
    assert found == (Lost(lost) if lost else PICTURES[1])


@pytest.mark.parametrize("path", ["{folder}", "zip://b.png::{folder}/a.png", "{folder}/nowhere.png", "oddity://a"])
def test_a_file_of_a_set_that_cannot_be_opened_is_lost(tmp_path, path):
    (tmp_path / "a.png").write_bytes(PICTURES[1])
    config = DatasetPairs(source="dataset", path=str(tmp_path), n=1)
    assert cell_image({"bytes": None, "path": path.format(folder=tmp_path)}, config) == Lost("a file that cannot be opened")


def test_a_set_on_the_hub_is_pinned_when_the_run_begins(hub, hub_environment, write_study, run_python, tmp_path):
    images = [{"bytes": picture, "path": None} for picture in PICTURES]
    (tmp_path / "set" / "data").mkdir(parents=True)
    table = pd.DataFrame({"image": images, "caption": [f"caption {i}" for i in range(12)]})
    table.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", index=False)
    hub.add("owner/pictures", tmp_path / "set", kind="datasets")
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "train.zip", "w") as archive:
        for i, picture in enumerate(PICTURES):
            archive.writestr(f"{i}.png", picture)
    hub.add("owner/zipped", tmp_path / "zipped", kind="datasets")
    pairs = {"source": "dataset", "n": 12, "repo": "owner/pictures", "revision": "latest"}
    file = write_study({"pairs": pairs, "sae.corpus": {"n": 5, "repo": "owner/zipped", "revision": "latest"}})
    process = run_python(FROM_THE_HUB, STUDY_FILE=str(file), **hub_environment)
    assert process.stdout.splitlines() == [f"{sorted(table['caption'])} {COMMIT}", f"{[(8, 8)] * 5}"], process.stderr
