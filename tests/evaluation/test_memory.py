"""Memory grows with the chunk, not with draws or rows."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch, pyrovae
x = (torch.rand(20, 1, 28, 28) > 0.8).float()
vae = pyrovae.VAE((1, 28, 28), 8)
pyrovae.log_marginal(vae, x[:1], num_samples=100, progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pyrovae.log_marginal(vae, x, num_samples=5000, progress=False)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kilobytes on Linux only")
def test_5000_draws_in_bounded_memory():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # All 100,000 draws of 784 pixels at once would take 300 MB for each tensor of their size, several times over.
    assert float(done.stdout) < 250
