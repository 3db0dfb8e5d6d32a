"""What the documentation says of itself and of the program, and the site that is built of it."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.main import get_command

import mendscan
from docs_site import ROOT, build_site
from mendscan.cli import app

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
GENERATED = {"commands.md": "mendscan-"}
"""Anchors that only the site has, by page: those of the commands."""

WITHOUT_TLS = {"medicalood.dkfz.de", "127.0.0.1"}
"""Known by its plain address only; the viewer's own."""

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
URL = re.compile(r"\bhttps?:[^\s)>\"'`]*")
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def text_of(page: Path) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that a repository host gives to the page's headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} (.*?)\s*$", text_of(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def links(page: Path) -> list[str]:
    return [one or other for one, other in LINK.findall(text_of(page))]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if urlsplit(target).scheme:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        if anchor and not anchor.startswith(GENERATED.get(there.name, "\0")):
            assert anchor in anchors(there), target


def test_anchors_are_those_of_a_repository_host(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `make demo`\n## A, (`b`) and c_d\n### Twice\n### Twice\n```\n# no heading\n```\n")
    assert anchors(page) == {"make-demo", "a-b-and-c_d", "twice", "twice-1"}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_addresses_are_secure_and_well_formed(page: Path) -> None:
    for url in URL.findall(page.read_text(encoding="utf-8")):
        parts = urlsplit(url)
        assert parts.scheme == "https" or parts.hostname in WITHOUT_TLS, url
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.hostname or ""), url


def commands_in(page: Path) -> list[str]:
    """Return the mendscan commands of a page's code blocks and inline code, one line each, without remarks."""
    text = page.read_text(encoding="utf-8")
    blocks = [body.replace("\\\n", " ") for language, body in FENCE.findall(text) if language in ("", "sh", "bash")]
    indented = re.findall(r"^    (mendscan .*)$", text_of(page), re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()] + indented + INLINE.findall(text_of(page))
    return [line for line in lines if re.match(r"mendscan [a-z-]", line) and not line.startswith("mendscan -")]


def checked_command(line: str) -> None:
    """Fail if a command or one of its options does not exist."""
    _, verb, *words = shlex.split(line.replace("…", ""), comments=True)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert verb in commands, line
    options = {name for each in commands[verb].params for name in (*each.opts, *each.secondary_opts)} | {"-h", "--help"}
    for word in words:
        if re.match(r"--?[a-zA-Z]", word):
            assert word.partition("=")[0] in options, line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist_as_they_are_shown(page: Path) -> None:
    for line in commands_in(page):
        checked_command(line)


def complete_commands() -> list[str]:
    """Return the commands in code blocks that are there to be typed."""
    found: list[str] = []
    for page in PAGES:
        for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
            if language in ("", "sh"):
                lines = (line.strip() for line in body.replace("\\\n", " ").splitlines())
                found += [line for line in lines if re.match(r"mendscan [a-z]", line) and "…" not in line]
    return sorted(set(found))


@pytest.mark.parametrize("line", complete_commands())
def test_commands_to_be_typed_can_be_parsed(line: str) -> None:
    _, verb, *words = shlex.split(line, comments=True)
    get_command(app).commands[verb].make_context(verb, words)  # type: ignore[attr-defined]


def test_a_wrong_command_is_noticed() -> None:
    for line in ("mendscan detects -m model", "mendscan detect --modle model"):
        with pytest.raises(AssertionError):
            checked_command(line)


def python_blocks() -> list[tuple[str, str]]:
    named = ((str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")) for page in PAGES)
    own = ((name, text) for name, text in named if not name.startswith("docs/notebooks"))  # these run
    blocks = ((name, n, *block) for name, text in own for n, block in enumerate(FENCE.findall(text)))
    return [(f"{name}-{n}", body) for name, n, kind, body in blocks if kind == "python"]


@pytest.mark.parametrize(("name", "body"), python_blocks(), ids=[name for name, _ in python_blocks()])
def test_python_uses_what_there_is(name: str, body: str) -> None:
    for node in ast.walk(ast.parse(body, name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mendscan"):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, each.name) for each in node.names), node.module
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mendscan":
            assert node.attr in mendscan.__all__, node.attr


def test_the_python_reference_has_every_public_name() -> None:
    listed = re.findall(r"^::: mendscan\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(mendscan.__all__) - {"MendscanError", "__version__"}) == sorted(set(listed) - {"errors"})
    assert "errors" in listed


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


class Loads(HTMLParser):
    """What a browser fetches by itself to show a page."""

    LOADED = frozenset({("link", "href"), ("use", "href"), ("image", "href")})

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "srcset", "data", "poster", "action"} or (tag, name) in self.LOADED:
                self.addresses.append(value or "")
            if name == "id":
                self.anchors.add(value or "")
            if (tag, name) == ("a", "href"):
                self.targets.append(value or "")


def loads(page: Path) -> Loads:
    parser = Loads()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_the_site_fetches_nothing_from_elsewhere(site) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) >= len(PAGES)
    for page in pages:
        addresses = loads(page).addresses
        assert addresses
        for address in addresses:
            there = (page.parent / address.partition("?")[0]).resolve()
            assert there.is_file() or not address or address.startswith("data:"), f"{page.name}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_site_leads_nowhere_that_is_not_there(site) -> None:
    pages = {page.resolve(): loads(page) for page in site.rglob("*.html") if page.name != "404.html"}
    for page, content in pages.items():
        for target in content.targets:
            if urlsplit(target).scheme or not target:
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), f"{page.name}: {target}"
            if anchor and there in pages and not anchor.startswith("__"):
                assert anchor in pages[there].anchors, f"{page.name}: {target}"


def test_every_page_says_research_use_only(site) -> None:
    for page in site.rglob("*.html"):
        footer = page.read_text(encoding="utf-8").partition('class="md-copyright"')[2]
        assert "Research use only; not a medical device" in footer, page.name


def test_the_command_reference_has_every_command_and_option(site) -> None:
    text = (site / "commands.html").read_text(encoding="utf-8")
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        section = re.split(r"<h2 ", text.partition(f'id="mendscan-{name}"')[2])[0]
        for parameter in command.params:
            assert parameter.opts[0] in section or parameter.name.upper() in section, (name, parameter.name)
            assert (parameter.help or "")[:12] in re.sub(r"<[^>]*>", "", section).replace("&rsquo;", "'"), (
                parameter.name
            )


def test_lists_are_lists_on_the_site(site) -> None:
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL):
            assert not re.search(r"^(- |\d\. |\|)", paragraph, re.MULTILINE), f"{page.name}: {paragraph[:80]}"
