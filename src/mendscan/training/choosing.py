"""Which evidence, and how smooth?  Chosen on validation scans by anomalies made for that, never by a loss.

What suits one cohort need not suit another.  So validation scans get anomalies of kinds that no figure is ever reported
on (`cohort.selection_cases`), and each candidate is judged by the average precision of their voxels.  The loss of
held-out scans is no guide: a prior that predicts anomalies as well as anatomy has the lowest of all.

Candidates are tried one setting after the other, and the plan's own value stays unless another is clearly better: with
some tens of cases, the best of several is often best by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from mendscan.cohort.decision import Decision
from mendscan.cohort.preparing import prepare
from mendscan.cohort.selection_cases import with_selection_anomalies
from mendscan.config import DetectionSettings
from mendscan.detection.devices import one_thread
from mendscan.detection.evidence import Evidence
from mendscan.detection.networks import Networks
from mendscan.detection.voxel_calibration import calibrate_voxels
from mendscan.progress import Progress
from mendscan.volumes.reading import STANDARD_READER, ScanReader
from mendscan.volumes.volume import Volume

__all__ = ["CANDIDATES", "Chosen", "LabelledEvidence", "choose_detection"]

CANDIDATES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "evidence": (("nll", "discriminator"), ("nll",), ("discriminator",), ("nll", "texture", "discriminator")),
        "nll_sigma": (1.5, 2.0, 3.0),
    }
)
"""Values of detection settings, in the order in which they are chosen.  None needs restorations, which take longer."""
_FEWEST_SCANS = 4
"""With fewer validation or calibration scans nothing is chosen."""
_CASES = 24
"""Validation scans are used again, with other anomalies, until there are so many cases."""
_ANOMALIES = 3
"""In each case."""
_CLEARLY = 2.0
"""Standard errors of the mean difference by which another value must be better."""


class Chosen(NamedTuple):
    """What was chosen, and why."""

    settings: DetectionSettings
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, eq=False)
class LabelledEvidence:
    """What the networks say of a scan with anomalies, and where these are on the model grid."""

    evidence: Evidence
    label_SHW: Bool[np.ndarray, "S H W"]


def choose_detection(
    networks: Networks,
    *,
    healthy: Sequence[Path],
    validation: Sequence[Path],
    fixed: frozenset[str] = frozenset(),
    progress: Progress,
    reader: ScanReader = STANDARD_READER,
) -> Chosen:
    """Choose the evidence and its smoothing.

    Args:
        networks: The trained networks, with the plan's settings.
        healthy: Calibration scans: what is usual is learnt from them, as it will be in the model.
        validation: Healthy scans that get anomalies; no network learnt from them.
        fixed: Settings that stay as they are, as ``detection.key``: those that the user has set.
        progress: Told of every scan.
        reader: How the scans are read.

    Returns:
        The detection settings, and a decision for each that was looked at; none if there are too few scans, or the map
        needs restorations.

    Raises:
        ScanError: If a scan cannot be read any more.
    """
    settings = networks.settings.detection
    if min(len(healthy), len(validation)) < _FEWEST_SCANS or not _goes_without_restorations(settings):
        return Chosen(settings, ())
    progress.begin("choose the evidence", len(healthy) + _CASES)
    usual, cases = [], []
    with one_thread(networks.device):
        for path in healthy:
            usual.append(_usual(networks, reader(path)))
            progress.advance()
        for turn in range(_CASES):
            cases.append(_made_case(networks, reader(validation[turn % len(validation)]), turn))
            progress.advance()
    cases = [case for case in cases if case.label_SHW.any()]
    decisions = []
    for name in CANDIDATES:
        if f"detection.{name}" in fixed or not _matters(name, settings):
            continue
        values = _values(name, settings, networks)
        precision = {value: _precision(settings, name, value, usual, cases) for value in values}
        best = _clearly_best(precision, planned=getattr(settings, name))
        settings = settings.model_copy(update={name: best})
        decisions.append(Decision(f"detection.{name}", _shown(best), _reason(precision, best)))
    return Chosen(settings, tuple(decisions))


def _made_case(networks: Networks, volume: Volume, turn: int) -> LabelledEvidence:
    rng = np.random.default_rng([networks.settings.seed, turn, 7])
    altered, label_XYZ = with_selection_anomalies(volume, count=_ANOMALIES, turn=turn, rng=rng)
    prepared = prepare(altered, networks.settings.preparation)
    encoded = networks.encode(prepared)
    return LabelledEvidence(networks.evidence(encoded, None), prepared.labelled_slices(label_XYZ)[encoded.at])


def _usual(networks: Networks, volume: Volume) -> Evidence:
    prepared = prepare(volume, networks.settings.preparation)
    return networks.evidence(networks.encode(prepared), None)


def _matters(name: str, settings: DetectionSettings) -> bool:
    """Whether a setting has any effect, given what was chosen before."""
    return name == "evidence" or name.removesuffix("_sigma") in settings.evidence


def _goes_without_restorations(settings: DetectionSettings) -> bool:
    return settings.voxel_map == "standardised" and "residual" not in settings.evidence


def _values(name: str, settings: DetectionSettings, networks: Networks) -> tuple[Any, ...]:
    """Return the candidates that the networks can follow, the plan's own value first."""
    planned = getattr(settings, name)
    others = (value for value in CANDIDATES[name] if value != planned)
    if name == "evidence" and networks.discriminator is None:
        others = (value for value in others if "discriminator" not in value)
    return (planned, *others)


def _precision(
    settings: DetectionSettings,
    name: str,
    value: Any,
    usual: Sequence[Evidence],
    cases: Sequence[LabelledEvidence],
) -> Float64[np.ndarray, " n"]:
    """Return the average precision of the voxels of each case under a candidate."""
    from sklearn.metrics import average_precision_score

    voxels = calibrate_voxels(usual, settings.model_copy(update={name: value}))
    return np.array(
        [average_precision_score(case.label_SHW.ravel(), voxels.nats_of(case.evidence).ravel()) for case in cases]
    )


def _clearly_best(precision: Mapping[Any, Float64[np.ndarray, " n"]], *, planned: Any) -> Any:
    """Return the value with the highest mean, or the planned one if that is not clearly better."""
    best = max(precision, key=lambda value: precision[value].mean())
    gain = precision[best] - precision[planned]
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return best if gain.mean() > _CLEARLY * error else planned


def _reason(precision: Mapping[Any, Float64[np.ndarray, " n"]], best: Any) -> str:
    others = ", ".join(f"{values.mean():.3f} with {_shown(one)}" for one, values in precision.items() if one != best)
    cases = len(precision[best])
    return (
        f"mean voxel AP of {cases} validation cases with anomalies made for choosing: "
        f"{precision[best].mean():.3f}; {others}"
    )


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else f"{value:g}"
