"""A label that some rows have: bounds against a mixture of linear-Gaussian models, of which all is known."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from scipy import stats
from scipy.special import logsumexp
from sklearn.datasets import load_iris
from torch import nn

import pyrovae
from pyrovae import VAE, elbos, label
from pyrovae.distributions import Known, inverse_scale

FLOAT64, NAN = torch.float64, math.nan
ROWS, D, K, CLASSES = 12, 4, 2, 3


class Join(nn.Module):
    def forward(self, x, condition):
        return torch.cat([x, condition.expand(*x.shape[:-1], -1)], -1)


def exact(kind=CLASSES, move=0.0):
    """x = W z + V y + b + .5 e: a VAE whose guide is the exact posterior, or has its means moved."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=FLOAT64)

    width = label.width(kind)
    weight, bias = torch.linalg.qr(randn(D, K)).Q * torch.tensor([2.0, 0.8]), randn(D)
    v = 1.5 * randn(D, width)
    known = torch.arange(ROWS) % 3 == 0
    if kind == "real":
        y = randn(ROWS, 1)
    else:
        y = torch.eye(CLASSES, dtype=FLOAT64)[torch.randint(CLASSES, (ROWS,), generator=generator)]
    x = randn(ROWS, K) @ weight.T + y @ v.T + bias + 0.5 * randn(ROWS, D)
    vae = VAE(
        (D,), K, likelihood="gaussian(scale=0.5)", encoder=Join(), decoder=Join(), classifier=nn.Identity(), label=kind
    ).double()
    inner = weight @ weight.T + 0.25 * torch.eye(D, dtype=FLOAT64)  # of x given y
    precision = torch.linalg.inv(inner)

    def put(part, slope, intercept, sd=None):
        numbers = [] if sd is None else [inverse_scale(sd, part.piece.floor)]
        with torch.no_grad():
            part.head.weight.copy_(torch.cat([slope] + [torch.zeros_like(slope)] * len(numbers)))
            part.head.bias.copy_(torch.cat([intercept, *numbers]))

    put(vae.likelihood, torch.cat([weight, v], 1), bias)
    variance = 1 / (1 + weight.square().sum(0) / 0.25)
    slope = variance[:, None] * weight.T / 0.25
    put(vae.posterior, torch.cat([slope, -slope @ v], 1), -slope @ bias + move, variance.sqrt())
    if kind == "real":
        of_y = 1 / (1 + v.T @ precision @ v)
        gain = of_y @ v.T @ precision
        put(vae.y.posterior, gain, -gain @ bias + move, of_y.flatten().sqrt())
        marginal = stats.multivariate_normal(bias, inner + v @ v.T).logpdf(x)
        joint = [
            stats.multivariate_normal(bias + v @ y[i], inner).logpdf(x[i]) + stats.norm.logpdf(y[i, 0])
            for i in range(ROWS)
        ]
    else:
        # log p(y | x) is linear in x, because all classes have one covariance.
        put(
            vae.y.posterior,
            v.T @ precision,
            -v.T @ precision @ bias - 0.5 * (v.T @ precision @ v).diagonal() + move * torch.arange(CLASSES),
        )
        each = np.stack(
            [stats.multivariate_normal(bias + v[:, c], inner).logpdf(x) - math.log(CLASSES) for c in range(CLASSES)], 1
        )
        marginal, joint = logsumexp(each, 1), each[np.arange(ROWS), y.argmax(-1)]
    labels = torch.where(known[:, None], y, NAN)
    log_prob = torch.where(known, torch.tensor(np.asarray(joint)), torch.tensor(marginal))
    return SimpleNamespace(
        vae=vae, x=x, y=y, labels=labels, known=known, log_prob=log_prob, marginal=torch.tensor(marginal)
    )


