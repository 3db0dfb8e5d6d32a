"""Muon: matrices move along the orthogonal matrix nearest to their momentum, all else by AdamW.

A gradient mostly has few strong directions, and Adam follows those.  Made orthogonal, an update is as large in the
weak ones, and networks need a fraction of the steps (K. Jordan et al., "Muon", 2024; size of the update as in Liu et
al., "Muon is scalable for LLM training", 2025).  PyTorch's own takes matrices alone; nearly all weights here are
convolutions, which are matrices from all inputs of a filter to its output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn, optim

__all__ = ["Muon", "orthogonalised"]

_MOMENTUM = 0.95
_FEWEST = 8
"""Weights with fewer rows or columns have no weak directions to speak of."""
_UPDATE_SIZE = 0.2
"""Root mean square of an update at a learning rate of 1: about that of Adam's."""
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of x, x³ and x⁵: within five iterations they bring singular values from 0.01 up to about 1 (0.7 to 1.2)."""


class Muon(optim.AdamW):
    """Muon for weights of at least two dimensions, AdamW for the rest, with one learning rate.

    Args:
        parameters: What is trained.
        lr: Learning rate of both.
        weight_decay: Of both, decoupled.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in parameters:
            (matrices if _is_matrix(parameter) else others).append(parameter)
        # In a fixed order, for states are saved by number.
        groups = [{"params": group, "orthogonal": group is matrices} for group in (matrices, others) if group]
        super().__init__(groups, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; gradients of matrices are used up, so that AdamW passes over them.

        Args:
            closure: None: gradients are there already.
        """
        for group in self.param_groups:
            for parameter in group["params"] if group["orthogonal"] else ():
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["weight_decay"])
                    parameter.grad = None
        super().step()

    def _move(self, parameter: nn.Parameter, gradient: Tensor, rate: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            # AdamW, when it is loaded, expects a step in every state.
            state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(gradient)}
        state["step"] += 1
        momentum = state["momentum"].mul_(_MOMENTUM).add_(gradient)
        ahead = gradient.add(momentum, alpha=_MOMENTUM).flatten(1)
        size = _UPDATE_SIZE * math.sqrt(max(ahead.shape))
        parameter.mul_(1 - rate * weight_decay)
        parameter.add_(orthogonalised(ahead).view(gradient.shape), alpha=-rate * size)


def orthogonalised(matrix: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
    """Return about the nearest matrix whose rows, or columns if they are fewer, are orthonormal.

    A Newton-Schulz iteration X ← (a + b XXᵀ + c (XXᵀ)²) X.  All its factors are polynomials of the first XXᵀ, so they
    are multiplied with one another first, which are small squares, and with X once.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    a, b, c = _QUINTIC
    x = matrix.float() / matrix.norm().clamp_min(1e-12)
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factors = identity
    for _ in range(_ITERATIONS):
        factor = a * identity + b * gram + c * gram @ gram
        factors, gram = factor @ factors, factor @ gram @ factor
    return factors @ x


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= _FEWEST
