"""The page on formats knows every code that reading can give."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OF_READING = {"E_NAME", "E_JSON", "E_GRID", "E_COLUMNS"}


def test_every_code_is_explained_and_every_explained_code_exists() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/mendscan/volumes").glob("*.py"))
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    codes = set(re.findall(r'code="(E_[A-Z_]+)"', source)) | {"E_GEOMETRY"}
    assert codes - NOT_OF_READING <= set(re.findall(r"`(E_[A-Z_]+)`", page))
    assert set(re.findall(r"`(E_[A-Z_]+)`", page)) <= codes
