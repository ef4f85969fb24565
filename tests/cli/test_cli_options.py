"""Options from a dataclass: kinds of values, suggestions, refusals, the help page."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest

from layerparallel.cli.options import Shown, options_of
from layerparallel.cli.parsing import parse
from layerparallel.errors import InputError
from layerparallel.recipes.options import Bound, Count, Several


@dataclass(frozen=True)
class Baking:
    """Bread."""

    sections: ClassVar[dict[str, str]] = {"loaves": "Training", "flour": "Network", "oven": "Run"}

    loaves: Count = 3
    """Loaves."""
    flour: Literal["rye", "wheat", "oat"] = "rye"
    """Kind of
    flour."""
    grams: int | None = None
    """Grams of it; by eye if not given."""
    salt: Annotated[float, Bound(least=0, below=1)] = 0.02
    """Share of salt."""
    rests: tuple[Count, ...] = ()
    """Minutes between two foldings."""
    heat: Several[int] = 250
    """Degrees, for the whole time or for each third."""
    seeds: int | None = 7
    """Seeds on top."""
    oven: Annotated[Path, Shown("DIR", alias="--stove")] = Path("oven")
    """Which oven."""
    steam: bool = False
    """Steam at the beginning."""
    crust: bool = True
    """A crust."""


@dataclass(frozen=True)
class Rye(Baking):
    """Rye bread."""

    loaves: int = 1
    grains: bool = False
    """Whole grains."""


def baked(*arguments: str) -> Baking:
    (found,) = parse("bake", "Bread.", arguments, Baking)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises((InputError, SystemExit)) as caught:
        baked(*arguments)
    return capsys.readouterr().err if caught.type is SystemExit else str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ([], "loaves", 3),
        (["--loaves", "4"], "loaves", 4),
        (["--loaves=4"], "loaves", 4),
        (["--loaves", "-4"], "loaves", -4),
        (["--flour", "oat"], "flour", "oat"),
        (["--grams", "500"], "grams", 500),
        (["--salt", "1e-2"], "salt", 0.01),
        (["--salt", "-.5"], "salt", -0.5),
        (["--rests", "30"], "rests", (30,)),
        (["--rests", "30", "40", "--steam"], "rests", (30, 40)),
        (["--heat", "220"], "heat", 220),
        (["--heat", "250", "220", "200"], "heat", (250, 220, 200)),
        (["--seeds", "none"], "seeds", None),
        (["--stove", "gas"], "oven", Path("gas")),
        (["--steam"], "steam", True),
        (["--no-steam"], "steam", False),
        (["--no-crust"], "crust", False),
        (["--loaves", "3", "--steam", "--loaves", "5"], "loaves", 5),  # the last one counts
    ],
)
def test_a_value_is_what_its_annotation_says(arguments, field, value):
    found = getattr(baked(*arguments), field)
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


def test_an_underscore_in_a_flag_is_a_dash_and_several_dataclasses_share_what_is_typed():
    @dataclass(frozen=True)
    class Eating:
        """Bread, too."""

        slice_thickness: int = 1
        """Of a slice."""

    bread, eaten = parse("x", "", ["--slice_thickness", "2", "--loaves", "5"], Baking, Eating)
    assert (bread.loaves, eaten.slice_thickness) == (5, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--loavs", "3"], "There is no option --loavs of `bake`: did you mean --loaves?"),
        (["--Loaves", "3"], "did you mean --loaves?"),
        (["--zzz"], "`layerparallel bake --help` lists those there are."),
        (["--loaves", "ten"], "--loaves takes a whole number, not 'ten': give such as --loaves 3."),
        (["--loaves"], "--loaves takes a whole number: give such as --loaves 3."),
        (["--loaves", "--steam"], "--loaves takes a whole number: give such as --loaves 3."),
        (["--loaves="], "--loaves takes a whole number, not ''"),
        (["--loaves", "1.5"], "takes a whole number, not '1.5'"),
        (["--loaves", "9" * 30], f"--loaves {'9' * 30} is too large: give at most 4294967295."),
        (["--loaves", "3", "4"], "'4' belongs to no option"),
        (["3"], "'3' belongs to no option: an option begins with --, and a switch takes no value."),
        (["--flour", "wheet"], "--flour takes rye, wheat or oat, not 'wheet': did you mean wheat?"),
        (["--flour", "zzz"], "--flour takes rye, wheat or oat, not 'zzz': give one of these."),
        (["--salt", "much"], "--salt takes a number, not 'much': give such as --salt 0.02."),
        (["--rests", "30,40"], "--rests takes whole numbers, not '30,40': give such as --rests 8 8."),
        (["--seeds", "few"], "--seeds takes a whole number or none, not 'few'"),
        (["--steam", "yes"], "'yes' belongs to no option: an option begins with --, and a switch takes"),
        (["--crust=false"], "--crust/--no-crust takes no value: leave out =false."),
        (["--oven", ""], "--oven takes a path, not '': give such as --oven oven."),
    ],
)
def test_what_cannot_be_read_is_one_sentence(arguments, says, capsys):
    assert says in refusal(capsys, *arguments)


def test_sections_help_and_bounds_are_those_of_the_class_where_an_option_is_first():
    found = {option.field: option for option in options_of(Rye)}
    assert {name: option.section for name, option in found.items()} == {
        "loaves": "Training",
        **dict.fromkeys(("flour", "grams", "salt", "rests", "heat", "seeds"), "Network"),
        **dict.fromkeys(("oven", "steam", "crust"), "Run"),
        "grains": "Options",
    }
    assert found["loaves"].help == "Loaves. (default 1)"
    assert found["flour"].help == "Kind of flour. (default rye)"
    assert found["salt"].help == "Share of salt. (default 0.02; at least 0 and less than 1)"
    assert found["grams"].help == "Grams of it; by eye if not given."
    assert found["rests"].help == "Minutes between two foldings."


def test_the_page_has_usage_text_and_sections_in_the_order_of_their_use(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "64")
    with pytest.raises(SystemExit) as left:
        baked("--loaves", "nonsense", "--help")
    assert left.value.code == 0
    page = capsys.readouterr().out
    close = re.sub(r"(?<=\S) {2,}", "  ", page)
    assert page.startswith("usage: layerparallel bake [options]\n\nBread.\n")
    assert re.findall(r"^(\w+):$", page, re.MULTILINE) == ["Training", "Network", "Run"]
    assert "  --oven DIR, --stove DIR  Which oven. (default oven)\n" in close
    assert "  --seeds N|none  Seeds on top. (default 7)\n" in close
    assert "  --crust, --no-crust  A crust. (default on)\n" in close
    assert "  --steam, --no-steam  Steam at the beginning.\n" in close
    assert "  --rests N [N ...]  Minutes between two foldings.\n" in close
    assert all(len(line) <= 64 for line in page.splitlines())
