"""A detection in a few lines, as a notebook shows it."""

from __future__ import annotations

import base64
from html import escape

from mendscan.results.components import Finding
from mendscan.results.detection import Detection
from mendscan.results.figures import png_of

__all__ = ["summary_html"]

_FINDINGS_SHOWN = 5
_NOTICE = "Research use only; not a medical device. Unlikely under the healthy training scans, not a diagnosis."


def summary_html(detection: Detection) -> str:
    """Return scores, warnings, the strongest findings and the picture of the worst slices as HTML."""
    count, unit = len(detection.healthy_scores), "nats" if detection.part is None else "healthy SD"
    facts = [("score", f"{detection.score:.2f} {unit}"), ("p-value", f"{detection.p_value:.3g}")]
    if count:
        facts[1] = ("p-value", f"{detection.p_value:.3g}, from {count} healthy scans")
    facts += [
        (name, f"{score:+.2f}, p = {detection.part_p_values[name]:.3g}{' (decides)' if name == detection.part else ''}")
        for name, score in detection.parts.items()
    ]
    facts += [("strangest", detection.strangest)] if detection.strangest else []
    facts += [("warning", warning.message) for warning in detection.warnings]
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return (
        f"<div><strong>{escape(detection.case)}</strong><table>{rows}</table>{_findings(detection.findings)}"
        f"{_picture(detection)}<small>{_NOTICE}</small></div>"
    )


def _findings(findings: tuple[Finding, ...]) -> str:
    if not findings:
        return "<p>No findings.</p>"
    head = "<tr><th>finding</th><th>mm³</th><th>peak</th><th>x, y, z in mm</th><th>expected false</th></tr>"
    rows = "".join(
        f"<tr><td>{number}</td><td>{finding.volume_mm3:,.0f}</td><td>{finding.peak:.2f}</td>"
        f"<td>{', '.join(f'{mm:.1f}' for mm in finding.centre_mm)}</td>"
        f"<td>{'' if finding.expected_false is None else f'{finding.expected_false:.3g}'}</td></tr>"
        for number, finding in enumerate(findings[:_FINDINGS_SHOWN], start=1)
    )
    more = len(findings) - _FINDINGS_SHOWN
    return f"<table>{head}{rows}</table>" + (f"<p>and {more} more</p>" if more > 0 else "")


def _picture(detection: Detection) -> str:
    if detection.map_XYZ is None or detection.restored_XYZ is None:
        return ""
    data = base64.b64encode(png_of(detection)).decode()
    return f'<img alt="scan, restoration and map on the worst slices" src="data:image/png;base64,{data}">'
