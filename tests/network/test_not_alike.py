"""Why modules cannot be stacked: the sentence names the modules and what differs."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import layerparallel as lp


def block() -> Any:
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "setting": (lambda m: setattr(m[1], "p", 0.2), r"\(attribute 1\.p\)"),
    "more": (lambda m: setattr(m[1], "more", 3), r"\(attribute 1\.more\)"),
    "frozen": (lambda m: m[0].weight.requires_grad_(False), "requires_grad of 0.weight"),
    "hook": (lambda m: m[0].weight.register_hook(lambda g: g), r"hooks of 0\.weight"),
    "class": (lambda m: m.__setitem__(1, nn.Tanh()), "classes of 1, Dropout and Tanh"),
    "buffer": (lambda m: m[1].register_buffer("b", m[0].weight.detach()), "buffers of 1"),
    "bias": (lambda m: m.__setitem__(0, nn.Linear(4, 4, bias=False)), "parameter 0.bias"),
    "length": (lambda m: m.append(nn.Tanh()), "names of parameters and modules"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_module_that_differs_is_named_and_in_what(change):
    modules = [block() for _ in range(4)]
    work, said = CHANGES[change]
    work(modules[2])
    with pytest.raises(ValueError, match=rf"modules 0 and 2 of the chain are not alike.*{said}"):
        lp.chain(modules, stacked=True)


def test_hooks_of_the_first_module_are_its_own():
    modules = [block() for _ in range(4)]
    modules[0][0].bias.register_hook(lambda g: g)
    with pytest.raises(ValueError, match=r"module 0 of the chain has hooks of 0\.bias"):
        lp.chain(modules, stacked=True)
