"""The notebooks run from a fresh clone, hold no outputs, hold no logic, and are what their rendered copies show."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("nbconvert")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RENDERED = ROOT / "docs" / "notebooks"
LARGEST_BYTES = 2_000_000
STEPS = 60
"""As few as run everything: what comes out is not looked at."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def render() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", ROOT / "notebooks" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["0_dataset", "1_train_and_detect", "2_understand_the_scores"]


@every_notebook
def test_nothing_of_a_run_is_kept(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert set(cell.metadata) <= {"tags"}
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


@every_notebook
def test_the_first_cell_says_what_to_expect(path: Path) -> None:
    first = cells(path, "markdown")[0]
    for wanted in ("What it shows.", "How long it takes.", "Research use only; not a medical device.", "simulated"):
        assert wanted in first


@every_notebook
def test_there_is_no_logic_in_it(path: Path) -> None:
    for source in cells(path, "code"):
        tree = ast.parse(source.replace("%matplotlib inline", ""))
        forbidden = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.While, ast.If, ast.Try, ast.BinOp)
        found = [node for node in ast.walk(tree) if isinstance(node, forbidden)]
        # Of operators only the one that joins a folder and a name.
        assert all(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) for node in found), source


@every_notebook
def test_the_rendered_copy_is_of_this_notebook(path: Path, render: ModuleType) -> None:
    text = (RENDERED / f"{path.stem}.md").read_text(encoding="utf-8")
    for source in cells(path, "markdown") + cells(path, "code"):
        assert render.tidied(source).strip() in text, "render it again: python notebooks/render.py"
    for line in text.splitlines():
        if line.startswith("![png]("):
            assert (RENDERED / line.removeprefix("![png](").removesuffix(")")).is_file()


def test_rendered_copies_are_small_and_nothing_is_left_over() -> None:
    pictures = [path for path in RENDERED.iterdir() if path.suffix == ".png"]
    text = "".join(path.read_text(encoding="utf-8") for path in RENDERED.glob("*.md"))
    assert [path.name for path in pictures if path.name not in text] == []
    assert sum(path.stat().st_size for path in RENDERED.iterdir()) < LARGEST_BYTES


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_they_run_one_after_the_other(tmp_path: Path, render: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENDSCAN_NOTEBOOK_STEPS", str(STEPS))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    for path in NOTEBOOKS:
        notebook = render.execute(path, tmp_path)
        pictures = [
            output
            for cell in notebook.cells
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        assert len(pictures) >= 4, path.stem
    assert (tmp_path / "tutorial" / "model" / "manifest.json").is_file()
    assert not list(tmp_path.glob("*.ipynb"))
