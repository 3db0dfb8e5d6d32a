"""Is this a scan of the kind that the model was trained on?  Asked before it is scored, answered in words.

A network scores whatever it is given.  Whether a score means anything is seen from outside: voxel sizes, field of view,
the scale of the intensities, whether a coarse picture of the scan fits that of the healthy cohort as it lies or turned,
inverted or cut, and how often each code is used.  Every limit is what the healthy scans have, widened.

A local anomaly does not show here: the pictures have some twenty cells along the longest side.  Nor does a mirrored
scan where the anatomy is as good as symmetric: a brain's left and right cannot be told apart by its looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from mendscan.cohort.overview import ORIENTATIONS
from mendscan.cohort.template import SIDES, Fit, Template
from mendscan.detection.code_usage import CodeUsage
from mendscan.detection.gate_facts import GateFacts, Range, gate_facts
from mendscan.results import GateWarning
from mendscan.volumes.volume import Volume

__all__ = ["AcquisitionGate"]

_LOG_SLACK = math.log(1.25)
"""Sizes within a quarter of what the healthy scans have are never remarked on."""
_OFFSET_SLACK = 0.25
"""The same for the darkest intensity, in typical intensity ranges."""
_AGREEMENT_SLACK = 0.25
"""And for the agreement with the template, in Fisher's transform."""
_MISSING_SLACK = 0.10
"""So much more of the anatomy may be missing at a side than in any healthy scan."""
_GAIN_SPREADS = 4.0
"""A scan counts as turned if that gains more than the healthy scans' mean and so many standard deviations."""
_NO_DISTANCE = 1e-4
"""In ranges of intensity; for the logarithm."""
_SAME_HISTOGRAM = 0.03
"""Histograms closer than this, in ranges of intensity, are never remarked on."""
_AXES = ("from left to right", "from back to front", "from bottom to top")
_ENDS = ("left and right", "front and back", "top and bottom")
_TOWARDS = (("left", "right"), ("back", "front"), ("bottom", "top"))


