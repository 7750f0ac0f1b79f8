"""SAEs of other libraries: saev, SAELens, ViT-Prisma, dictionary_learning and sparsify, as one linear map with an activation.

Layout of their state dicts, k concepts and d features:

    W_enc (d, k), b_enc (k), W_dec (k, d), b_dec (d)                  saev, SAELens, ViT-Prisma; JumpReLU and Matryoshka of
                                                                      dictionary_learning
    threshold (k)                                                     JumpReLU; `log_threshold` in old files of SAELens
    b_gate, r_mag, b_mag (k)                                          gated SAEs of SAELens and ViT-Prisma
    encoder.weight (k, d), encoder.bias (k), W_dec (k, d), b_dec (d)  sparsify
    encoder.weight (k, d), [encoder.bias (k)], decoder.weight (d, k)  dictionary_learning, with `bias` or `b_dec`, and `k`,
                                                                      `threshold`, or `gate_bias`, `r_mag`, `mag_bias`

All but saev subtract the decoder's bias b from the token before they encode it, so that the bias of the encoder becomes v - V b.
A gated SAE keeps exp(r) V x + m where V x + g > 0, which is a JumpReLU with the thresholds m - exp(r) g (arXiv 2407.14435,
appendix). Codes above a threshold t are codes at or above the next number after t.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from blindspots_lib.core.errors import StudyError
from blindspots_lib.sae.model import InputNorm, TopKSAE
from blindspots_lib.sae.weight_files import WeightFile, check_finite

PLAIN = {"W_enc", "b_enc", "W_dec", "b_dec"}
GATED = {"b_gate", "r_mag", "b_mag"}


class LinearSAE(NamedTuple):
    """Codes z = act(V n(x) + v), reconstruction n^-1(z D + b); n is the norm of the tokens, if there is one."""

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, "k"]
    atoms: Float[Tensor, "k d"]
    decoder_bias: Float[Tensor, "d"]
    top_k: int | None = None
    threshold: Float[Tensor, "*k"] | None = None  # codes above it are kept; without it, all positive ones
    input_norm: InputNorm | None = None


def sae_of(linear: LinearSAE, file: WeightFile) -> TopKSAE:
    """Return the SAE of these weights. Raises StudyError if their shapes do not fit or a number is not finite."""
    if linear.weight.ndim != 2:
        raise StudyError(f"{file.path}: its encoder has {linear.weight.ndim} dimensions; only SAEs with one linear map are read")
    k, d = linear.weight.shape
    threshold = (
        torch.zeros(()) if linear.threshold is None else torch.nextafter(linear.threshold.float(), torch.tensor(torch.inf))
    )
    parts = {"encoder's bias": (linear.bias, (k,)), "decoder": (linear.atoms, (k, d)),
             "decoder's bias": (linear.decoder_bias, (d,)), "threshold": (threshold, (k,) if threshold.ndim else ())}  # fmt: skip
    for name, (tensor, shape) in parts.items():
        if tensor.shape != shape:
            raise StudyError(
                f"{file.path}: the {name} has shape {tuple(tensor.shape)} where {shape} fits the encoder's ({k}, {d})"
            )
    for name, numbers in (("the encoder's weights", linear.weight), ("the encoder's biases", linear.bias),
                          ("the dictionary", linear.atoms)):  # fmt: skip
        check_finite(numbers, name, file.path)
    sae = TopKSAE(
        d, k, linear.top_k, n_candidates=1, dictionary="free", input_norm=linear.input_norm, decoder_bias=True,
        concept_thresholds=threshold.ndim > 0,
    )  # fmt: skip
    sae.load_state_dict({
        "encoder.weight": linear.weight, "encoder.bias": linear.bias, "dictionary.free_atoms": linear.atoms,
        "decoder_bias": linear.decoder_bias, "threshold": threshold, "token_length": torch.ones(()),
    })  # fmt: skip
    return sae.eval()


def plain_weights(file: WeightFile, subtract: bool, *more: str) -> LinearSAE:
    """Return W_enc, b_enc, W_dec and b_dec as a linear map. Raises StudyError if one is missing or has company beyond `more`."""
    check_names(file, PLAIN, {*PLAIN, *more})
    weight, decoder_bias = numbers(file, "W_enc").T.contiguous(), numbers(file, "b_dec")
    return centred(weight, numbers(file, "b_enc"), numbers(file, "W_dec"), decoder_bias, subtract)


def centred(weight: Tensor, bias: Tensor, atoms: Tensor, decoder_bias: Tensor, subtract: bool = True) -> LinearSAE:
    """Return the linear map of a library that subtracts the decoder's bias from a token before it encodes it."""
    return LinearSAE(weight, bias - weight @ decoder_bias if subtract else bias, atoms, decoder_bias)


