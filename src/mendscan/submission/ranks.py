"""Scores and maps as the challenge wants them, in [0, 1], without losing their order.

The challenge clips predictions to [0, 1] and then only looks at their order: whatever is clipped at 1 is tied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

__all__ = ["MAP_SCALE", "SCORE_SCALE", "challenge_map", "challenge_score"]

MAP_SCALE = 64.0
"""Healthy thresholds that the challenge's map shows as 0.5; a power of two, which float32 scales exactly.

The challenge reads maps as float16, which has 1024 values from 0.5 to 1 and as many in each octave below.  With the
healthy threshold at 0.5, evidence from 1 to 1000 thresholds has 1023 values, and above 2000 all is the same; with the
threshold at 1 / 65 it has 6000, and up to 64 thresholds two voxels that differ by 0.1 % are told apart.
"""
SCORE_SCALE = 64.0
"""Healthy spreads above the healthy median that the challenge's score shows as 0.75: far ones stay apart as float32."""


def challenge_map(ranking: Float32[np.ndarray, " n *shape"]) -> Float32[np.ndarray, " n *shape"]:
    """Spread a ranking map over the values that float16 has; the order stays.

    With r = m / (1 − m), the evidence in healthy thresholds, the result is r / (r + `MAP_SCALE`).

    Args:
        ranking: m, as `Detector.ranking_map` gives it: in [0, 1), 0.5 = the healthy threshold.

    Returns:
        In [0, 1), higher = more anomalous; 0 stays 0.

    Example:
        >>> challenge_map(np.array([0.0, 0.5, 64 / 65], np.float32)).round(4).tolist()
        [0.0, 0.015399999916553497, 0.5]
    """
    spread = np.empty_like(ranking)
    for index, given in enumerate(ranking):  # slice by slice: a whole scan in float64 would be large
        exact = given.astype(np.float64)
        spread[index] = exact / (exact + MAP_SCALE * (1.0 - exact))
    return spread


def challenge_score(score: float, healthy_scores: Sequence[float]) -> float:
    """Bring a scan score into (0, 1), strictly increasing: 0.5 = the median healthy scan.

    With z, the distance from the healthy median in `SCORE_SCALE` healthy spreads: (1 + z / (1 + |z|)) / 2.  It is
    written with all its digits, and the challenge reads scores as float64: scores are tied only where they are equal.

    Args:
        score: Of either kind, paper or parts, negative or positive; higher = more anomalous.
        healthy_scores: Of the same kind, of the calibration scans.  A model without calibration has none: the median
            then counts as 0, and the spread as 1.

    Example:
        >>> challenge_score(3.0, [1.0, 2.0, 3.0, 4.0, 5.0])
        0.5
        >>> challenge_score(900.0, [1.0, 2.0, 3.0, 4.0, 5.0]) < challenge_score(901.0, [1.0, 2.0, 3.0, 4.0, 5.0]) < 1
        True
    """
    healthy = np.asarray(healthy_scores if len(healthy_scores) else (-1.0, 1.0), dtype=np.float64)
    median = float(np.median(healthy))
    # Where healthy scans agree, a hundredth of what they agree on is the unit; the order does not depend on it.
    spread = max(float(healthy.std()), 0.01 * abs(median), 1e-6)
    z = (float(score) - median) / (SCORE_SCALE * spread)
    return (1.0 + z / (1.0 + abs(z))) / 2.0
