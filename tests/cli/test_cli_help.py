"""What the command line tells of itself: help pages, the recipes and the benchmarks there are."""

import dataclasses
import re
from typing import Any

import pytest

import layerparallel
from layerparallel import recipes
from layerparallel.cli import commands, main
from layerparallel.cli.options import options_of
from layerparallel.cli.predict import Settings
from layerparallel.cli.runs import Train
from layerparallel.predict import links

WIDTH = 100


def shown(capsys, *arguments: str) -> str:
    """What a command prints that ends well."""
    code: object = None
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 0
    return capsys.readouterr().out


def table(text: str) -> list[list[str]]:
    """The cells of a table whose columns are two blanks apart or more; all must begin alike."""
    lines = [line for line in text.splitlines() if re.match(r"\w\S+  ", line)]
    cells = [re.split(r"\s{2,}", line) for line in lines]
    for column in range(len(cells[0])):
        begins = {
            line.index("  " + row[column]) for line, row in zip(lines, cells, strict=True) if column
        }
        assert len(begins) <= 1
    return cells


def test_the_overview_names_every_command_and_the_version_is_known(capsys):
    overview = shown(capsys)
    assert all(f"layerparallel {name}" in overview for name in commands.COMMANDS)
    assert shown(capsys, "--help") == overview
    assert shown(capsys, "--version") == f"layerparallel {layerparallel.__version__}\n"


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_has_a_help_page(command, capsys):
    page = shown(capsys, command, "--help")
    assert page.startswith(f"usage: layerparallel {command}")
    assert all(len(line) <= WIDTH for line in page.splitlines())


# ---- recipes -----------------------------------------------------------------------------------


def test_list_is_aligned_and_says_what_data_a_recipe_needs(capsys):
    rows = table(shown(capsys, "list"))
    assert [row[0] for row in rows] == recipes.names()
    needs = {name: need for name, need, _ in rows}
    assert needs["level-sets"] == "generated"
    assert needs["mnist"] == "downloads 12 MB or --data"
    assert needs["mnist-vae"] == "downloads 12 MB"
    assert needs["imagenet-parareal"] == "your own folder: --images"
    for name, need in needs.items():
        kind: Any = recipes.get(name)
        assert need == kind.needs()
        for flag in re.findall(r"--(\w+)", need):
            assert hasattr(kind, flag)


def test_the_help_of_commands_of_recipes_lists_those_that_suit(capsys):
    assert shown(capsys, "list") in shown(capsys, "train", "--help")
    assert [row[0] for row in table(shown(capsys, "predict", "--help"))] == [
        name for name in recipes.names() if hasattr(recipes.get(name), "solver")
    ]


@pytest.mark.parametrize("name", recipes.names())
def test_the_help_of_a_recipe_is_readable(name, capsys):
    page, kind = shown(capsys, "train", name, "--help"), recipes.get(name)
    assert all(len(line) <= WIDTH for line in page.splitlines())
    sections = re.findall(r"^(\w[\w ]*):$", page, re.MULTILINE)
    assert sections[:3] == ["Training", "Data", "Network"]
    assert sections[-1] == "Run"
    assert "Options" not in sections
    assert not re.search(r"\bNone\b|{None}|--\w+_\w|typing|<class", page)
    flat, packed = " ".join(page.split()), "".join(page.split())
    options = [*options_of(kind), *options_of(Train)]
    for option in options:
        assert option.help
        assert "".join(option.help.split()) in packed
        assert re.search(rf"^  .*{option.flag}\b|{option.opposite}\b", page, re.MULTILINE)
    assert len({flag for option in options for flag in option.flags}) == sum(
        len(option.flags) for option in options
    )
    for each in dataclasses.fields(kind):
        if isinstance(each.default, int | float) and not isinstance(each.default, bool):
            assert f"(default {each.default:g}" in flat or f"(default {each.default}" in flat


def test_options_of_predict_are_not_those_of_a_recipe_that_it_takes(capsys):
    own = {option.field for option in options_of(Settings)}
    for name in recipes.names():
        kind: Any = recipes.get(name)
        if hasattr(kind, "solver"):
            assert not own & {option.field for option in options_of(kind)}
    page = " ".join(shown(capsys, "predict", "mnist", "--help").split())
    assert all(preset in page for preset in links.PRESETS)


# ---- benchmarks --------------------------------------------------------------------------------


def test_bench_lists_the_benchmarks_with_a_line_each(capsys):
    listed = shown(capsys, "bench", "list")
    assert listed == shown(capsys, "bench") == shown(capsys, "bench", "--help")
    assert all(len(line) <= WIDTH for line in listed.splitlines())
    rows = table(listed)
    known = commands.benchmarks()
    assert [name for name, _ in rows] == list(known)
    for (_, text), path in zip(rows, known.values(), strict=True):
        assert text.endswith(".")
        assert path.read_text().startswith(f'"""{text}\n')


@pytest.mark.parametrize("name", commands.benchmarks())
def test_every_benchmark_has_help(name, capsys, monkeypatch):
    monkeypatch.setattr(commands.sys, "path", [*commands.sys.path])
    assert "--json" in shown(capsys, "bench", name, "--help")
