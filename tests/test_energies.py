import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import roc_auc_score

from blindspots_lib.analysis import energies as analysis_energies
from blindspots_lib.analysis.energies import TokenCodes, cooccurrence, encode_images, save_codes
from blindspots_lib.analysis.statistics import image_energies
from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, shard_path
from blindspots_lib.core.errors import StudyError
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.sae.dictionaries import Codes
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.trial.metrics import auroc

MANY_SHARDS = """
import resource
import sys
from pathlib import Path

import numpy as np

from blindspots_lib.analysis.energies import TokenCodes, compute_energies, gather_statistics
from blindspots_lib.analysis.memorization import distance_in_place
from blindspots_lib.core.artifacts import Artifact, Stage, Workspace, shard_path
from blindspots_lib.core.config import Analysis
from blindspots_lib.core.storage import read_arrays, save_array
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.models.tokens import StoredTokens
from blindspots_lib.sae.model import TopKSAE
from blindspots_lib.trial.methods import patch_tokens

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
workspace, rows = Workspace("test", Path(sys.argv[1]), 0), np.arange(200)
sae = Artifact(workspace, "sae", Stage("test", 1), {}, {})
sae.begin()
TopKSAE(4, 6, 2, n_candidates=6, dictionary="free").save_pretrained(sae.folder)
sae.finish()
codes = {}
for source in ("real", "one", "two", "three", "four"):
    tokens = Artifact(workspace, f"tokens/{source}", Stage("test", 1), {}, {})
    tokens.begin()
    for index in rows:
        drawn = np.random.default_rng(index).normal(size=(1, 5, 4)).astype(np.float16)
        save_array(shard_path(tokens.folder, index, "npy"), drawn)
    tokens.finish(layout=TokenLayout(n_registers=0, patches_per_side=2, width=4)._asdict())
    stored = StoredTokens(tokens)
    assert len(patch_tokens(stored)) == len(read_arrays(tokens)) == 200
    energies = compute_energies(workspace, Analysis(), source, stored, sae)
    gather_statistics(workspace, Analysis(), source, energies, rows)
    codes[source] = TokenCodes(energies)
assert all(distance_in_place(one, codes["real"], rows, rows).max() == 0 for one in codes.values())
print(sum(one.heatmap(row, 0).sum() > 0 for one in codes.values() for row in rows) > 50)
"""


def test_many_shards_of_many_sources_need_few_open_files(run_python, tmp_path):
    done = run_python(MANY_SHARDS.replace("sys.argv[1]", repr(str(tmp_path))))
    assert done.stdout.endswith("True\n"), done.stderr


def threshold_codes(n_images, n_tokens, n_concepts, seed):
    """Padded tables as an SAE with a threshold gives them: most tokens have few codes, one has a fifth of all concepts."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n_images, n_tokens, n_concepts)), axis=-1)[..., : n_concepts // 5].astype(np.uint32)
    lengths = rng.geometric(0.3, (n_images, n_tokens, 1))
    lengths[0, 0] = n_concepts // 5
    values = rng.uniform(0.01, 3.0, indices.shape) * (np.arange(indices.shape[-1]) < lengths)
    return indices, values.astype(np.float16)


def padded_sae(indices, values, n_concepts):
    """An SAE that gives out the rows of padded tables, in order, as codes."""
    tables = [torch.from_numpy(table.reshape(-1, table.shape[-1])) for table in (indices.astype(np.int64), values)]
    starts, sae = itertools.count(0, analysis_energies.ENCODED), TopKSAE(4, n_concepts, None, n_candidates=1, dictionary="free")

    def encode(rows):
        start = next(starts)
        return Codes(*(table[start : start + len(rows)] for table in tables))

    sae.encode = encode
    return sae


def test_codes_on_disk_are_ragged_and_those_of_the_padded_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis_energies, "ENCODED", 7)
    indices, values = threshold_codes(9, 5, 60, seed=0)
    tokens = np.ones((9, 5, 4), np.float16)
    tokens[4], values[4] = np.nan, 0  # a lost image
    present = np.arange(9) != 4
    artifact = Artifact(Workspace("test", tmp_path, 0), "codes", Stage("test", 1), {}, {})
    artifact.begin()
    for shard, rows in enumerate(np.array_split(np.arange(9), 2)):
        sae = padded_sae(indices[rows][present[rows]], values[rows][present[rows]], 60)
        save_codes(shard_path(artifact.folder, shard, "values.npy"), encode_images(sae, tokens[rows]))
    artifact.finish(layout=TokenLayout(n_registers=0, patches_per_side=2, width=4)._asdict(), n_concepts=60)
    n_codes, size = int((values > 0).sum()), sum(path.stat().st_size for path in artifact.folder.glob("*.npy"))
    assert size < 6 * n_codes + 8 * (9 * 5 + 2) + 6 * 130

    dense = np.zeros((9, 5, 60), np.float32)
    np.put_along_axis(dense, indices.astype(int), values.astype(np.float32), axis=-1)
    codes, rows = TokenCodes(artifact), np.array([8, 0, 4, 5, 1])
    assert np.array_equal(codes.patch_codes(rows).toarray(), dense[rows, 1:].reshape(-1, 60))
    assert np.array_equal(codes.heatmap(3, 7), dense[3, 1:, 7].reshape(2, 2))
    energies = image_energies(codes.at(rows, slice(None))).toarray()
    assert np.array_equal(energies, dense[rows].astype(np.float64).sum(axis=1).astype(np.float32))


def test_cooccurrence_counts_images_on_which_both_fire():
    energies = sp.csr_matrix(np.array([[1.0, 2.0, 0.0], [0.5, 0.0, 3.0], [1.0, 1.0, 0.0]], np.float32))
    assert cooccurrence(energies).toarray().tolist() == [[3, 2, 1], [2, 2, 0], [1, 0, 1]]


def test_areas_under_the_roc_curve_match_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, 60).astype(float)
    present = rng.random((60, 3)) < 0.3
    expected = [roc_auc_score(column, scores) for column in present.T]
    np.testing.assert_allclose(auroc(scores, present), expected)
    assert auroc(scores, present[:, 0]) == pytest.approx(expected[0])
    assert np.isnan(auroc(scores, np.ones((60, 1), bool))).all()


def test_a_code_that_half_precision_cannot_hold_is_named():
    sae = TopKSAE(4, 6, 2, 6, dictionary="free")
    with torch.no_grad():
        sae.encoder.weight.fill_(1.0)
        sae.encoder.bias.zero_()
    tokens = np.full((1, 3, 4), 1e4, np.float16)
    assert encode_images(sae, tokens).values.tolist() == [40_000.0] * 6
    with pytest.raises(StudyError, match=r"a code of 8e\+04 is beyond 65,504"):
        encode_images(sae, 2 * tokens)
