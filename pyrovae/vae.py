"""The VAE: three conditional distributions, joined into a Pyro model and guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrovae import corruptions, hierarchy, likelihoods, networks, posteriors, priors, registry
from pyrovae import label as labels
from pyrovae import mechanism as mechanisms
from pyrovae.checks import as_rows, check_one_kind, check_values, count, shape
from pyrovae.condition import NETWORKS, Condition
from pyrovae.conditional import Conditional, check_same_support
from pyrovae.distributions import centre, expectation
from pyrovae.modes import evaluating
from pyrovae.parameters import register
from pyrovae.piece import Piece

HEAD_GAIN = 0.3
"""What the first weights of the decoder's head are multiplied by."""


class VAE(nn.Module):
    r"""A variational autoencoder as a Pyro program.

    .. math::
        \text{model: } z_n \sim p(z), \; x_n \sim p(x \mid z_n) \qquad \text{guide: } z_n \sim q(z \mid x_n)

    for rows n in the plate ``data``; sites ``z`` and ``x``. `model` and `guide` are plain Pyro functions: SVI with
    any ELBO, Predictive, NUTS and every handler of ``pyro.poutine`` take them as they are. After Kingma & Welling
    (2013), https://arxiv.org/abs/1312.6114, and Rezende, Mohamed & Wierstra (2014), https://arxiv.org/abs/1401.4082.

    Args:
        event_shape: the shape of one row of data, such as ``(1, 28, 28)`` or ``(13,)``.
        latent_dim: D, the length of z; or those of several layers, of which the first is next to x. Their sites are
            ``z1``, ``z2``, ...
        prior: a name, an object from `pyrovae.priors`, any Pyro Distribution over ``(D,)``, or your own module; of
            several layers, that of the last. Or a VAE of event shape ``(D,)``, which is the layers above.
        likelihood: a name such as ``"gaussian(scale=network)"``, an object from `pyrovae.likelihoods`, or your own.
        posterior: a name, an object from `pyrovae.posteriors`, or your own.
        encoder: any module from rows, as ``likelihood.features`` shows them (most as they are, ``(B, *event_shape)``;
            counts as log(1 + x), classes as indicators), to features; or a name such as ``"conv"``; None is an MLP.
        decoder: any module from ``(B, D)`` to features, or a name; None is an MLP. Of several layers, encoder,
            decoder and posterior may be lists, the first of each between x and ``z1``; a single network is that one,
            and the others are MLPs.
        condition_dim: above 0, a conditional VAE: its networks are called with a second argument
            ``(B, condition_dim)``.
        condition_shape: ``(C, H, W)``, where the condition is an image (Sohn, Lee & Yan 2015,
            https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models).
            Networks of the library see it through convolutions of their own, yours are called with the image; a prior
            that is conditional has any network that takes images.
        condition_on: which of "encoder" and "decoder" take the condition; a prior that is conditional takes it anyway.
        missing: "mask" or "zero": NaN in the data is a missing cell, integrated out, of which the encoder sees an
            indicator or only a zero (see `pyrovae.likelihoods.Missing`). None: NaN is a mistake.
        mechanism: how a cell's value makes it go missing: ``"self_masking"``, ``"self_masking(sign=1)"``, or any module
            from completed rows to the logits of being missing, both ``(B, *event_shape)`` (see
            `pyrovae.mechanism.Mechanism`). None: cells are missing at random.
        corruption: what is done to the rows that the encoder sees in training: a name such as ``"masking(share=0.3)"``,
            an object from `pyrovae.corruptions`, or any function of x. Bounds are those of the clean rows.
        label: K, for one of K classes, or "real", for a number: a label y that some rows have. It takes the place of
            the condition and is a site of its own, with the prior ``one_hot`` or ``normal`` and a classifier q(y | x)
            (see `pyrovae.label.Label`).
        classifier: any module from rows to features, or a name; None is an MLP.
        label_weight: of the classifier's own log-likelihood of the labels, which plain ELBOs add in training.
        inference: of several layers, "bottom_up", each drawn from the one below it, :math:`q(z_{l+1} \mid z_l)`; or
            "top_down", each drawn with what the layers above say of it (Sønderby et al. 2016,
            https://arxiv.org/abs/1602.02282).

    Where the prior lives on positive numbers, an interval or the simplex and the posterior on real vectors, the
    posterior is carried there by exp, a sigmoid or stick-breaking.

    Raises:
        ValueError: for an unknown name, sizes below 1, a network that does not take its input, a prior of another
            shape, or a prior and a posterior on different supports.

    >>> import pyro
    >>> from pyro.infer import SVI, Trace_ELBO
    >>> vae = VAE(event_shape=(4,), latent_dim=2, likelihood="gaussian")
    >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    >>> loss = svi.step(torch.randn(100, 4))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int | Sequence[int],
        *,
        prior: str | Piece | Distribution | VAE = "normal",
        likelihood: str | Piece = "bernoulli",
        posterior: str | Piece | Sequence[str | Piece] = "normal",
        encoder: nn.Module | str | Sequence[nn.Module | str | None] | None = None,
        decoder: nn.Module | str | Sequence[nn.Module | str | None] | None = None,
        condition_dim: int = 0,
        condition_shape: Sequence[int] | None = None,
        condition_on: Sequence[str] = NETWORKS,
        missing: str | None = None,
        mechanism: str | nn.Module | None = None,
        corruption: str | Callable[[Tensor], Tensor] | None = None,
        label: int | str | None = None,
        classifier: nn.Module | str | None = None,
        label_weight: float = 0.0,
        inference: str = "bottom_up",
    ) -> None:
        super().__init__()
        self.inference = registry.choose(inference, hierarchy.DIRECTIONS, "inference")
        self._condition = Condition(condition_dim, condition_shape, condition_on, label)
        self.condition_dim, self.condition_shape = self._condition.dim, self._condition.image_shape
        self.condition_on = self._condition.on
        if isinstance(latent_dim, Sequence):
            latent_dim, *above = latent_dim or [0]
            parts = {"encoder": encoder, "decoder": decoder, "posterior": posterior}
            first, *layers = hierarchy.layered([latent_dim, *above], parts)
            encoder, decoder, posterior = (first[name] for name in parts)
            if above:
                each = {name: [layer[name] for layer in layers] for name in parts}
                prior = VAE(
                    (latent_dim,), above, prior=prior, likelihood="gaussian(scale=network)", **each,
                    condition_dim=self.condition_dim, condition_shape=condition_shape, condition_on=condition_on,
                    inference=inference,
                )  # fmt: skip
        self.event_shape = shape(event_shape)
        self.latent_dim = count(latent_dim, "latent_dim", 1)
        z_shape = (self.latent_dim,)

        likelihood, posterior = likelihoods.make(likelihood), posteriors.make(posterior)
        prior = hierarchy.deep(prior, self) if isinstance(prior, VAE) else priors.make(prior)
        if missing is not None:
            likelihood = likelihoods.Missing(likelihood, missing)
        self.missing = likelihood.sees if isinstance(likelihood, likelihoods.Missing) else None
        features = getattr(likelihood, "features", None)
        seen = self.event_shape if features is None else features(torch.zeros(2, *self.event_shape)).shape[1:]
        self.label, self.label_weight, self.y = label, label_weight, None
        if label is not None:
            network = self._network("classifier", classifier, seen, (self.condition_dim,))
            self.y = labels.make(label, network, label_weight, self.event_shape, features=features)
        encoder = self._network("encoder", encoder, seen, z_shape)
        decoder = self._network("decoder", decoder, z_shape, self.event_shape)
        if isinstance(prior, hierarchy.Deep):
            self.prior = prior
        else:
            shapes = (self.condition_dim,), z_shape
            network = self._prior_network(prior)
            self.prior = self._conditional("prior", prior, network, *shapes, features=self._condition.image())
        # A prior that is bound to the posterior lives where that does.
        target = None if hasattr(prior, "bind") else self.prior.example(self.condition_dim).support
        self.likelihood = self._conditional("decoder", likelihood, decoder, z_shape, self.event_shape)
        self.mechanism = mechanisms.make(mechanism, self.likelihood, self.missing, self.condition_dim)
        self.posterior = self._conditional(
            "encoder", posterior, encoder, self.event_shape, z_shape, features=features, support=target,
            corruption=corruptions.make(corruption),
        )  # fmt: skip
        if hasattr(posterior, "bind") and self.posterior.carry is None and target is not None:
            # It may work with the prior as soon as it is bound, so their supports are compared before.
            check_same_support(self.prior, target, self.posterior, posterior.support)
        for piece in (prior, likelihood, posterior):
            if hasattr(piece, "bind"):
                piece.bind(self)
        with torch.no_grad():
            # The model starts near the data mean. With full weights, the noise of the first draws of z costs so much
            # that the posterior learns to be the prior before the decoder has learned to listen.
            self.likelihood.head.weight.mul_(HEAD_GAIN)
        self.prior.to(self.likelihood.head.weight)
        check_one_kind(self)
        ours, theirs = (part.example(self.condition_dim).support for part in (self.prior, self.posterior))
        check_same_support(self.prior, ours, self.posterior, theirs)

    def _network(
        self, name: str, value: nn.Module | str | None, in_shape: Sequence[int], event_shape: Sequence[int]
    ) -> nn.Module:
        """The encoder or the decoder: itself, by name, or an MLP."""
        return registry.make(
            "mlp" if value is None else value,
            networks.DECODERS if name == "decoder" else networks.ENCODERS,
            name,
            in_shape=torch.Size(in_shape),
            event_shape=torch.Size(event_shape),
            condition_dim=self._condition.width(name),
        )

    def _prior_network(self, prior: Piece) -> nn.Module | None:
        """The network of a prior that depends on the condition."""
        network = getattr(prior, "network", None)
        if network is not None and not self.condition_dim:
            raise ValueError(
                f"prior: {type(prior).__name__} needs a condition, got condition_dim=0. Pass condition_dim=, or choose "
                "an unconditional prior."
            )
        shapes = {"in_shape": self.condition_shape or (self.condition_dim,), "event_shape": (self.latent_dim,)}
        return None if network is None else registry.make(network, networks.ENCODERS, "prior network", **shapes)

    def _conditional(
        self, name: str, piece: Piece, network: nn.Module | None, *shapes: Sequence[int], **options: object
    ) -> Conditional:
        """One of the three conditional distributions."""
        if name in self.condition_on:
            options |= {"condition_dim": self.condition_dim, "sight": self._condition.sight(network)}
        return Conditional(piece, network, *shapes, name=name, **options)

    # The probabilistic program

    def model(self, x: Tensor | None = None, condition: Tensor | None = None, *, size: int | None = None) -> Tensor:
        r"""The generative process: ``z ~ p(z)``, ``x ~ p(x | z)``; returns x, of shape ``(B, *event_shape)``.

        Args:
            x: data ``(B, *event_shape)``; None draws them.
            condition: ``(B, condition_dim)``, where the VAE has one.
            size: with x, the number N of rows of which x is a batch (log-densities are scaled by N/B); without x,
                the number of rows to draw.

        Raises:
            ValueError: for data of another shape or outside the likelihood's support.
        """
        register(self)
        x, condition, plate = self._rows(x, condition, size)
        with plate:
            if self.label is not None:
                if x is not None:
                    self.y.observe(x, condition)
                condition = self.y.draw_prior(condition)
            with mechanisms.Left() as left:
                z = hierarchy.draw_prior(self, condition, self.sites)
            p = self.likelihood(z, condition)
            value = pyro.sample("x", p, obs=x)
            if self.mechanism is not None:
                self.mechanism.draw(p, value, given=x is not None, left=left.heard)
            return value

    def guide(self, x: Tensor | None = None, condition: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """The amortised posterior ``z ~ q(z | x)``, or the prior where there is no x; returns z ``(B, D)``.

        Takes the same arguments as `model`; of several layers, returns the z next to x. For an estimator that sums a
        discrete z out, mark it as Pyro has it:
        ``SVI(vae.model, config_enumerate(vae.guide), optim, TraceEnum_ELBO())``.
        """
        register(self)
        x, condition, plate = self._rows(x, condition, size)
        with plate:
            if x is None:
                condition = condition if self.label is None else self.y.draw_prior(condition)
                return hierarchy.draw_prior(self, condition, self.sites)
            condition = condition if self.label is None else self.y.draw_posterior(x, condition)
            with mechanisms.leaving(self.mechanism):
                return hierarchy.draw_posterior(self, x, condition, self.sites)

    @property
    def sites(self) -> tuple[str, ...]:
        """The latent sites, from x upwards: ``z``, or of several layers ``z1``, ``z2``, ..."""
        depth = 1 + sum(1 for _ in hierarchy.above(self))
        return ("z",) if depth == 1 else tuple(f"z{layer + 1}" for layer in range(depth))

    # Without inference

    def encode(self, x: Tensor, condition: Tensor | None = None) -> TorchDistribution:
        """The posterior q(z | x): batch shape ``(B,)``, event shape ``(D,)``; of several layers, what x says of the one
        next to it. A label that is not there is the likeliest."""
        x, condition, _ = self._rows(x, condition, None)
        return self.posterior(x, self.labelled(x, condition))

    def decode(self, z: Tensor, condition: Tensor | None = None) -> TorchDistribution:
        """The likelihood p(x | z) for z of shape ``(..., D)``: batch shape ``(...)``, event shape ``event_shape``."""
        like = self.like
        z = torch.as_tensor(z).to(dtype=like.dtype, device=like.device)
        if z.ndim == 0 or z.shape[-1] != self.latent_dim:
            raise ValueError(f"z: expected shape (..., {self.latent_dim}), got {tuple(z.shape)}")
        condition = self.check_condition(condition, z.shape[-2] if z.ndim > 1 else 1)
        if self.label is not None and condition.isnan().any():
            raise ValueError("decode: expected a label for each z, got some without. Pass condition=.")
        return self.likelihood(z, condition if condition is None or z.ndim > 1 else condition[0])

    def sample(self, n: int, condition: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """n rows from the model, ``(n, *event_shape)``: draws of x, or with ``mean=True`` the means E[x | z]."""
        n = count(n, "n", 1)
        condition = self.check_condition(condition, n)
        with evaluating(self):
            if self.label is not None:
                condition = self.y.p(condition).sample()
            return self._value(self.likelihood(self.sample_latent(n, condition), condition), mean)

    def sample_latent(self, n: int, condition: Tensor | None = None) -> Tensor:
        """n draws of z from the prior, ``(n, D)``; of several layers, of the one next to x."""
        n = count(n, "n", 1)
        condition = self.check_condition(condition, n)
        with evaluating(self):
            if self.label is not None:
                condition = self.y.p(condition).sample()
            return hierarchy.sample(self, n, condition)

    def reconstruct(self, x: Tensor, condition: Tensor | None = None, *, mean: bool = True) -> Tensor:
        """x through the code, ``(B, *event_shape)``: E[x | z] (of classes, the likeliest) at the centre of q(z | x), or
        with ``mean=False`` a draw of x from p(x | z) at a draw of z from q(z | x).

        The centre is the posterior mean where z can take that value, else the mode (see `pyrovae.distributions`).
        """
        with evaluating(self):
            x, condition, _ = self._rows(x, condition, None)
            condition = self.labelled(x, condition)
            q = self.posterior(x, condition)
            return self._value(self.decode(centre(q) if mean else q.sample(), condition), mean)

    def predict_proba(self, x: Tensor) -> Tensor:
        """Of a VAE with classes as its label, q(y | x) of each class, ``(B, K)``."""
        return self._classified(x).mean

    def predict(self, x: Tensor) -> Tensor:
        """The likeliest class of each row by q(y | x), or where the label is a number, its mean: ``(B,)``."""
        mean = self._classified(x).mean
        return mean[:, 0] if self.label == labels.REAL else mean.argmax(-1)

    def _classified(self, x: Tensor) -> TorchDistribution:
        if self.y is None:
            raise ValueError("predict: expected a VAE with a label, such as VAE(..., label=10)")
        with evaluating(self):
            return self.y.posterior(self.check(x))

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 10, condition: Tensor | None = None) -> Tensor:
        """Means E[x | z] along the straight line between the posterior centres of rows a and b.

        a and b have shape ``(B, *event_shape)``; the result has shape ``(steps, B, *event_shape)``, ends included.
        """
        steps = count(steps, "steps", 2)
        with evaluating(self):
            if self.label is not None:
                a, condition, _ = self._rows(a, condition, None)
                condition = self.labelled(a, condition)
            start, end = centre(self.encode(a, condition)), centre(self.encode(b, condition))
            if start.shape != end.shape:
                raise ValueError(f"expected as many rows in a as in b, got {len(start)} and {len(end)}")
            t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None, None]
            return self._value(self.decode(start + t * (end - start), condition), mean=True)

    def _value(self, p: TorchDistribution, mean: bool) -> Tensor:
        """The expectation of x or a draw, in the model's dtype: draws of classes are whole numbers."""
        return (expectation(p) if mean else p.sample()).to(self.like.dtype)

    # Data

    def initialize(self, x: Tensor, condition: Tensor | None = None, *, size: int | None = None) -> None:
        """Set the first output bias at the data mean, a learned scale at the data's, and what else begins at data (such
        as pseudo-inputs of a prior), if they are as made.

        `pyrovae.fit` does so; after a first step of training it changes nothing.

        Args:
            x: rows ``(B, *event_shape)``.
            condition: ``(B, condition_dim)``.
            size: N, where x is some of so many rows.
        """
        x = self.check(x)
        condition = self.labelled(x, self.check_condition(condition, len(x)))
        self.likelihood.initialize(x, condition)
        hierarchy.initialize_top(self, x, condition, len(x) if size is None else size)
        if self.mechanism is not None:
            self.mechanism.initialize(x)

    def labelled(self, x: Tensor, condition: Tensor | None) -> Tensor | None:
        """A checked condition; of a VAE with a label, with the likeliest one where it is missing."""
        return condition if self.label is None else self.y.filled(x, condition)

    def check(
        self,
        x: Any,  # noqa: ANN401 - whatever a user has
        columns: Sequence[str] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Tensor:
        """x as a tensor ``(N, *event_shape)`` of the model's dtype and device, each value inside the support.

        Args:
            x: tensor, array, data frame or nested list.
            columns: their names, for messages.
            numbers: those of the rows, for messages, where x is some of many.

        Raises:
            ValueError: naming row, column, value and what was expected.
        """
        x = as_rows(x, self.event_shape, like=self.like)
        piece = self.likelihood.piece
        check_values(
            x,
            piece.support,
            owner=type(piece).__name__,
            remedy=getattr(piece, "remedy", ""),
            columns=columns,
            missing=self.likelihood.has("missing"),
            numbers=numbers,
        )
        return x

    def __getstate__(self) -> dict[str, Any]:
        # The param store leaves a weak reference on each parameter, which copies and pickles cannot hold.
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)
        return super().__getstate__()

    @property
    def like(self) -> Tensor:
        """A parameter of the dtype and the device that data must have."""
        return next(p for p in self.parameters() if p.is_floating_point())

    def check_condition(self, condition: Any, rows: int | None = None) -> Tensor | None:  # noqa: ANN401
        """The condition as a tensor ``(rows, condition_dim)``, one row standing for all; None where there is none.

        Images ``(rows, *condition_shape)`` become flat; classes ``(rows,)``, integers from 0 to condition_dim - 1,
        indicators. Of a VAE with a label, it is that, NaN where there is none (see `pyrovae.label.encode`).

        Raises:
            ValueError: if it is missing, not wanted, of another shape, or not finite.
        """
        return self._condition.check(condition, rows, self.like)

    def _rows(
        self, x: Tensor | None, condition: Tensor | None, size: int | None
    ) -> tuple[Tensor | None, Tensor | None, pyro.plate]:
        """Checked data, checked condition, and the plate over rows."""
        if x is not None:
            x = self.check(x)
            rows = len(x)
        elif size is not None:
            rows = count(size, "size", 1)
        else:
            rows = 1 if condition is None else len(condition)
        condition = self.check_condition(condition, rows)
        if size is None or x is None or size == rows:
            return x, condition, pyro.plate("data", rows, dim=-1)
        if size < rows:
            raise ValueError(f"size: expected at least the {rows} rows of x, got {size}")
        return x, condition, pyro.plate("data", size, subsample=torch.arange(rows), dim=-1)
