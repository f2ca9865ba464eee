# ruff: noqa: E501 - a bug is a line
"""Plants bugs in a copy of the package, one at a time, and says which of them the tests catch.

Run ``python tests/elbos/plant.py [word of a description, ...]``: a few minutes for all. It fails if a bug survives, if
the text that it replaces is no longer there once, or if a test that is to catch it fails without it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyrovae"
FILES = ["tests/elbos/test_bounds.py", "tests/elbos/test_gradients.py"]


class Bug(NamedTuple):
    file: str
    old: str
    new: str
    what: str
    tests: str  # that are to catch it, as pytest -k takes them


MEAN = "mean_gradient_is_that_of_the_bound and one and site"
BY_HAND = "a_bound_by_hand"
BY_ROW = "row_by_row"

# fmt: off
BUGS = [
    Bug("elbos/bound.py", "torch.logsumexp(values, dim) - math.log(values.shape[dim])", "torch.logsumexp(values, dim)", "log K dropped", f"{BY_HAND} and iwae"),
    Bug("elbos/bound.py", "(scale * self.bound(log_weights)).sum()", "self.bound(scale * log_weights).sum()", "scale inside of the bound", f"{BY_ROW} and scaled and iwae"),
    Bug("elbos/bound.py", "return value if self.side > 0 else -value", "return -value", "sign of an upper bound's loss", "exact_posterior and cubo"),
    Bug("elbos/bound.py", "path / model", "path", "factor on the way back not divided", f"{MEAN} and dreg"),
    Bug("elbos/bound.py", "total - (path * draws.path).sum()", "total + (path * draws.path).sum()", "sign of log q's slope", f"{MEAN} and dreg"),
    Bug("elbos/bound.py", "total + (score * draws.log_q).sum()", "total - (score * draws.log_q).sum()", "sign of the score", "mean_gradient and discrete and vimco"),
    Bug("elbos/bound.py", "return total - (path * draws.log_q).sum()", "return total", "log q left out of the plain gradient", f"{MEAN} and miwae"),
    Bug("elbos/bound.py", "TINY = 1e-20", "TINY = 0.1", "least weight too large", f"{MEAN} and dreg-3"),
    Bug("elbos/bound.py", "None if w is None else w * draws.scale for w", "None if w is None else w for w", "gradient without the scale", "scaled_and_masked_as_its_bound and iwae"),
    Bug("elbos/bound.py", "            _restore(state)", "            pass", "chunks drawn again with other random numbers", "chunks_make_the_same_gradient and dreg"),
    Bug("elbos/bound.py", "        weights = self.weights(log_weights)\n", "        weights = self.weights(log_weights.flip(0))\n", "chunks with each other's weights", "chunks_make_the_same_gradient and dreg"),
    Bug("elbos/bound.py", "num_particles - start) for start", "num_particles) for start", "last chunk too large", "chunks_make_one_bound and iwae"),
    Bug("elbos/bound.py", "log_weights = draws.log_weights.detach()", "log_weights = draws.log_weights", "weights not detached", f"{MEAN} and dreg"),
    Bug("elbos/bound.py", "torch.autograd.grad(bound(log_weights).sum(), log_weights)", "torch.autograd.grad(bound(log_weights).mean(), log_weights)", "mean over rows for their sum", f"{MEAN} and renyi"),
    Bug("elbos/draws.py", "slope if self.factor is None else slope * self.factor", "slope if True else slope * self.factor", "factor on the way back dropped", f"{MEAN} and dreg"),
    Bug("elbos/draws.py", "return self.observed + self.latent", "return self.observed", "prior left out", "exact_posterior and iwae"),
    Bug("elbos/draws.py", 'log_prob = scale_and_mask(log_prob, mask=site["mask"])', "pass", "mask ignored", f"{BY_ROW} and masked and iwae"),
    Bug("elbos/draws.py", "values.sum(inner, keepdim=True)", "values.mean(inner, keepdim=True)", "mean over an inner plate", "two_latent_sites or missing_cells"),
    Bug("elbos/draws.py", "set.intersection(*plates)", "set.union(*plates)", "an inner plate taken for rows", "two_latent_sites or missing_cells"),
    Bug("elbos/draws.py", 'fixed = {name: site["value"].detach() for', 'fixed = {name: site["value"] for', "z of the score not detached", f"{MEAN} and vimco"),
    Bug("elbos/draws.py", "asked = _sites(_replay(guide, args, kwargs, guide_trace, fixed))", "asked = latent", "log q of a site at another's moving value", "mean_gradient and two and sites and dreg"),
    Bug("elbos/draws.py", "product = slope * (z - z.detach())", "product = slope * z.detach()", "path not differentiated", f"{MEAN} and dreg"),
    Bug("elbos/draws.py", "free != guided", "False", "sites of one program only", "only_one_program"),
    Bug("elbos/draws.py", "for site in sites[1:]", "for site in []", "scales not compared", "weight_on_one_term and iwae"),
    Bug("elbos/draws.py", 'not site["fn"].has_rsample', "False", "a guide without a path let through", "guide_without_a_path"),
    Bug("elbos/dreg.py", "Weights(normalized, normalized.square())", "Weights(normalized, normalized)", "DReG's weight not squared", f"{MEAN} and dreg"),
    Bug("elbos/dreg.py", "log_weights.softmax(0)", "log_weights.softmax(-1)", "softmax over rows", f"{MEAN} and dreg"),
    Bug("elbos/stl.py", "Weights(normalized, normalized)", "Weights(normalized, normalized.square())", "STL with DReG's weights", "landing_is_biased"),
    Bug("elbos/renyi.py", "log_mean_exp(power * log_weights) / power", "log_mean_exp(power * log_weights)", "Renyi not divided by 1 - alpha", f"{BY_HAND} and renyi"),
    Bug("elbos/renyi.py", "self.alpha >= 0", "True", "Renyi below 0 called a bound", "all_names"),
    Bug("elbos/groups.py", "log_mean_exp(log_weights.unflatten(0, (self.groups, -1)), 1).mean(0)", "log_mean_exp(log_weights.unflatten(0, (self.groups, -1)), 1).sum(0)", "sum of groups for their mean", f"{BY_HAND} and miwae"),
    Bug("elbos/groups.py", "(self.groups, -1)", "(-1, self.groups)", "draws in a group for groups", f"{BY_HAND} and miwae"),
    Bug("elbos/groups.py", "guide, -guide)", "guide)", "PIWAE without its score", "one_gradient_for_each_side"),
    Bug("elbos/groups.py", "guide, -guide)", "guide, guide)", "sign of PIWAE's score", "one_gradient_for_each_side"),
    Bug("elbos/groups.py", "self.beta * log_weights.mean(0) + (1 - self.beta)", "(1 - self.beta) * log_weights.mean(0) + self.beta", "CIWAE's shares swapped", f"{BY_HAND} and ciwae"),
    Bug("elbos/gdreg.py", "- twice * (of_joint - of_guide)", "+ twice * (of_joint - of_guide)", "sign of GDReG's second term", f"{MEAN} and gdreg"),
    Bug("elbos/gdreg.py", "once * (of_joint - of_prior)", "once * of_joint", "prior's slope kept in GDReG", f"{MEAN} and gdreg"),
    Bug("elbos/gdreg.py", "weights) - score + path.sum()", "weights) + path.sum()", "prior's score counted as well", f"{MEAN} and gdreg"),
    Bug("elbos/gdreg.py", "(weight * draws.scale)[", "weight[", "prior's gradient without the scale", "scaled_and_masked_as_its_bound and gdreg"),
    Bug("elbos/gdreg.py", "len(draws.guide_sites) != 1", "False", "GDReG of two sites", "gdreg_refuses_two"),
    Bug("elbos/vimco.py", "[sum_without_each(log_weights), replaced]", "[sum_without_each(log_weights), sum_without_each(log_weights) - math.log(count - 1)]", "arithmetic for geometric mean", "baselines_leave"),
    Bug("elbos/vimco.py", " + math.log(2 / count)", "", "baseline without its factor", "baselines_leave"),
    Bug("elbos/vimco.py", "- _without_each(log_weights) - normalized", "- _without_each(log_weights)", "VIMCO without the slope of log q", "mean_gradient and discrete and vimco"),
    Bug("elbos/vimco.py", "(log_weights - log_weights.mean(0)) / (count - 1)", "(log_weights - log_weights.mean(0)) / count", "a baseline with its own draw", "mean_gradient and discrete and score_function"),
    Bug("elbos/bound.py", "torch.logaddexp(before[:-1], after[1:])", "torch.logaddexp(before[1:], after[:-1])", "leave-one-out sum off by one", "baselines_leave"),
    Bug("elbos/jackknife.py", "(draws - left_out) ** order", "draws**order", "jackknife's coefficient", f"{BY_HAND} and jackknife"),
    Bug("elbos/jackknife.py", "(-1) ** left_out", "1", "jackknife's sign", f"{BY_HAND} and jackknife"),
    Bug("elbos/jackknife.py", "math.log(draws - 1)", "math.log(draws)", "size of a subset", f"{BY_HAND} and jackknife"),
    Bug("elbos/tvo.py", "steps * weights * (1 + betas * deviation)", "steps * weights", "TVO's covariance left out of the model", "thermodynamic_gradient"),
    Bug("elbos/tvo.py", "((1 - betas) * deviation - 1)", "((1 - betas) * deviation)", "TVO's score without the slope of log q", "thermodynamic_gradient"),
    Bug("elbos/tvo.py", "deviation * len(log_weights) / (len(log_weights) - 1)", "deviation", "TVO's covariance of a sample not corrected", "mean_gradient and discrete and tvo"),
    Bug("elbos/tvo.py", "betas = grid[:-1]", "betas = grid[1:]", "right sums for left ones", f"{BY_HAND} and tvo"),
    Bug("elbos/tvo.py", "(betas * log_weights).softmax(1)", "(betas * log_weights).softmax(0)", "softmax over temperatures", f"{BY_HAND} and tvo"),
    Bug("elbos/tail_adaptive.py", "torch.searchsorted(by_row.sort(-1).values, by_row)", "by_row.argsort(-1)", "order for ranks", "tail_adaptive_weights"),
    Bug("elbos/tail_adaptive.py", "torch.searchsorted(by_row.sort(-1).values, by_row)", "torch.searchsorted(by_row.sort(-1).values, by_row, right=True) - 1", "ties ranked from below", "tail_adaptive_weights"),
    Bug("elbos/tail_adaptive.py", "power / power.sum(0)", "power / power.sum()", "ranks normalised over all rows", "tail_adaptive_weights"),
    Bug("elbos/cubo.py", "log_mean_exp(self.order * log_weights) / self.order", "log_mean_exp(self.order * log_weights) / 2", "CUBO's order", f"{BY_HAND} and cubo"),
    Bug("elbos/cubo.py", "-slope, slope)", "slope, -slope)", "CUBO upwards", "chi_bound_goes_down"),
    Bug("elbos/rws.py", "normalized * (1 - normalized)", "normalized", "doubly reparameterised wake-phi with one term", f"{MEAN} and doubly"),
    Bug("elbos/rws.py", "score=self.wake * normalized", "score=normalized", "share of wake-phi", "sleep_phi_is"),
    Bug("elbos/rws.py", "sleep = (1 - self.wake) * self._sleep", "sleep = self._sleep", "share of sleep-phi", "sleep_phi_is"),
    Bug("elbos/rws.py", "(draws.scale * draws.log_q).sum()", "draws.log_q.sum()", "sleep-phi without the scale", "sleep_phi_is"),
    Bug("elbos/rws.py", "(*observed.values(), *args[1:])", "args", "the data for dreams", "sleep_phi_is"),
    Bug("elbos/mean_field.py", "ours != theirs", "False", "sites in another order", "sites_in_one_order"),
    Bug("distributions/pathwise.py", "((z - p.loc) / p.scale).detach()", "(z - p.loc) / p.scale", "noise not detached", "own_draws and normal"),
    Bug("distributions/pathwise.py", "(cdf - cdf.detach()) / p", "(cdf.detach() - cdf) / p", "sign of an implicit path", "own_draws or distribution_function"),
    Bug("distributions/pathwise.py", "unsqueeze(-1), upper=False)", "unsqueeze(-1), upper=True)", "the wrong triangle", "own_draws and full"),
    Bug("distributions/pathwise.py", "reversed(p.transforms)", "p.transforms", "transforms undone in the wrong order", "own_draws and squashed"),
]
# fmt: on


def unmatched(package):
    """Bugs whose text does not stand in its file exactly once."""
    return [bug.what for bug in BUGS if (package / bug.file).read_text().count(bug.old) != 1]


def passes(copy, tests):
    """Whether the tests pass on a copy; None where there are none of that name."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *FILES, "-k", tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{tests!r}: no such tests, or they do not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main(words):
    bugs = [bug for bug in BUGS if not words or any(word in bug.what for word in words)]
    if failed := unmatched(PACKAGE):
        raise SystemExit("no longer there, or more than once: " + ", ".join(failed))
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("pyrovae", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        # A selection that fails by itself would catch anything.
        clean = (
            "not every_bug and (" + " or ".join(f"({tests})" for tests in dict.fromkeys(b.tests for b in bugs)) + ")"
        )
        if not passes(copy, clean):
            raise SystemExit("the tests fail on the package as it is")
        for bug in bugs:
            file = copy / "pyrovae" / bug.file
            text = file.read_text()
            file.write_text(text.replace(bug.old, bug.new))
            caught = not passes(copy, f"not every_bug and ({bug.tests})")
            file.write_text(text)
            print(f"{'caught' if caught else 'SURVIVED':9}{bug.file:30}{bug.what}", flush=True)
            survived += [] if caught else [bug.what]
    print(f"{len(bugs) - len(survived)} of {len(bugs)} caught")
    return len(survived)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
