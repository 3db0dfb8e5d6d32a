"""Runs the notebooks and renders them, outputs and all, into docs/notebooks: python notebooks/render.py."""

from __future__ import annotations

import argparse
import io
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "notebooks"
TIMEOUT_SECONDS = 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="Folder to run in, and to keep; a temporary one by default.")
    parser.add_argument("names", nargs="*", help="Notebooks without .ipynb, in order; all by default.")
    given = parser.parse_args()
    names = given.names or sorted(path.stem for path in HERE.glob("*.ipynb"))
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in names:
            render(execute(HERE / f"{name}.ipynb", work), name)


def execute(path: Path, work: Path) -> NotebookNode:
    """Run a notebook in a folder and return it with its outputs; the file stays as it is."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT_SECONDS, resources={"metadata": {"path": str(work)}}).execute()
    return notebook


def render(notebook: NotebookNode, name: str) -> None:
    """Write a notebook that was run as Markdown, and its pictures beside it."""
    settings = Config()
    settings.NbConvertBase.display_data_priority = ["image/png", "text/markdown", "text/plain"]
    settings.ExtractOutputPreprocessor.output_filename_template = "{unique_key}-{cell_index}-{index}{extension}"
    text, resources = MarkdownExporter(config=settings).from_notebook_node(notebook, {"unique_key": name})
    DOCS.mkdir(parents=True, exist_ok=True)
    for old in DOCS.glob(f"{name}*.*"):
        old.unlink()
    for picture, data in resources.get("outputs", {}).items():
        (DOCS / picture).write_bytes(smaller(data))
    (DOCS / f"{name}.md").write_text(tidied(text), encoding="utf-8")


def tidied(text: str) -> str:
    """Return Markdown without terminal colours and empty lines, whose links hold in the folder of the documentation."""
    text = strip_ansi(text).replace("](../docs/", "](../").replace(".ipynb)", ".md)")
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(r"(?m)^(    .*)\n{2,}(?=    \S)", r"\1\n", text)  # a line of output for each step is one block
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def smaller(data: bytes) -> bytes:
    """Return a PNG with at most 256 colours: these pictures need no more."""
    written = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        written, format="png", optimize=True
    )
    return written.getvalue()


if __name__ == "__main__":
    main()
