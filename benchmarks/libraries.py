"""SAEs as other libraries write them, beside the codes and reconstructions of those libraries themselves.

Each maker writes an SAE with random weights to a folder and returns it with what its own library makes of tokens. Where a
release that writes the file does not install here (ViT-Prisma, saev after 0.1.0), its formula is written out instead.
"""

import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.peers import import_bare, import_overcomplete, import_sae_lens
from benchmarks.timing import Row
from blindspots_lib.sae.dictionaries import decode
from blindspots_lib.sae.formats import read_sae

D, EXPANSION, TOP_K = 24, 4, 5  # features, concepts per feature, active concepts


class Peer(NamedTuple):
    """An SAE in a file, and the other library's codes and reconstructions of tokens."""

    path: Path
    settings: str | None
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]  # of codes, for the tokens that were encoded last
    given: dict[str, Any] | None = None  # what the study must say, since no file does


def shaken(module: nn.Module) -> nn.Module:
    """Move all parameters off their start, so that no bias is 0 and no atom of unit length."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def saev(folder: Path) -> Peer:
    nn_ = import_bare("saev", "nn")
    sae = shaken(nn_.SparseAutoencoder(nn_.config.SparseAutoencoder(d_vit=D, exp_factor=EXPANSION)))
    nn_.dump(str(folder / "sae.pt"), sae)
    return Peer(folder / "sae.pt", None, lambda x: sae(x)[1], sae.decode)


def later_saev(kind: str, folder: Path) -> Peer:
    """The formula of saev at schema 5: no bias is subtracted before encoding; in use, BatchTopK is a threshold."""
    weights, activation = plain_weights(), {"cls": kind, "params": {"top_k": TOP_K}}
    if kind == "BatchTopK":
        weights["activation.threshold"] = torch.tensor(0.8)
    with open(folder / "sae.pt", "wb") as opened:
        opened.write(json.dumps({"schema": 5, "cfg": {"d_model": D, "activation": activation}}).encode() + b"\n")
        torch.save(weights, opened)

    def encode(x: Tensor) -> Tensor:
        preactivations = x @ weights["W_enc"] + weights["b_enc"]
        if kind == "TopK":
            return only_largest(preactivations, TOP_K)
        return preactivations * (preactivations > weights.get("activation.threshold", torch.zeros(())))

    return Peer(folder / "sae.pt", None, encode, lambda codes: codes @ weights["W_dec"] + weights["b_dec"])


def plain_weights() -> dict[str, Tensor]:
    k = D * EXPANSION
    return {"W_enc": torch.randn(D, k) / D**0.5, "b_enc": 0.2 * torch.randn(k), "W_dec": torch.randn(k, D) / D**0.5,
            "b_dec": 0.2 * torch.randn(D)}  # fmt: skip


def only_largest(x: Tensor, top_k: int) -> Tensor:
    largest = x.topk(top_k, dim=1)
    return torch.zeros_like(x).scatter(1, largest.indices, largest.values.relu())


def sae_lens(module: str, name: str, folder: Path, **settings: Any) -> Peer:
    library = import_sae_lens(module)
    kind, config = getattr(library, name), getattr(library, f"{name}Config")
    sae = shaken(kind(config(d_in=D, d_sae=D * EXPANSION, **settings)))
    if hasattr(sae, "threshold"):
        sae.threshold.data.abs_()
    sae.save_model(folder)
    return Peer(folder / "sae_weights.safetensors", "cfg.json", sae.encode, sae.decode)


class VisionModelSAERunnerConfig:
    """ViT-Prisma's configuration, as far as its SAE reads it; a pickle names it by the module that it says it is from."""


VisionModelSAERunnerConfig.__module__ = "vit_prisma.sae.config"


@contextmanager
def named_as_in_prisma() -> Iterator[None]:
    """Let pickle find the configuration's class where it says it is from."""
    module = types.ModuleType("vit_prisma.sae.config")
    module.VisionModelSAERunnerConfig = VisionModelSAERunnerConfig
    names = ("vit_prisma", "vit_prisma.sae", "vit_prisma.sae.config")
    sys.modules.update(dict.fromkeys(names, module))
    yield
    for name in names:
        del sys.modules[name]


