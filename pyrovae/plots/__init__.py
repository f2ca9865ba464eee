"""Pictures of a VAE and its training, as matplotlib Figures that belong to no window and no global state."""

from pyrovae.plots.elbos import plot_elbos, plot_training
from pyrovae.plots.history import plot_history
from pyrovae.plots.latent import plot_latent
from pyrovae.plots.loo_pit import plot_loo_pit
from pyrovae.plots.posteriors import plot_posteriors
from pyrovae.plots.rate_distortion import plot_rate_distortion
from pyrovae.plots.reconstructions import plot_reconstructions
from pyrovae.plots.samples import plot_samples
from pyrovae.plots.save import save_figures
from pyrovae.plots.sbc import plot_sbc
from pyrovae.plots.style import DPI
from pyrovae.plots.traversal import plot_traversal

__all__ = [
    "DPI",
    "plot_elbos",
    "plot_history",
    "plot_latent",
    "plot_loo_pit",
    "plot_posteriors",
    "plot_rate_distortion",
    "plot_reconstructions",
    "plot_samples",
    "plot_sbc",
    "plot_training",
    "plot_traversal",
    "save_figures",
]
