"""Which library wrote an SAE, what must be given, what contradicts the file, and what is known but not read."""

import json

import pytest
import torch
from safetensors.torch import save_file

from blindspots_lib.core.artifacts import Workspace
from blindspots_lib.core.config import TrainedSAE
from blindspots_lib.core.errors import StudyError
from blindspots_lib.sae.formats import import_sae, read_sae
from blindspots_lib.sae.model import TopKSAE, load_sae
from blindspots_lib.sae.overcomplete import to_overcomplete

D, K = 3, 4
PLAIN = {"W_enc": torch.eye(D, K), "b_enc": torch.zeros(K), "W_dec": torch.eye(K, D), "b_dec": torch.ones(D)}
LENS = {"architecture": "standard", "apply_b_dec_to_input": True, "normalize_activations": "none"}
DECODER = {"encoder.weight": torch.eye(K, D), "encoder.bias": torch.zeros(K), "decoder.weight": torch.eye(D, K),
           "b_dec": torch.ones(D), "k": torch.tensor(2), "threshold": torch.tensor(0.5)}  # fmt: skip
SPARSE = {"encoder.weight": torch.eye(K, D), "W_dec": torch.eye(K, D)}
GELU = {"schema": 5, "cfg": {"activation": {"cls": "Gelu", "params": {}}}}
UNREAD = ", which is known but not read"


@pytest.fixture
def written(tmp_path):
    """Write tensors and settings to a folder; return the arguments of `read_sae`."""

    def write(tensors, settings=None):
        save_file(tensors, tmp_path / "sae.safetensors")
        if settings is not None:
            (tmp_path / "cfg.json").write_text(json.dumps(settings))
        return tmp_path / "sae.safetensors", None if settings is None else "cfg.json"

    return write


def test_codes_and_reconstruction_by_hand(written):
    """JumpReLU: z_k = x_k - b_k where that is above its threshold; x^ = z + b."""
    thresholds = torch.tensor([0.5, 1.0, 0.0, 9.0])
    sae = read_sae(*written(PLAIN | {"threshold": thresholds}, LENS | {"architecture": "jumprelu"}))
    reconstruction, codes = sae(torch.tensor([[2.0, 2.0, 0.5], [1.5, 3.0, 1.25]]))
    dense = torch.zeros(2, K).scatter_add(1, codes.indices, codes.values)
    assert dense.tolist() == [[1, 0, 0, 0], [0, 2, 0.25, 0]]  # 1 is not above 1, 0.5 not above 0.5, -0.5 is no code
    assert reconstruction.tolist() == [[2, 1, 1], [1, 3, 1.25]]


def test_layer_norm_by_hand(written):
    """(1, 2, 3) has mean 2 and deviation 1: n(x) = (-1, 0, 1), z = relu(n(x) - b) = 0, x^ = (0 + b) 1 + 2."""
    sae = read_sae(*written(PLAIN, LENS | {"normalize_activations": "layer_norm"}))
    reconstruction, codes = sae(torch.tensor([[1.0, 2.0, 3.0]]))
    assert codes.values.max() == 0
    torch.testing.assert_close(reconstruction, torch.full((1, D), 3.0))


def test_our_own_comes_back_as_it_was(tmp_path):
    torch.manual_seed(0)
    sae, x = TopKSAE(D, K, 2, 5, dictionary="local", n_neighbours=2), torch.randn(9, D)
    sae.start_from(torch.randn(5, D), token_length=3.0)
    sae.save_pretrained(tmp_path)
    again = read_sae(tmp_path / "model.safetensors", "config.json")
    assert again.top_k == 2
    torch.testing.assert_close(again(x)[0], sae.eval()(x)[0])
    with pytest.raises(
        StudyError, match=r"an SAE of this project; give sae.file: model.safetensors and sae.settings: config.json"
    ):
        read_sae(tmp_path / "model.safetensors")


