"""Who imports whom: each part of the package only what lies above it, and nothing slow at the top."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae

PACKAGE = Path(pyrovae.__file__).parent

# From the top down; names on one line are on a level of their own, in this order.
LAYERS = [
    "config",
    "checks",
    "registry",
    "modes",
    "parameters",
    "piece",
    "datasets",
    "distributions",
    "networks",
    "likelihoods",
    "corruptions",
    "posteriors",
    "priors",
    "conditional",
    "hierarchy",
    "label",
    "condition",
    "mechanism",
    "vae",
    "elbos",
    "serialization",
    "training",
    "evaluation",
    "inference_data",
    "compare",
    "workflow",
    "plots",
    "board",
    "report",
    "pipeline",
    "cli",
    "__main__",
]
DATASETS_MAY_IMPORT = {"config", "checks", "registry", "modes", "datasets"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """(line, layer) of every import from pyrovae in a file, wherever it stands; ``from pyrovae import x`` is x."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module.split(".")
            if module[0] == "pyrovae":
                names = module[1:2] or [alias.name for alias in node.names if alias.name != "__version__"]
                yield from ((node.lineno, name) for name in names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                module = alias.name.split(".")
                if module[0] == "pyrovae":
                    yield node.lineno, module[1] if len(module) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_upwards(path):
    name = layer(path)
    assert name in LAYERS, f"{name} has no place in the order of layers"
    for line, other in imports(path):
        assert other in LAYERS, f"{path}:{line} imports pyrovae.{other}: name the module that it comes from"
        assert LAYERS.index(other) <= LAYERS.index(name), f"{path}:{line} imports {other}, which lies below {name}"
        if name == "datasets":
            assert other in DATASETS_MAY_IMPORT, f"{path}:{line} imports {other}"


def test_the_package_has_the_layers():
    present = {layer(path) for path in FILES}
    assert {"config", "checks", "vae", "elbos", "training", "serialization"} <= present


IMPORT = """
import sys
import pyro
import torch

torch.manual_seed(1)
before = torch.get_rng_state()
import pyrovae
import pyrovae.inference_data

assert torch.equal(before, torch.get_rng_state())
assert not len(pyro.get_param_store())
assert torch.get_default_dtype() == torch.float32
print(*sorted({name.split(".")[0] for name in sys.modules}))

# They take longer to import than this takes.
pyrovae.log_marginal(pyrovae.VAE((2,), 1), torch.zeros(1, 2), num_samples=2)
assert not {"torch._dynamo", "sympy"} & set(sys.modules)

# It would switch the checks of all distributions off.
assert torch.distributions.Distribution._validate_args
import zuko

assert torch.distributions.Normal(0.0, 1.0)._validate_args is not False
try:
    torch.distributions.Normal(0.0, -1.0)
except ValueError:
    print("checked")
"""


def test_pyrovae_imports_nothing_slow_and_changes_no_global_state():
    """In one process, because each has to import torch; and zuko, which comes later, changes nothing either."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    modules, checked = done.stdout.splitlines()
    loaded = set(modules.split())
    assert {"torch", "pyro", "pyrovae"} <= loaded
    assert not loaded & {"arviz", "torchvision", "matplotlib", "xarray", "jinja2", "tyro"}
    assert not loaded & {"sklearn", "pandas", "pyarrow", "h5netcdf"}
    assert checked == "checked"
