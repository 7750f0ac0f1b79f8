import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import ragged

from blindspots_lib.analysis import energy_definitions, sae_errors
from blindspots_lib.analysis.captions import caption_vectors
from blindspots_lib.analysis.energies import TokenCodes, encode_images, save_codes
from blindspots_lib.analysis.energy_definitions import definitions_matrix, definitions_table, mean_energies
from blindspots_lib.analysis.sae_errors import (
    coherence_table,
    describe_images,
    group_similarity,
    reconstruction_errors,
    word_errors,
)
from blindspots_lib.core.artifacts import Artifact, Stage, Workspace
from blindspots_lib.core.storage import save_array
from blindspots_lib.models.backbone import TokenLayout
from blindspots_lib.models.tokens import StoredTokens
from blindspots_lib.sae.metrics import measure_coding
from blindspots_lib.sae.model import TopKSAE

LAYOUT = TokenLayout(n_registers=0, patches_per_side=2, width=4)


def stored(folder, shards, save, **facts):
    artifact = Artifact(Workspace("test", folder.parent, 0), folder.name, Stage("test", 1), {}, {})
    artifact.begin()
    for index, shard in enumerate(shards):
        save(folder, index, shard)
    artifact.finish(layout=LAYOUT._asdict(), **facts)
    return artifact


def stored_codes(folder, shards, n_concepts):
    def save(folder, index, codes):
        save_codes(folder / f"shard-{index:05d}.values.npy", codes)

    return TokenCodes(stored(folder, shards, save, n_concepts=n_concepts))


def dense_codes(dense):
    indices = np.broadcast_to(np.arange(dense.shape[-1], dtype=np.uint32), dense.shape)
    return ragged(indices, dense.astype(np.float16), dense.shape[-1])


