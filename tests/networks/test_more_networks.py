import copy

import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import VAE
from pyrovae.conditional import Conditional
from pyrovae.likelihoods import Gaussian
from pyrovae.networks import (
    ACTIVATIONS,
    DECODERS,
    ENCODERS,
    MLP,
    Conv,
    ConvTranspose,
    Gated,
    Recurrent,
    RecurrentDecoder,
    ResNet,
    ResNetTranspose,
)
from pyrovae.networks.activation import activation, initialize
from pyrovae.networks.residual import Residual, temper

# Constructors of encoders and decoders by the shape of x; all but the widths are theirs.
IMAGE, SEQUENCE, COLUMN = (2, 7, 4), (5, 3), (6,)
ENCODE = {
    "mlp norm": (COLUMN, lambda **k: MLP(COLUMN, (4, 4), norm="batch", **k)),
    "mlp skip": (COLUMN, lambda **k: MLP(COLUMN, (4, 4, 3), norm="layer", dropout=0.5, skip=True, **k)),
    "gated": (COLUMN, lambda **k: Gated(COLUMN, (5, 4), **k)),
    "gated image": (IMAGE, lambda **k: Gated(IMAGE, (4,), **k)),
    "resnet": (IMAGE, lambda **k: ResNet(IMAGE, (3, 4), features=5, activation="tanh", **k)),
    "resnet group": (IMAGE, lambda **k: ResNet(IMAGE, (6,), blocks=2, features=5, norm="group", **k)),
    "gru": (SEQUENCE, lambda **k: Recurrent(SEQUENCE, 4, **k)),
    "lstm": (SEQUENCE, lambda **k: Recurrent(SEQUENCE, 4, cell="lstm", layers=2, **k)),
    "gru column": (COLUMN, lambda **k: Recurrent(COLUMN, 4, **k)),
}
DECODE = {
    "mlp skip": (COLUMN, lambda **k: MLP((2,), (4, 4, 3), norm="layer", dropout=0.5, skip=True, **k)),
    "gated": (COLUMN, lambda **k: Gated((2,), (5, 4), **k)),
    "resnet": (IMAGE, lambda **k: ResNetTranspose((2,), IMAGE, (4, 3), activation="tanh", **k)),
    "resnet group": (IMAGE, lambda **k: ResNetTranspose((2,), IMAGE, (6, 4), blocks=2, norm="group", **k)),
    "gru": (SEQUENCE, lambda **k: RecurrentDecoder((2,), SEQUENCE, 4, **k)),
    "lstm": (SEQUENCE, lambda **k: RecurrentDecoder((2,), SEQUENCE, 4, cell="lstm", layers=2, **k)),
    "gru column": (COLUMN, lambda **k: RecurrentDecoder((2,), COLUMN, 4, **k)),
}
CASES = [pytest.param(make, shape, shape, id=f"encoder {name}") for name, (shape, make) in ENCODE.items()]
CASES += [pytest.param(make, (2,), shape, id=f"decoder {name}") for name, (shape, make) in DECODE.items()]


# What was there stays bit for bit

