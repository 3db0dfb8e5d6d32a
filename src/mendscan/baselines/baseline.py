"""The one face of all baselines: a map of one prepared scan, and one score of that map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from mendscan.cohort.preparing import Prepared
from mendscan.config import Settings
from mendscan.shapes import SlicesSHW

__all__ = ["Baseline"]


class Baseline(ABC):
    """A fitted baseline; nothing changes it any more.

    Attributes:
        name: What the method is called in results.
        steps: Training steps taken; 0 where nothing is trained in steps.
        device: Where maps are computed.
    """

    name: ClassVar[str]
    steps: int = 0
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def residual(self, prepared: Prepared) -> SlicesSHW:
        """Return the raw map of a scan on the model grid: its own units, higher = more anomalous."""

    def scan_score(self, map_SHW: Float32[np.ndarray, "S H W"], where_SHW: Bool[np.ndarray, "S H W"]) -> float:
        """Return one score per scan, higher = more anomalous: here the mean of the map.

        Args:
            map_SHW: What `residual` returned.
            where_SHW: The voxels that count; without any, the score is 0.
        """
        values = map_SHW[where_SHW]
        return float(values.mean(dtype=np.float64)) if values.size else 0.0

    def facts(self) -> dict[str, Any]:
        """Return all that was fitted and is no array, as JSON values; `tensors` has the rest."""
        return {"steps": self.steps}

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the fitted arrays by name."""

    @classmethod
    @abstractmethod
    def of_saved(
        cls, settings: Settings, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> Baseline:
        """Rebuild what `facts` and `tensors` returned.

        Args:
            settings: The plan that it was fitted under.
            facts: What `facts` returned.
            tensors: What `tensors` returned.
            device: Where a network goes.
        """