KINDS = [CLASSES, "real"]
# The reparameterised ones need a y that is.
OF_ANY = ["elbo", "graph_elbo", "score_function", "vimco", "rws", "tvo"]
OF_REAL = [
    "stl",
    "iwae",
    "dreg",
    "gdreg",
    "renyi",
    "miwae(groups=2)",
    "piwae(groups=2)",
    "ciwae",
    "tail_adaptive",
    "jackknife",
]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in OF_ANY + OF_REAL * (kind == "real")], ids=str
)
def test_at_the_exact_posterior_every_bound_is_log_p(kind, name):
    """log p(x, y) of the rows that have a label and log p(x) of the others, in one batch, draw by draw."""
    case = exact(kind)
    loss = elbos.make(name, 4).loss(case.vae.model, case.vae.guide, case.x, case.labels)
    assert -loss == pytest.approx(float(case.log_prob.sum()), rel=1e-10)
    loss = elbos.make(name, 4).loss(case.vae.model, case.vae.guide, case.x)
    assert -loss == pytest.approx(float(case.marginal.sum()), rel=1e-10)


def test_enumerated_classes():
    """Exact at the exact posterior; elsewhere the sum over classes by hand, and its split in the history's terms."""
    case = exact()
    elbo = elbos.for_fit(elbos.make("enum_elbo"))
    guide = config_enumerate(case.vae.guide)
    assert -elbo.loss(case.vae.model, guide, case.x, case.labels) == pytest.approx(
        float(case.log_prob.sum()), rel=1e-10
    )
    rough = exact(move=0.3)
    split = elbos.Split(rough.vae.model, config_enumerate(rough.vae.guide))
    torch.manual_seed(0)
    loss = elbos.for_fit(elbos.make("enum_elbo")).loss(split.model, split.guide, rough.x, rough.labels)
    terms = split.take()
    assert -loss == pytest.approx(float(terms.log_weights.sum()), rel=1e-10)
    assert -loss < float(case.log_prob.sum())
    # By hand: the draw of z of each class and row, and the weights of q(y | x), one at a label.
    q = rough.vae.predict_proba(rough.x)
    q = torch.where(rough.known[:, None], rough.y, q)
    torch.manual_seed(0)
    classes = torch.eye(CLASSES, dtype=FLOAT64)[:, None].expand(-1, ROWS, -1)
    posterior = rough.vae.posterior(rough.x, classes)
    z = posterior.rsample()
    log_prior = torch.tensor(stats.norm.logpdf(z.detach().numpy()).sum(-1)) - math.log(CLASSES)
    each = rough.vae.likelihood(z, classes).log_prob(rough.x).detach() + log_prior - posterior.log_prob(z).detach()
    expected = (q.T * (each - q.T.clamp_min(1e-300).log())).sum(0)
    torch.testing.assert_close(terms.log_weights.double(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_log_marginal_of_a_rough_guide(kind):
    case = exact(kind, move=0.2)
    for labels, expected in ((case.labels, case.log_prob), (None, case.marginal)):
        value, error = pyrovae.log_marginal(case.vae, case.x, labels, num_samples=20_000, progress=False)
        assert ((value - expected) / error).abs().max() < 4.5 and error.max() < 0.1


def test_the_classifier_learns_from_a_label_by_its_weight_alone():
    """Gradients of q(y | x): of a row with a label that of weight x cross-entropy; of the others the ELBO's."""
    case = exact(move=0.3)
    vae, parameters = case.vae, list(case.vae.y.posterior.parameters())
    known = case.known
    x, y = case.x[known], case.labels[known]

    def gradient(weight, training=True):
        vae.y.weight = weight
        vae.train(training).zero_grad()
        loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(vae.model, config_enumerate(vae.guide), x, y)
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    assert all(g is None or not g.any() for g in gradient(0.0))
    assert all(g is None or not g.any() for g in gradient(5.0, training=False))
    logits = vae.y.posterior.head(x)
    entropy = nn.functional.cross_entropy(logits, y.argmax(-1), reduction="sum")
    expected = torch.autograd.grad(5.0 * entropy, parameters)
    for ours, theirs in zip(gradient(5.0), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_sites_and_handlers():
    case = exact()
    trace = poutine.trace(case.vae.guide).get_trace(case.x, case.labels)
    assert torch.equal(trace.nodes["y"]["value"][case.known], case.y[case.known])
    trace = poutine.trace(case.vae.model).get_trace(case.x, case.labels)
    assert torch.equal(trace.nodes["y"]["value"][case.known], case.y[case.known])
    assert torch.allclose(
        trace.nodes["y"]["fn"].log_prob(trace.nodes["y"]["value"]), torch.tensor(-math.log(CLASSES)).double()
    )
    drawn = pyro.infer.Predictive(case.vae.model, num_samples=500, parallel=True)(size=1)
    np.testing.assert_allclose(drawn["y"].mean((0, 1)), 1 / CLASSES, atol=0.1)


@pytest.mark.parametrize("elbo", ["enum_elbo", "vimco"])
def test_few_labels_are_enough_for_iris(elbo, tmp_path, same):
    iris = load_iris()
    x = torch.tensor((iris.data - iris.data.mean(0)) / iris.data.std(0), dtype=torch.float32)
    y = torch.tensor(iris.target)
    labels = torch.where(torch.arange(150) % 10 == 0, y, -1)
    torch.manual_seed(0)
    vae = VAE((4,), 2, likelihood="gaussian", label=3, label_weight=20.0 * (elbo == "enum_elbo"))
    particles, epochs = (1, 60) if elbo == "enum_elbo" else (5, 5)  # where no more than finite numbers are asked
    history = pyrovae.fit(
        vae, x, labels, elbo=elbo, num_particles=particles, epochs=epochs, batch_size=30, lr=3e-3, validation=x,
        validation_condition=labels, progress=False,
    )  # fmt: skip
    assert np.isfinite(history["validation_elbo"]).all()
    if elbo == "vimco":
        return  # without labels in the classifier's own loss it may call the classes what it likes
    assert (vae.predict(x) == y).float().mean() > 0.85
    assert torch.allclose(vae.predict_proba(x).sum(-1), torch.ones(150))
    loaded = pyrovae.load(pyrovae.save(vae, tmp_path))
    assert same(loaded, vae) and loaded.label == 3 and loaded.label_weight == 20.0
    assert torch.equal(loaded.predict(x), vae.predict(x))
    assert math.isfinite(pyrovae.evaluate(vae, x, labels, num_samples=20, progress=False).summary()["log_marginal"])
    idata = pyrovae.to_inference_data(vae, x, labels, num_samples=5)
    assert idata["posterior"]["y"].shape == (1, 5, 150, 3)
    assert vae.sample(4).shape == vae.sample(4, torch.tensor([0, 1, 2, 0])).shape == (4, 4)
    assert vae.reconstruct(x).shape == x.shape and vae.interpolate(x[:2], x[2:4], 3).shape == (3, 2, 4)


def test_a_number_as_the_label():
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) / 2 + 0.1 * torch.randn(200)
    vae = VAE((3,), 2, likelihood="gaussian", label="real", label_weight=10.0)
    labels = torch.where(torch.arange(200) < 50, y, NAN)
    # In larger steps a normal of little noise comes and goes, and where it is at the end is chance.
    pyrovae.fit(vae, x, labels, epochs=100, batch_size=32, lr=5e-4, progress=False)
    assert np.corrcoef(vae.predict(x), y)[0, 1] > 0.9


def test_known():
    base = dist.Normal(torch.tensor([0.0, 1.0]), 2.0)
    y = Known(base, torch.tensor([5.0, NAN]).nan_to_num(), torch.tensor([True, False]))
    draws = y.sample((1000,))
    assert (draws[:, 0] == 5).all() and draws[:, 1].std() > 1.5
    assert y.log_prob(torch.tensor([5.0, 1.0])).tolist() == pytest.approx([0.0, stats.norm(1, 2).logpdf(1)])
    assert y.log_prob(torch.tensor([4.0, 1.0]))[0] < -1e29
    prior = Known(base, torch.tensor([5.0, 0.0]), torch.tensor([True, False]), prior=True)
    assert prior.log_prob(torch.tensor([5.0, 1.0])).tolist() == pytest.approx(
        [stats.norm(0, 2).logpdf(5), stats.norm(1, 2).logpdf(1)]
    )
    assert y.expand((3, 2)).sample().shape == (3, 2) and (y.expand((3, 2)).mean[:, 0] == 5).all()


def test_labels_that_are_refused():
    like = torch.zeros(())
    encoded = label.encode([2, -1, 0], 3, 3, like)
    assert encoded[0].tolist() == [0, 0, 1] and encoded[1].isnan().all() and encoded[2].tolist() == [1, 0, 0]
    assert torch.equal(label.encode(encoded, 3, 3, like).nan_to_num(7), encoded.nan_to_num(7))
    assert label.encode(None, 3, 2, like).isnan().all() and label.encode([1.5, NAN], "real", 2, like).shape == (2, 1)
    vae, x = VAE((4,), 2, likelihood="gaussian", label=3), torch.randn(5, 4)
    for labels, message in [
        ([0, 1, 3, 0, 0], "expected a class from 0 to 2, or -1 for none, got 3 at row 2"),
        ([0, 1, 0.5, 0, 0], "got 0.5 at row 2"),
        ([0, -2, 1, 0, 0], "got -2 at row 1"),
        ([0, 1], "labels: expected 5 rows, as x has, got 2"),
        (torch.ones(5, 3), "an indicator of one of 3 classes, or NaN for none, got"),
        (torch.ones(5, 2), r"labels: expected shape \(N, 3\), got \(5, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            pyrovae.fit(vae, x, labels, epochs=1, progress=False)
    with pytest.raises(ValueError, match="label: expected a whole number of at least 2, got 1"):
        VAE((4,), 2, label=1)
    with pytest.raises(ValueError, match="label: expected the number of classes, or real, got 'class'"):
        VAE((4,), 2, label="class")
    with pytest.raises(ValueError, match="condition_dim: expected 0, because the label is the condition, got 5"):
        VAE((4,), 2, label=3, condition_dim=5)
    with pytest.raises(ValueError, match="label_weight: expected a number of at least 0"):
        VAE((4,), 2, label=3, label_weight=-1.0)
    with pytest.raises(ValueError, match="decode: expected a label for each z"):
        vae.decode(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="predict: expected a VAE with a label"):
        VAE((4,), 2).predict(x)
    with pytest.raises(ValueError, match="ais: expected no label"):
        pyrovae.ais(vae, x)


def test_classes_are_a_condition():
    """Of a conditional VAE whole numbers are made indicators, and a class that there is not is refused."""
    torch.manual_seed(0)
    vae, x = VAE((4,), 2, likelihood="gaussian", condition_dim=3), torch.randn(5, 4)
    classes = torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(vae.check_condition(classes, 5), torch.eye(3)[classes])
    pyrovae.fit(vae, x, classes, epochs=1, progress=False)
    with pytest.raises(ValueError, match="expected a class from 0 to 2.* got 3 at row 0"):
        vae.check_condition(torch.tensor([3, 0, 0, 0, 0]), 5)
    with pytest.raises(ValueError, match="condition: expected a finite number, got nan"):
        vae.check_condition(torch.tensor([-1, 0, 0, 0, 0]), 5)


def test_a_step_of_bare_svi_moves_all():
    case = exact(move=0.3)
    optim = pyro.optim.Adam({"lr": 0.01})
    before = {key: value.clone() for key, value in case.vae.state_dict().items()}
    SVI(case.vae.model, config_enumerate(case.vae.guide), optim, TraceEnum_ELBO(max_plate_nesting=1)).step(
        case.x, case.labels
    )
    assert all(not torch.equal(p, before[key]) for key, p in case.vae.named_parameters())
