"""From evidence to a map in [0, 1]: what is usual at each place, learnt from held-out healthy scans.

Each channel of evidence is smoothed and standardised by its healthy mean and spread per position; each kind becomes the
−log of its healthy tail probability; the kinds are combined by a soft maximum.  No anomaly is ever seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from mendscan.config import DetectionSettings
from mendscan.detection.evidence import KINDS, Channels, Evidence
from mendscan.detection.scoring import pooled_residual, unclipped_residual
from mendscan.detection.standardising import HealthyReference, Sigma, leave_one_out, to_unit_interval
from mendscan.shapes import MapSHW

__all__ = [
    "HealthyKind",
    "TailTable",
    "VoxelCalibration",
    "calibrate_voxels",
    "channel_names",
    "left_out_maps",
    "left_out_nats",
    "paper_map",
]

_SMALLEST_SCALE = 1e-6
"""Where healthy scans show no residual at all, a ranking still needs a scale."""
_USUALLY = 0.1
"""A position belongs to the anatomy where this share of the healthy scans shows something."""


@dataclass(frozen=True)
class TailTable:
    """−log of the healthy tail probability of a standardised value, interpolated from quantiles.

    Attributes:
        values: Ascending quantiles of healthy voxels.
        nats: −log P(healthy voxel > value) at each; beyond the last, the last slope goes on.
    """

    values: tuple[float, ...]
    nats: tuple[float, ...]

    @classmethod
    def of(cls, healthy: Float[np.ndarray, "..."]) -> TailTable:
        """Learn the table from healthy voxels, up to the tail that a thousand of them support."""
        rarest = min(1e-1, 1e3 / healthy.size) if healthy.size > 1e4 else 1e-1
        tail = np.geomspace(0.9, rarest, 40)
        values = np.maximum.accumulate(np.quantile(healthy, 1 - tail) + 1e-9 * np.arange(40))
        return cls(tuple(map(float, values)), tuple(map(float, -np.log(tail))))

    def __call__(self, standardised: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return −log tail probability, >= 0; higher = rarer among healthy voxels."""
        values, nats = np.array(self.values), np.array(self.nats)
        inside = np.interp(standardised, values, nats, left=0.0)
        half = len(values) // 2
        slope = (nats[-1] - nats[half]) / max(values[-1] - values[half], 1e-9)
        return inside + slope * np.maximum(standardised - values[-1], 0)


@dataclass(frozen=True)
class HealthyKind:
    """How one kind of evidence is in healthy scans.

    Attributes:
        references: Healthy mean and spread of each channel.
        tail: Healthy tail of the excess that the standardised channels show.
    """

    references: tuple[HealthyReference, ...]
    tail: TailTable

    def standardised(self, channels_CSHW: Channels) -> Channels:
        """Return channels in healthy standard deviations above the healthy mean."""
        pairs = zip(self.references, channels_CSHW, strict=True)
        return np.stack([reference.standardised(channel_SHW) for reference, channel_SHW in pairs])


