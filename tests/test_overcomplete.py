"""SAEs of Overcomplete against the real package."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.peers import import_overcomplete
from blindspots_lib.core.errors import StudyError
from blindspots_lib.sae.dictionaries import decode
from blindspots_lib.sae.formats import read_sae
from blindspots_lib.sae.model import TopKSAE, load_sae
from blindspots_lib.sae.overcomplete import to_overcomplete

D, K, C = 6, 20, 15


@pytest.fixture(scope="module")
def overcomplete():
    try:
        return import_overcomplete()
    except ImportError as error:
        pytest.skip(str(error))


def peer_sae(overcomplete, kind: str):
    """A trained-looking SAE of Overcomplete: weights off their start, statistics of the batch norm not trivial."""
    torch.manual_seed(3)
    encoder = {"batch norm": "mlp_bn_1", "layer norm": "mlp_ln_1"}.get(kind.partition(" with ")[2], "linear")
    if kind.startswith("RA-SAE"):
        sae = overcomplete.RATopKSAE(D, K, points=torch.randn(C, D), top_k=4, delta=0.5, encoder_module=encoder)
    elif kind.startswith("BatchTopK"):
        sae = overcomplete.BatchTopKSAE(D, K, top_k=60, encoder_module=encoder, dictionary_params={"use_multiplier": True})
    else:
        sae = overcomplete.TopKSAE(D, K, top_k=4, encoder_module=encoder)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for _ in range(3):
        sae(torch.randn(50, D) * 2 + 1)  # moves the batch norm's and the threshold's running values
    return sae.eval()


@pytest.mark.parametrize("kind", ["RA-SAE", "RA-SAE with batch norm", "RA-SAE with layer norm", "TopK", "TopK with batch norm",
                                  "TopK with layer norm", "BatchTopK"])  # fmt: skip
def test_what_is_read_gives_the_same_codes_and_reconstructions(overcomplete, tmp_path, kind):
    peer, x = peer_sae(overcomplete, kind), torch.randn(40, D) * 2 + 1
    path = tmp_path / "sae.safetensors"
    save_file({key: value.contiguous() for key, value in peer.state_dict().items()}, path)
    top_k, threshold = (None, peer.running_threshold.item()) if kind == "BatchTopK" else (4, None)
    sae = read_sae(path, None, top_k, threshold, radius=0.5, normalization="l2")
    _, codes, reconstruction = peer(x)
    torch.testing.assert_close(decode(sae.encode(x), torch.eye(K)), codes)
    torch.testing.assert_close(sae(x)[0], reconstruction)
    torch.testing.assert_close(sae.dictionary.atoms(), peer.get_dictionary())


def test_the_published_form_is_read_without_running_its_pickle(overcomplete, tmp_path):
    """A pickled DataParallel(BatchTopKSAE), archetypal, layer norm over the concepts, threshold elsewhere."""
    peer = peer_sae(overcomplete, "BatchTopK with layer norm")
    dictionary = peer_sae(overcomplete, "RA-SAE").dictionary
    peer.dictionary = dictionary
    threshold, x = peer.running_threshold.item(), torch.randn(40, D) * 2 + 1
    _, codes, reconstruction = peer(x)
    peer.running_threshold = None
    torch.save(torch.nn.DataParallel(peer), tmp_path / "RA-SAE.pth")
    sae = read_sae(tmp_path / "RA-SAE.pth", None, None, threshold, radius=0.5)
    torch.testing.assert_close(decode(sae.encode(x), torch.eye(K)), codes)
    torch.testing.assert_close(sae(x)[0], reconstruction)
    with pytest.raises(StudyError, match="a norm over the concepts is folded in; keep the file"):
        to_overcomplete(sae)


# Imports an SAE in $FOLDER and prints the bytes of memory that this took at its peak.
IMPORT = """
import os
from pathlib import Path
import torch
from blindspots_lib.core.artifacts import Workspace
from blindspots_lib.core.config import TrainedSAE
from blindspots_lib.sae.formats import import_sae
from blindspots_lib.run.costs import import_memory

def peak():  # of this process alone: ru_maxrss starts at that of its parent
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])