@dataclass(frozen=True, eq=False)
class AcquisitionGate:
    """What the healthy scans have in common.

    Attributes:
        cell_mm: Side of a cell of the pictures.
        template: The picture that they have in common.
        spacing: Range of the logarithm of the voxel size in mm, along each axis of RAS+.
        extent: The same of the field of view.
        span: The same of the intensities' range.
        offset: Range of the darkest intensity, in units of `typical_span`.
        typical_span: Median range of the intensities.
        quantiles: Mean shape of the histogram.
        histogram: Range of the logarithm of a scan's distance from the others' mean shape.
        agreement: Range of the agreement with the template of the others.
        gain_limits: What turning a scan may gain in agreement, for each of the 48 orientations.
        missing_limits: What share of the anatomy may lie beyond each side.
        few_values: Whether healthy scans have few different intensities.
        like_ct: Whether most are like CT.
        oriented: Whether all say how they lie.
        codes: How healthy scans use the codes; None if that is not known.
    """

    cell_mm: float
    template: Template
    spacing: tuple[Range, ...]
    extent: tuple[Range, ...]
    span: Range
    offset: Range
    typical_span: float
    quantiles: Float64[np.ndarray, " q"]
    histogram: Range
    agreement: Range
    gain_limits: Float64[np.ndarray, " 48"]
    missing_limits: Float64[np.ndarray, " 6"]
    few_values: bool
    like_ct: bool
    oriented: bool
    codes: CodeUsage | None = None

    @classmethod
    def learn(cls, facts: Sequence[GateFacts], *, cell_mm: float) -> AcquisitionGate:
        """Learn from healthy scans, three at least."""
        template, fits = Template.learn([each.picture for each in facts])
        gains = np.stack([fit.gain for fit in fits])
        spans = [_log_span(each) for each in facts]
        typical = math.exp(float(np.median(spans)))
        shapes = np.stack([each.quantiles for each in facts])
        apart = [_log_distance(own, np.delete(shapes, n, axis=0).mean(0)) for n, own in enumerate(shapes)]
        return cls(
            cell_mm=cell_mm,
            template=template,
            spacing=_log_ranges([each.spacing_mm for each in facts]),
            extent=_log_ranges([each.extent_mm for each in facts]),
            span=Range.of(spans, _LOG_SLACK),
            offset=Range.of([each.low / typical for each in facts], _OFFSET_SLACK),
            typical_span=typical,
            quantiles=shapes.mean(0),
            histogram=Range.of(apart, _LOG_SLACK),
            agreement=Range.of([fit.agreement for fit in fits], _AGREEMENT_SLACK),
            gain_limits=np.maximum(gains.mean(0) + _GAIN_SPREADS * gains.std(0, ddof=1), np.maximum(gains.max(0), 0)),
            missing_limits=np.max([fit.missing for fit in fits], axis=0) + _MISSING_SLACK,
            few_values=any(each.few_values is not None for each in facts),
            like_ct=float(np.mean([each.like_ct for each in facts])) >= 0.5,
            oriented=all(each.oriented for each in facts),
        )

    def warnings(self, volume: Volume) -> tuple[GateWarning, ...]:
        """Return what is unusual about a scan before any network has seen it."""
        facts = gate_facts(volume, cell_mm=self.cell_mm)
        said = (*self._of_header(facts), *self._of_intensities(facts))
        if self.template.is_dwarfed_by(facts.picture):
            return said
        return (*said, *self._of_picture(self.template.fit(facts.picture)))

    def code_warnings(self, codes_Shw: Int[np.ndarray, "S h w"]) -> tuple[GateWarning, ...]:
        """Return whether a scan uses the codes unlike healthy scans."""
        if self.codes is None:
            return ()
        apart, usual = self.codes.divergence(codes_Shw), self.codes.apart
        if apart <= math.exp(usual.high + usual.slack):
            return ()
        theirs = f"{math.exp(usual.low):.2g} to {math.exp(usual.high):.2g}"
        return (_warning("CODES", f"uses codes unlike healthy scans (divergence {apart:.2g} bits, theirs {theirs})"),)

    def _of_header(self, facts: GateFacts) -> list[GateWarning]:
        found = []
        if self.oriented and not facts.oriented:
            found.append(_warning("ORIENTATION", "the file does not say how the scan lies: left may be right"))
        for axis, where in enumerate(_AXES):
            mm, usual = facts.spacing_mm[axis], self.spacing[axis]
            if not usual.holds(math.log(mm)):
                found.append(
                    _warning("SPACING", f"voxels of {mm:.3g} mm {where}; the training scans have {_mm(usual)}")
                )
        for axis, where in enumerate(_AXES):
            mm, usual = facts.extent_mm[axis], self.extent[axis]
            if not usual.holds(math.log(mm)):
                said = f"field of view of {mm:.3g} mm {where}; the training scans have {_mm(usual)}"
                found.append(_warning("FIELD_OF_VIEW", said))
        return found

    def _of_intensities(self, facts: GateFacts) -> list[GateWarning]:
        if facts.few_values is not None and not self.few_values:
            return [_warning("LABELS", f"only {facts.few_values} different values: a label map or a mask?")]
        if facts.like_ct != self.like_ct:
            looks = (
                "looks like CT; the training scans do not"
                if facts.like_ct
                else "does not look like CT, as the training scans do"
            )
            return [_warning("MODALITY", looks)]
        found = []
        if not (self.span.holds(_log_span(facts)) and self.offset.holds(facts.low / self.typical_span)):
            theirs = f"theirs span {math.exp(self.span.low):.4g} to {math.exp(self.span.high):.4g}"
            said = (
                f"intensities from {facts.low:.4g} to {facts.high:.4g}; {theirs}: another scale, or normalised before?"
            )
            found.append(_warning("SCALE", said))
        apart = _log_distance(facts.quantiles, self.quantiles)
        if apart > max(self.histogram.high + self.histogram.slack, math.log(_SAME_HISTOGRAM)):
            measured = f"{math.exp(apart):.1%} of their range apart, theirs up to {math.exp(self.histogram.high):.1%}"
            said = f"intensities are spread unlike those of the training scans ({measured})"
            found.append(_warning("HISTOGRAM", said))
        return found

    def _of_picture(self, fit: Fit) -> list[GateWarning]:
        lowest = self.agreement.low - self.agreement.slack
        excess = fit.gain - self.gain_limits
        turned = int(np.argmax(excess))
        if fit.agreement < lowest and fit.inverted > max(fit.agreement, fit.agreement + float(excess[turned])):
            return [_warning("CONTRAST", "bright and dark exchanged, or another sequence?")]
        if excess[turned] > 0 and fit.agreement + float(fit.gain[turned]) >= lowest:
            return [_warning("TURNED", _how_turned(turned))]
        if fit.agreement < lowest:
            agree, theirs = math.tanh(fit.agreement), math.tanh(self.agreement.low)
            said = f"does not look like the training scans (agreement {agree:.2f}, theirs at least {theirs:.2f})"
            return [_warning("OTHER", said)]
        return [
            _warning("CROP", f"the field of view misses {share:.0%} of the anatomy at the {side}")
            for side, share, limit in zip(SIDES, fit.missing, self.missing_limits, strict=True)
            if share > limit
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all but the arrays as JSON values; `arrays` has the rest."""
        return {
            "cell_mm": self.cell_mm,
            "spacing": [each.to_json() for each in self.spacing],
            "extent": [each.to_json() for each in self.extent],
            "span": self.span.to_json(),
            "offset": self.offset.to_json(),
            "typical_span": self.typical_span,
            "histogram": self.histogram.to_json(),
            "agreement": self.agreement.to_json(),
            "few_values": self.few_values,
            "like_ct": self.like_ct,
            "oriented": self.oriented,
            "codes": None if self.codes is None else self.codes.apart.to_json(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        template = self.template
        named = {"values": template.values_XYZ, "share": template.share_XYZ, "foreground": template.foreground_XYZ}
        named |= {"quantiles": self.quantiles, "gain_limits": self.gain_limits, "missing_limits": self.missing_limits}
        return named if self.codes is None else named | {"codes": self.codes.mean_K}

    @classmethod
    def from_json(cls, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> AcquisitionGate:
        """Rebuild what `to_json` and `arrays` returned."""
        several: dict[str, Any] = {name: tuple(Range(*each) for each in values[name]) for name in ("spacing", "extent")}
        single: dict[str, Any] = {name: Range(*values[name]) for name in ("span", "offset", "histogram", "agreement")}
        plain = {name: values[name] for name in ("cell_mm", "typical_span", "few_values", "like_ct", "oriented")}
        return cls(
            template=Template(arrays["values"], arrays["share"], arrays["foreground"]),
            quantiles=arrays["quantiles"],
            gain_limits=arrays["gain_limits"],
            missing_limits=arrays["missing_limits"],
            codes=None if values["codes"] is None else CodeUsage(arrays["codes"], Range(*values["codes"])),
            **several,
            **single,
            **plain,
        )


def _warning(name: str, message: str) -> GateWarning:
    return GateWarning(f"W_{name}", message)


def _log_ranges(triples: Sequence[tuple[float, float, float]]) -> tuple[Range, ...]:
    return tuple(Range.of([math.log(mm) for mm in axis], _LOG_SLACK) for axis in zip(*triples, strict=True))


def _log_span(facts: GateFacts) -> float:
    return math.log(max(facts.high - facts.low, 1e-12))


def _log_distance(one: Float64[np.ndarray, " q"], other: Float64[np.ndarray, " q"]) -> float:
    """Return the logarithm of the mean distance of two histograms' shapes, in ranges of intensity."""
    return math.log(max(float(np.abs(one - other).mean()), _NO_DISTANCE))


def _mm(logs: Range) -> str:
    low, high = f"{math.exp(logs.low):.3g}", f"{math.exp(logs.high):.3g}"
    return low if low == high else f"{low} to {high}"


def _how_turned(index: int) -> str:
    axes, signs = ORIENTATIONS[index]
    if axes == (0, 1, 2):
        ends = [pair for pair, sign in zip(_ENDS, signs, strict=True) if sign < 0]
        return f"{', and '.join(ends)} exchanged?"
    lies = [_TOWARDS[axis][int(sign > 0)] for axis, sign in zip(axes, signs, strict=True)]
    return f"turned? what is right, front and top in the training scans is {lies[0]}, {lies[1]} and {lies[2]} here"
