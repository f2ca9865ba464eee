"""Data that do not lie in memory: the same fits, bounded memory, and mistakes before or at their step."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyrovae
from pyrovae import elbos, fit
from pyrovae.training import sources
from pyrovae.training.distributed import World
from pyrovae.training.prefetch import prefetch

X = torch.randn(41, 3, generator=torch.Generator().manual_seed(0))
C = torch.arange(41.0)[:, None] / 41


def run(vae, x=X, **arguments):
    return fit(vae, x, **{"epochs": 3, "batch_size": 8, "progress": False, **arguments})


def mapped(tmp_path, values, name="x"):
    np.save(tmp_path / f"{name}.npy", np.asarray(values))
    return np.load(tmp_path / f"{name}.npy", mmap_mode="r")


class Rows(Dataset):
    """Items x, or (x, condition)."""

    def __init__(self, x=X, condition=None):
        self.x, self.condition = x, condition

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row] if self.condition is None else (self.x[row], self.condition[row])


class Lines(IterableDataset):
    """Rows one after the other, which does not say how many."""

    def __init__(self, x=X):
        self.x = x

    def __iter__(self):
        return iter(self.x)


class Again:
    """The same batches at each pass."""

    def __init__(self, *batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


def same_fit(a, b):
    drop = [frame.drop(columns="seconds") for frame in (a, b)]
    pd.testing.assert_frame_equal(*drop, check_exact=True)


# The same fit


@pytest.mark.parametrize("how", ["mapped", "float64", "view", "dataset"])
def test_rows_read_by_number_are_fitted_as_in_memory(tiny, same, tmp_path, how):
    """Bit for bit: the same rows in the same batches, in the same order."""
    x = {
        "mapped": lambda: mapped(tmp_path, X),
        "float64": lambda: mapped(tmp_path, X.double()),
        "view": lambda: np.asarray(mapped(tmp_path, torch.cat([X, X])))[:41],
        "dataset": lambda: Rows(),
    }[how]()
    a, b = tiny(), tiny()
    same_fit(run(a, X, validation=X[:9]), run(b, x, validation=X[:9]))
    assert same(a, b)


def test_a_mapped_condition_and_one_in_memory(tiny, same, tmp_path):
    models = []
    for x, condition in (
        (X, C), (mapped(tmp_path, X), mapped(tmp_path, C, "c")), (mapped(tmp_path, X), C), (Rows(X, C), None)
    ):  # fmt: skip
        models.append(tiny(condition_dim=1))
        run(models[-1], x, condition=condition)
    assert all(same(models[0], other) for other in models[1:])


def test_transforms_of_mapped_rows_draw_as_in_memory(tiny, same, tmp_path):
    grey = torch.rand(41, 3, generator=torch.Generator().manual_seed(0))
    a, b = (tiny(likelihood="bernoulli") for _ in "ab")
    for vae, x in ((a, grey), (b, mapped(tmp_path, grey))):
        run(vae, x, transform=lambda batch, generator: torch.bernoulli(batch, generator=generator))
    assert same(a, b)


def test_a_stream_is_a_fit_to_its_batches(tiny):
    """Against SVI by hand on the same batches with the same draws, the last of which, a single row, has joined."""
    batches = X.split(8)
    assert len(batches[-1]) == 1
    vae, twin = tiny(), tiny()
    history = run(vae, Again(*batches), epochs=2, batch_size=64)
    import pyro
    from pyro.infer import SVI, Trace_ELBO

    from pyrovae.modes import isolated

    twin.initialize(X)
    losses = []
    svi = SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    with isolated(0):
        torch.randint(2**62, ())
        for _ in range(2):
            losses.append(sum(svi.step(batch) for batch in (*batches[:4], torch.cat(batches[4:]))))
    assert history["objective"].tolist() == pytest.approx([-loss / 41 for loss in losses], rel=1e-5)
    for p, q in zip(vae.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(TensorDataset(X), batch_size=8),
        lambda: DataLoader(Rows(), batch_size=8),
        lambda: Lines(),
        lambda: [*X.split(8)],
        lambda: Again(*(b.numpy() for b in X.split(8))),
        lambda: Again(*(pd.DataFrame(b.numpy()) for b in X.split(8))),
    ],
    ids=["loader", "loader of rows", "iterable dataset", "list", "arrays", "frames"],
)
def test_every_kind_of_stream_is_the_same_fit(tiny, same, make):
    a, b = tiny(), tiny()
    same_fit(run(a, make()), run(b, Again(*X.split(8))))
    assert same(a, b)


def test_pairs_bring_their_condition(tiny, same):
    models = [tiny(condition_dim=1) for _ in "abc"]
    run(models[0], DataLoader(TensorDataset(X, C), batch_size=8))
    run(models[1], [*zip(X.split(8), C.split(8), strict=True)])
    run(models[2], [*zip(X.split(8), torch.zeros_like(C).split(8), strict=True)])
    assert same(*models[:2]) and not same(*models[1:])


def test_a_loader_is_shuffled_by_the_seed_of_the_fit(tiny, same):
    models = [tiny() for _ in "abc"]
    for vae, seed in zip(models, (3, 3, 4), strict=True):
        torch.manual_seed(seed + 7)
        torch.rand(5)
        before = torch.get_rng_state()
        run(vae, DataLoader(TensorDataset(X), batch_size=8, shuffle=True), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*models[:2]) and not same(*models[1:])


def test_epochs_weigh_the_rows_of_a_stream_equally(linear):
    exact = linear(n=21)
    still = dict(lr=1e-300, optimizer="sgd", progress=False, epochs=2)
    history = fit(exact.vae, [exact.x[:9], exact.x[9:12], exact.x[12:20], exact.x[20:]], **still)
    assert history["elbo"].tolist() == pytest.approx([exact.log_prob.mean().item()] * 2, rel=1e-9)


# What is known before the first step


def test_what_a_source_knows(tiny, tmp_path):
    vae = tiny()
    for x in (X, mapped(tmp_path, X), Rows()):
        source = sources.make(vae, x, None, batch_size=8)
        assert source.rows == 41 and source.times == {8: 4, 9: 1} and torch.equal(source.head[0], X)
    loader = sources.make(vae, DataLoader(TensorDataset(X), batch_size=8), None)
    assert loader.rows == 41 and loader.times == {8: 6}
    dropping = sources.make(vae, DataLoader(TensorDataset(X), batch_size=8, drop_last=True), None)
    assert dropping.rows is None and dropping.times == {8: 5}
    unknown = sources.make(vae, Lines(), None, batch_size=8)
    assert unknown.rows is None and not unknown.times
    generator = torch.Generator().manual_seed(0)
    assert [len(x) for x, _ in unknown.epoch(generator, generator)] == [8, 8, 8, 8, 9]
    assert unknown.times == {8: 4, 9: 1}


def test_only_some_rows_of_large_data_are_looked_at(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.training.sources.indexed.LOOK", 30)
    monkeypatch.setattr("pyrovae.training.sources.stream.LOOK", 30)
    vae = tiny()
    assert len(sources.make(vae, mapped(tmp_path, X), None, batch_size=4).head[0]) == 10
    assert len(sources.make(vae, [*X.split(4)], None).head[0]) == 12


def test_the_total_correlation_is_told_the_rows(tiny):
    told = []

    class Watched(elbos.TotalCorrelation):
        def parts(self, latent):
            told.append(self.num_rows)
            return super().parts(latent)

    run(tiny(), DataLoader(TensorDataset(X), batch_size=8), elbo=Watched(), epochs=1)
    assert set(told) == {41}
    with pytest.raises(ValueError, match="Watched: this stream does not say how many rows it has: pass num_rows="):
        run(tiny(), Lines(), elbo=Watched())
    run(tiny(), Lines(), elbo=Watched(num_rows=41), epochs=1)


def test_inducing_points_are_told_the_rows(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.training.sources.indexed.LOOK", 30)

    def make():
        return tiny(prior="gp(inducing=4)", condition_dim=1)

    vae = make()
    run(vae, mapped(tmp_path, X), condition=C, epochs=1)
    assert vae.prior.piece.rows == 41
    loader = make()
    run(loader, DataLoader(TensorDataset(X, C), batch_size=8), epochs=1)
    assert loader.prior.piece.rows == 41
    with pytest.raises(ValueError, match="the prior must know how many rows there are, and this stream does not say"):
        run(make(), [*zip(X.split(8), C.split(8), strict=True)])


def test_warmup_and_progress_without_a_length(tiny, capsys):
    """The weight stands still within the first epoch; then the length is known."""
    history = run(tiny(), Lines(), warmup=2.0, epochs=3, progress=True)
    assert history["beta"].tolist() == pytest.approx([0.0, 0.9, 1.0])
    assert "15step" in capsys.readouterr().err
    known = run(tiny(), DataLoader(TensorDataset(X[:40]), batch_size=8), warmup=2.0, progress=True)
    assert known["beta"].tolist() == pytest.approx([0.4, 0.9, 1.0])
    assert "15/15" in capsys.readouterr().err


# Memory


def test_the_memory_of_a_fit_to_a_mapped_file_is_bounded(tmp_path):
    """200 MB of rows, an epoch of all of them, and less than 100 MB more than a fit to a few."""
    code = """
        import resource, sys
        import numpy as np, torch, pyrovae

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        x = np.load(sys.argv[1], mmap_mode="r")
        small = dict(encoder="mlp(hidden=[4])", decoder="mlp(hidden=[4])")
        make = lambda: pyrovae.VAE((1000,), 2, likelihood="gaussian", **small)
        options = dict(epochs=1, batch_size=1000, progress=False, compile=False)
        pyrovae.fit(make(), torch.zeros(2000, 1000), **options)
        before = peak()
        history = pyrovae.fit(make(), x, **options)
        assert abs(history["reconstruction"].item()) < 1e6
        print(peak() - before)
    """
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (50_000, 1000))
    rng = np.random.default_rng(0)
    for start in range(0, len(file), 10_000):
        file[start : start + 10_000] = rng.random((10_000, 1000), dtype=np.float32)
    file.flush()
    del file
    assert (tmp_path / "x.npy").stat().st_size > 200_000_000
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.npy")],
        cwd=Path(pyrovae.__file__).parents[1], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    (tmp_path / "x.npy").unlink()
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100, f"{done.stdout} MB"


# Mistakes before the first step


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x)


def generator_of_batches():
    yield from X.split(8)


@pytest.mark.parametrize(
    ("x", "arguments", "text"),
    [
        (generator_of_batches, {}, "can be gone through 3 times, once an epoch, got a generator"),
        (lambda: iter(X.split(8)), {}, r"can be gone through 3 times.*Pass epochs=1, or an object whose __iter__"),
        (lambda: Again(), {}, "expected at least one batch, got none from Again"),
        (lambda: DataLoader(TensorDataset(X[:0]), batch_size=8), {}, "at least one batch, got none from DataLoader"),
        (lambda: Rows(X[:0]), {}, "expected at least one row, got none from Rows"),
        (lambda: DataLoader(TensorDataset(X), batch_size=5), {}, "that of the batches that x gives, 5, or none, got 8"),
        (lambda: Again(X[:, :2]), {"batch_size": 64}, r"expected shape \(N, 3\), got \(41, 2\).*in batch 0 of the "),
        (lambda: Again((X, C, C)), {"batch_size": 64}, r"\(x, condition\), got 3 parts in batch 0"),
        (lambda: Again((X, C[:4])), {"batch_size": 64}, "expected 41 rows in batch 0 of the stream, got shape"),
        (lambda: Again((X, C)), {"batch_size": 64}, "condition: expected None, because this VAE was built with"),
        (lambda: Again("text"), {"batch_size": 64}, r"x: expected numbers of shape \(N, 3\), got str"),
        (lambda: Again(X), {"condition": C}, "condition: expected none beside a Again, which gives pairs"),
        (lambda: Rows(X, C), {"condition": C}, "condition: expected none beside a Rows, which gives pairs"),
        (lambda: DataLoader(TensorDataset(X, C, C), batch_size=8), {}, "got 3 parts in batch 0"),
        (lambda: TensorDataset(X, C, C), {}, "items x, or .x, condition., got items of 3 parts from TensorDataset"),
        (lambda: Rows([object()] * 9), {}, "expected of a Dataset items that are tensors, arrays or numbers"),
        (lambda: X, {"validation": Again(X)}, r"validation: expected rows in memory, got a stream \(Again\)"),
        (lambda: Again(torch.full((8, 3), torch.nan)), {}, "expected a finite number .*got nan at row 0, column 0"),
    ],
)  # fmt: skip
def test_refused_before_the_first_step(tiny, x, arguments, text):
    vae = tiny()
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    with pytest.raises(ValueError, match=text):
        run(vae, x(), **arguments)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


def test_mapped_arrays_that_do_not_fit(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"x: expected shape \(N, 3\), got \(41, 2\)"):
        run(tiny(), mapped(tmp_path, X[:, :2]))
    with pytest.raises(ValueError, match="that does not convert to a tensor"):
        run(tiny(), mapped(tmp_path, np.full((5, 3), "a")))
    with pytest.raises(ValueError, match="condition: expected 41 rows, as x has, got 40"):
        run(tiny(condition_dim=1), mapped(tmp_path, X), condition=mapped(tmp_path, C[:40], "c"))
    with pytest.raises(ValueError, match="BatchNorm1d, which needs batches of at least 2 rows"):
        run(tiny(encoder=Norm()), mapped(tmp_path, X), batch_size=1)


def test_a_prior_over_all_rows_needs_them_in_memory(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"\(GP\) makes rows depend on one another: expected all 41 rows .* a stream"):
        run(tiny(prior="gp", condition_dim=1), DataLoader(TensorDataset(X, C), batch_size=41), batch_size=64)
    with pytest.raises(ValueError, match="expected all 41 rows in one batch, got 8"):
        run(tiny(prior="gp", condition_dim=1), mapped(tmp_path, X), condition=C)
    run(tiny(prior="gp", condition_dim=1), mapped(tmp_path, X), condition=C, batch_size=41, epochs=1)


def test_a_generator_is_good_for_one_epoch(tiny, same):
    a, b = tiny(), tiny()
    same_fit(run(a, generator_of_batches(), epochs=1), run(b, Again(*X.split(8)), epochs=1))
    assert same(a, b)


# Mistakes at their step


def test_a_bad_row_is_named_when_its_batch_comes(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.training.sources.indexed.LOOK", 3)
    monkeypatch.setattr("pyrovae.training.sources.stream.LOOK", 3)
    bad = X.clone()
    bad[29, 1] = torch.inf
    for x in (mapped(tmp_path, bad), Rows(bad), Again(*bad.split(8)), DataLoader(TensorDataset(bad), batch_size=8)):
        with pytest.raises(ValueError, match="expected a finite number .* got inf at row 29, column 1"):
            run(tiny(), x, seed=1)
    assert not any(thread.name == "pyrovae-prefetch" for thread in threading.enumerate())
    with pytest.raises(ValueError, match=r"condition: expected a finite number.*\(of rows 24 to 31\)"):
        run(tiny(condition_dim=1), [*zip(X.split(8), bad[:, 1:2].split(8), strict=True)])


def test_later_epochs_must_bring_batches(tiny):
    class Once(Again):
        def __iter__(self):
            return iter(super().__iter__() if self.passes < 2 else ())

    with pytest.raises(ValueError, match="expected batches in every epoch, got none from Once in this one"):
        run(tiny(), Once(*X.split(8)))


def test_batch_norm_meets_a_single_row_in_a_stream(tiny):
    with pytest.raises(ValueError, match="BatchNorm1d, which needs batches of at least 2 rows"):
        run(tiny(encoder=Norm()), Again(X[:8], X[8:9], X[9:17]))


# Several processes, without starting them


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_parts_of_the_processes_make_the_batch(tiny, tmp_path, size):
    vae = tiny(condition_dim=1)
    for x, condition in ((X, C), (mapped(tmp_path, X), C), (Again(*zip(X.split(5), C.split(5), strict=True)), None)):
        found = []
        for world in (World(), *(World(rank, size) for rank in range(size))):
            source = sources.make(vae, x, condition, batch_size=5 if condition is not None else 64, world=world)
            generator = torch.Generator().manual_seed(0)
            batches = list(source.epoch(generator, generator))
            found.append([torch.cat([x, x.new_zeros(0, 1) if c is None else c], -1) for x, c in batches])
            assert source.times.total() == 8
        for whole, *parts in zip(*found, strict=True):
            assert torch.equal(torch.cat(parts), whole)


# Reading ahead


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "pyrovae-prefetch"]


def test_one_value_is_read_ahead():
    taken = []
    go_on = threading.Semaphore(0)

    def values():
        for i in range(5):
            taken.append(i)
            go_on.release()
            yield i

    got = prefetch(values())
    assert next(got) == 0
    for _ in range(3):  # one in use, one ready, and one in the hands of the thread
        assert go_on.acquire(timeout=10)
    assert taken == [0, 1, 2]
    assert list(got) == [1, 2, 3, 4] and not alive()


@pytest.mark.parametrize("after", [0, 2])
def test_an_exception_comes_where_its_value_would(after):
    def values():
        yield from range(after)
        raise KeyError("lost")

    got = []
    with pytest.raises(KeyError, match="lost"):
        for value in prefetch(values()):
            got.append(value)
    assert got == list(range(after)) and not alive()


def test_closing_ends_the_thread_and_the_values():
    closed = []

    def values():
        try:
            yield from range(100)
        finally:
            closed.append(threading.current_thread().name)

    got = prefetch(values())
    assert next(got) == 0
    assert len(alive()) == 1
    got.close()
    assert closed == ["pyrovae-prefetch"] and not alive()


def test_a_fit_that_ends_early_ends_the_thread(tiny):
    batches = Again(*X.split(8))
    history = run(tiny(), batches, seconds=1e-9)
    assert history.attrs["stopped"] == "seconds" and not alive()
    with pytest.raises(KeyError):
        run(tiny(), batches, callbacks=[lambda vae, row: {}["lost"]])
    assert not alive()
