"""A training step of the same VAE by others: hand-written torch, Pyro's SVI, pythae, NumPyro; and its matrix products.

Each function takes a `Size` and data ``(N, *event_shape)`` and returns a step, which trains on the next batch when
called. All have an encoder and a decoder of the same layers with softplus, N(0, I) as the prior, Bernoulli pixels, Adam
at 1e-3, and the KL in closed form where there is one draw; with K draws they maximise the bound of IWAE.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrovae

Step = Callable[[], object]
LR = 1e-3


@dataclass(frozen=True)
class Size:
    """Of a network and its batches; ``hidden`` are the layers of encoder and (the other way round) decoder, or () for
    the library's convolutions."""

    pixels: int
    hidden: tuple[int, ...]
    latent_dim: int
    batch: int
    particles: int = 1

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.pixels,) if self.hidden else (1, 28, 28)


def batches(size: Size, x: Tensor) -> Iterator[Tensor]:
    """Batches of data that lie in memory, for ever."""
    for i in itertools.cycle(range(len(x) // size.batch)):
        yield x[i * size.batch : (i + 1) * size.batch]


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(widths):
        layers += [nn.Linear(i, o), nn.Softplus()]
    return nn.Sequential(*layers[:-1])


class Numbers(nn.Module):
    """A part of our VAE as a plain network, lent to others."""

    def __init__(self, part: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.part, self.shape = part, shape

    def forward(self, inputs: Tensor) -> Tensor:
        return self.part.params(inputs).unflatten(-1, self.shape)


def pair(size: Size, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """An encoder to ``2 D`` numbers and a decoder to logits."""
    torch.manual_seed(seed)
    if not size.hidden:
        vae = pyrovae.VAE(size.event_shape, size.latent_dim, encoder="conv", decoder="conv")
        return Numbers(vae.posterior, (2 * size.latent_dim,)), Numbers(vae.likelihood, size.event_shape)
    return (
        mlp(size.pixels, *size.hidden, 2 * size.latent_dim),
        mlp(size.latent_dim, *reversed(size.hidden), size.pixels),
    )


def torch_loss(size: Size, encoder: nn.Module, decoder: nn.Module) -> Callable[[Tensor], Tensor]:
    """What people write by hand."""

    def loss(x: Tensor) -> Tensor:
        loc, log_scale = encoder(x).chunk(2, -1)
        if size.particles == 1:
            z = loc + log_scale.exp() * torch.randn_like(loc)
            kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
            return F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + kl
        noise = torch.randn(size.particles, *loc.shape)
        z = loc + log_scale.exp() * noise
        logits = decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        log_p = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_weights = log_p + (0.5 * noise**2 - 0.5 * z**2 + log_scale).sum(-1)
        return -torch.logsumexp(log_weights, 0).sum()

    return loss


def by_hand(size: Size, x: Tensor, *, compiled: bool) -> Step:
    encoder, decoder = pair(size)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR, fused=True)
    loss = torch_loss(size, encoder, decoder)
    if compiled:
        loss = torch.compile(loss)
    rows = batches(size, x)

    def step() -> None:
        adam.zero_grad()
        loss(next(rows)).backward()
        adam.step()

    return step


def programs(
    size: Size, networks: tuple[nn.Module, nn.Module] | None = None
) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """Model and guide in the manner of Pyro's example (https://pyro.ai/examples/vae.html), of given networks or new."""
    encoder, decoder = networks or pair(size)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), size.latent_dim), 1.0).to_event(1))
            logits = decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
            pyro.sample("x", dist.Bernoulli(logits=logits, validate_args=False).to_event(len(size.event_shape)), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def pyro_svi(size: Size, x: Tensor) -> Step:
    """SVI as it comes, over data in memory, validation off."""
    pyro.enable_validation(False)
    pyro.clear_param_store()
    elbo = (
        TraceMeanField_ELBO()
        if size.particles == 1
        else RenyiELBO(alpha=0, num_particles=size.particles, vectorize_particles=True, max_plate_nesting=1)
    )
    svi = SVI(*programs(size), pyro.optim.Adam({"lr": LR}), elbo)
    rows = batches(size, x)
    return lambda: svi.step(next(rows))


def pyro_example(size: Size, x: Tensor, networks: tuple[nn.Module, nn.Module] | None = None) -> Step:
    """The loop of Pyro's example: a DataLoader that makes a tensor of each picture, and Trace_ELBO."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import ToTensor

    pyro.enable_validation(False)
    pyro.clear_param_store()
    pictures, picture = (255 * x).to(torch.uint8).reshape(-1, 28, 28), ToTensor()

    class Pictures(Dataset):
        """As torchvision's MNIST has it."""

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, i: int) -> Tensor:
            return picture(Image.fromarray(pictures[i].numpy(), mode="L"))

    svi = SVI(*programs(size, networks), pyro.optim.Adam({"lr": LR}), Trace_ELBO())

    def forever() -> Iterator[Tensor]:
        while True:
            yield from DataLoader(Pictures(), size.batch, shuffle=True, drop_last=True)

    rows = forever()
    return lambda: svi.step(next(rows).reshape(-1, *size.event_shape))


