"""The perfect generator of the embedded study: for every caption a fresh draw of the process that draws real images.

It has no blindspots and has memorized nothing. Whatever an analysis says of it beyond chance, it says wrongly.
"""

from tqdm import tqdm

from blindspots_lib.artifacts import Artifact, shard_path
from blindspots_lib.images import encode_png
from blindspots_lib.pairs import generation_schema, read_shard, shards_of, write_shard
from blindspots_lib.parts import PerfectGenerator
from blindspots_lib.scene_pairs import caption_owners, described_scene, place_of
from blindspots_lib.scenes import render_scene, scene_rng
from blindspots_lib.study import Study


def draw_afresh(study: Study, model: PerfectGenerator, pairs: Artifact) -> Artifact:
    """An image for every pair: what its caption describes, drawn at random, independent of the real image."""
    code = ("perfect", "scene_pairs", "scenes")
    artifact = Artifact(study.folder / "generations" / model.name, study.name, {}, {"pairs": pairs.fingerprint}, code)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    owners = iter(enumerate(caption_owners(study.pairs)))
    for index, path in enumerate(tqdm(shards_of(pairs), desc=f"drawing, {model.label}", unit="shard")):
        rows = [
            {"pair_id": row["pair_id"], "image": {"bytes": fresh_draw(study, position, int(owner)), "path": None}, "lost": ""}
            for row, (position, owner) in zip(read_shard(path, ["pair_id"]), owners, strict=False)
        ]
        write_shard(shard_path(artifact.folder, index, "parquet"), rows, generation_schema())
    artifact.finish(n_images=pairs.facts["n_pairs"])
    return artifact


def fresh_draw(study: Study, position: int, owner: int) -> bytes:
    """PNG of a new picture of what the caption of the pair at `position`, that of `owner`, describes."""
    scene = described_scene(study.pairs, owner)
    return encode_png(render_scene(scene, scene_rng(*place_of(study.pairs, position), "redraw")).image)
