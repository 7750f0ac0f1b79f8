"""The peers that the benchmarks compare with, imported or written out, each as its own authors run it."""

import importlib
import importlib.util
import logging
import sys
import time
import types
from importlib.metadata import version
from types import ModuleType


def import_bare(package: str, module: str, **attributes: object) -> ModuleType:
    """Import a module of a package without the package's own __init__, which asks for more than is installed here.

    `attributes` are set on the package, where the module reads them. Raises ImportError if the package is not installed.
    """
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ImportError(f"{package} is not installed: pip install --no-deps -r requirements-peers.lock")
        bare = types.ModuleType(package)
        bare.__path__ = list(spec.submodule_search_locations)
        vars(bare).update(attributes)
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{module}")


def import_overcomplete() -> ModuleType:
    """Import `overcomplete.sae`; the package's own __init__ fails with current versions of matplotlib."""
    return import_bare("overcomplete", "sae")


def import_sae_lens(module: str) -> ModuleType:
    """Import a module of `sae_lens.saes`, with stand-ins for the two classes of transformer_lens that its SAEs derive from."""
    import torch

    if "transformer_lens" not in sys.modules:
        hooks = {"HookPoint": type("HookPoint", (torch.nn.Identity,), {}),
                 "HookedRootModule": type("HookedRootModule", (torch.nn.Module,), {"setup": lambda self: None})}  # fmt: skip
        for name in ("transformer_lens", "transformer_lens.hook_points", "transformer_lens.HookedTransformer"):
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(hooks)
    import_bare("sae_lens", "constants", __version__=version("sae-lens"), logger=logging.getLogger("sae_lens"))
    return importlib.import_module(f"sae_lens.saes.{module}")


class OvercompleteTraining:
    """Overcomplete's `train_sae` on one of its SAEs, with our loss, clipping and AdamW."""

    def __init__(self, sae, learning_rate: float):
        import torch

        self.sae, self.train = sae, importlib.import_module("overcomplete.sae.train").train_sae
        self.optimizer = torch.optim.AdamW(sae.parameters(), lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-5)

    def steps(self, batches: list, monitoring: int = 0) -> list[float]:
        """Train on the batches; return the losses if `monitoring` is 1, which takes extra time."""
        logs = self.train(
            self.sae, batches, mean_squared_error, self.optimizer, nb_epochs=1, clip_grad=1.0, monitoring=monitoring
        )
        return logs["step_loss"]


def mean_squared_error(x, x_hat, pre_codes, codes, dictionary):
    return (x - x_hat).square().mean()


class EagerSparseTraining:
    """A top-k SAE as EleutherAI's sparsify trains it without its kernel: dense codes, sparse decoding, autograd, AdamW."""

    def __init__(self, weight, bias, atoms, top_k: int, learning_rate: float):
        import torch

        self.parameters = [torch.nn.Parameter(tensor.clone()) for tensor in (weight, bias, atoms)]
        self.top_k = top_k
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-5)

    def steps(self, batches: list) -> list[float]:
        import torch
        from torch.nn import functional as F

        weight, bias, atoms = self.parameters
        losses = []
        for x in batches:
            top = F.relu(F.linear(x, weight, bias)).topk(self.top_k, dim=-1, sorted=False)
            x_hat = F.embedding_bag(top.indices, atoms, per_sample_weights=top.values, mode="sum")
            loss = (x - x_hat).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            losses.append(loss.item())
        return losses


class PublishedStatistics:
    """The published scripts' arithmetic: dense codes, Z^T Z for every 10 images, a loop over the concepts for every 4."""

    def __init__(self, n_concepts: int, n_top: int):
        import torch

        self.energy = torch.zeros(n_concepts)
        self.cooccurrence = torch.zeros(n_concepts, n_concepts)
        self.top_energies = torch.zeros(n_concepts, n_top)
        self.top_ids = torch.full((n_concepts, n_top), -1, dtype=torch.int64)
        self.n_images = 0
        self.seconds = 0.0  # spent in `add`

    def add(self, codes) -> None:
        """Add ten images of dense codes, (b, t, k)."""
        import torch

        begin = time.perf_counter()
        flat = codes.flatten(0, 1)
        self.cooccurrence += flat.T @ flat
        energies = codes.sum(dim=1)
        self.energy += energies.sum(dim=0)
        n_top = self.top_ids.shape[1]
        for some in energies.split(4):
            ids = torch.arange(self.n_images, self.n_images + len(some))
            self.n_images += len(some)
            for concept in range(energies.shape[1]):
                merged = torch.cat([self.top_energies[concept], some[:, concept]])
                best = merged.topk(n_top)
                self.top_energies[concept] = best.values
                self.top_ids[concept] = torch.cat([self.top_ids[concept], ids])[best.indices]
        self.seconds += time.perf_counter() - begin