def test_an_import_keeps_thresholds_bias_and_norm(written, tmp_path):
    path, settings = written(
        PLAIN | {"threshold": torch.full((K,), 0.25)}, LENS | {"architecture": "jumprelu", "normalize_activations": "layer_norm"}
    )
    config = TrainedSAE(path=str(tmp_path), file=path.name, settings=settings, n_concepts=K)
    artifact = import_sae(Workspace("one", tmp_path / "runs", 0), config)
    x = torch.randn(9, D)
    torch.testing.assert_close(load_sae(artifact.folder)(x)[0], read_sae(path, settings)(x)[0])
    with pytest.raises(StudyError, match="Overcomplete has no norm over the tokens"):
        to_overcomplete(load_sae(artifact.folder))


@pytest.mark.parametrize(
    ("tensors", "settings", "given", "message"),
    [
        (PLAIN, None, {}, r"an SAE of SAELens, ViT-Prisma.*\(W_dec, W_enc, b_dec, b_enc\).*give sae.settings, the JSON file"),
        ({"w": torch.ones(2)}, None, {}, "an SAE of no library that is known; found w. Read are blindspots_lib, Overcompl"),
        (PLAIN, {"depth": 3}, {}, r"found W_dec, W_enc, b_dec, b_enc; its settings say depth"),
        (DECODER, None, {}, r"TopK or BatchTopK of .*give sae.settings: config.json, or sae.top_k: 2 \(TopK\) or null"),
        ({"encoder.final_block.0.weight": torch.eye(K, D), "encoder.final_block.0.bias": torch.zeros(K),
          "dictionary._weights": torch.eye(K, D)}, None, {}, r"an SAE of Overcomplete, .*give sae.top_k"),
        (PLAIN, LENS, {"top_k": 3}, r"sae.top_k = 3: .* keeps codes above a threshold \(null\); correct it, or remove it"),
        (PLAIN, LENS | {"architecture": "topk", "k": 2}, {"top_k": 3}, "sae.top_k = 3: .* keeps 2 per token"),
        (PLAIN, LENS, {"radius": 1.0}, "sae.radius: is for SAEs of Overcomplete, .* is none; remove it"),
        (PLAIN, LENS | {"architecture": "transcoder"}, {}, f"architecture transcoder{UNREAD}; standard, topk, jumprelu, gated"),
        (PLAIN, LENS | {"activation_fn": "tanh-relu"}, {}, "activation tanh-relu" + UNREAD),
        (PLAIN, LENS | {"normalize_activations": "expected_average_only_in"}, {}, "numbers are in no SAE's file.*fold them in"),
        (PLAIN, {"schema": 1, "cfg": {}}, {}, "schema 1 of saev, .* load it in saev and dump it again"),
        (PLAIN, GELU, {}, "activation Gelu of saev" + UNREAD),
        (DECODER, {"trainer": {"dict_class": "CrossCoder"}}, {}, "CrossCoder of dictionary_learning" + UNREAD),
        (SPARSE, {"k": 2, "transcode": True}, {}, "transcode of sparsify"),
        (SPARSE, {"k": 2, "activation": "groupmax"}, {}, "groupmax of sparsify"),
        (PLAIN | {"W_skip": torch.eye(D)}, LENS, {}, "W_skip is of no SAE that is read here; an SAE has W_dec, W_enc"),
        ({name: PLAIN[name] for name in ("W_enc", "W_dec", "b_dec")}, LENS, {}, "lacks b_enc; found W_dec, W_enc, b_dec"),
        (PLAIN | {"W_dec": torch.eye(D)}, LENS, {}, r"the decoder has shape \(3, 3\) where \(4, 3\) fits the encoder's \(4, 3\)"),
        (PLAIN | {"W_enc": torch.full((D, K), torch.nan)}, LENS, {}, "the encoder's weights of concept 0 are not finite"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(written, tensors, settings, given, message):
    with pytest.raises(StudyError, match=message):
        read_sae(*written(tensors, settings), **given)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cfg.json: no such file; correct sae.settings"), ("[1]", "cfg.json: holds no object"), ("{", "cfg.json: holds no")],
)
def test_settings_that_are_none(written, tmp_path, content, message):
    path, _ = written(PLAIN)
    if content:
        (tmp_path / "cfg.json").write_text(content)
    with pytest.raises(StudyError, match=message):
        read_sae(path, "cfg.json")
