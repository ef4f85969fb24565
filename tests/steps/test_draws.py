"""Random numbers that are drawn apart."""

import pytest
import torch

from layerparallel.steps import draws


def test_other_draws_go_on_as_before():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    begun = torch.rand(2)
    with draws.apart():
        torch.rand(5)
        torch.manual_seed(1)
    with draws.apart(7):
        torch.rand(5)
    assert torch.equal(torch.cat([begun, torch.rand(2)]), wanted)


@pytest.mark.parametrize("seed", [0, 7, (1 << 62) + 5])
def test_a_seed_gives_the_numbers_of_manual_seed(seed: int):
    torch.manual_seed(seed)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    with draws.apart(seed):
        assert torch.equal(torch.rand(4), wanted)
        assert torch.initial_seed() == seed
    assert torch.initial_seed() == 3


def test_without_a_seed_they_begin_where_the_generator_is():
    torch.manual_seed(3)
    with draws.apart():
        first = torch.rand(4)
    assert torch.equal(torch.rand(4), first)


def test_an_error_within_leaves_others_as_they_were():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), draws.apart(1):
        torch.rand(2).view(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use here")
@pytest.mark.parametrize("device", [None, torch.device("cuda"), torch.device("cuda", 0)])
def test_a_gpus_draws_go_on_as_before(device: torch.device | None):
    torch.cuda.init()
    torch.manual_seed(3)
    wanted = torch.rand(4, device="cuda")
    torch.manual_seed(3)
    with draws.apart(7, device):
        drawn = torch.rand(4, device="cuda")
    assert torch.equal(torch.rand(4, device="cuda"), wanted)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(4, device="cuda"), drawn)
