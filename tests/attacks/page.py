"""docs/bad-inputs.md, written by letting every attack happen: PYTHONPATH=src:tests python tests/attacks/page.py"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from attacks.attack import Attack, Elsewhere, Outcome, outcome
from attacks.corpus import CATALOGUE, CORPUS, ELSEWHERE

PAGE = Path(__file__).parents[2] / "docs" / "bad-inputs.md"
LEVELS = {1: "File", 22: "Header", 41: "Intensities", 51: "Geometry", 61: "DICOM", 68: "Zip archives",
          69: "Settings and command line", 77: "Models", 78: "The viewer"}  # fmt: skip
HEAD = """# Bad inputs: what mendscan says

Scans are broken in many ways, and readers load cut-off or altered files without a word.  This page lists what becomes
of {count} bad or unusual inputs.  **The tests write it**: they make each of them, give it to mendscan and note what it
says; they fail if the code is another, if this page says something else, or if anything is left on the disk that does
not belong there.  {elsewhere} further rows name the test that holds them.

One line for each problem: where, what, found and expected, what to do.  A scan with an `E_` code fails alone, and a
batch goes on; a `W_` code goes with a scan that is used all the same:
[what each means](formats.md#what-a-problem-is-called).  `exit` is what the command ends with; numbers from 400 on are
the viewer's answers (HTTP).  What is taken says why.  [Check scans](how-to/check.md) before any work.

Not covered: a voxel changed in a file without a checksum (`.nii`, raw NRRD and MetaImage, most DICOM) cannot be
noticed.

"""
FOOT = """
To write this page anew: `PYTHONPATH=src:tests python tests/attacks/page.py`.  Research use only; not a medical device.
"""


def page() -> str:
    """Let everything happen and describe it."""
    seen = {attack.id: _seen(attack) for attack in CORPUS}
    lines = []
    for row in CATALOGUE:
        level = LEVELS.get(row.row)
        if level and f"## {level}" not in lines:
            lines += ["", f"## {level}", "", "| row | input | outcome | what is said | held |", "|---|---|---|---|---|"]
        lines.append(_row(row, seen))
    return HEAD.format(count=len(CORPUS), elsewhere=len(ELSEWHERE)) + "\n".join(lines).lstrip() + "\n" + FOOT


def _seen(attack: Attack) -> Outcome:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return outcome(attack)


def _row(row: Attack | Elsewhere, seen: dict[str, Outcome]) -> str:
    if isinstance(row, Elsewhere):
        held = f"[{row.test}](../tests/{row.file})"
        return f"| {row.row} | {_cell(row.name)} | {_cell(row.expected)} | | {held} |"
    came = seen[row.id]
    codes = came.code or " ".join(came.warnings)
    shown = f"`{codes}`" if codes else "taken"
    said = row.why or came.message
    held = "yes" if codes == row.expected and came.left <= row.keeps else "**NO**"
    return f"| {row.row} | {_cell(row.name)} | {shown} | {_cell(said)} | {held} |"


def _cell(text: str) -> str:
    """Return a text as a table shows it: nothing in it is markup."""
    escaped = re.sub(r"([\\`*_{}\[\]|$~])", r"\\\1", text)
    return escaped.replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
