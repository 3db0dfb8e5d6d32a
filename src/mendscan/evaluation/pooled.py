"""The voxels of all cases in one pool, per case and score value, so that weights of the cases give any resample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mendscan.evaluation.ranking import Ranking

__all__ = ["PooledVoxels"]


@dataclass(frozen=True, eq=False)
class PooledVoxels:
    """Voxels of each case per score value.

    Attributes:
        values_V: The score values that occur, ascending.
        healthy_NV: Healthy voxels.
        anomalous_NV: Anomalous voxels, of all lesions or of some.
        threshold: The healthy voxel threshold, in map units; None if there is none.
    """

    values_V: Float[np.ndarray, " V"]
    healthy_NV: Float[np.ndarray, "N V"]
    anomalous_NV: Float[np.ndarray, "N V"]
    threshold: float | None

    def figures(self, weights_BN: Float[np.ndarray, "B N"]) -> dict[str, Float[np.ndarray, " B"]]:
        """Return the figures of the pooled voxels for each weighting of the cases."""
        ranking = Ranking(weights_BN @ self.healthy_NV, weights_BN @ self.anomalous_NV)
        figures = {
            "voxel_ap": ranking.average_precision(),
            "voxel_auroc": ranking.auroc(),
            "voxel_fpr_at_95_tpr": ranking.fpr_at_tpr(),
            "best_dice": ranking.best_dice(),
        }
        if self.threshold is not None:
            figures["dice"] = ranking.dice_where(self._above_V(self.threshold))
        return figures

    def condensed(self) -> PooledVoxels:
        """Pool the healthy values between those that an anomalous voxel has: no figure can tell them apart.

        The figures stay the same but for rounding.  A stratum of small lesions has far fewer values than a cohort.
        """
        occupied_V = np.any(self.anomalous_NV > 0, axis=0)
        begins_V = np.ones(len(self.values_V), np.bool_)
        begins_V[1:] = occupied_V[1:] | occupied_V[:-1]
        if self.threshold is not None:
            above_V = self._above_V(self.threshold)
            begins_V[1:] |= above_V[1:] != above_V[:-1]
        begins = np.flatnonzero(begins_V)
        healthy_NV = np.add.reduceat(self.healthy_NV, begins, axis=1)
        anomalous_NV = np.add.reduceat(self.anomalous_NV, begins, axis=1)
        return PooledVoxels(self.values_V[begins], healthy_NV, anomalous_NV, self.threshold)

    def _above_V(self, threshold: float) -> Bool[np.ndarray, " V"]:
        """Which values are above the threshold, which is rounded as they are."""
        return self.values_V > float(np.float16(threshold))