BEFORE = {
    "mlp": (
        lambda: MLP((3,), hidden=(5, 4), condition_dim=1),
        ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"],
        0.2038482427597046,
        4.921219080686569,
    ),
    "tanh": (
        lambda: MLP((3,), hidden=(5, 4), activation="tanh"),
        ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"],
        0.18719732761383057,
        0.5554108708165586,
    ),
    "softplus": (
        lambda: MLP((3,), hidden=(5, 4), activation="softplus"),
        ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"],
        0.13871687650680542,
        5.239845782518387,
    ),
    "conv": (
        lambda: Conv((1, 5, 4), channels=(2, 3), features=4),
        ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias", "dense.weight", "dense.bias"],
        0.822311520576477,
        0.06430250871926546,
    ),
    "conv transpose": (
        lambda: ConvTranspose((2,), (1, 5, 4), channels=(3, 2)),
        ["dense.weight", "dense.bias", "layers.2.weight", "layers.2.bias"],
        0.5210340619087219,
        12.622038677334785,
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_defaults_are_those_of_the_first_release(name):
    """The same tensors under the same names, and as many random numbers used, as before the options came."""
    make, keys, following, total = BEFORE[name]
    torch.manual_seed(0)
    module = make()
    assert torch.rand(1).item() == following
    assert list(module.state_dict()) == keys
    x = torch.linspace(-1, 1, 2 * torch.Size(module.in_shape).numel()).reshape(2, *module.in_shape)
    condition = [torch.tensor([[0.5], [-0.5]])] if module.condition_dim else []
    assert module(x, *condition).double().sum().item() == pytest.approx(total, rel=1e-6)


# What all share


@pytest.mark.parametrize("condition_dim", [0, 3])
@pytest.mark.parametrize(("make", "in_shape", "event_shape"), CASES)
def test_through_a_conditional(make, in_shape, event_shape, condition_dim):
    """Particles and rows in front; each row by itself; every input and parameter has a gradient."""
    module = make(condition_dim=condition_dim)
    part = Conditional(Gaussian(1.0), module, in_shape, event_shape, condition_dim=condition_dim)
    assert part.maps == isinstance(module, ResNetTranspose)
    inputs = torch.randn(6, 4, *in_shape, requires_grad=True)
    condition = torch.randn(4, condition_dim, requires_grad=True) if condition_dim else None
    mean = part(inputs, condition).mean
    assert mean.shape == (6, 4, *event_shape)
    needed = [inputs, *part.parameters()] + ([condition] if condition_dim else [])
    weights = torch.randn(mean.shape)
    for gradient in torch.autograd.grad((mean * weights).sum(), needed):
        assert torch.isfinite(gradient).all() and (gradient != 0).any()
    part.eval()
    whole = part(inputs, condition).mean
    assert torch.equal(whole, part(inputs, condition).mean)
    row = part(inputs[2, 1:2], None if condition is None else condition[1:2]).mean
    assert torch.allclose(row[0], whole[2, 1], atol=1e-5)
    if condition_dim:
        assert not torch.allclose(part(inputs, condition + 1).mean, whole)


@pytest.mark.parametrize(("make", "in_shape", "event_shape"), CASES)
def test_float64_and_copies(make, in_shape, event_shape):
    module = make().eval()
    x = torch.randn(4, *in_shape)
    y = module(x)
    twin = copy.deepcopy(module).double()
    assert twin(x.double()).dtype == torch.float64
    assert torch.allclose(twin(x.double()).float(), y, atol=1e-4)


@pytest.mark.parametrize("network", ["resnet(channels=[4, 3], norm=group)", "gated(hidden=[5])"])
def test_by_name_and_saved(network, same, tmp_path):
    vae = VAE((1, 6, 5), 2, encoder=network, decoder=network, condition_dim=2)
    twin = pyrovae.load(pyrovae.save(vae, tmp_path))
    assert same(vae, twin)
    assert type(vae.posterior.network) is ENCODERS[network.split("(")[0]]
    assert type(twin.likelihood.network) is DECODERS[network.split("(")[0]]


def test_sequences_by_name_and_saved(same, tmp_path):
    vae = VAE((5, 3), 2, likelihood="gaussian", encoder="recurrent(cell=lstm)", decoder="recurrent(hidden=4, layers=2)")
    twin = pyrovae.load(pyrovae.save(vae, tmp_path))
    assert same(vae, twin) and twin.likelihood.network.layers == 2 and twin.posterior.network.cell == "lstm"


# MLP


def test_mlp_of_all_options_is_what_it_says():
    torch.manual_seed(0)
    network = MLP((3,), (5, 5, 4), activation="tanh", norm="layer", skip=True)
    x = torch.randn(6, 3)

    def layer(linear, norm, h):
        h = h @ linear.weight.T + linear.bias
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
        return torch.tanh(h * norm.weight + norm.bias)

    first = layer(network.layers[0], network.layers[1], x)
    equal, wider = network.layers[3], network.layers[4]
    second = first + layer(equal.body[0], equal.body[1], first)
    third = second @ wider.shortcut.weight.T + wider.shortcut.bias + layer(wider.body[0], wider.body[1], second)
    assert torch.allclose(network(x), third, atol=1e-5)
    assert isinstance(equal.shortcut, nn.Identity)


def test_batch_normalisation_in_training_and_after():
    network = MLP((3,), (50,), activation="identity", norm="batch")
    assert network.layers[0].bias is None
    x = 5 * torch.randn(400, 3) + 2
    y = network(x)
    assert torch.allclose(y.mean(0), torch.zeros(50), atol=1e-4)
    assert torch.allclose(y.var(0, correction=0), torch.ones(50), atol=1e-3)
    for _ in range(100):
        network(x)
    network.eval()
    assert torch.allclose(network(x[:1])[0], y[0], atol=0.02)


def test_dropout_in_training_and_after():
    network = MLP((3,), (1000,), activation="sigmoid", dropout=0.25)
    x = torch.randn(8, 3)
    zeros = (network(x) == 0).float().mean().item()
    # 8000 draws with probability 1/4: one standard error is 0.0048.
    assert abs(zeros - 0.25) < 4 * 0.0048
    network.eval()
    assert (network(x) != 0).all() and torch.equal(network(x), network(x))


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, float("nan")])
def test_dropouts_that_are_none(dropout):
    with pytest.raises(ValueError, match="mlp dropout: expected a probability of at least 0 and below 1, got"):
        MLP((3,), dropout=dropout)