def prisma(pickled: bool, folder: Path, **settings: Any) -> Peer:
    """The formula of ViT-Prisma's SparseAutoencoder, in the file of its `save_model` or with config.json beside it."""
    settings = {"architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {}} | settings
    weights = plain_weights()
    if settings["architecture"] == "gated":
        weights |= {name: 0.2 * torch.randn(D * EXPANSION) for name in ("b_gate", "r_mag", "b_mag")}
    if pickled:
        config = VisionModelSAERunnerConfig()
        vars(config).update(settings, dtype=torch.float32, device=torch.device("cpu"))
        with named_as_in_prisma():
            torch.save({"cfg": config, "state_dict": weights}, folder / "weights.pt")
    else:
        torch.save(weights, folder / "weights.pt")
        (folder / "config.json").write_text(json.dumps(settings))
    undo: list[tuple[Tensor, Tensor]] = []

    def encode(x: Tensor) -> Tensor:
        mean, deviation = x.mean(dim=-1, keepdim=True), (x - x.mean(dim=-1, keepdim=True)).std(dim=-1, keepdim=True)
        undo[:] = [(mean, deviation)] if settings.get("normalize_activations") == "layer_norm" else [(0.0, 1.0)]
        x = ((x - mean) / (deviation + 1e-5) if undo[0][0] is mean else x) - weights["b_dec"]
        if settings["architecture"] == "gated":
            magnitude = x @ (weights["W_enc"] * weights["r_mag"].exp()) + weights["b_mag"]
            return magnitude.relu() * (x @ weights["W_enc"] + weights["b_gate"] > 0)
        preactivations = x @ weights["W_enc"] + weights["b_enc"]
        return only_largest(preactivations, TOP_K) if settings["activation_fn_str"] == "topk" else preactivations.relu()

    def decode(codes: Tensor) -> Tensor:
        mean, deviation = undo[0]
        return (codes @ weights["W_dec"] + weights["b_dec"]) * deviation + mean

    return Peer(folder / "weights.pt", None if pickled else "config.json", encode, decode)


def dictionary_learning(module: str, name: str, *arguments: Any, folder: Path, **given: Any) -> Peer:
    sae = shaken(getattr(import_bare("dictionary_learning", module), name)(D, D * EXPANSION, *arguments))
    if hasattr(sae, "threshold"):
        sae.threshold.data = sae.threshold.abs().clamp(max=0.5)
    torch.save(sae.state_dict(), folder / "ae.pt")
    if name == "AutoEncoder":
        sae.normalize_decoder()  # as its from_pretrained does
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name}, "buffer": {}}))
    return Peer(folder / "ae.pt", None if given else "config.json", sae.encode, sae.decode, given)


def overcomplete(kind: str, encoder: str, folder: Path) -> Peer:
    library, settings = import_overcomplete(), {"encoder_module": encoder, "device": "cpu"}
    k, given = D * EXPANSION, {"top_k": TOP_K}
    if kind == "RATopKSAE":
        sae, given = (
            library.RATopKSAE(D, k, points=torch.randn(2 * k, D), top_k=TOP_K, delta=0.5, **settings),
            given | {"radius": 0.5},
        )
    else:
        total = TOP_K * 64 if kind == "BatchTopKSAE" else TOP_K
        sae, given = getattr(library, kind)(D, k, top_k=total, **settings), given | {"normalization": "l2"}
    sae = shaken(sae).train()
    for _ in range(3):
        sae(1.5 * torch.randn(64, D) + 0.3)  # moves the running values of the batch norm and of the threshold
    sae.eval()
    if kind == "BatchTopKSAE":
        given |= {"top_k": None, "threshold": float(sae.running_threshold)}
    save_file({name: value.contiguous() for name, value in sae.state_dict().items()}, folder / "sae.safetensors")
    return Peer(folder / "sae.safetensors", None, lambda x: sae.encode(x)[1], sae.decode, given)


def sparsify(folder: Path) -> Peer:
    library = import_bare("sparsify", "sparse_coder")
    sae = shaken(library.SparseCoder(D, library.SparseCoderConfig(expansion_factor=EXPANSION, k=TOP_K)))
    sae.save_to_disk(folder)

    def encode(x: Tensor) -> Tensor:
        found = sae.encode(x)
        return torch.zeros(len(x), sae.num_latents).scatter(1, found.top_indices, found.top_acts)

    return Peer(folder / "sae.safetensors", "cfg.json", encode, lambda codes: codes @ sae.W_dec + sae.b_dec)