config = TrainedSAE(path=os.environ["FOLDER"], file="sae.pth", n_concepts=int(os.environ["K"]), top_k=5, radius=20.0)
torch.rand(64, 64) @ torch.rand(64, 64)
before = peak()
import_sae(Workspace("one", Path(os.environ["FOLDER"]) / "runs", 0), config)
print(peak() - before, import_memory(config, int(os.environ["D"])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_import_holds_the_file_once_and_a_plan_says_so(tmp_path, run_python):
    k, d = 8000, 192  # a sixty-fourth of the published one
    state = {
        "encoder.final_block.0.weight": torch.randn(k, d), "encoder.final_block.0.bias": torch.zeros(k),
        "encoder.final_block.1.weight": torch.ones(k), "encoder.final_block.1.bias": torch.zeros(k),
        "dictionary.W": torch.rand(k, k), "dictionary.C": torch.randn(k, d), "dictionary.Relax": torch.randn(k, d),
    }  # fmt: skip
    torch.save(state, tmp_path / "sae.pth")
    process = run_python(IMPORT, FOLDER=str(tmp_path), K=str(k), D=str(d))
    peak, planned = map(int, process.stdout.split())
    assert peak == pytest.approx(planned, rel=0.2), process.stderr
    assert planned < 1.35 * (tmp_path / "sae.pth").stat().st_size


@pytest.mark.parametrize("normalization", ["l2", "max_l2", "l1", "max_l1", "identity"])
def test_the_normalization_of_atoms_is_asked_for_and_followed(overcomplete, tmp_path, normalization):
    torch.manual_seed(5)
    peer, x = overcomplete.TopKSAE(D, K, top_k=4, dictionary_params={"normalization": normalization}), torch.randn(40, D)
    path = tmp_path / "sae.safetensors"
    save_file({key: 1.0 * value for key, value in peer.state_dict().items()}, path)  # as it was before the dictionary is built
    peer.eval()
    with pytest.raises(StudyError, match=r"lengths from 0\.\d+ to [\d.]+, and .* give normalization: l2, max_l2, l1, max_l1, id"):
        read_sae(path, top_k=4)
    sae = read_sae(path, top_k=4, normalization=normalization)
    torch.testing.assert_close(sae(x)[0], peer(x)[2])


def test_our_own_free_dictionary_comes_back_as_it_was(tmp_path):
    torch.manual_seed(0)
    sae, x = TopKSAE(D, K, 4, C, dictionary="free"), torch.randn(40, D)
    sae.start_from(3 * torch.randn(C, D), token_length=3.0)
    save_file(to_overcomplete(sae), tmp_path / "sae.safetensors")
    with pytest.raises(StudyError, match="give normalization"):
        read_sae(tmp_path / "sae.safetensors", top_k=4)
    again = read_sae(tmp_path / "sae.safetensors", top_k=4, normalization="identity")
    torch.testing.assert_close(again(x)[0], sae(x)[0])


def test_a_wide_relaxation_asks_for_its_radius_and_concepts_without_weights_stay_bare(overcomplete, tmp_path):
    """More concepts than points: Overcomplete leaves rows of W at zero, so that their atoms are the relaxation alone."""
    torch.manual_seed(6)
    peer, x = overcomplete.RATopKSAE(D, K, points=torch.randn(C, D), top_k=4, delta=3.0), torch.randn(40, D)
    with torch.no_grad():
        peer.dictionary.Relax.add_(2 * torch.randn(K, D))
    assert (peer.dictionary.W.relu().sum(dim=1) == 0).any()
    path = tmp_path / "sae.safetensors"
    save_file({key: 1.0 * value for key, value in peer.state_dict().items()}, path)
    peer.eval()
    with pytest.raises(StudyError, match=r"rows of dictionary.Relax are up to [\d.]+ long; give radius"):
        read_sae(path, top_k=4)
    sae = read_sae(path, top_k=4, radius=3.0)
    torch.testing.assert_close(sae.dictionary.atoms(), peer.get_dictionary())
    torch.testing.assert_close(sae(x)[0], peer(x)[2])


@pytest.mark.parametrize(("name", "said"), [("dictionary.Relax", "the dictionary"), ("encoder.final_block.0.weight", "weights")])
def test_a_number_that_is_not_finite_is_named(tmp_path, name, said):
    state = small_state()
    state[name][7, 2] = torch.nan
    save_file(state, tmp_path / "sae.safetensors")
    with pytest.raises(StudyError, match=rf"{said} of concept 7 are not finite"):
        read_sae(tmp_path / "sae.safetensors", top_k=4, radius=1.0)


class Treacherous:
    def __reduce__(self):
        return (exec, ("raise RuntimeError('the pickle ran')",))


@pytest.mark.parametrize("kind", ["dense", "local", "free"])
def test_what_is_written_gives_overcomplete_the_same_codes(overcomplete, kind):
    torch.manual_seed(0)
    sae = TopKSAE(D, K, 4, C, dictionary=kind, n_neighbours=5, relaxation_radius=0.5)
    sae.start_from(torch.randn(C, D), token_length=3.0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if kind == "free":
        peer = overcomplete.TopKSAE(D, K, top_k=4, dictionary_params={"normalization": "identity"})
    else:
        sae.dictionary.project()
        peer = overcomplete.RATopKSAE(D, K, points=torch.zeros(C, D), top_k=4, delta=0.5)
    peer.load_state_dict(to_overcomplete(sae))
    peer.eval()
    x = torch.randn(40, D)
    _, codes, reconstruction = peer(x)
    torch.testing.assert_close(decode(sae.encode(x), torch.eye(K)), codes)
    torch.testing.assert_close(sae(x)[0], reconstruction)


def small_state() -> dict[str, torch.Tensor]:
    sae = TopKSAE(D, K, 4, C)
    return to_overcomplete(sae)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dictionary.W": None}, "it lacks dictionary.W. Expected .* found dictionary.C, dictionary.Relax"),
        ({"encoder.mlp_blocks.0.0.weight": torch.zeros(2, 2)}, "encoder.mlp_blocks.0.0.weight is of no encoder that is known"),
        ({"dictionary.C": torch.zeros(C, 7)}, r"dictionary.C has shape \(15, 7\) where \(15, 6\) fits"),
        ({"dictionary.Relax": torch.zeros(3, D)}, r"dictionary.Relax has shape \(3, 6\) where \(20, 6\) fits"),
    ],
)
def test_another_layout_is_named(tmp_path, change, message):
    state = {key: value for key, value in (small_state() | change).items() if value is not None}
    save_file(state, tmp_path / "sae.safetensors")
    with pytest.raises(StudyError, match=message):
        read_sae(tmp_path / "sae.safetensors", top_k=4)


def test_a_missing_threshold_is_asked_for_and_a_stored_one_is_read(tmp_path):
    save_file(small_state(), tmp_path / "a.safetensors")
    with pytest.raises(StudyError, match="holds no running_threshold; give it"):
        read_sae(tmp_path / "a.safetensors", top_k=None)
    torch.save(small_state() | {"running_threshold": torch.tensor(0.829)}, tmp_path / "b.pt")
    sae = read_sae(tmp_path / "b.pt", top_k=None)
    sae.save_pretrained(tmp_path / "saved")
    again = load_sae(tmp_path / "saved")
    assert again.top_k is None
    assert again.threshold.item() == pytest.approx(0.829)


def test_pickles_and_torn_files_are_refused(tmp_path):
    torch.save(TopKSAE(D, K, 4, C), tmp_path / "module.pt")
    with pytest.raises(StudyError, match="names blindspots_lib.* which loading it would run, so it is refused"):
        read_sae(tmp_path / "module.pt", top_k=4)
    torch.save({"encoder": Treacherous()}, tmp_path / "trap.pt")
    with pytest.raises(StudyError, match="names builtins.exec"):
        read_sae(tmp_path / "trap.pt", top_k=4)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(StudyError, match="expected a state dict of tensors, found a list"):
        read_sae(tmp_path / "list.pt", top_k=4)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(StudyError, match="not readable as tensors"):
        read_sae(tmp_path / "torn.safetensors", top_k=4)
    with pytest.raises(StudyError, match="no such file"):
        read_sae(tmp_path / "none.safetensors", top_k=4)
