"""The perfect generator of the embedded study: it draws each caption with the process that draws the real images.

It has no blindspots and has memorized nothing. Anything that an analysis finds in it beyond chance is a false alarm.
"""

import itertools

from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.config import PerfectGenerator, ScenePairs
from blindspots_lib.core.storage import fill_shards, read_shard, shards_of
from blindspots_lib.data.images import encode_png
from blindspots_lib.data.pairs import save_generations
from blindspots_lib.data.scene_pairs import caption_owners, described_scene, place_of
from blindspots_lib.data.scenes import render_scene, scene_rng

PERFECT = Stage("perfect generator", 1)


def perfect_artifact(workspace: Workspace, model: PerfectGenerator, pairs: Artifact) -> Artifact:
    """Describe the output folder of `draw_afresh`."""
    return Artifact(workspace, f"generations/{model.name}", PERFECT, config={}, inputs={"pairs": pairs.fingerprint})


def draw_afresh(workspace: Workspace, model: PerfectGenerator, config: ScenePairs, pairs: Artifact) -> Artifact:
    """Draw a new image of each pair's caption, independent of the real image."""
    artifact = perfect_artifact(workspace, model, pairs)
    if artifact.is_complete():
        return artifact
    artifact.begin()
    owners, positions = caption_owners(config), itertools.count()
    shards = [[(next(positions), row) for row in read_shard(path, ["pair_id", "caption"])] for path in shards_of(pairs)]

    def draw(rows: list[tuple[int, dict]]) -> list[dict]:
        return [row | fresh_draw(config, position, int(owners[position])) for position, row in rows]

    fill_shards(artifact, shards, draw, save_generations, "parquet", f"drawing, {model.label}")
    artifact.finish(n_images=config.n)
    return artifact


def fresh_draw(config: ScenePairs, position: int, owner: int) -> dict:
    """Return a new image, for the pair at `position`, of what the caption of the pair at `owner` describes."""
    rendering = render_scene(described_scene(config, owner), scene_rng(*place_of(config, position), "redraw"))
    return {"image": {"bytes": encode_png(rendering.image), "path": None}, "lost": ""}
