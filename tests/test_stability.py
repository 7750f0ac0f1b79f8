import torch

from blindspots_lib.run.stages import make_training_tokens
from blindspots_lib.sae.batches import TrainingTokens
from blindspots_lib.sae.model import TopKSAE, load_sae
from blindspots_lib.sae.stability import active_atoms, compare_runs, describe_runs, train_runs


def test_runs_differ_in_the_order_of_tokens_or_in_their_start_too(make_study):
    study = make_study({
        "pairs.n": 6, "sae.n_concepts": 16, "sae.n_candidates": 16, "sae.seed": 3, "sae.kmeans_seed": 5,
        "sae.n_steps": 8, "sae.points_per_candidate": 6, "stability": {"n_orders": 2, "n_starts": 2},
    })  # fmt: skip
    tokens = make_training_tokens(study)
    runs = {(run.kind, run.start, run.number): run for run in train_runs(study.workspace, tokens, study.sae, study.stability)}
    sample = TrainingTokens(tokens, study.sae).sample(1000, 0)
    folders = {key: run.artifact.folder for key, run in runs.items()}
    assert len(runs) == 8
    assert len(set(folders.values())) == 6
    assert folders["RA-SAE", "same", 0] == folders["RA-SAE", "independent", 0]
    candidates = {key: load_sae(path).dictionary.candidates for key, path in folders.items() if key[0] == "RA-SAE"}
    assert torch.equal(candidates["RA-SAE", "same", 0], candidates["RA-SAE", "same", 1])
    assert not torch.equal(candidates["RA-SAE", "same", 0], candidates["RA-SAE", "independent", 1])
    assert not torch.equal(
        load_sae(folders["RA-SAE", "same", 0]).encoder.weight, load_sae(folders["RA-SAE", "same", 1]).encoder.weight
    )

    comparisons = compare_runs(sample, list(runs.values())).set_index(["kind", "start"])
    assert set(comparisons.index) == {
        ("RA-SAE", "same"), ("RA-SAE", "independent"), ("k-means", "independent"), ("TopK", "same"), ("TopK", "independent"),
    }  # fmt: skip
    for kind in ("RA-SAE", "TopK"):  # eight small steps move little: what differs is the start
        assert comparisons.loc[(kind, "same"), "mean_cosine"] > comparisons.loc[(kind, "independent"), "mean_cosine"]
    table = describe_runs(sample, list(runs.values())).set_index(["kind", "start", "run"])
    assert len(table) == 8
    assert table.loc[("RA-SAE", "same", 0)].equals(table.loc[("RA-SAE", "independent", 0)])


def test_atoms_of_concepts_that_never_fire_do_not_count():
    sae = TopKSAE(d=2, n_concepts=3, top_k=1, n_candidates=1, dictionary="free")
    with torch.no_grad():
        sae.encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]]))
        sae.encoder.bias.zero_()
        sae.dictionary.free_atoms.copy_(torch.arange(6.0).view(3, 2))
    assert active_atoms(sae, torch.tensor([[2.0, 1.0], [0.0, 3.0]])).tolist() == [[0.0, 1.0], [2.0, 3.0]]
