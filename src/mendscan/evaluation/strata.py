"""Which anomalies are found, and which are not?  Figures by kind, size and contrast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from mendscan.evaluation.bootstrap import Interval, intervals
from mendscan.evaluation.counting import CountedCase, CountedLesion
from mendscan.evaluation.measures import Measure
from mendscan.evaluation.pooled import PooledVoxels

__all__ = ["Stratum", "find_strata"]

_SIZES = ("small", "medium", "large")
_CONTRASTS = ("faint", "medium", "plain")
_LESION_FIGURES = ("voxel_ap", "voxel_auroc", "lesion_sensitivity", "lesion_froc")


@dataclass(frozen=True)
class Stratum:
    """The anomalies of one kind, size or contrast, against everything healthy.

    Voxels of other anomalies are left out.  Average precision depends on how many voxels are anomalous, so it compares
    methods within a stratum; between strata compare AUROC or sensitivity.

    Attributes:
        family: ``kind``, ``size``, ``contrast`` (local anomalies) or ``artefact`` (whole scans).
        name: Which of them.
        anomalies: How many.
        scans: In how many scans.
        voxels: Anomalous voxels; 0 for whole scans.
        figures: With intervals over subjects.
    """

    family: str
    name: str
    anomalies: int
    scans: int
    voxels: int
    figures: Mapping[str, Interval]


def find_strata(
    measure: Measure, subjects: Sequence[str], *, resamples: int, level: float, seed: int
) -> Iterator[Stratum]:
    """Yield every stratum that the facts of the anomalies name.

    Args:
        measure: The figures of the cases.
        subjects: The subject of each case.
        resamples: Of the intervals.
        level: Of the intervals.
        seed: Of the intervals.
    """
    find = partial(intervals, subjects=subjects, resamples=resamples, level=level, seed=seed)
    families: tuple[tuple[str, Callable[[CountedLesion], str], tuple[str, ...]], ...] = (
        ("kind", lambda lesion: lesion.kind, ()),
        ("size", lambda lesion: lesion.size, _SIZES),
        ("contrast", lambda lesion: lesion.contrast, _CONTRASTS),
    )
    for family, part_of, order in families:
        names = {part_of(lesion) for case in measure.cases for lesion in case.lesions} - {""}
        for name in [*(known for known in order if known in names), *sorted(names - set(order))]:
            lesions = [(case, one) for case in measure.cases for one in case.lesions if part_of(one) == name]
            pick = partial(_belongs, part_of, name)
            figures = partial(_lesion_figures, measure, measure.pooled(pick).condensed(), pick)
            scans, voxels = len({case.name for case, _ in lesions}), sum(lesion.voxels for _, lesion in lesions)
            yield Stratum(family, name, len(lesions), scans, voxels, find(figures))
    if not any(case.score is not None for case in measure.cases):
        return
    for kind in sorted({case.artefact.kind for case in measure.cases if case.artefact is not None}):
        chosen_N = measure.whole_N() & np.array([_is_artefact(case, kind) for case in measure.cases])
        found = find(partial(_scan_figures, measure, chosen_N))
        yield Stratum("artefact", kind, int(chosen_N.sum()), int(chosen_N.sum()), 0, found)


def _belongs(part_of: Callable[[CountedLesion], str], name: str, lesion: CountedLesion) -> bool:
    return part_of(lesion) == name


def _lesion_figures(
    measure: Measure,
    voxels: PooledVoxels,
    pick: Callable[[CountedLesion], bool],
    weights_BN: Float[np.ndarray, "B N"],
) -> dict[str, Float[np.ndarray, " B"]]:
    found = voxels.figures(weights_BN) | measure.lesion_figures(weights_BN, pick)
    return {name: found[name] for name in _LESION_FIGURES if name in found}


def _scan_figures(
    measure: Measure, chosen_N: np.ndarray, weights_BN: Float[np.ndarray, "B N"]
) -> dict[str, Float[np.ndarray, " B"]]:
    return {"sample_auroc": measure.scan_auroc(weights_BN, chosen_N)}


def _is_artefact(case: CountedCase, kind: str) -> bool:
    return case.artefact is not None and case.artefact.kind == kind
