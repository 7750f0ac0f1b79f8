import numpy as np
import pytest
import torch
from conftest import ragged

from blindspots_lib.analysis.statistics import image_energies
from blindspots_lib.core.errors import StudyError
from blindspots_lib.core.storage import read_shard, shards_of, write_shard
from blindspots_lib.data.pairs import generation_schema
from blindspots_lib.models.backbone import TokenExtractor
from blindspots_lib.run.stages import generate, measure, open_results, train
from blindspots_lib.sae.model import load_sae


def test_sides_stay_pairs_when_a_source_loses_and_reorders_images(make_study):
    study = make_study({"pairs.n": 6, "pairs.shard_size": 6, "sae.n_steps": 5, "training_corpus.n": 10})
    study = study.model_copy(update={"models": study.models[:1]})
    made = generate(study)["sd15"]
    shard = shards_of(made)[0]
    rows = read_shard(shard)
    rows[4] = {**rows[4], "image": None, "lost": "black"}
    del rows[2]
    write_shard(shard, rows[::-1], generation_schema())
    made.finish(**made.facts)

    results = measure(study)
    kept = [results.pairs.pair_ids[i] for i in (0, 1, 3, 5)]
    assert results.pair_ids == kept
    assert results.lost == {"real": {}, "sd15": {"black": 1, "no row": 1}}

    extractor, sae = TokenExtractor(study.backbone), load_sae(train(study).folder)
    for source in ("real", "sd15"):
        tokens = extractor([results.images[source][pair_id] for pair_id in kept]).astype(np.float16)[:, extractor.layout.patches]
        codes = sae.encode(torch.from_numpy(tokens.astype(np.float32)).flatten(0, 1))
        shape = (4, tokens.shape[1], -1)
        indices = codes.indices.view(shape).numpy().astype(np.uint32)
        values = codes.values.detach().view(shape).numpy().astype(np.float16)
        expected = image_energies(ragged(indices, values, sae.n_concepts)).toarray()
        actual = results.energies[source].matrix.toarray()
        similarity = (expected * actual).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(actual, axis=1)
        assert similarity.min() > 0.98  # bfloat16 features depend a little on the batch
        row, concept = 2, int(expected[2].argmax())
        heatmap = results.codes[source].heatmap(int(results.rows[source][row]), concept)
        assert heatmap.sum() == pytest.approx(actual[row, concept], rel=1e-3)
    assert len(results.datapoints) == 4
    assert results.datapoints["training_similarity"].notna().all()

    for name in ("energies/sd15/energies.npz", "tables/concepts/concepts.parquet"):
        path = study.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        with pytest.raises(StudyError, match=f"{name}: has [0-9,]+ bytes, and had"):
            (open_results(study).energies, open_results(study).concepts)
        path.write_bytes(whole)
