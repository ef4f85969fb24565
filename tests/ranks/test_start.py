"""How processes become ranks, and what they are told if they cannot."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from launching import free_port, launch, torchrun

from layerparallel.errors import InputError
from layerparallel.group.ranks import Ranks
from layerparallel.group.start import agree, start, stop

# ---- agreement ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    depth: int
    rates: tuple[float, ...]


def outcome(group, facts):
    """What agreeing on the facts of this rank ends with."""
    try:
        return agree(group, facts[group.rank])
    except InputError as error:
        return str(error)


SAME = {
    "options": Options(3, (0.1, 0.2)),
    "data": torch.arange(1000.0),
    "names": ["a"] * 100,
    "seed": 1,
    "criterion": torch.nn.functional.cross_entropy,
}


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_that_agree_go_on(pool, ranks):
    assert pool.run(ranks, outcome, [SAME] * ranks) == [None] * ranks


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"seed": 2}, "the seed: 1 on ranks 0, 2 and 2 on rank 1;"),
        ({"options": Options(3, (0.1, 0.3))}, "the options: "),
        ({"data": torch.arange(1000.0).add_(torch.arange(1000) == 999)}, "the data: "),
        ({"data": torch.arange(1000)}, "the data: "),
        ({"names": ["a"] * 101}, "the names: "),
        ({"criterion": torch.nn.functional.mse_loss}, "the criterion: "),
        ({"version of torch": "2.11.0"}, "the version of torch: "),
        ({"seed": 2, "names": []}, "the names (and on the seed): "),
        ({"more": 1}, "the more: nothing on ranks 0, 2 and 1 on rank 1;"),
    ],
)
def test_ranks_that_disagree_are_all_told_on_what_and_who(pool, facts, expected):
    found = pool.run(3, outcome, [SAME, {**SAME, **facts}, SAME])
    assert len(set(found)) == 1
    assert found[0].startswith("The ranks disagree on " + expected)
    assert "on ranks 0, 2 and " in found[0]
    assert found[0].endswith("on rank 1; start all of them with the same.")
    assert len(found[0]) < 200


# ---- starting -----------------------------------------------------------------------------------


def attempt(keywords):
    """What `start` ends with, with the keywords of this rank."""
    if isinstance(keywords, list):
        keywords = keywords[int(os.environ["RANK"])]
    try:
        mesh = start(**keywords)
    except InputError as error:
        return str(error)
    group = Ranks(mesh["layer"])
    total = float(group.total(torch.tensor(float(os.environ.get("RANK", 0)))))
    stop()
    return tuple(mesh.shape), mesh.mesh_dim_names, group.rank, total


def alone(keywords):
    """The same, of a process that torchrun has not started."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name)
    return attempt(keywords)


def started(folder, ranks, keywords, function=attempt, **environment):
    """What `start` ends with in that many processes."""
    launched = launch(ranks, folder, function, keywords, **environment)
    return [rank.returned() for rank in launched]


def test_processes_become_a_mesh(tmp_path):
    found = started(tmp_path, 4, {"layer_ranks": 2, "device": "cpu"})
    names = ("data", "layer")
    assert found == [((2, 2), names, r % 2, [1.0, 5.0][r // 2]) for r in range(4)]


def test_a_process_alone_is_a_world_of_one(tmp_path):
    assert started(tmp_path, 1, {"device": "cpu"}, alone) == [((1, 1), ("data", "layer"), 0, 0.0)]


def test_layer_ranks_need_torchrun(tmp_path):
    (found,) = started(tmp_path, 1, {"layer_ranks": 4}, alone)
    assert found == (
        "4 layer ranks need as many processes, and this is one alone; start it by torchrun "
        "--nproc-per-node 4."
    )


@pytest.mark.parametrize("layer_ranks", [0, 2, 5])
def test_sizes_that_do_not_match_are_refused_on_every_rank(layer_ranks, tmp_path):
    found = started(tmp_path, 3, {"layer_ranks": layer_ranks, "device": "cpu"})
    assert len(set(found)) == 1
    assert f"{layer_ranks} layer ranks are too few" in found[0] or (
        f"3 processes cannot be split into layer groups of {layer_ranks}" in found[0]
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_nccl_without_gpus_is_refused_on_every_rank(tmp_path):
    found = started(tmp_path, 2, {"device": "cuda"})
    assert len(set(found)) == 1
    assert found[0].startswith("Rank 0 cannot start: ")
    assert found[0].endswith("choose the device cpu.")


def test_an_unknown_device_on_one_rank_is_told_to_all(tmp_path):
    found = started(tmp_path, 2, [{"device": "cpu"}, {"device": "tpu"}])
    assert found == ["Rank 1 cannot start: there is no device 'tpu', choose cpu or cuda."] * 2


def test_a_port_in_use_is_told_on_every_rank(tmp_path):
    with socket.socket() as taken:  # by a program that takes connections and says nothing
        taken.bind(("127.0.0.1", 0))
        taken.listen(8)
        port = taken.getsockname()[1]
        found = started(tmp_path, 3, {"device": "cpu", "arrival": 3.0}, port=port)
    assert found[0].startswith(f"Rank 0 cannot open port {port} on 127.0.0.1")
    for rank in (1, 2):
        assert found[rank].startswith(f"Rank {rank} did not find rank 0 at 127.0.0.1:{port} within 3 s")


def test_ranks_that_do_not_arrive_are_named(tmp_path):
    found = started(tmp_path, 2, {"device": "cpu", "arrival": 3.0}, WORLD_SIZE="4")
    assert len(set(found)) == 1
    assert found[0].startswith("Ranks 2, 3 did not arrive at 127.0.0.1:")


def test_a_rank_that_believes_in_another_size_is_told(tmp_path):
    port = free_port()
    options = {"device": "cpu", "arrival": 3.0}
    here = launch(1, tmp_path, attempt, options, port=port, WORLD_SIZE="2")
    there = launch(1, tmp_path, attempt, options, port=port, WORLD_SIZE="3", RANK="1")
    found = [rank.returned() for rank in (*here, *there)]
    assert found[0] == (
        "The ranks disagree on the size: 2 on rank 0 and 3 on rank 1; start all of them with the same."
    )
    assert found == found[:1] * 2


def test_process_groups_of_ones_own_start_again(tmp_path):
    """As docs/ranks.md makes them."""
    options = ("--max-restarts", "1", "--monitor-interval", "0.1")
    ended = torchrun(2, Path(__file__).with_name("own_groups.py"), options=options)
    assert ended.returncode == 0, ended.stdout
    for rank in range(2):
        assert f"attempt 1 of rank {rank} is done" in ended.stdout
