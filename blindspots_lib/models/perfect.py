"""The perfect generator of the embedded study: for every caption a fresh draw of the process that draws real images.

It has no blindspots and has memorized nothing. Whatever an analysis reports for it beyond chance is a false alarm.
"""

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import PerfectGenerator, ScenePairs
from blindspots_lib.core.storage import fill_shards, read_shard, shards_of
from blindspots_lib.data.images import encode_png
from blindspots_lib.data.pairs import save_generations
from blindspots_lib.data.scene_pairs import caption_owners, described_scene, place_of
from blindspots_lib.data.scenes import render_scene, scene_rng

PERFECT = Stage("perfect generator", 1)


def perfect_artifact(workspace: Workspace, model: PerfectGenerator, pairs: Artifact) -> Artifact:
    """The output folder of `draw_afresh`."""
    return Artifact(workspace, f"generations/{model.name}", PERFECT, {}, {"pairs": pairs.fingerprint})


def draw_afresh(workspace: Workspace, model: PerfectGenerator, config: ScenePairs, pairs: Artifact) -> Artifact:
    """Draw, for every pair, what its caption describes: at random, independent of the real image."""
    artifact = perfect_artifact(workspace, model, pairs)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    owners = caption_owners(config)
    positions = iter(range(config.n))
    shards = [[(next(positions), row) for row in read_shard(path, ["pair_id", "caption"])] for path in shards_of(pairs)]

    def draw(rows: list[tuple[int, dict]]) -> list[dict]:
        return [
            row | {"image": {"bytes": fresh_draw(config, position, int(owners[position])), "path": None}, "lost": ""}
            for position, row in rows
        ]

    fill_shards(artifact, shards, draw, save_generations, "parquet", f"drawing, {model.label}")
    artifact.finish(n_images=config.n)
    return artifact


def fresh_draw(config: ScenePairs, position: int, owner: int) -> bytes:
    """PNG of a new picture of what the caption of the pair at `position`, that of `owner`, describes."""
    scene = described_scene(config, owner)
    return encode_png(render_scene(scene, scene_rng(*place_of(config, position), "redraw")).image)