TOP_K_OF_DICTIONARY_LEARNING = partial(dictionary_learning, "trainers.top_k", "AutoEncoderTopK", TOP_K)
BATCH_TOP_K_OF_DICTIONARY_LEARNING = partial(dictionary_learning, "trainers.batch_top_k", "BatchTopKSAE", TOP_K)
GROUPS = [D * EXPANSION // 4, D * EXPANSION * 3 // 4]
OWN, FORMULA = "its own encode and decode", "its published formula"
MAKERS: dict[str, tuple[str, Callable[..., Peer]]] = {
    "Overcomplete: RA-SAE": (OWN, partial(overcomplete, "RATopKSAE", "linear")),
    "Overcomplete: RA-SAE, layer norm over the concepts": (OWN, partial(overcomplete, "RATopKSAE", "mlp_ln_1")),
    "Overcomplete: TopK, batch norm": (OWN, partial(overcomplete, "TopKSAE", "mlp_bn_1")),
    "Overcomplete: BatchTopK": (OWN, partial(overcomplete, "BatchTopKSAE", "linear")),
    "saev 0.1.0: ReLU": (OWN, saev),
    "saev, schema 2 to 5: ReLU": (FORMULA, partial(later_saev, "Relu")),
    "saev, schema 2 to 5: TopK": (FORMULA, partial(later_saev, "TopK")),
    "saev, schema 2 to 5: BatchTopK": (FORMULA, partial(later_saev, "BatchTopK")),
    "SAELens: standard": (OWN, partial(sae_lens, "standard_sae", "StandardSAE")),
    "SAELens: standard, bias not subtracted, constant norm": (OWN, partial(
        sae_lens, "standard_sae", "StandardSAE", apply_b_dec_to_input=False, normalize_activations="constant_norm_rescale")),
    "SAELens: TopK": (OWN, partial(sae_lens, "topk_sae", "TopKSAE", k=TOP_K)),
    "SAELens: TopK, rescaled by the decoder's norm": (OWN, partial(
        sae_lens, "topk_sae", "TopKSAE", k=TOP_K, rescale_acts_by_decoder_norm=True)),
    "SAELens: JumpReLU (BatchTopK is saved as one)": (OWN, partial(sae_lens, "jumprelu_sae", "JumpReLUSAE")),
    "SAELens: gated, layer norm": (OWN, partial(sae_lens, "gated_sae", "GatedSAE", normalize_activations="layer_norm")),
    "ViT-Prisma: standard, configuration in the file": (FORMULA, partial(prisma, True)),
    "ViT-Prisma: standard, layer norm": (FORMULA, partial(prisma, False, normalize_activations="layer_norm")),
    "ViT-Prisma: TopK": (FORMULA, partial(prisma, False, activation_fn_str="topk", activation_fn_kwargs={"k": TOP_K})),
    "ViT-Prisma: gated": (FORMULA, partial(prisma, True, architecture="gated")),
    "dictionary_learning: AutoEncoder": (OWN, partial(dictionary_learning, "dictionary", "AutoEncoder")),
    "dictionary_learning: gated": (OWN, partial(dictionary_learning, "dictionary", "GatedAutoEncoder")),
    "dictionary_learning: JumpReLU": (OWN, partial(dictionary_learning, "dictionary", "JumpReluAutoEncoder")),
    "dictionary_learning: TopK": (OWN, TOP_K_OF_DICTIONARY_LEARNING),
    "dictionary_learning: TopK, top_k given": (OWN, partial(TOP_K_OF_DICTIONARY_LEARNING, top_k=TOP_K)),
    "dictionary_learning: BatchTopK": (OWN, BATCH_TOP_K_OF_DICTIONARY_LEARNING),
    "dictionary_learning: BatchTopK, top_k: null": (OWN, partial(BATCH_TOP_K_OF_DICTIONARY_LEARNING, top_k=None)),
    "dictionary_learning: Matryoshka BatchTopK": (OWN, partial(
        dictionary_learning, "trainers.matryoshka_batch_top_k", "MatryoshkaBatchTopKSAE", TOP_K, GROUPS)),
    "sparsify: TopK": (OWN, sparsify),
}  # fmt: skip


class Deviation(NamedTuple):
    """The largest difference between what is computed here and there, as a fraction of the largest number there."""

    codes: float
    reconstruction: float


def deviation_of(maker: Callable[..., Peer], folder: Path, n_tokens: int = 200) -> Deviation:
    """Read an SAE of another library, and compare what it makes of random tokens."""
    torch.manual_seed(7)
    peer, x = maker(folder=folder), 1.5 * torch.randn(n_tokens, D) + 0.3
    sae = read_sae(peer.path, peer.settings, **(peer.given or {}))
    with torch.no_grad():
        codes = peer.encode(x)
        reconstruction = peer.decode(codes)
    assert 0 < (codes > 0).float().mean() < 1
    ours = decode(sae.encode(x), torch.eye(sae.n_concepts)), sae(x)[0]
    return Deviation(
        *(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, (codes, reconstruction.squeeze(1)), strict=True))
    )


VERSIONS = {
    "Overcomplete": "overcomplete",
    "SAELens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
    "sparsify": "eai-sparsify",
}


def measure_libraries() -> dict[str, dict[str, object]]:
    """Return for each kind of SAE what it was compared with, and the largest deviations."""
    table = {}
    for name, (against, maker) in MAKERS.items():
        library = name.partition(":")[0]
        of_version = f", {library} {version(VERSIONS[library])}" if library in VERSIONS else ""
        with TemporaryDirectory() as folder:
            table[name] = {"against": against + of_version, **deviation_of(maker, Path(folder))._asdict()}
    return table


def library_rows(table: dict[str, dict[str, object]]) -> list[Row]:
    return [
        Row(
            f"largest deviation of {part}, SAEs of other libraries on random tokens", "their own, or their published formula",
            [max(row[part] for row in table.values())], 2e-6, "of the largest",
        )
        for part in Deviation._fields
    ]  # fmt: skip
