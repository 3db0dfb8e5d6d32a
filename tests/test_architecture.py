"""The layers hold: imports point down only."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mendscan"

# cli > demo > console > benchmark | submission > report | viewer > evaluation > baselines > training > detection
# > results > cohort | models > volumes > config > ...
# Unlike `training | detection` side by side, training sits above: its last stage calibrates with detection's own code.
LAYERS = (
    {"errors", "shapes", "progress", "workers"},
    {"parallel"},
    {"config"},
    {"volumes"},
    {"cohort", "models"},
    {"results"},
    {"detection"},
    {"training"},
    {"baselines"},
    {"evaluation"},
    {"report", "viewer"},
    {"benchmark", "submission"},
    {"console"},
    {"console_report", "console_submission", "demo", "exits", "options", "tutorial"},
    {"cli"},
    {"__main__", "__init__"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
MODULES = sorted(SOURCE.rglob("*.py"))
FORBIDDEN = re.compile(
    r"\bpickle\b|(?<!\.)\beval\(|\bexec\(|shell=True|allow_pickle=True|yaml\.load|extractall|weights_only=False|innerHTML"
)


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Return (mendscan module, inside a function or TYPE_CHECKING block) for each import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mendscan"):
            found.append((node.module, node.col_offset > 0))
        elif isinstance(node, ast.Import):
            found += [(alias.name, node.col_offset > 0) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = room_of(path)
    for module, _ in imports_of(path):
        parts = module.split(".")
        if parts[0] != "mendscan" or len(parts) == 1:
            continue
        other = parts[1]
        assert other == own or LEVEL[other] < LEVEL[own], f"{path.name} imports {module}, which is not below it"


def test_every_room_is_known() -> None:
    assert {room_of(path) for path in MODULES} == set(LEVEL)


@pytest.mark.parametrize("room", ["volumes", "config", "errors", "cohort", "results", "evaluation", "viewer"])
def test_rooms_that_need_no_torch_do_not_import_it(room: str) -> None:
    allowed = {"augmentation.py", "corruption_families.py", "corruptions.py", "random_fields.py"}
    for path in MODULES:
        if room_of(path) == room and path.name not in allowed:
            assert not [m for m, _ in imports_of(path) if m.split(".")[0] == "torch"], path
            text = path.read_text(encoding="utf-8")
            assert "from torch" not in text, path


def test_models_know_no_scan() -> None:
    for path in (p for p in MODULES if room_of(p) == "models" and p.name != "bundle.py"):
        assert not [m for m, _ in imports_of(path) if m.startswith("mendscan.volumes")], path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_dangerous(path: Path) -> None:
    assert not FORBIDDEN.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 360


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_all_is_sorted_and_true(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    if not listed or path.name == "__init__.py":
        return
    defined = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    defined |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    defined |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    assert set(listed[0]) <= defined