def test_norms_that_are_none():
    with pytest.raises(ValueError, match="unknown mlp norm 'bath': expected one of batch, layer. Did you mean 'batch'"):
        MLP((3,), norm="bath")
    with pytest.raises(ValueError, match="unknown resnet norm 'batch': expected one of group"):
        ResNet((1, 4, 4), norm="batch")
    with pytest.raises(ValueError, match="unknown resnet norm 'batch': expected one of group"):
        ResNetTranspose((2,), (1, 4, 4), norm="batch")


def test_activations_by_name():
    """Those of torch.nn.functional under the same name; a few values by hand for what the names do not say."""
    x = torch.linspace(-4, 8, 25)
    own = {"identity": x, "prelu": torch.where(x > 0, x, 0.25 * x)}
    for name in ACTIVATIONS:
        expected = own[name] if name in own else getattr(nn.functional, name)(x)
        assert torch.equal(activation(name)(x), expected), name


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_first_weights_suit_the_activation(name):
    """Their variance: 2 / in (He), 2 / (in + out) (Glorot), 1 / in (LeCun); torch's own is 1 / (3 in)."""
    torch.manual_seed(0)
    layer = nn.Linear(200, 600)
    initialize(layer, name)
    glorot = {"tanh", "hardtanh", "softsign", "sigmoid", "hardsigmoid", "identity"}
    expected = 2 / 800 if name in glorot else {"selu": 1 / 200, "softplus": 1 / 600}.get(name, 2 / 200)
    assert layer.weight.var().item() == pytest.approx(expected, rel=0.02)
    assert bool(layer.bias.any()) == (name == "softplus")


# Gated


def test_gated_is_what_it_says():
    network = Gated((2, 2), (5, 3), condition_dim=1)
    h, c = torch.randn(4, 2, 2), torch.randn(4, 1)
    expected = torch.cat([h.reshape(4, 4), c], -1)
    for layer in network.layers:
        nn.init.normal_(layer.value.bias)
        nn.init.normal_(layer.gate.bias)
        gate = 1 / (1 + torch.exp(-(expected @ layer.gate.weight.T + layer.gate.bias)))
        expected = (expected @ layer.value.weight.T + layer.value.bias) * gate
    assert torch.allclose(network(h, c), expected, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (0,), (5, -1)])
def test_gated_widths_that_are_none(hidden):
    with pytest.raises(ValueError, match="gated: expected hidden to be one or more positive widths"):
        Gated((3,), hidden)


# ResNet

