"""AdamW on parameters whose gradients are zero in most rows, a block of rows at a time."""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from blindspots_lib.sae.dictionaries import RowGradient

BLOCK = 2**19  # entries of a parameter updated at a time, few enough to stay in the cache


class RowAdamW:
    """torch.optim.AdamW to the letter, moments of untouched rows decaying too, without a gradient of full size.

    Loshchilov and Hutter, ICLR 2019. Moments are float32 tensors of the parameters' shapes.
    """

    def __init__(self, parameters: Mapping[str, Tensor], weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)):
        self.parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self.weight_decay, self.betas = weight_decay, betas
        self.means = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.squares = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.n_steps = 0

    @torch.no_grad()
    def step(
        self, gradients: Iterable[RowGradient], learning_rate: float, max_norm: float, project: Callable[[str, Tensor], None]
    ) -> None:
        """One step; gradients are scaled down to `max_norm` taken together, as by clip_grad_norm_.

        `project(name, rows)` brings rows back to where they must be, while they are at hand.
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
            done.fill_(self.n_steps - 1)  # it counts up itself
            adamw(
                [rows], [dense], [self.means[gradient.name][here]], [self.squares[gradient.name][here]], [], [done], fused=True,
                amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=learning_rate, weight_decay=self.weight_decay,
                eps=1e-8, maximize=False,
            )  # fmt: skip
            project(gradient.name, rows)