# -- concepts that fire on unrelated images


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_group_similarity_is_the_mean_cosine_over_pairs(kind, monkeypatch):
    monkeypatch.setattr(sae_errors, "CONCEPTS", 2)
    vectors = np.random.default_rng(0).normal(size=(9, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] = 0
    members = np.array([[0, 1, 2], [4, 5, -1], [8, -1, -1], [-1, -1, -1], [2, 3, 7]])
    for found, group in zip(group_similarity(members, kind(vectors)), members, strict=True):
        pairs = [vectors[i] @ vectors[j] for i, j in itertools.combinations(group[group >= 0], 2)]
        assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


def test_concepts_of_one_thing_are_related_and_concepts_of_anything_are_not():
    rng = np.random.default_rng(0)
    kinds = np.arange(300) % 6
    captions = caption_vectors(sp.csr_matrix(kinds[:, None] == np.arange(6)))
    descriptors = rng.normal(size=(300, 8)) + 2 * np.eye(8)[kinds]
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    of_one = [rng.choice(np.flatnonzero(kinds == kind), 12, replace=False) for kind in range(6)] * 5
    of_any = [rng.choice(300, 12, replace=False) for _ in range(60)]
    few = np.full((2, 12), -1)
    few[0, :4] = of_one[0][:4]
    table = coherence_table(np.vstack([of_one, of_any, few]), captions, descriptors, seed=0)
    call = table["call"].to_numpy()
    assert (call[:30] == "related").all()
    assert (call[30:90] == "unrelated").mean() > 0.9
    assert call[90:].tolist() == ["unclear", "unclear"]
    assert table["n_top"].tolist()[-2:] == [4, 0]
    np.testing.assert_allclose(table["caption_similarity"][:30], 1)
    textless = coherence_table(np.array(of_any), sp.csr_matrix((300, 0)), descriptors, seed=0)
    assert (textless["caption_p"] == 1).all()


def test_no_concept_at_all_gives_an_empty_table():
    table = coherence_table(np.zeros((0, 3), int), sp.csr_matrix((1, 0)), np.ones((1, 2)), seed=0)
    assert table.empty


# -- what the dictionary misses


@pytest.fixture
def encoded(tmp_path):
    """Tokens in two shards, one image lost, an SAE and its codes."""
    torch.manual_seed(0)
    sae = TopKSAE(LAYOUT.width, 6, 2, 6, "free").eval()
    with torch.no_grad():
        sae.encoder.weight.normal_()
        sae.dictionary.free_atoms.normal_()
    tokens = np.random.default_rng(0).normal(size=(7, LAYOUT.n_tokens, LAYOUT.width)).astype(np.float16)
    tokens[2] = np.nan
    shards = [tokens[:4], tokens[4:]]
    source = StoredTokens(stored(tmp_path / "t", shards, lambda f, i, x: save_array(f / f"shard-{i:05d}.npy", x)))
    return sae, tokens, source, stored_codes(tmp_path / "c", [encode_images(sae, shard) for shard in shards], 6)


def test_errors_of_images_are_those_of_dense_reconstructions(encoded, monkeypatch):
    monkeypatch.setattr(sae_errors, "ENCODED", 10)
    sae, tokens, source, codes = encoded
    rows = np.array([5, 0, 1, 6, 3])
    found = reconstruction_errors(source, codes, sae.dictionary.atoms().detach().numpy(), rows, LAYOUT.patches)
    x = torch.from_numpy(tokens[rows][:, LAYOUT.patches].astype(np.float32)).flatten(0, 1)
    rebuilt = sae(x)[0]
    left, all_of_it = (x - rebuilt).square().sum(1), (x - x.mean(0)).square().sum(1)
    expected = left.view(5, -1).sum(1) / all_of_it.view(5, -1).sum(1)
    np.testing.assert_allclose(found.unexplained, expected.numpy(), rtol=2e-3)  # codes on disk are float16
    assert found.r2 == pytest.approx(measure_coding(sae, x).r2, abs=2e-3)


def test_descriptors_of_images_are_centred(encoded):
    _, _, source, _ = encoded
    found = describe_images(source, np.array([0, 1, 3]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert not describe_images(source, np.array([4])).any()


def test_word_errors_agree_with_welch_and_find_the_word_that_is_rebuilt_badly():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(0)
    presence = rng.random((200, 30)) < 0.3
    presence[:, 1], presence[:, 2] = True, np.arange(200) < 9  # everywhere; too rare
    errors = rng.normal(0.3, 0.05, 200) + 0.1 * presence[:, 5]
    table = word_errors(errors, sp.csr_matrix(presence), [f"w{i}" for i in range(30)])
    assert "w1" not in set(table["word"])
    assert "w2" not in set(table["word"])
    row = table.iloc[0]
    expected = ttest_ind(errors[presence[:, 5]], errors[~presence[:, 5]], equal_var=False)
    interval = expected.confidence_interval()
    assert row["word"] == "w5"
    np.testing.assert_allclose([row["p"], row["low"], row["high"]], [expected.pvalue, interval.low, interval.high])
    assert row["mean"] == pytest.approx(errors[presence[:, 5]].mean())
    assert row["others"] == pytest.approx(errors[~presence[:, 5]].mean())
    assert (table["q"] < 0.05).sum() == 1


@pytest.mark.parametrize("n", [0, 1, 30])
def test_words_that_all_captions_have_or_none_give_no_row(n):
    assert word_errors(np.full(n, 0.5), sp.csr_matrix(np.ones((n, 2), bool)), ["a", "b"]).empty


# -- other definitions of energy


def test_energies_by_definition_are_those_of_dense_codes(tmp_path, monkeypatch):
    monkeypatch.setattr(energy_definitions, "BLOCK", 20)
    rng = np.random.default_rng(0)
    dense = np.round(rng.exponential(2.0, (6, 5, 7)) * (rng.random((6, 5, 7)) < 0.3), 1).astype(np.float16).astype(float)
    codes = stored_codes(tmp_path / "c", [dense_codes(dense[:4]), dense_codes(dense[4:])], 7)
    rows = np.array([4, 0, 2, 5])
    x = dense[rows, 1:]
    expected = {"sum": x.sum(1), "mean": x.sum(1) / np.maximum((x > 0).sum(1), 1), "max": x.max(1), "presence": (x > 0).any(1)}
    for name, found in mean_energies(codes, rows, LAYOUT.patches).items():
        np.testing.assert_allclose(found, expected[name].mean(0), rtol=1e-6, err_msg=name)


def test_definitions_rank_alike_where_every_code_is_one_and_apart_where_strength_and_spread_differ(tmp_path):
    rng = np.random.default_rng(0)
    real = np.zeros((30, 5, 6))
    real[:, 1] = 1.0
    fires = rng.random((30, 6)) < np.linspace(0.1, 0.9, 6)
    once = np.zeros_like(real)
    once[:, 1] = fires
    swapped = once.copy()
    swapped[:, 1] *= np.array([2.0**i for i in range(6)][::-1])
    codes = {name: stored_codes(tmp_path / name, [dense_codes(x)], 6) for name, x in
             {"real": real, "once": once, "swapped": swapped}.items()}  # fmt: skip
    rows = {name: np.arange(30) for name in codes}
    tested = {"once": np.ones(6, bool), "swapped": np.ones(6, bool)}
    table = definitions_table(codes, rows, tested, LAYOUT.patches)
    np.testing.assert_allclose(definitions_matrix(table, "once"), 1)
    matrix = definitions_matrix(table, "swapped")
    assert matrix.loc["presence", "sum"] < 0.5
    np.testing.assert_allclose(matrix, matrix.T)
    few = definitions_table(codes, rows, {"once": np.arange(6) < 2}, LAYOUT.patches)
    assert few["r"].isna().all()