def numbers(file: WeightFile, name: str) -> Tensor:
    return file.tensors[name].float()


def check_names(file: WeightFile, needed: set[str], known: set[str]) -> None:
    if lacks := sorted(needed - file.tensors.keys()):
        raise StudyError(f"{file.path}: lacks {', '.join(lacks)}; found {', '.join(sorted(file.tensors)[:8])}")
    if others := sorted(file.tensors.keys() - known):
        raise StudyError(f"{file.path}: {others[0]} is of no SAE that is read here; an SAE has {', '.join(sorted(needed))}")


def refuse(file: WeightFile, what: str, mend: str) -> None:
    raise StudyError(f"{file.path}: {what}, which is known but not read; {mend}")


def read_saev(file: WeightFile) -> LinearSAE:
    """saev (github.com/OSU-NLP-Group/saev): a line of JSON, then the state dict. Only release 0.1.0 subtracts b_dec.

    Its TopK keeps negative numbers too, where fewer than top_k are positive; here they are dropped, as everywhere.
    """
    schema = file.settings.get("schema", 0)
    if schema == 1:
        refuse(file, "schema 1 of saev, written in two ways", "load it in saev and dump it again")
    activation = file.settings["cfg"]["activation"] if schema else {"cls": "Relu"}
    linear = plain_weights(file, schema == 0, "activation.threshold")
    kind, threshold = activation.get("cls"), file.tensors.get("activation.threshold")
    if kind == "Relu":
        return linear
    if kind == "BatchTopK" and threshold is not None:
        return linear._replace(threshold=threshold)
    if kind in ("TopK", "BatchTopK"):  # BatchTopK took the top_k of each token before it had a threshold
        return linear._replace(top_k=activation["params"]["top_k"])
    refuse(file, f"activation {kind} of saev", "Relu, TopK and BatchTopK are read")


def read_lens(file: WeightFile) -> LinearSAE:
    """SAELens (cfg.json) and ViT-Prisma (config.json, or in the file), whose SAEs have the same architectures and norms."""
    settings = file.settings
    function = settings.get("activation_fn_str") or settings.get("activation_fn") or "relu"
    architecture = settings.get("architecture", "standard")
    if architecture == "standard" and function == "topk":  # before SAELens 6, and in ViT-Prisma
        architecture, settings = "topk", {**settings, "k": settings["activation_fn_kwargs"]["k"]}
    elif function not in ("relu", "topk"):
        refuse(file, f"activation {function}", "relu and topk are read")
    subtract = settings.get("apply_b_dec_to_input", True)
    readers = {"standard": read_standard, "topk": read_topk, "jumprelu": read_jumprelu, "gated": read_gated}
    if architecture not in readers:
        refuse(file, f"architecture {architecture}", f"{', '.join(readers)} are read")
    return readers[architecture](file, settings, subtract)._replace(input_norm=input_norm_of(file, settings))


def input_norm_of(file: WeightFile, settings: dict[str, Any]) -> InputNorm | None:
    norm = settings.get("normalize_activations") or "none"
    if norm in ("none", "layer_norm", "constant_norm_rescale"):
        return None if norm == "none" else norm
    refuse(
        file, f"normalize_activations: {norm}, whose numbers are in no SAE's file", "fold them in with SAELens and save it again"
    )


def read_standard(file: WeightFile, settings: dict[str, Any], subtract: bool) -> LinearSAE:
    return plain_weights(file, subtract)


def read_topk(file: WeightFile, settings: dict[str, Any], subtract: bool) -> LinearSAE:
    linear = plain_weights(file, subtract)._replace(top_k=settings["k"])
    if not settings.get("rescale_acts_by_decoder_norm"):
        return linear
    return with_unit_atoms(linear)


def with_unit_atoms(linear: LinearSAE) -> LinearSAE:
    """Return the same reconstruction from atoms of unit length: codes are multiplied by the lengths."""
    lengths = linear.atoms.norm(dim=1)
    return linear._replace(
        weight=linear.weight * lengths[:, None], bias=linear.bias * lengths, atoms=linear.atoms / lengths[:, None]
    )


def read_jumprelu(file: WeightFile, settings: dict[str, Any], subtract: bool) -> LinearSAE:
    linear = plain_weights(file, subtract, "threshold", "log_threshold")
    if "log_threshold" in file.tensors:
        return linear._replace(threshold=numbers(file, "log_threshold").exp())
    check_names(file, {*PLAIN, "threshold"}, {*PLAIN, "threshold"})
    return linear._replace(threshold=numbers(file, "threshold"))


def read_gated(file: WeightFile, settings: dict[str, Any], subtract: bool) -> LinearSAE:
    needed = (PLAIN - {"b_enc"}) | GATED
    check_names(file, needed, needed | PLAIN)
    magnitude = numbers(file, "r_mag"), numbers(file, "b_mag")
    return gated(
        numbers(file, "W_enc").T, numbers(file, "b_gate"), *magnitude, numbers(file, "W_dec"), numbers(file, "b_dec"), subtract
    )


