"""The pages on formats and on DICOM output know every code that reading and writing scans can give."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OF_SCANS = {
    "E_NAME",
    "E_JSON",
    "E_COLUMNS",
    "E_LOCKED",
    "E_NO_SPACE",
    "E_OUTPUT_AMONG_INPUTS",
    "E_INPUT_AMONG_OUTPUTS",
}
PAGES = ("formats.md", "dicom-output.md")


def test_every_code_is_explained_and_every_explained_code_exists() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/mendscan/volumes").glob("*.py"))
    pages = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES)
    explained = set(re.findall(r"`(E_[A-Z_]+)`", pages))
    codes = set(re.findall(r'code="(E_[A-Z_]+)"', source)) | {"E_GEOMETRY"}
    assert codes - NOT_OF_SCANS <= explained
    assert explained <= codes


def test_every_warning_is_explained_and_every_explained_warning_exists() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/mendscan/volumes").glob("*.py"))
    explained = set(
        re.findall(r"^\| `(W_[A-Z_]+)`", (ROOT / "docs/formats.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r'"(W_[A-Z_]+)"', source)) == explained
