"""Each model keeps its own parameters, and the user's global state stays as it was."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyrovae
from pyrovae import VAE, fit, likelihoods, posteriors
from pyrovae.parameters import register

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))


class Trainer:
    """Bare SVI, one step at a time, each step at a seed of its own."""

    def __init__(self, vae, lr=0.05):
        self.vae, self.seed = vae, 0
        self.svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": lr}), Trace_ELBO())

    def step(self, steps=1):
        for _ in range(steps):
            torch.manual_seed(self.seed)
            self.seed += 1
            self.svi.step(X)
        return self


@pytest.fixture
def alone(tiny):
    """The model of a seed after training with nothing else in the param store."""

    def train(seed, steps=5):
        with pyro.get_param_store().scope() as store:
            store.clear()
            vae = tiny(seed=seed)
            Trainer(vae).step(steps)
        return vae

    return train


def moved(vae, before):
    return [name for name, p in vae.named_parameters() if not torch.equal(p, before[name])]


def snapshot(vae):
    return {name: p.detach().clone() for name, p in vae.named_parameters()}


# Two models in one process


def test_one_after_the_other_by_svi(tiny, alone, same):
    a, b = tiny(seed=1), tiny(seed=2)
    untrained = copy.deepcopy(b)
    Trainer(a).step(5)
    assert same(b, untrained)
    Trainer(b).step(5)
    assert same(a, alone(1)) and same(b, alone(2))
    assert not same(b, untrained)


def test_interleaved_by_svi(tiny, alone, same):
    a, b = Trainer(tiny(seed=1)), Trainer(tiny(seed=2))
    for _ in range(5):
        a.step()
        b.step()
    assert same(a.vae, alone(1)) and same(b.vae, alone(2))
    assert not same(a.vae, b.vae)


@pytest.mark.parametrize("interleaved", [False, True])
def test_by_fit(tiny, same, interleaved):
    arguments = dict(epochs=2, batch_size=7, lr=0.05, progress=False)
    expected = [tiny(seed=1), tiny(seed=2)]
    for vae in expected:
        with pyro.get_param_store().scope() as store:
            store.clear()
            fit(vae, X, **arguments)
            fit(vae, X, **arguments, seed=5)
    a, b = tiny(seed=1), tiny(seed=2)
    order = [(a, 0), (b, 0), (a, 5), (b, 5)] if interleaved else [(a, 0), (a, 5), (b, 0), (b, 5)]
    for vae, seed in order:
        fit(vae, X, **arguments, seed=seed)
    assert same(a, expected[0]) and same(b, expected[1])
    assert not same(a, tiny(seed=1))


def test_svi_and_fit_on_one_model_share_its_parameters(tiny, same):
    a = tiny()
    Trainer(a).step(2)
    before = snapshot(a)
    fit(a, X, epochs=1, progress=False)
    between = snapshot(a)
    assert moved(a, before) == list(before)
    Trainer(a).step()
    assert moved(a, between) == list(before)


def test_a_loss_of_one_model_has_no_gradient_in_the_other(tiny):
    a, b = tiny(seed=1), tiny(seed=2)
    Trace_ELBO().differentiable_loss(a.model, a.guide, X).backward()
    assert all(p.grad is not None for p in a.parameters())
    assert all(p.grad is None for p in b.parameters())


def test_every_module_has_a_name_of_its_own(tiny):
    store = pyro.get_param_store()
    a, b = tiny(seed=1), tiny(seed=2)
    for vae in (a, b, a):
        register(vae)
    assert len(store) == 2 * len(list(a.parameters()))
    assert {id(p) for p in (*a.parameters(), *b.parameters())} == {id(store[name]) for name in store.keys()}


# Copies


def _reloaded(vae, tmp_path):
    return pyrovae.load(pyrovae.save(vae, tmp_path))


COPIES = {
    "deepcopy": lambda vae, path: copy.deepcopy(vae),
    "load": _reloaded,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_trains_as_the_original_and_apart_from_it(tiny, alone, same, tmp_path, how):
    original = tiny(seed=1)
    Trainer(original).step(3)  # it is in the param store by now
    twin = COPIES[how](original, tmp_path)
    assert same(twin, original) and twin is not original
    frozen = copy.deepcopy(original)
    Trainer(twin).step(4)
    assert same(original, frozen), "training the copy moved the original"
    assert not same(twin, frozen)
    with pyro.get_param_store().scope() as store:
        store.clear()
        expected = Trainer(frozen).step(4).vae
    assert same(twin, expected)
    Trainer(original).step(4)
    assert same(original, expected)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_interleaved_with_the_original(tiny, same, tmp_path, how):
    original = tiny(seed=1)
    Trainer(original).step()
    twin = COPIES[how](original, tmp_path)
    a, b = Trainer(original), Trainer(twin)
    for _ in range(3):
        a.step()
        b.step()
    assert same(original, twin)


# A store that holds something else than the module's tensors


def test_training_goes_on_after_load_state_dict_assign(tiny, same):
    a = tiny(seed=1)
    trainer = Trainer(a).step(2)
    state = {key: value.clone() for key, value in tiny(seed=2).state_dict().items()}
    a.load_state_dict(state, assign=True)
    assert same(a, tiny(seed=2))
    before = snapshot(a)
    trainer.step()
    assert moved(a, before) == list(before)
    a.load_state_dict(tiny(seed=3).state_dict())  # the usual way copies in place
    before = snapshot(a)
    trainer.step()
    assert moved(a, before) == list(before)


def test_training_goes_on_after_a_submodule_is_swapped(tiny):
    a = tiny()
    trainer = Trainer(a).step(2)
    old = a.likelihood.network
    a.likelihood.network = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 8))
    a.posterior.head = nn.Linear(8, 4)
    before, kept = snapshot(a), copy.deepcopy(old.state_dict())
    trainer.step()
    assert moved(a, before) == list(before)
    assert all(torch.equal(value, kept[name]) for name, value in old.state_dict().items())


def test_a_model_whose_place_in_the_store_holds_a_strange_tensor(tiny):
    a = tiny()
    trainer = Trainer(a).step()
    store = pyro.get_param_store()
    for name in list(store.keys()):
        value = store[name].detach() + 1
        del store[name]
        store[name] = value
    before = snapshot(a)
    trainer.step()
    assert moved(a, before) == list(before)


def test_training_goes_on_after_the_store_is_cleared_and_after_a_change_of_dtype(tiny):
    a = tiny()
    trainer = Trainer(a).step()
    pyro.clear_param_store()
    before = snapshot(a)
    trainer.step()
    assert moved(a, before) == list(before)
    a.double()
    before = snapshot(a)
    Trainer(a).step()  # Adam's own state is of the old dtype
    assert moved(a, before) == list(before)
    assert all(p.dtype == torch.float64 for p in a.parameters())


def _conv(memory_format):
    torch.manual_seed(0)
    vae = VAE((2, 8, 8), 2, likelihood="gaussian(scale=1.0)", encoder="conv(channels=[4, 6])", decoder="conv")
    return vae.to(memory_format=memory_format)


@pytest.mark.parametrize("by", ["svi", "fit"])
def test_channels_last_weights_are_trained(by):
    x = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        vae = _conv(memory_format)
        assert all(p.is_contiguous() for p in vae.parameters()) == (memory_format == torch.contiguous_format)
        before = snapshot(vae)
        torch.manual_seed(0)
        if by == "svi":
            svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
            for _ in range(3):
                svi.step(x)
        else:
            fit(vae, x, epochs=3, lr=0.01, progress=False)
        assert moved(vae, before) == list(before)
        results.append(snapshot(vae))
    for name, value in results[0].items():
        assert torch.allclose(results[1][name], value, atol=1e-4), name


@pytest.mark.parametrize("by", ["svi", "fit"])
def test_frozen_parameters_stay(tiny, by):
    vae = tiny()
    vae.posterior.network.requires_grad_(False)
    before = snapshot(vae)
    if by == "svi":
        Trainer(vae).step(3)
    else:
        fit(vae, X, epochs=3, progress=False)
    frozen = [name for name in before if name.startswith("posterior.network")]
    assert frozen and moved(vae, before) == [name for name in before if name not in frozen]


# The user's global state


class Watch:
    """The param store, random state and validation flags of a user, and whether they are still as they were."""

    def __init__(self, validation):
        pyro.enable_validation(validation)
        self.validation = validation
        self.store = pyro.get_param_store()
        pyro.param("mine", torch.tensor([1.0, 2.0]), constraint=dist.constraints.positive)
        pyro.param("vae$$$likelihood.head.bias", torch.zeros(3))
        self.tensors = {name: self.store[name].unconstrained() for name in self.store.keys()}
        self.values = {name: self.store[name].detach().clone() for name in self.store.keys()}
        torch.manual_seed(123)
        self.random = torch.get_rng_state()

    def assert_unchanged(self, random=True):
        assert set(self.store.keys()) == set(self.values)
        for name, value in self.values.items():
            assert torch.equal(self.store[name], value)
            assert self.store[name].unconstrained() is self.tensors[name]
        assert self.store.get_state()["constraints"]["mine"] is dist.constraints.positive
        assert torch.equal(torch.get_rng_state(), self.random) == random
        flags = (pyro.infer.util.is_validation_enabled(), pyro.distributions.is_validation_enabled())
        flags += (pyro.poutine.util.is_validation_enabled(),)
        assert flags == (self.validation,) * 3


class _Interrupt:
    def __init__(self, error):
        self.error = error

    def __call__(self, vae, row):
        torch.rand(3)
        pyro.param("from a callback", torch.zeros(1))
        raise self.error


OPERATIONS = {
    "fit": lambda vae, path: fit(vae, X, validation=X, epochs=2, batch_size=7, checkpoint=path, progress=False),
    "fit mean field": lambda vae, path: fit(vae, X, elbo="mean_field_elbo", beta=0.5, epochs=1, progress=False),
    "fit transform": lambda vae, path: fit(
        vae, X, transform=lambda x, g: x + torch.randn(x.shape, generator=g), epochs=1, progress=False
    ),
    "reconstruct": lambda vae, path: vae.reconstruct(X),
    "interpolate": lambda vae, path: vae.interpolate(X[:2], X[2:4]),
    "encode": lambda vae, path: vae.encode(X),
    "decode": lambda vae, path: vae.decode(torch.zeros(1, 2)),
    "initialize": lambda vae, path: vae.initialize(X),
    "save": lambda vae, path: pyrovae.save(vae, path),
    "deepcopy": lambda vae, path: copy.deepcopy(vae),
}
DRAWING = {
    "sample": lambda vae: vae.sample(3),
    "sample means": lambda vae: vae.sample(3, mean=True),
    "reconstruct a draw": lambda vae: vae.reconstruct(X, mean=False),
}


@pytest.mark.parametrize("validation", [True, False], ids=["checks on", "checks off"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_users_state_is_untouched_by(tiny, tmp_path, name, validation):
    vae = tiny()
    watch = Watch(validation)
    OPERATIONS[name](vae, tmp_path)
    watch.assert_unchanged()


@pytest.mark.parametrize("validation", [True, False], ids=["checks on", "checks off"])
@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_takes_from_the_users_stream_and_changes_nothing_else(tiny, name, validation):
    vae = tiny()
    watch = Watch(validation)
    first = DRAWING[name](vae)
    watch.assert_unchanged(random=False)
    assert not torch.equal(DRAWING[name](vae), first)
    torch.set_rng_state(watch.random)
    assert torch.equal(DRAWING[name](vae), first)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")], ids=repr)
@pytest.mark.parametrize("validation", [True, False], ids=["checks on", "checks off"])
def test_the_users_state_is_restored_when_a_fit_is_broken_off(tiny, validation, error):
    vae = tiny()
    watch = Watch(validation)
    with pytest.raises(type(error)):
        fit(vae, X, epochs=3, callbacks=[_Interrupt(error)], progress=False)
    watch.assert_unchanged()


def test_the_users_state_after_errors_before_the_first_step(tiny):
    vae = tiny()
    watch = Watch(True)
    for arguments in (dict(x=X[:, :2]), dict(x=X * torch.nan), dict(x=X, elbo="nothing"), dict(x=X, epochs=0)):
        with pytest.raises(ValueError):
            fit(vae, **arguments, progress=False)
    watch.assert_unchanged()


class WithParam(posteriors.Normal):
    """A user's piece with a pyro.param, which would be trained and then lost."""

    def forward(self, params):
        return super().forward(params + pyro.param("stray", torch.ones(1)))


class WithParamLikelihood(likelihoods.Gaussian):
    def forward(self, params):
        return super().forward(params + pyro.param("stray", torch.ones(1)))


@pytest.mark.parametrize("part", [dict(posterior=WithParam()), dict(likelihood=WithParamLikelihood(1.0))], ids=str)
def test_fit_refuses_a_piece_with_a_param_of_its_own(tiny, same, part):
    vae = tiny(**part)
    pyro.clear_param_store()
    before = copy.deepcopy(vae)
    before.initialize(X)  # as fit does first
    watch = Watch(True)
    with pytest.raises(ValueError, match=r"pyro\.param of shape.*\(1,\).*nn\.Parameter"):
        fit(vae, X, epochs=1, progress=False)
    watch.assert_unchanged()
    assert same(vae, before)
