import pytest
import torch

from pyrovae import VAE
from pyrovae.networks import DECODERS, ENCODERS, MLP, Conv, ConvTranspose


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 4, 4)], ids=str)
@pytest.mark.parametrize("condition_dim", [0, 3])
def test_mlp_shapes(shape, condition_dim):
    network = MLP(shape, hidden=(7, 4), condition_dim=condition_dim)
    inputs = [torch.randn(6, *shape), torch.randn(6, 3)][: 1 + bool(condition_dim)]
    assert network(*inputs).shape == (6, 4)


def test_mlp_is_what_it_says():
    network = MLP((2, 2), hidden=(5, 3), activation="tanh", condition_dim=1)
    x, c = torch.randn(4, 2, 2), torch.randn(4, 1)
    first, second = network.layers[0], network.layers[2]
    h = torch.tanh(torch.cat([x.reshape(4, 4), c], -1) @ first.weight.T + first.bias)
    assert torch.allclose(network(x, c), torch.tanh(h @ second.weight.T + second.bias), atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (0,), (5, -1)])
def test_mlp_widths_that_are_none(hidden):
    with pytest.raises(ValueError, match="mlp: expected hidden to be one or more positive widths"):
        MLP((3,), hidden=hidden)


SIZES = [(1, 1), (1, 9), (2, 2), (3, 5), (7, 8), (8, 8), (13, 17), (28, 28), (32, 20)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [(3,), (4, 3), (4, 4, 3), (4, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("condition_dim", [0, 2])
def test_convolutions_of_any_size(size, channels, condition_dim):
    condition = [torch.randn(5, 2)] if condition_dim else []
    encoder = Conv((2, *size), channels=channels, features=6, condition_dim=condition_dim)
    assert encoder(torch.randn(5, 2, *size), *condition).shape == (5, 6)
    decoder = ConvTranspose((4,), (2, *size), channels=channels, condition_dim=condition_dim)
    assert decoder(torch.randn(5, 4), *condition).shape == (5, channels[-1], *size)


@pytest.mark.parametrize("shape", [(3,), (4, 4), (1, 2, 3, 4)], ids=str)
def test_convolutions_of_what_is_no_image(shape):
    for build in (lambda: Conv(shape), lambda: ConvTranspose((2,), shape)):
        with pytest.raises(ValueError, match=r"conv: expected images of shape \(channels, height, width\), got"):
            build()


def test_every_input_reaches_the_features():
    """Each pixel, each latent dimension and each element of the condition has a gradient."""
    torch.manual_seed(0)
    inputs = [torch.randn(3, 1, 7, 6), torch.randn(3, 2)]
    network = Conv((1, 7, 6), channels=(4, 8), activation="tanh", condition_dim=2)
    decoder = ConvTranspose((5,), (1, 7, 6), channels=(8, 4), activation="tanh", condition_dim=2)
    for module, first in ((network, inputs[0]), (decoder, torch.randn(3, 5))):
        arguments = [first.requires_grad_(), inputs[1].clone().requires_grad_()]
        gradients = torch.autograd.grad(module(*arguments).square().sum(), arguments)
        assert all((g != 0).all() for g in gradients)


def test_rows_do_not_mix():
    torch.manual_seed(0)
    for module, x in (
        (Conv((1, 6, 6), channels=(3,)), torch.randn(4, 1, 6, 6)),
        (ConvTranspose((5,), (1, 6, 6)), torch.randn(4, 5)),
        (MLP((5,)), torch.randn(4, 5)),
    ):
        assert torch.allclose(module(x)[2:3], module(x[2:3]), atol=1e-6)


def test_unknown_activation():
    with pytest.raises(ValueError, match="unknown activation 'rel': expected one of.*Did you mean 'relu'"):
        MLP((3,), activation="rel")


def test_names_build_the_classes():
    vae = VAE((1, 8, 8), 2, encoder="conv(channels=[3, 5], features=7)", decoder="conv")
    assert type(vae.posterior.network) is Conv is ENCODERS["conv"]
    assert type(vae.likelihood.network) is ConvTranspose is DECODERS["conv"]
    assert vae.posterior.head.in_features == 7 and vae.posterior.network.channels == (3, 5)
    assert vae.likelihood.maps and vae.likelihood.head.in_features == 32
    default = VAE((1, 8, 8), 2)
    assert type(default.posterior.network) is type(default.likelihood.network) is MLP
    assert not default.likelihood.head.bias.any()