def gated(weight, gate_bias, log_gain, bias, atoms, decoder_bias, subtract: bool = True) -> LinearSAE:
    """Return a gated SAE as a JumpReLU: exp(r) V x + m where V x + g > 0, hence where it is above m - exp(r) g."""
    gain = log_gain.exp()
    linear = centred(weight * gain[:, None], bias, atoms, decoder_bias, subtract)
    return linear._replace(threshold=bias - gain * gate_bias)


def read_sparsify(file: WeightFile) -> LinearSAE:
    """sparsify of EleutherAI: sae.safetensors and cfg.json."""
    settings = file.settings
    for key in ("transcode", "skip_connection"):
        if settings.get(key):
            refuse(file, f"{key} of sparsify, which maps tokens to others", "give an SAE")
    if settings.get("activation", "topk") != "topk":
        refuse(file, f"activation {settings['activation']} of sparsify", "topk is read")
    names = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}
    check_names(file, names, names)
    linear = centred(*(numbers(file, name) for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")))
    return linear._replace(top_k=settings["k"])


def read_dictionary_learning(file: WeightFile, top_k: int | str | None) -> LinearSAE:
    """dictionary_learning: ae.pt and config.json. Its TopK and BatchTopK differ in config.json only."""
    kind = file.settings.get("trainer", {}).get("dict_class") or dict_class_of(file, top_k)
    readers: dict[str, Callable[[WeightFile], LinearSAE]] = {
        "AutoEncoder": read_autoencoder, "GatedAutoEncoder": read_gated_autoencoder, "AutoEncoderTopK": read_autoencoder_topk,
        "BatchTopKSAE": read_batch_topk, "MatryoshkaBatchTopKSAE": read_matryoshka,
        "JumpReluAutoEncoder": read_jump_relu_autoencoder,
    }  # fmt: skip
    if kind not in readers:
        refuse(file, f"{kind} of dictionary_learning", f"{', '.join(readers)} are read")
    return readers[kind](file)


def dict_class_of(file: WeightFile, top_k: int | str | None) -> str:
    """Tell the class by the tensors, and TopK from BatchTopK by what the study says."""
    if "group_sizes" in file.tensors:
        return "MatryoshkaBatchTopKSAE"
    if "gate_bias" in file.tensors:
        return "GatedAutoEncoder"
    if "k" not in file.tensors:
        return "AutoEncoder"
    if top_k == "file":
        raise StudyError(
            f"{file.path}: TopK or BatchTopK of dictionary_learning, which only its config.json says; give sae.settings: "
            f"config.json, or sae.top_k: {int(file.tensors['k'])} (TopK) or null (BatchTopK)"
        )
    return "BatchTopKSAE" if top_k is None else "AutoEncoderTopK"


def decoder_weights(file: WeightFile, decoder_bias: str, *more: str) -> LinearSAE:
    needed = {"encoder.weight", "encoder.bias", "decoder.weight", decoder_bias, *more}
    check_names(file, needed, needed)
    weight, bias, decoder_bias = (numbers(file, name) for name in ("encoder.weight", "encoder.bias", decoder_bias))
    return centred(weight, bias, numbers(file, "decoder.weight").T.contiguous(), decoder_bias)


def read_autoencoder(file: WeightFile) -> LinearSAE:
    return with_unit_atoms(decoder_weights(file, "bias"))  # its from_pretrained makes the atoms unit


def read_gated_autoencoder(file: WeightFile) -> LinearSAE:
    names = ("encoder.weight", "gate_bias", "r_mag", "mag_bias", "decoder.weight", "decoder_bias")
    check_names(file, set(names), set(names))
    weight, gate_bias, log_gain, bias, atoms, decoder_bias = (numbers(file, name) for name in names)
    return gated(weight, gate_bias, log_gain, bias, atoms.T.contiguous(), decoder_bias)


def read_autoencoder_topk(file: WeightFile) -> LinearSAE:
    linear = decoder_weights(file, "b_dec", "k", "threshold")
    return linear._replace(top_k=int(file.tensors["k"]))


def read_batch_topk(file: WeightFile) -> LinearSAE:
    return decoder_weights(file, "b_dec", "k", "threshold")._replace(threshold=numbers(file, "threshold"))


def read_matryoshka(file: WeightFile) -> LinearSAE:
    linear = plain_weights(file, True, "k", "threshold", "group_sizes")
    return linear._replace(threshold=numbers(file, "threshold"))


def read_jump_relu_autoencoder(file: WeightFile) -> LinearSAE:
    return plain_weights(file, False, "threshold")._replace(threshold=numbers(file, "threshold"))
