"""What a graph was made for that is no argument: values, training or evaluation, which parameters have a gradient."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyrovae import CompiledSVI
from pyrovae.training.traced import NotTraceable, Traced

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NETWORK = "mlp(hidden=[8], norm=batch, dropout=0.3)"

ORDERS = {
    "frozen": ["freeze", *["step"] * 4],
    "frozen later": [*["step"] * 4, "freeze", *["step"] * 3],
    "in turns": [*["step"] * 3, "freeze", *["step"] * 2, "thaw", *["step"] * 2, "freeze", *["step"] * 2],
    "thawed": ["freeze", *["step"] * 3, "thaw", *["step"] * 3],
    "evaluation": [*["step"] * 3, "loss", "eval", "loss", "step", "step", "loss", "train", "step", "loss"],
}
OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.05),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.001, momentum=0.9),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01),
}
FEWER_STEPS = "some parameters have taken more steps than others"


def run(vae, step, loss, order):
    """Losses of steps and evaluations, each from a seed of its own, and the parameters and buffers after them."""
    acts = {
        "freeze": lambda: vae.likelihood.requires_grad_(False),
        "thaw": lambda: vae.likelihood.requires_grad_(True),
        "eval": vae.eval,
        "train": vae.train,
    }
    losses = []
    for act in order:
        if act in acts:
            acts[act]()
        else:
            torch.manual_seed(len(losses))
            losses.append(float({"step": step, "loss": loss}[act](X)))
    return losses, torch.cat([value.detach().double().flatten() for value in vae.state_dict().values()])


@pytest.mark.parametrize(
    ("optimizer", "order"), [*[("adam", order) for order in ORDERS], ("momentum", "in turns"), ("rmsprop", "in turns")]
)
@pytest.mark.filterwarnings(f"ignore:steps are not compiled, but run by Pyro. {FEWER_STEPS}")
def test_steps_are_torchs(optimizer, order, tiny, as_traced):
    """A loop of torch's, which freezes parameters and turns to evaluation, is done as it is."""
    by_hand = tiny(encoder=NETWORK, decoder=NETWORK).double()
    theirs, elbo = OPTIMIZERS[optimizer](by_hand.parameters()), Trace_ELBO()

    def step(x):
        theirs.zero_grad()
        loss = elbo.loss_and_grads(by_hand.model, by_hand.guide, x)
        theirs.step()
        return loss

    wanted, ends = run(by_hand, step, lambda x: elbo.loss(by_hand.model, by_hand.guide, x), ORDERS[order])
    vae = tiny(encoder=NETWORK, decoder=NETWORK).double()
    svi = CompiledSVI(vae.model, vae.guide, OPTIMIZERS[optimizer](vae.parameters()), Trace_ELBO())
    losses, found = run(vae, svi.step, svi.evaluate_loss, ORDERS[order])
    assert losses == pytest.approx(wanted, rel=1e-12) and len(set(losses)) == len(losses)
    torch.testing.assert_close(found, ends, rtol=1e-12, atol=1e-12)
    # Of Adam's graph all parameters have taken as many steps; those that were frozen for a while have not.
    fewer = optimizer == "adam" and order in ("in turns", "thawed")
    assert svi.reason == (FEWER_STEPS if fewer else None)
    steps = 1 if order in ("frozen", "thawed") else 2
    assert len(as_traced) == steps + (2 if order == "evaluation" else 0)


def test_a_module_is_traced_once_for_training_and_once_for_evaluation(as_traced):
    dropout = torch.nn.Dropout(0.5)
    function, ones = Traced(lambda a: (dropout(a),)), torch.ones(1000)
    for training in (True, False, True, False):
        dropout.train(training)
        assert (function(ones)[0] == 1).all() != training
    assert len(as_traced) == 2


@pytest.mark.parametrize(
    "look",
    [
        torch.Tensor.item, float, int, torch.Tensor.tolist, lambda t: t.detach().numpy(), bool,
        lambda t: 1.0 if t > 1 else 0.0, lambda t: torch.allclose(t, 2 * t), lambda t: t.exp().item(),
    ],
    ids=["item", "float", "int", "tolist", "numpy", "bool", "if", "allclose", "computed"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [torch.Tensor.clone, torch.nn.Parameter], ids=["tensor", "parameter"])
def test_values_are_not_looked_at(look, kind):
    """They would be constants of the graph, though the tensor that they are of may change."""
    closed = kind(torch.tensor(2.0))
    with pytest.raises(NotTraceable, match="^Python looks at the value of a tensor$"):
        Traced(lambda a: (a * look(closed),))(torch.ones(3))
    with pytest.raises(NotTraceable, match="^Python looks at the value of a tensor$"):
        Traced(lambda a: (a * look(a),))(torch.ones(()))


def test_values_do_not_make_shapes(as_traced):
    a, rows, times = torch.arange(3.0), torch.tensor([2, 0]), torch.tensor([1, 0, 2])
    for function in (lambda a: (a[a > 0].sum(),), lambda a: (a.repeat_interleave(times),)):
        with pytest.raises(NotTraceable, match="^the values of a tensor decide how large another is$"):
            Traced(function)(a)
    assert torch.equal(Traced(lambda a: (a[rows],))(a)[0], a[rows])
    found = Traced(lambda a: (a.repeat_interleave(times, output_size=3),))(a)[0]
    assert torch.equal(found, torch.tensor([0.0, 2.0, 2.0]))


def test_numbers_of_pythons_own_are_constants(as_traced):
    """One that is made a tensor on the way may be looked at: it is another at no call."""
    ones = torch.ones(3)
    assert torch.equal(Traced(lambda a: (a * torch.tensor(2.0).item(),))(ones)[0], 2 * ones)


def test_arguments_that_differ_in_numbers_alone(as_traced):
    function, ones = Traced(lambda a, scale: (a * scale,)), torch.ones(3)
    with pytest.warns(UserWarning, match="8 graphs were compiled .* other arguments differ .now 8.*as a tensor"):
        for scale in range(1, 10):
            assert torch.equal(function(ones, scale)[0], scale * ones)
    assert len(as_traced) == 9
    function = Traced(lambda a, scale: (a * scale,))
    for rows in range(1, 10):
        assert len(function(torch.ones(rows), 2)[0]) == rows
        assert torch.equal(function(torch.ones(1), torch.tensor(float(rows)))[0], torch.full((1,), float(rows)))


def test_a_program_whose_temperature_falls():
    """Read as a number at each step: nothing is compiled, and each step has its own."""
    temperature = torch.tensor(4.0)

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, temperature.item()), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    found = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi, losses = kind(model, guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO()), []
        for value in (4.0, 2.0, 1.0, 0.5):
            temperature.fill_(value)
            if kind is CompiledSVI and len(losses) == 1:
                with pytest.warns(UserWarning, match="Python looks at the value of a tensor"):
                    losses.append(svi.step(X[:, 0].float()))
            else:
                losses.append(svi.step(X[:, 0].float()))
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=1e-6)