def pythae_trainer(size: Size, x: Tensor) -> Step:
    """pythae's model and what its trainer does with a batch in memory. Its pixels are probabilities."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    ours, theirs = pair(size)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = ours

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = theirs

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    config = VAEConfig(input_dim=size.event_shape, latent_dim=size.latent_dim, reconstruction_loss="bce")
    vae = VAE(config, Encoder(), Decoder())
    adam = torch.optim.Adam(vae.parameters(), lr=LR)
    rows = batches(size, x)

    def step() -> None:
        output = vae({"data": next(rows)})
        adam.zero_grad()
        output.loss.backward()
        adam.step()
        output.loss.item()

    return step


def numpyro_epoch(size: Size, x: Tensor, steps: int) -> Step:
    """``steps`` steps as one jitted loop over data in memory, which is the fastest that NumPyro has."""
    import jax
    import numpyro
    from jax import numpy as jnp
    from jax.example_libraries import stax
    from numpyro import distributions
    from numpyro import infer as inference

    def network(*widths: int) -> tuple[object, object]:
        layers: list[object] = []
        for width in widths[1:]:
            layers += [stax.Dense(width), stax.Softplus]
        return stax.serial(*layers[:-1])

    encoder = network(size.pixels, *size.hidden, 2 * size.latent_dim)
    decoder = network(size.latent_dim, *reversed(size.hidden), size.pixels)

    def model(rows: object) -> None:
        decode = numpyro.module("decoder", decoder, (size.latent_dim,))
        with numpyro.plate("data", size.batch):
            z = numpyro.sample("z", distributions.Normal(0, 1).expand([size.latent_dim]).to_event(1))
            numpyro.sample("x", distributions.Bernoulli(logits=decode(z)).to_event(1), obs=rows)

    def guide(rows: object) -> None:
        encode = numpyro.module("encoder", encoder, (size.pixels,))
        loc, log_scale = jnp.split(encode(rows), 2, -1)
        with numpyro.plate("data", size.batch):
            numpyro.sample("z", distributions.Normal(loc, jnp.exp(log_scale)).to_event(1))

    elbo = (
        inference.TraceMeanField_ELBO()
        if size.particles == 1
        else inference.RenyiELBO(alpha=0, num_particles=size.particles)
    )
    svi = inference.SVI(model, guide, numpyro.optim.Adam(LR), elbo)
    count = len(x) // size.batch
    rows = jnp.asarray(x[: count * size.batch].reshape(count, size.batch, -1).numpy())

    @jax.jit
    def epoch(state: object) -> object:
        return jax.lax.fori_loop(0, steps, lambda i, held: svi.update(held, rows[i % count])[0], state)

    state = [svi.init(jax.random.PRNGKey(0), rows[0])]

    def step() -> None:
        state[0] = jax.block_until_ready(epoch(state[0]))

    return step


def floor(size: Size, x: Tensor) -> Step:
    """The matrix products of a step alone: of each layer the output, and the gradients of weights and inputs."""
    widths = [
        *itertools.pairwise((size.pixels, *size.hidden, 2 * size.latent_dim)),
        *itertools.pairwise((size.latent_dim, *reversed(size.hidden), size.pixels)),
    ]
    many = len(size.hidden) + 1
    work = []
    for layer, (i, o) in enumerate(widths):
        rows = size.batch * (size.particles if layer >= many else 1)
        inputs, outputs, weight = torch.randn(rows, i), torch.randn(rows, o), torch.randn(o, i)
        work.append((inputs, outputs, weight, torch.empty(rows, o), torch.empty(o, i), torch.empty(rows, i), layer))

    def step() -> None:
        for inputs, outputs, weight, forward, slope, back, layer in work:
            torch.mm(inputs, weight.T, out=forward)
            torch.mm(outputs.T, inputs, out=slope)
            if layer:  # Nobody asks for the gradient of the data.
                torch.mm(outputs, weight, out=back)

    return step
