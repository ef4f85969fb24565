"""The variational autoencoder: shapes, its loss, its noise, and its encoder cut into stages."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import layerparallel as lp
from layerparallel.models.vae import Reconstruction, Variational, resnet_vae, vae_loss
from layerparallel.staged import Staged


def small(**options) -> lp.Network:
    torch.manual_seed(0)
    return resnet_vae(14, 3, size=8, width=4, **options).double()


def images(count: int = 6, channels: int = 1, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, size, size, generator=generator, dtype=torch.float64)


def outputs() -> Reconstruction:
    generator = torch.Generator().manual_seed(2)
    shapes = ((6, 1, 8, 8), (6, 3), (6, 3))
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return Reconstruction(*[value.requires_grad_() for value in values])


def test_shapes_of_the_paper():
    with torch.device("meta"):
        net = resnet_vae(110, 20)
        found = net.to_serial().eval()(torch.empty(5, 1, 28, 28))
    assert [chain.depth for chain in net.chains] == [18, 17, 17]
    assert found.images.shape == found.logits.shape == (5, 1, 28, 28)
    assert found.mean.shape == found.log_variance.shape == (5, 20)


@pytest.mark.parametrize(("channels", "size"), [(1, 12), (3, 8), (2, 4)])
def test_images_of_other_channels_and_sizes(channels, size):
    net = resnet_vae(14, 2, in_channels=channels, size=size, width=2)
    found = net(torch.rand(3, channels, size, size))
    assert found.logits.shape == (3, channels, size, size)
    assert found.mean.shape == (3, 2)
    assert bool(((found.images >= 0) & (found.images <= 1)).all())


@pytest.mark.parametrize("error", ["bce", "mse"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_the_loss_is_that_of_the_distributions(error, beta):
    output, x = outputs(), images()
    found = torch.autograd.grad(vae_loss(output, x, beta, error), output, allow_unused=True)
    if error == "bce":
        off = -Bernoulli(logits=output.logits, validate_args=False).log_prob(x)
    else:
        off = (1 / (1 + torch.exp(-output.logits)) - x) ** 2
    posterior = Normal(output.mean, torch.exp(0.5 * output.log_variance))
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    loss = (off.sum((1, 2, 3)) + beta * divergence).mean()
    torch.testing.assert_close(vae_loss(output, x, beta, error), loss, rtol=1e-12, atol=0)
    expected = torch.autograd.grad(loss, output, allow_unused=True)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_sample_is_of_the_posterior_and_follows_seed_and_state():
    torch.manual_seed(0)
    head = Variational((4, 2, 2), 3, nn.Identity())
    u = torch.randn(4, 2, 2).expand(20_000, 4, 2, 2)
    torch.manual_seed(5)
    before = copy.deepcopy(head.state_dict())
    first, second = head(u), head(u)
    assert not torch.equal(first.logits, second.logits)
    head.load_state_dict(before)
    torch.randn(7)  # others may draw, too
    assert torch.equal(head(u).logits, first.logits)
    assert torch.equal(head(u).logits, second.logits)
    head.load_state_dict(before)
    torch.manual_seed(6)
    assert not torch.equal(head(u).logits, first.logits)
    deviation = torch.exp(first.log_variance[0] / 2)
    off = (first.logits.mean(0) - first.mean[0]) / deviation
    assert bool((off.abs() < 0.03).all())
    torch.testing.assert_close(first.logits.std(0), deviation, rtol=0.03, atol=0)
    found = head.eval()(u)
    assert torch.equal(found.logits, found.mean)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_cut_into_stages_it_is_the_same(stages):
    net, x = small(), images()
    twin, staged = net.to_serial(), Staged(net, stages, x)
    assert len(staged.stages) == stages
    for module in (twin, staged):
        torch.manual_seed(3)
        vae_loss(module(x), x).backward()
    expected = dict(twin.named_parameters())
    for name, p in staged.named_parameters():
        assert p.grad is not None
        assert bool(p.grad.any())
        torch.testing.assert_close(p.grad, expected[name].grad, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(staged.eval()(x), twin.eval()(x), strict=True):
        assert torch.equal(mine, theirs)


def test_states_between_stages_are_tensors():
    net, x = small(), images()
    pieces = len(Staged(net, 1).pieces)
    staged = Staged(net, list(range(4, pieces)))  # behind the opening's conv, norm and relu, all cuts
    value = x
    for k in range(staged.count - 1):
        value = staged.stage(k)(value)
        assert isinstance(value, Tensor)
        assert value.dim() == 4


def test_the_paper_s_network_in_three_stages():
    """The decoder is cheap, so that the cuts are in the encoder."""
    torch.manual_seed(0)
    staged = Staged(resnet_vae(20), 3, torch.rand(1, 1, 28, 28))
    assert len(staged.stages[-1]) > 1


def test_it_learns():
    net, x = small().float(), images(8).float().round()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = vae_loss(net(x), x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet_vae(20, size=30), "size 30 is no multiple of 4 .* pad them to 32"),
        (lambda: resnet_vae(20, size=0), "size 0 is no multiple of 4 .* pad them to 4"),
        (lambda: resnet_vae(20, 0), "latent 0 is out of range"),
        (lambda: resnet_vae(21), "depth 21"),
        (lambda: vae_loss(outputs(), images(5)), "the images are .5, 1, 8, 8. and their recon"),
        (lambda: vae_loss(outputs(), images(), error="mae"), "'mae'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
