"""Settings: the one source of defaults, of command-line flags and of the saved ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal

PRECISIONS = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Training:
    """How a VAE is trained."""

    elbo: str = "elbo"
    """Estimator: see `pyrovae list`; arguments as in "free_bits(nats=0.5)"."""
    num_particles: int = 1
    """Draws from the posterior for each row and step."""
    epochs: int = 100
    """Passes over the training rows, at most."""
    batch_size: int = 64
    """Rows a step; a last batch of a single row joins the one before it."""
    lr: float = 1e-3
    """Learning rate of the first epoch."""
    optimizer: str = "adam"
    """adam, adamw, adamax, rmsprop or sgd; arguments as in "adam(weight_decay=0.01)"."""
    schedule: str = "constant"
    """Learning rate over the epochs: constant, linear, cosine or "exponential(rate=0.99)"."""
    clip_norm: float | None = None
    """Greatest norm of the whole gradient; longer ones are shortened to it."""
    beta: float = 1.0
    """Weight of the KL term (plain ELBOs), or of the penalty (regularised ones); 0 is an autoencoder with noise."""
    warmup: float = 0.0
    """Epochs over which that weight rises from 0 to beta."""
    cycles: int = 1
    """Equal parts of the run, at the beginning of each of which the weight rises anew."""
    patience: int | None = None
    """Stop after this many epochs without a better validation figure, and keep the best weights."""
    seconds: float | None = None
    """Stop after so many seconds of training, in the middle of an epoch too."""
    seed: int = 0
    """Seed of the batches and of the draws."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:1."""
    compile: bool | Literal["auto"] = "auto"
    """Whether steps are compiled; auto: in long runs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the matrix products of training in it."""

    def __post_init__(self) -> None:
        _whole(self, 1, "num_particles", "epochs", "batch_size", "cycles")
        _whole(self, 0, "seed")
        _at_least(self, 0, "beta", "warmup")
        if self.patience is not None:
            _whole(self, 1, "patience")
        for name in ("lr", "clip_norm", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"compile: expected True, False or auto, got {self.compile!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.cycles > 1 and not 0 < self.warmup <= self.epochs / self.cycles:
            raise ValueError(
                f"warmup: expected a number above 0 and at most {self.epochs / self.cycles:g}, the epochs of each of "
                f"the {self.cycles} cycles in which the weight of the KL term is to rise, got {self.warmup!r}"
            )


@dataclass(frozen=True)
class Architecture:
    """What the VAE is made of; "auto" suits the data."""

    latent_dim: int = 16
    """Length of z."""
    layers: int = 1
    """Layers of latents; each is half as long as the one below it."""
    inference: str = "bottom_up"
    """Of several layers: bottom_up, each drawn from the one below it, or top_down."""
    prior: str = "normal"
    """Prior p(z): see `pyrovae list`."""
    likelihood: str = "auto"
    """Likelihood p(x | z): see `pyrovae list`; "auto" is bernoulli for 0/1 data, continuous_bernoulli for data in
    [0, 1], gaussian for real data."""
    posterior: str = "normal"
    """Posterior q(z | x): see `pyrovae list`."""
    encoder: str = "mlp"
    """Network of the posterior: see `pyrovae list`; arguments as in "mlp(hidden=[500, 500], activation=tanh)"."""
    decoder: str = "mlp"
    """Network of the likelihood: see `pyrovae list`."""
    condition_on: tuple[str, ...] = ("encoder", "decoder")
    """Networks that see the condition, where there is one; a prior that is conditional sees it anyway."""
    corruption: str | None = None
    """What is done to the rows that the encoder sees in training: gaussian, masking or salt_and_pepper; arguments as in
    "masking(share=0.3)"."""
    label_weight: float = 50.0
    """With --labels: weight of the classifier's own log-likelihood of the labels."""
    sees: str = "mask"
    """What the encoder sees of missing cells, where there are such: "mask", an indicator of each, or "zero"."""
    mechanism: str | None = None
    """How a cell's value makes it go missing: see `pyrovae list`; by default cells are missing at random."""

    def __post_init__(self) -> None:
        _whole(self, 1, "latent_dim", "layers")


@dataclass(frozen=True)
class Data:
    """Where the data come from and how they are read."""

    data_root: str = "data"
    """Folder with downloaded data sets, in torchvision's layout."""
    binarize: str = "auto"
    """none, static, dynamic or threshold; "auto" is dynamic for grey images."""
    standardize: bool | None = None
    """Bring the columns of a real table to mean 0 and sd 1 on the training rows; by default where the likelihood is one
    of real numbers."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Columns of --likelihood tabular that are not what they look like, as in "--kinds year real grade ordinal"."""
    label: str | None = None
    """Column of a .csv or .parquet file that holds labels, not data."""
    missing: float = 0.0
    """Share of the cells to take away at random; those that a file has missing are so anyway."""
    labels: int | None = None
    """Semi-supervised: train with the labels of so many random training rows, as many of each class. Classes are summed
    out of the plain ELBO."""
    condition: str | None = None
    """What the VAE is conditioned on: "labels" (classes as indicators, numbers as they are) or nothing."""

    def __post_init__(self) -> None:
        if self.labels is not None:
            _whole(self, 1, "labels")
            if self.condition is not None:
                raise ValueError(f"labels: expected no --condition beside --labels, got {self.condition!r}")


@dataclass(frozen=True)
class Evaluating:
    """How the trained VAE is judged."""

    num_samples: int = 1000
    """Importance samples a row for log p(x)."""
    export_rows: int = 200
    """Test rows in inference_data.nc."""
    export_draws: int = 100
    """Draws a row in inference_data.nc."""

    def __post_init__(self) -> None:
        _whole(self, 2, "num_samples", "export_draws")
        _whole(self, 1, "export_rows")


def _whole(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    _at_least(config, least, *names)


def _at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not least <= value < float("inf"):
            raise ValueError(f"{name}: expected a number of at least {least}, got {value!r}")
