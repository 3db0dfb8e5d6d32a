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
    {"texts"},
    {"errors", "shapes", "progress", "smoothing", "workers"},
    {"config", "failures", "parallel", "strict_json"},
    {"volumes"},
    {"cohort", "models"},
    {"results"},
    {"detection"},
    {"training"},
    {"baselines"},
    {"evaluation"},
    {"report", "viewer"},
    {"benchmark", "submission"},
    {"console_progress"},
    {"console"},
    {"console_check", "console_models", "console_report", "console_submission", "demo", "exits", "options", "tutorial"},
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
    allowed = {"augmentation.py", "corruption_families.py", "corruptions.py", "random_fields.py", "restyling.py"}
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


FORBIDDEN_IN_PAGES = re.compile(
    r"\b(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|javascript:|\|\s*safe\b"
    r"|\son\w+=|@import|autoescape false"
)
PAGES = sorted(
    path
    for path in SOURCE.rglob("*")
    if path.suffix in {".js", ".html", ".css", ".j2", ".svg", ".sh"} and "vendor" not in path.parts
)
"""All that a browser or a shell gets but the vendored library: that is as its makers published it (its hash is held by
tests/viewer), and the viewer's content security policy keeps any page from evaluating text."""
KNOWN_SAFE = {"case.html.j2": "{{ size|safe }}"}
"""`size` is written in the template itself, of two numbers."""
CODE_LOADERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "xmlrpc", "ctypes"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile", "importlib.import_module"}
LAZY_NAMES = "importlib.import_module(_HOMES[name])"
"""The package's own table of its public names, the only import by name."""


STARTERS = {"isolation.py": "subprocess.run", "jail.py": "os.execvp", "running.py": "subprocess.Popen"}
"""Of `submission`: `mood-check` starts the user's own submission, in a jail, from a list of arguments."""


OWN_PROCESSES = {"workers.py": "cloudpickle"}
"""What a process sends to those that it began itself, through pipes of their own, is no file and no user's."""


def name_of(node: ast.expr) -> str:
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def dangers(source: str) -> list[str]:
    """Return the calls and imports that could run what a file or a user wrote."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in CODE_LOADERS]
        if not isinstance(node, ast.Call):
            continue
        name, options = name_of(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}
        if (name in CALLS and ast.unparse(node) != LAZY_NAMES) or name.startswith(("os.exec", "os.spawn")):
            found.append(name)
        if name.startswith("subprocess.") and (not node.args or not isinstance(node.args[0], ast.List)):
            found.append(f"{name} of something else than a list")
        if options.get("shell", "False") != "False" or options.get("allow_pickle", "False") != "False":
            found.append(f"{name} with shell or allow_pickle")
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load of more than weights")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_runs_what_a_file_says(path: Path) -> None:
    exempt = STARTERS if room_of(path) == "submission" else OWN_PROCESSES
    known = exempt.get(path.name, "\0")
    assert [danger for danger in dangers(path.read_text(encoding="utf-8")) if not danger.startswith(known)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "__import__('os')",
        "os.system(line)",
        "subprocess.run(f'ls {name}')",
        "subprocess.run(['ls'], shell=True)",
        "subprocess.Popen(command)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=flag)",
        "importlib.import_module(config['_target_'])",
    ],
)
def test_dangers_are_noticed(source: str) -> None:
    assert dangers(source)


PLAIN_JSON = {
    "strict_json.py": "the one parser",
    "benchmark/journal.py": "no file: values are made what JSON makes of them, to be compared with a journal's",
}
"""Where `json.loads` is called, and why: everywhere else a key could be there twice, or a number be no number."""


def test_json_of_files_has_one_meaning() -> None:
    def parses(path: Path) -> bool:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        called = {name_of(node.func) for node in nodes if isinstance(node, ast.Call)}
        return bool(called & {"json.load", "json.loads", "JSONDecoder", "json.JSONDecoder"}) or any(
            isinstance(node, ast.ImportFrom) and node.module == "json" for node in nodes
        )

    assert {path.relative_to(SOURCE).as_posix() for path in MODULES if parses(path)} == set(PLAIN_JSON)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_pages_put_no_text_where_it_could_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(KNOWN_SAFE.get(path.name, "\0"), "")
    assert not FORBIDDEN_IN_PAGES.search(text)


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