SIZES = [(1, 1), (1, 9), (2, 2), (3, 5), (7, 8), (13, 17), (28, 28)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [(3,), (4, 3), (4, 4, 3), (4, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("norm", [None, "group"])
def test_resnets_of_any_size(size, channels, norm):
    encoder = ResNet((2, *size), channels=channels, features=6, norm=norm)
    assert encoder(torch.randn(5, 2, *size)).shape == (5, 6)
    decoder = ResNetTranspose((4,), (2, *size), channels=channels, norm=norm)
    assert decoder(torch.randn(5, 4)).shape == (5, channels[-1], *size)


def test_a_residual_block_is_what_it_says():
    torch.manual_seed(0)
    network = ResNet((1, 6, 6), channels=(4,), activation="relu")
    block = network.layers[1]
    x = torch.randn(2, 4, 6, 6)
    first, second = block.body[1], block.body[3]
    conv = nn.functional.conv2d
    h = conv(torch.relu(x), first.weight, first.bias, stride=2, padding=1)
    h = conv(torch.relu(h), second.weight, second.bias, padding=1)
    plain = conv(x[..., ::2, ::2], block.shortcut.weight, block.shortcut.bias)
    assert torch.allclose(block(x), plain + h, atol=1e-5)
    image = torch.randn(2, 1, 6, 6)
    h = torch.relu(block(network.layers[0](image))).flatten(1)
    assert torch.allclose(network(image), torch.relu(h @ network.dense.weight.T + network.dense.bias), atol=1e-5)
    assert (ResNetTranspose((2,), (1, 6, 6))(torch.randn(3, 2)) >= 0).all()


def test_blocks_are_counted():
    def count(module):
        return sum(isinstance(m, Residual) for m in module.modules())

    assert count(ResNet((1, 8, 8), (4, 4), blocks=3)) == 6
    assert count(ResNetTranspose((2,), (1, 8, 8), (4, 4, 4), blocks=3)) == 9


@pytest.mark.parametrize("norm", [None, "group"])
def test_deep_networks_start_within_bounds(norm):
    """Without the tempering of 24 blocks the mean square of the output is about 2 ** 24 times that of the input."""
    torch.manual_seed(0)
    decoder = ResNetTranspose((4,), (1, 8, 8), (16, 16, 16), blocks=8, norm=norm)
    assert sum(isinstance(m, Residual) for m in decoder.modules()) == 24
    assert decoder(torch.randn(20, 4)).square().mean() < 50
    assert MLP((16,), [16] * 30, skip=True)(torch.randn(20, 16)).square().mean() < 1e4


def test_temper_is_by_the_root_of_the_count():
    module = nn.Sequential(
        *(Residual(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)) for _ in "abcd")
    )
    before = copy.deepcopy(module.state_dict())
    temper(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name] / 2 if name.endswith("body.1.weight") else before[name])


@pytest.mark.parametrize("shape", [(3,), (4, 4), (1, 2, 3, 4)], ids=str)
def test_resnets_of_what_is_no_image(shape):
    for build in (lambda: ResNet(shape), lambda: ResNetTranspose((2,), shape)):
        with pytest.raises(ValueError, match=r"resnet: expected images of shape \(channels, height, width\), got"):
            build()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": ()}, "resnet: expected channels to be one or more positive widths"),
        ({"channels": (0,)}, "resnet: expected channels to be one or more positive widths"),
        ({"blocks": 0}, "resnet blocks: expected a whole number of at least 1, got 0"),
    ],
)
def test_resnets_of_no_size(arguments, message):
    for build in (lambda: ResNet((1, 4, 4), **arguments), lambda: ResNetTranspose((2,), (1, 4, 4), **arguments)):
        with pytest.raises(ValueError, match=message):
            build()


# Recurrent


def test_the_encoder_reads_in_order_to_the_end():
    """h = (1 - u) n + u h' with gates r, u and candidate n, written out (Cho et al. 2014, in torch's convention)."""
    torch.manual_seed(0)
    network = Recurrent((5, 3), hidden=4, condition_dim=1)
    x, c = torch.randn(2, 5, 3), torch.randn(2, 1)
    cell = network.cells
    h = torch.zeros(2, 4)
    for step in range(5):
        a = torch.cat([x[:, step], c], -1) @ cell.weight_ih_l0.T + cell.bias_ih_l0
        b = h @ cell.weight_hh_l0.T + cell.bias_hh_l0
        r, u = torch.sigmoid(a[:, :4] + b[:, :4]), torch.sigmoid(a[:, 4:8] + b[:, 4:8])
        h = (1 - u) * torch.tanh(a[:, 8:] + r * b[:, 8:]) + u * h
    assert torch.allclose(network(x, c), h, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_decoder_unrolls_step_by_step(cell):
    """Features are the states of one cell, stepped by hand from z with z as its input, the first step first."""
    torch.manual_seed(0)
    network = RecurrentDecoder((2,), (5, 3), hidden=4, cell=cell)
    z = torch.randn(6, 2)
    by_hand = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[cell](2, 4)
    by_hand.load_state_dict({name.removesuffix("_l0"): p for name, p in network.cells.state_dict().items()})
    h, memory = torch.tanh(z @ network.start.weight.T + network.start.bias), torch.zeros(6, 4)
    steps = []
    for _ in range(5):
        if cell == "gru":
            h = by_hand(z, h)
        else:
            h, memory = by_hand(z, (h, memory))
        steps.append(h)
    assert torch.allclose(network(z), torch.cat(steps, -1), atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1, 4, 4)], ids=str)
def test_recurrent_of_what_is_no_sequence(shape):
    for build in (lambda: Recurrent(shape), lambda: RecurrentDecoder((2,), shape)):
        with pytest.raises(ValueError, match=r"recurrent: expected sequences of shape \(steps,\) or"):
            build()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "rnn"}, "unknown recurrent cell 'rnn': expected one of gru, lstm"),
        ({"hidden": 0}, "recurrent hidden: expected a whole number of at least 1, got 0"),
        ({"layers": 0}, "recurrent layers: expected a whole number of at least 1, got 0"),
    ],
)
def test_recurrent_of_no_size(arguments, message):
    for build in (lambda: Recurrent((5, 3), **arguments), lambda: RecurrentDecoder((2,), (5, 3), **arguments)):
        with pytest.raises(ValueError, match=message):
            build()
