import pytest
import torch

from blindspots_lib.sae import optimizer as module
from blindspots_lib.sae.dictionaries import row_gradient
from blindspots_lib.sae.optimizer import RowAdamW


@pytest.mark.parametrize("block", [6, 10**6])
def test_it_is_adamw_with_clipped_gradients(monkeypatch, block):
    """Rows without a gradient move on too, by their moments and the weight decay."""
    monkeypatch.setattr(module, "BLOCK", block)
    torch.manual_seed(0)
    parameters = {"matrix": torch.randn(10, 3), "vector": torch.randn(10)}
    references = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    reference = torch.optim.AdamW(references.values(), lr=0.1, weight_decay=0.3)
    optimizer = RowAdamW(parameters, weight_decay=0.3)
    seen = []
    for step in range(4):
        rows = torch.randperm(10)[:4].sort().values
        gradients = {name: torch.randn(4, *value.shape[1:]) * (step + 1) for name, value in parameters.items()}
        optimizer.step(
            [row_gradient(name, rows, value) for name, value in gradients.items()], 0.1, max_norm=2.0,
            project=lambda name, block: seen.append((name, len(block))),
        )  # fmt: skip
        for name, value in references.items():
            value.grad = torch.zeros_like(value).index_copy(0, rows, gradients[name])
        torch.nn.utils.clip_grad_norm_(references.values(), 2.0)
        reference.step()
        for name, value in references.items():
            torch.testing.assert_close(parameters[name], value.detach(), msg=f"{name}, step {step}")
    assert sum(length for name, length in seen if name == "matrix") == 40  # every row is projected once a step
