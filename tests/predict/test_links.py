"""Networks by name and by file."""

import json

import pytest
from predicting import FREE
from scripts import script

from layerparallel.cli import main
from layerparallel.errors import InputError
from layerparallel.group import Link
from layerparallel.predict import links

pytestmark = pytest.mark.slow


def test_networks_have_names_and_files(tmp_path):
    assert links.find("none").link == FREE
    assert links.find("ethernet").link.seconds(12.5e9) == pytest.approx(1, rel=1e-3)
    assert "assumed" in str(links.find("nvlink"))
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"latency": 2e-6, "seconds_per_byte": 1e-9, "rows": []}))
    found = links.find(str(file))
    assert (found.name, found.link) == ("mine", Link(2e-6, 1e-9))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "holds no network"),
        ("nonsense", "holds no network"),
        ('{"latency": -1, "seconds_per_byte": 0}', "latency = -1.0 .* is out of range: give 0 or more"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_a_network_is_refused(tmp_path, content, said):
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=said):
        links.find(str(file))


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="There is no network 'nvlinc': did you mean 'nvlink'"):
        links.find("nvlinc")


def test_a_link_is_fitted_to_what_was_measured():
    link = Link(3e-5, 2e-10)
    found = script("benchmarks", "network", "run.py").fitted(
        {size: link.seconds(size) for size in (8, 4096, 1 << 20, 1 << 24)}
    )
    assert found.latency == pytest.approx(link.latency)
    assert found.seconds_per_byte == pytest.approx(link.seconds_per_byte)


def test_a_network_is_measured_between_two_processes(tmp_path, capsys):
    assert main(["bench", "network", "--json", "--seconds", "0.01"]) == 0
    file = tmp_path / "here.json"
    file.write_text(capsys.readouterr().out)
    link = links.find(str(file)).link
    assert 1e-6 < link.latency < 0.1
    assert link.seconds_per_byte > 0
