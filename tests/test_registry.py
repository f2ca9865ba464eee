"""Names, their grammar and their errors."""

import json

import pytest

from pyrovae import likelihoods, networks, posteriors, priors, registry
from pyrovae.training.optimizers import OPTIMIZERS
from pyrovae.training.schedules import SCHEDULES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal", ("normal", {})),
        ("  normal  ", ("normal", {})),
        ("normal()", ("normal", {})),
        ("gaussian(scale=network)", ("gaussian", {"scale": "network"})),
        ("gaussian(scale='network')", ("gaussian", {"scale": "network"})),
        ("gaussian(scale=0.5, floor=1e-3)", ("gaussian", {"scale": 0.5, "floor": 1e-3})),
        ("g(a=-1, b=True, c=None, d=[1, 2], e=(3,), f={'k': 1})",
         ("g", {"a": -1, "b": True, "c": None, "d": [1, 2], "e": (3,), "f": {"k": 1}})),
        ("mlp(hidden=[500, 500], activation=tanh)", ("mlp", {"hidden": [500, 500], "activation": "tanh"})),
    ],
)  # fmt: skip
def test_parse(text, expected):
    assert registry.parse(text, "part") == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "1", "a b", "a(", "a(1)", "a(b)", "a.b", "a.b(c=1)", "a(b=c(d=1))", "a(b=1)(c=2)", "[a]", "a(b=x+y)",
        "a(*b)", "a(b=1, 2)", "lambda: a", "a; b", "a(b=c.d)",
        "__import__('os').system('true')", "a(b=__import__('os'))",
    ],
)  # fmt: skip
def test_parse_refuses(text):
    with pytest.raises(
        ValueError, match=r"cannot read the likelihood ['\"].*: expected a name or name\(key=value, \.\.\.\)"
    ):
        registry.parse(text, "likelihood")


def test_parse_refuses_double_star():
    """`a(**b)` has a keyword without a name."""
    with pytest.raises(ValueError):
        registry.make("gaussian(**b)", likelihoods.FAMILY, "likelihood")


def test_choose():
    assert registry.choose("b", ["c", "b"], "part") == "b"
    with pytest.raises(ValueError, match=r"^unknown part 'x': expected one of alpha, beta\.$"):
        registry.choose("x", ["beta", "alpha"], "part")
    with pytest.raises(ValueError, match=r"unknown part 'alpa': expected one of alpha, beta\. Did you mean 'alpha'\?"):
        registry.choose("alpa", ["beta", "alpha"], "part")


class Part:
    def __init__(self, size, width=3, name="x"):
        self.size, self.width, self.name = size, width, name


FAMILY = {"part": Part, "other": dict}


def test_make():
    made = registry.make("part(width=5)", FAMILY, "thing", size=7, colour="red")
    assert (made.size, made.width, made.name) == (7, 5, "x")
    assert registry.make("part(size=1)", FAMILY, "thing", size=7).size == 1, "what the user says goes"
    assert registry.make({"name": "part", "width": 9}, FAMILY, "thing", size=7).width == 9
    value = object()
    assert registry.make(value, FAMILY, "thing") is value


def test_make_refuses():
    with pytest.raises(ValueError, match="thing 'part' has no argument 'depth': expected width, name$"):
        registry.make("part(depth=5)", FAMILY, "thing", size=7)
    with pytest.raises(ValueError, match="unknown thing 'parts'.*Did you mean 'part'"):
        registry.make("parts", FAMILY, "thing")
    with pytest.raises(ValueError, match="schedule 'constant' has no argument 'rate': expected no arguments"):
        registry.make("constant(rate=1)", SCHEDULES, "schedule")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("normal", priors.FAMILY),
        ("normal(learned=True, floor=0.5)", priors.FAMILY),
        ("gaussian", likelihoods.FAMILY),
        ("gaussian(scale=network, floor=0.01)", likelihoods.FAMILY),
        ("gaussian(scale=2.0)", likelihoods.FAMILY),
        ("bernoulli", likelihoods.FAMILY),
        ("continuous_bernoulli", likelihoods.FAMILY),
        ("normal(floor=0.25)", posteriors.FAMILY),
        ("mlp(hidden=[3, 4], activation=elu)", networks.ENCODERS),
        ("conv(channels=[3, 4], features=5)", networks.ENCODERS),
        ("conv(channels=[3, 4], activation=tanh)", networks.DECODERS),
    ],
)
def test_there_and_back_by_json(text, family):
    sizes = dict(in_shape=(1, 4, 4), event_shape=(1, 4, 4), condition_dim=2)
    made = registry.make(text, family, "part", **sizes)
    written = registry.config(made, family)
    again = registry.make(json.loads(json.dumps(written)), family, "part")
    assert type(again) is type(made)
    assert registry.config(again, family) == written
    name, arguments = registry.parse(text, "part")
    assert written["name"] == name
    assert all(json.dumps(written[key]) == json.dumps(value) for key, value in arguments.items())


def test_a_users_own_class_has_no_config():
    class Mine(likelihoods.Gaussian):
        pass

    assert registry.config(Mine(), likelihoods.FAMILY) is None
    assert registry.config(likelihoods.Gaussian(), priors.FAMILY) is None


@pytest.mark.parametrize(
    "family", [priors.FAMILY, likelihoods.FAMILY, posteriors.FAMILY, networks.ENCODERS, networks.DECODERS]
)
def test_each_member_keeps_its_arguments_under_their_names(family):
    """What `registry.config` needs; a new member that forgets one could not be saved."""
    needed = {"categorical": {"classes": 3}, "ordinal": {"classes": 3}} if family is likelihoods.FAMILY else {}
    for name in family:
        shape = (4, 4) if name == "recurrent" else (1, 4, 4)
        sizes = {"in_shape": shape, "event_shape": shape, "condition_dim": 0}
        made = registry.make({"name": name, **needed.get(name, {})}, family, "part", **sizes)
        assert registry.config(made, family)["name"] == name


def test_optimizers_are_torchs():
    assert set(OPTIMIZERS) == {"adam", "adamw", "adamax", "rmsprop", "sgd"}