@dataclass(frozen=True)
class VoxelCalibration:
    """What turns evidence into a map in [0, 1].

    Attributes:
        threshold: The healthy threshold of the map: `threshold_quantile` of healthy voxels lie below.
        kinds: The kinds of evidence, by name; none for the paper's map.
        usual_SHW: Share of the healthy scans that show something at each position; where neither they nor the scan do,
            the map is 0.
        scale: The combined evidence, in nats, that the map shows as 0.5.
        settings: How the kinds, or the paper's map, are made.
    """

    threshold: float
    kinds: Mapping[str, HealthyKind] = field(default_factory=dict)
    usual_SHW: Float32[np.ndarray, "S H W"] | None = None
    scale: float = 1.0
    settings: DetectionSettings = field(default_factory=DetectionSettings)

    def map_of(self, evidence: Evidence) -> MapSHW:
        """Return the anomaly map on the model grid, in [0, 1]."""
        return self.as_map(self.nats_of(evidence)) if self.kinds else paper_map(evidence, self.settings)

    def ranking_of(self, evidence: Evidence) -> MapSHW:
        """Return a map in [0, 1) that orders voxels as `map_of` does and tells those apart that it clips at 1.

        The healthy threshold is worth 0.5.
        """
        if self.kinds:
            return self.map_of(evidence)
        residual_SHW = unclipped_residual(
            _restored_residual(evidence), min_pool=self.settings.min_pool, mean_pool_SHW=self.settings.mean_pool_SHW
        )
        return to_unit_interval(residual_SHW, max(self.threshold, _SMALLEST_SCALE))

    def as_map(self, nats_SHW: MapSHW) -> MapSHW:
        """Return combined evidence as a map in [0, 1], in the same order; `scale` is worth 0.5."""
        return to_unit_interval(nats_SHW, self.scale)

    def nats_of(self, evidence: Evidence) -> MapSHW:
        """Return the combined evidence, −log of how rare it is among healthy voxels, >= 0.

        Raises:
            ValueError: If this calibration is of the paper's map, which standardises nothing.
        """
        return self.nats_of_standardised(self._standardised(evidence), evidence.foreground_SHW)

    def nats_of_standardised(
        self, standardised: Mapping[str, Channels], foreground_SHW: Bool[np.ndarray, "S H W"]
    ) -> MapSHW:
        """Return the same from channels in healthy standard deviations above the healthy mean.

        Raises:
            ValueError: If this calibration is of the paper's map, which standardises nothing.
        """
        if not self.kinds:
            raise ValueError("the paper's map has no healthy tails")
        excess = self._excess(standardised, foreground_SHW)
        combined = _combined([kind.tail(excess[name]) for name, kind in self.kinds.items()])
        return np.where(self.scored(foreground_SHW), combined, 0.0)

    def excess_of(self, evidence: Evidence) -> dict[str, MapSHW]:
        """Return how far each kind of evidence is from usual, in healthy standard deviations: higher = more anomalous.

        Empty for the paper's map, which standardises nothing.
        """
        return self._excess(self._standardised(evidence), evidence.foreground_SHW)

    def _standardised(self, evidence: Evidence) -> dict[str, Channels]:
        return {name: kind.standardised(KINDS[name].channels(evidence)) for name, kind in self.kinds.items()}

    def _excess(
        self, standardised: Mapping[str, Channels], foreground_SHW: Bool[np.ndarray, "S H W"]
    ) -> dict[str, MapSHW]:
        scored_SHW = self.scored(foreground_SHW)
        return {name: KINDS[name].excess(standardised[name], scored_SHW, self.settings) for name in self.kinds}

    def scored(self, foreground_SHW: Bool[np.ndarray, "S H W"]) -> Bool[np.ndarray, "S H W"]:
        """Return where a scan is scored: where it shows something, or healthy scans usually do."""
        return _scored(foreground_SHW, self.usual_SHW)

    def to_json(self) -> dict[str, Any]:
        """Return all but the arrays as JSON values."""
        tails = {f"{name}_tail": kind.tail for name, kind in self.kinds.items()}
        return {
            "map_threshold": self.threshold,
            "map_scale_nats": self.scale,
            **{name: {"values": tail.values, "nats": tail.nats} for name, tail in tails.items()},
        }

    def arrays(self) -> dict[str, Float32[np.ndarray, "S H W"]]:
        """Return the healthy means and spreads by name."""
        found = {} if self.usual_SHW is None else {"usual_foreground": self.usual_SHW}
        for name, kind in ((name, kind) for name, kind in self.kinds.items() if not KINDS[name].relative):
            for channel, reference in zip(channel_names(name), kind.references, strict=True):
                found |= {f"{channel}_mean": reference.mean_SHW, f"{channel}_spread": reference.spread_SHW}
        return found

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], arrays: Mapping[str, Float32[np.ndarray, "S H W"]], settings: DetectionSettings
    ) -> VoxelCalibration:
        """Rebuild what `to_json` and `arrays` returned."""
        kinds = {}
        for name, kind in KINDS.items():
            if (table := values.get(f"{name}_tail")) is not None:
                sigma = settings.along_axes(kind.sigma(settings))
                references = tuple(
                    HealthyReference.unchanged(sigma_voxels=sigma)
                    if kind.relative
                    else HealthyReference(arrays[f"{one}_mean"], arrays[f"{one}_spread"], sigma)
                    for one in channel_names(name)
                )
                kinds[name] = HealthyKind(references, TailTable(tuple(table["values"]), tuple(table["nats"])))
        return cls(values["map_threshold"], kinds, arrays.get("usual_foreground"), values["map_scale_nats"], settings)


def calibrate_voxels(evidence: Sequence[Evidence], settings: DetectionSettings) -> VoxelCalibration:
    """Learn the map's statistics and threshold from the evidence of held-out healthy scans."""
    if settings.voxel_map == "residual":
        maps = np.stack([paper_map(each, settings) for each in evidence])
        return VoxelCalibration(float(np.quantile(maps, settings.threshold_quantile)), settings=settings)
    foreground_NSHW = np.stack([each.foreground_SHW for each in evidence])
    usual_SHW = foreground_NSHW.mean(axis=0, dtype=np.float32)
    scored_NSHW = _scored(foreground_NSHW, usual_SHW)
    kinds: dict[str, HealthyKind] = {}
    nats = []
    for name in (name for name in KINDS if name in settings.evidence):
        kind = KINDS[name]
        sigma = settings.along_axes(kind.sigma(settings))
        maps_CNSHW = _channels_of(name, evidence)
        references = tuple(_reference(name, maps_NSHW, sigma) for maps_NSHW in maps_CNSHW)
        # A scan that helped to set the mean and spread looks more usual than a new one; leaving it out undoes that.
        left_out_CNSHW = _left_out(name, maps_CNSHW, sigma)
        excess_NSHW = np.stack(
            [kind.excess(left_out_CNSHW[:, index], scored_NSHW[index], settings) for index in range(len(evidence))]
        )
        kinds[name] = HealthyKind(references, TailTable.of(excess_NSHW[scored_NSHW]))
        nats.append(kinds[name].tail(excess_NSHW[scored_NSHW]))
    scale = max(float(np.quantile(_combined(nats), settings.threshold_quantile)), 1e-6)
    return VoxelCalibration(0.5, kinds, usual_SHW, scale, settings)


