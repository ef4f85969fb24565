"""Every Python block of the documentation runs, page by page, and prints what the page says.

A page's blocks share one namespace. A ``text`` block right behind a Python block is its output, and so
is a table behind the comment ``<!-- output -->``.
"""

import contextlib
import importlib
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

import layerparallel

ROOT = Path(__file__).parent.parent
PACKAGE = Path(layerparallel.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = ("prediction.md",)
TABLE = re.compile(r"\s*<!-- output -->\n\n?((?:\|.*\n)+)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """A Python block: its code, the line it begins on, and the output that the page shows, if any."""

    code: str
    line: int
    output: str | None = None


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    end = -1  # of the last Python block
    for fence in FENCE.finditer(text):
        language, body = fence.groups()
        if language == "python":
            found.append(Block(body, text.count("\n", 0, fence.start()) + 2))
            end = fence.end()
            if table := TABLE.match(text, end):
                found[-1].output = table.group(1)
        elif language == "text" and end >= 0 and not text[end : fence.start()].strip():
            found[-1].output = body
    return found


def run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a page saves does not lie about
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page.read_text()):
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as printed:
            warnings.simplefilter("error", RuntimeWarning)  # a solve that fell back to the serial one
            exec(code, namespace)
        if block.output is not None:
            assert printed.getvalue().rstrip() == block.output.rstrip(), f"{page.name}:{block.line}"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=[pytest.mark.slow] * (p.name in SLOW), id=p.name)
        for p in PAGES
        if blocks(p.read_text())
    ],
)
def test_a_pages_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", FENCE.sub("", page.read_text())):
        assert "/blob/" not in target, f"{page.name}: make {target} a relative path"
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_wrong_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:2"):
        run(page, tmp_path, monkeypatch)
    page.write_text("```python\nprint('| 1 |')\n```\n\n<!-- output -->\n\n| 2 |\n")
    with pytest.raises(AssertionError, match=r"page\.md:2"):
        run(page, tmp_path, monkeypatch)
    page.write_text("text\n\n```python\nx = 1\n```\n\nmore\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run(page, tmp_path, monkeypatch)


# ---- nothing is left out ------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["", ".data", ".models"])
def test_every_public_name_has_its_place_in_the_api(module: str):
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", pages, re.MULTILINE)}
    shown |= {name for names in re.findall(r"members: \[(.*)\]", pages) for name in names.split(", ")}
    missing = set(importlib.import_module(f"layerparallel{module}").__all__) - shown
    assert not missing, f"give {missing} their place in docs/api"


def test_every_room_is_in_the_design():
    table = (ROOT / "docs" / "design.md").read_text().partition("## Rooms")[2].partition("\n## ")[0]
    rooms = {path.stem for path in PACKAGE.glob("[a-z]*") if path.is_dir() or path.suffix == ".py"}
    missing = rooms - set(re.findall(r"`(\w+)`", table))
    assert not missing, f"say in docs/design.md what {missing} know"
