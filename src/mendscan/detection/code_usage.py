"""How often each code is used: whether a scan is made of what healthy scans are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from mendscan.detection.gate_facts import Range

__all__ = ["CodeUsage"]

_NO_DIVERGENCE = 1e-6
"""Bits; for the logarithm."""


@dataclass(frozen=True, eq=False)
class CodeUsage:
    """How healthy scans use the codes.

    Attributes:
        mean_K: Mean share of every code.
        apart: Range of the logarithm of the divergence of a scan's shares from those of the others, in bits.
    """

    mean_K: Float64[np.ndarray, " K"]
    apart: Range

    @classmethod
    def learn(cls, scans: Sequence[Int[np.ndarray, "S h w"]], *, codes: int) -> CodeUsage:
        """Learn from the codes of healthy scans, three at least."""
        shares = np.stack([_shares(scan, codes) for scan in scans])
        apart = [_divergence(own, np.delete(shares, n, axis=0).mean(0)) for n, own in enumerate(shares)]
        return cls(shares.mean(0), Range.of(np.log(np.maximum(apart, _NO_DIVERGENCE)).tolist(), 0.0))

    def divergence(self, scan_Shw: Int[np.ndarray, "S h w"]) -> float:
        """Return how far a scan's use of the codes is from that of healthy scans.

        The Jensen-Shannon divergence in bits, in [0, 1]; 0 = the same, 1 = no code in common.
        """
        return _divergence(_shares(scan_Shw, len(self.mean_K)), self.mean_K)


def _shares(codes_Shw: Int[np.ndarray, "S h w"], count: int) -> Float64[np.ndarray, " K"]:
    return np.bincount(codes_Shw.ravel(), minlength=count) / codes_Shw.size


def _divergence(one: Float64[np.ndarray, " K"], other: Float64[np.ndarray, " K"]) -> float:
    """Return the Jensen-Shannon divergence of two distributions, in bits, in [0, 1]."""
    middle = (one + other) / 2

    def entropy(shares: Float64[np.ndarray, " K"]) -> float:
        return -float(np.sum(shares * np.log2(np.where(shares > 0, shares, 1))))

    return max(0.0, entropy(middle) - (entropy(one) + entropy(other)) / 2)
