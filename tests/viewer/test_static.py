"""The page's own files: nothing turns text into markup, nothing is kept, nothing comes from elsewhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import mendscan.viewer

STATIC = Path(mendscan.viewer.__file__).parent / "static"
OWN = sorted(
    path
    for path in STATIC.rglob("*.*")
    if path.suffix in (".js", ".html", ".css", ".svg") and "vendor" not in path.parts
)
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|<style|style=|\son\w+="
    r"|localStorage|sessionStorage|indexedDB|document\.cookie|XMLHttpRequest|WebSocket|sendBeacon"
    r"|@import|url\(|https?://(?!www\.w3\.org/2000/svg)"
)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_dangerous(path: Path) -> None:
    assert not FORBIDDEN.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_the_page_has_no_script_of_its_own_inside() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>([^<]*)</script>", text) == ["", ""]
    assert "Research use only; not a medical device." in text


def test_what_is_vendored_is_what_was_vendored_with_its_licence() -> None:
    listed = (STATIC / "vendor" / "VENDORED.md").read_text(encoding="utf-8")
    digest = hashlib.sha256((STATIC / "vendor" / "niivue.umd.js").read_bytes()).hexdigest()
    assert digest in listed
    licence = (STATIC / "vendor" / "niivue.LICENSE.txt").read_text(encoding="utf-8")
    assert "BSD 2-Clause License" in licence
    assert "Copyright (c) 2021, Niivue" in licence
