"""AdamW for parameters whose gradients are zero in most rows, one block of rows at a time."""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from blindspots_lib.sae.dictionaries import RowGradient

BLOCK = 2**19  # entries of a parameter updated at a time: they stay in the cache


class RowAdamW:
    """The same updates as torch.optim.AdamW, also of rows without a gradient, but no gradient of full size is formed.

    Moments have the parameters' shapes and dtypes. Source: Loshchilov and Hutter, ICLR 2019.
    """

    def __init__(self, parameters: Mapping[str, Tensor], weight_decay: float):
        self.parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self.weight_decay, self.n_steps = weight_decay, 0
        self.means = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.squares = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def step(
        self, gradients: Iterable[RowGradient], learning_rate: float, max_norm: float, project: Callable[[str, Tensor], None]
    ) -> None:
        """Take one step. Gradients are scaled together to a norm of at most `max_norm`, as by clip_grad_norm_.

        `project(name, rows)` brings updated rows back to where they must lie, while they are in the cache.
        """
        gradients = list(gradients)
        norm = torch.stack([gradient.squared_norm for gradient in gradients]).sum().sqrt().item()
        scale = min(1.0, max_norm / (norm + 1e-6))
        self.n_steps += 1
        for gradient in gradients:
            self.update(gradient, learning_rate, scale, project)

    def update(self, gradient: RowGradient, learning_rate: float, scale: float, project: Callable[[str, Tensor], None]) -> None:
        parameter = self.parameters[gradient.name]
        height = max(1, BLOCK * len(parameter) // parameter.numel())
        starts = torch.arange(0, len(parameter) + height, height, device=parameter.device)
        bounds = torch.searchsorted(gradient.rows, starts).tolist()
        done = torch.tensor(0.0, device=parameter.device)
        memory = parameter.new_empty((min(height, len(parameter)), *parameter.shape[1:]))
        for block, (first, last) in enumerate(pairwise(bounds)):
            begin = block * height
            here = slice(begin, begin + height)
            rows = parameter[here]
            dense = memory[: len(rows)].zero_()
            if last > first:
                dense[gradient.rows[first:last] - begin] = gradient.part(first, last) * scale
            done.fill_(self.n_steps - 1)  # adamw adds 1 to it
            adamw(
                [rows], [dense], [self.means[gradient.name][here]], [self.squares[gradient.name][here]], [], [done], fused=True,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=learning_rate, weight_decay=self.weight_decay,
                eps=1e-8, maximize=False,
            )  # fmt: skip
            project(gradient.name, rows)
