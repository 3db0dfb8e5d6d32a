"""Dropout of whole channels from a stream of random numbers of one's own.

PyTorch's own dropout draws from one stream for the whole process: networks that are trained at once would each change
what the others draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

__all__ = ["ChannelDropout", "dropout_drawn_from"]

_STREAM: ContextVar[Generator | None] = ContextVar("dropout stream", default=None)
_SMALLEST_SHARE = 1e-9
"""Where all channels are dropped there are none to make up for them."""


@contextmanager
def dropout_drawn_from(generator: Generator) -> Iterator[None]:
    """Have dropout in this thread draw from `generator`, on the CPU, while the block lasts."""
    token = _STREAM.set(generator)
    try:
        yield
    finally:
        _STREAM.reset(token)


class ChannelDropout(nn.Module):
    """Drops whole channels in training and makes up for them by the others; changes nothing in evaluation.

    Args:
        probability: With which a channel of a slice is dropped, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the channels that are kept, scaled up, and zeros for the others."""
        if not self.training or self.probability == 0:
            return x_BCHW
        # Drawn on the CPU, so that every device drops the same.
        kept = torch.rand(*x_BCHW.shape[:2], 1, 1, generator=_STREAM.get()) >= self.probability
        return x_BCHW * (kept / max(1 - self.probability, _SMALLEST_SHARE)).to(x_BCHW)

    def extra_repr(self) -> str:
        """Return what a printed network shows of it."""
        return f"probability={self.probability:g}"
