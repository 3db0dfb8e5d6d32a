"""The page: one HTML file with its style, script and pictures inside."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from mendscan.report.charts import Bars, CodeGrid, Profile, code_grid, profile, statistics_bars
from mendscan.report.content import NOTICE, CaseFacts, CohortFacts, healthy_as_high
from mendscan.report.distribution import distribution
from mendscan.report.layers import colour_bar
from mendscan.report.pictures import CasePictures

__all__ = ["CasePage", "case_page", "render_markdown", "render_page"]

_TEMPLATES = Path(__file__).parent / "templates"
_HEADINGS_BELOW = 2
_MAGIC = {b"\x89PNG": "image/png", b"RIFF": "image/webp"}


@dataclass(frozen=True, eq=False)
class CasePage:
    """What the page shows of one scan."""

    facts: CaseFacts
    pictures: CasePictures
    profile: Profile | None
    bars: Bars | None
    codes: CodeGrid | None

    @property
    def anchor(self) -> str:
        """The place of the scan on the page; a name of its own could be anything."""
        return f"scan-{self.facts.rank}"


def case_page(facts: CaseFacts, pictures: CasePictures) -> CasePage:
    """Gather what the page shows of a scan."""
    details = facts.details
    if details is None:
        return CasePage(facts, pictures, None, statistics_bars(facts), None)
    return CasePage(facts, pictures, profile(details, pictures), statistics_bars(facts), code_grid(details, pictures))


def render_page(cohort: CohortFacts, pages: Sequence[CasePage], *, left_out: str) -> str:
    """Return the page as HTML.

    Args:
        cohort: What is said of all scans.
        pages: Of each scan that was scored, in the order of their ranks.
        left_out: What is not pictured, in words; empty if everything is.
    """
    style, script = (_source(name) for name in ("report.css", "report.js"))
    threshold = cohort.results.map_threshold
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            cohort=cohort,
            pages=pages,
            left_out=left_out,
            notice=NOTICE,
            chart=distribution(cohort),
            threshold=threshold,
            bar=colour_bar(threshold),
            card=render_markdown(cohort.results.model_card),
            style=Markup(style),  # noqa: S704 - the package's own file
            script=Markup(script),  # noqa: S704 - the package's own file
            style_hash=_digest(style),
            script_hash=_digest(script),
        )
    )


def render_markdown(text: str) -> Markup:
    """Return Markdown as HTML that cannot do anything: no HTML of its own, no links, no pictures, no styles."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + _HEADINGS_BELOW)}"
        if token.attrs.pop("style", None):
            token.attrs["class"] = "number"
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704 - html is off


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "uri": _uri,
        "number": _number,
        "whole": lambda value: f"{value:,.0f}",
        "p": lambda value: "–" if value is None else f"{value:.3g}",
        "signed": lambda value: f"{value:+.1f}".replace("-", "−"),
        "mm": lambda value: f"{value:.5g}",
        "as_high": healthy_as_high,
        "scale_bar": _scale_bar,
    }
    return environment


def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _uri(picture: bytes) -> str:
    return f"data:{_MAGIC[picture[:4]]};base64,{base64.b64encode(picture).decode()}"


def _number(value: Any, digits: int = 2) -> str:
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"
    return text.replace("-", "−")


def _scale_bar(width_mm: float) -> float:
    """Return a round length of at most a quarter of a width."""
    power = 10.0 ** math.floor(math.log10(width_mm / 4))
    return next(factor * power for factor in (5, 2, 1) if factor * power <= width_mm / 4)