def left_out_maps(voxels: VoxelCalibration, evidence: Sequence[Evidence]) -> Iterator[MapSHW]:
    """Yield the map of each calibration scan as if it were new: standardised by the *other* scans.

    The paper's map standardises nothing, and is what it is.

    Args:
        voxels: What `calibrate_voxels` learnt from `evidence`.
        evidence: Of at least three healthy scans for a standardised map: with two there is no spread without one.

    Yields:
        One map per scan, on the model grid, in [0, 1].
    """
    if voxels.kinds:
        yield from (voxels.as_map(nats_SHW) for nats_SHW in left_out_nats(voxels, evidence))
    else:
        yield from map(voxels.map_of, evidence)


def left_out_nats(voxels: VoxelCalibration, evidence: Sequence[Evidence]) -> Iterator[MapSHW]:
    """Yield the combined evidence of each calibration scan as if it were new, in nats; see `left_out_maps`."""
    left_out = {
        name: _left_out(name, _channels_of(name, evidence), kind.references[0].sigma_voxels)
        for name, kind in voxels.kinds.items()
    }
    for index, each in enumerate(evidence):
        own = {name: maps_CNSHW[:, index] for name, maps_CNSHW in left_out.items()}
        yield voxels.nats_of_standardised(own, each.foreground_SHW)


def _channels_of(name: str, evidence: Sequence[Evidence]) -> Float32[np.ndarray, "C N S H W"]:
    return np.stack([KINDS[name].channels(each) for each in evidence], axis=1)


def _reference(name: str, maps_NSHW: Float32[np.ndarray, "N S H W"], sigma: Sigma) -> HealthyReference:
    if KINDS[name].relative:
        return HealthyReference.unchanged(sigma_voxels=sigma)
    return HealthyReference.fit(maps_NSHW, sigma_voxels=sigma)


def _left_out(
    name: str, maps_CNSHW: Float32[np.ndarray, "C N S H W"], sigma: Sigma
) -> Float32[np.ndarray, "C N S H W"]:
    """Standardise each healthy map as if it were new; one that is relative already has nothing to leave out."""
    if KINDS[name].relative:
        reference = HealthyReference.unchanged(sigma_voxels=sigma)
        return np.stack([[reference.standardised(each) for each in maps_NSHW] for maps_NSHW in maps_CNSHW])
    return np.stack([leave_one_out(maps_NSHW, sigma_voxels=sigma) for maps_NSHW in maps_CNSHW])


def channel_names(name: str) -> list[str]:
    """Return what the channels of a kind of evidence are called."""
    count = KINDS[name].n_channels
    return [name] if count == 1 else [f"{name}_{channel}" for channel in range(count)]


def _scored(
    foreground: Bool[np.ndarray, "*N S H W"], usual_SHW: Float32[np.ndarray, "S H W"] | None
) -> Bool[np.ndarray, "*N S H W"]:
    """Return where a scan is scored: where it shows something, or healthy scans usually do (it may be missing here)."""
    return foreground if usual_SHW is None else foreground | (usual_SHW >= _USUALLY)


def _combined(nats: Sequence[Float[np.ndarray, "*any"]]) -> Float[np.ndarray, "*any"]:
    """Return the cube root of the sum of cubes: a soft maximum in which two voices count a little more than one."""
    return np.cbrt(np.sum([each**3 for each in nats], axis=0))


def paper_map(evidence: Evidence, settings: DetectionSettings) -> MapSHW:
    """Return the paper's map: the pooled residual, clipped to 1.

    Raises:
        ValueError: If nothing was restored.
    """
    return pooled_residual(
        _restored_residual(evidence), min_pool=settings.min_pool, mean_pool_SHW=settings.mean_pool_SHW
    )


def _restored_residual(evidence: Evidence) -> MapSHW:
    if evidence.residual_SHW is None:
        raise ValueError("the paper's map needs restorations")
    return evidence.residual_SHW
