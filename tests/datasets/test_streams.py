"""Streams from Parquet and AnnData files: every row once a pass, in an order that follows from a seed."""

import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae import VAE, datasets, fit
from pyrovae.datasets.streams import H5ad, Parquet

N = 103


@pytest.fixture
def table(tmp_path):
    frame = pd.DataFrame({"a": np.arange(N, dtype=float), "b": np.arange(N) % 2 == 0, "c": np.arange(N) % 3})
    frame.loc[5, "a"] = None
    frame.to_parquet(tmp_path / "table.parquet", row_group_size=10)
    return tmp_path / "table.parquet"


@pytest.fixture
def cells(tmp_path):
    """Makes an AnnData file as its format has it: X dense or sparse, a layer, and columns of obs."""

    def make(encoding="array", name="cells.h5ad"):
        x = np.where(np.arange(N * 4).reshape(N, 4) % 3 == 0, np.arange(N * 4).reshape(N, 4), 0).astype(np.float32)
        with h5py.File(tmp_path / name, "w") as file:
            write(file, "X", x, encoding)
            write(file, "layers/double", 2 * x, "array")
            obs = file.create_group("obs")
            obs.create_dataset("depth", data=x.sum(1))
            obs.create_dataset("name", data=np.array([b"cell"] * N))
            kind = obs.create_group("kind")
            kind.create_dataset("codes", data=(np.arange(N) % 3).astype(np.int8))
            kind.create_dataset("categories", data=np.array([b"p", b"q", b"r"]))
            holes = obs.create_group("holes")
            holes.create_dataset("codes", data=np.where(np.arange(N) == 7, -1, 0).astype(np.int8))
            holes.create_dataset("categories", data=np.array([b"p"]))
        return tmp_path / name, x

    def write(file, place, x, encoding):
        if encoding == "array":
            file.create_dataset(place, data=x)
            return
        from scipy import sparse

        matrix = sparse.csr_matrix(x) if encoding == "csr_matrix" else sparse.csc_matrix(x)
        group = file.create_group(place)
        group.attrs["encoding-type"], group.attrs["shape"] = encoding, x.shape
        for part in ("data", "indices", "indptr"):
            group.create_dataset(part, data=getattr(matrix, part))

    return make


def whole(stream):
    batches = list(stream)
    return (
        np.concatenate(batches)
        if not isinstance(batches[0], tuple)
        else map(np.concatenate, zip(*batches, strict=True))
    )


def test_in_order_a_parquet_stream_is_the_table(table):
    stream = datasets.stream(table, columns=["a", "c"], batch_size=7, shuffle=False)
    assert isinstance(stream, Parquet) and stream.rows == N and len(stream) == 15 == len(list(stream))
    x = whole(stream)
    assert np.isnan(x[5, 0]) and x.dtype == np.float32
    assert np.array_equal(np.delete(x[:, 0], 5), np.delete(np.arange(N), 5)) and np.array_equal(
        x[:, 1], np.arange(N) % 3
    )
    assert [len(batch) for batch in stream] == [7] * 14 + [5]


@pytest.mark.parametrize("buffer", [1, 25, 1000])
@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_shuffled_every_row_comes_once(table, buffer, batch_size):
    stream = datasets.stream(table, columns=["b", "c"], condition="a", buffer=buffer, batch_size=batch_size, seed=4)
    x, a = whole(stream)
    there = ~np.isnan(a)
    assert sorted(a[there]) == [row for row in range(N) if row != 5]
    assert np.array_equal(x[there, 1], a[there] % 3), "a row has come apart from its condition"
    assert not np.array_equal(a[there], np.sort(a[there]))
    sizes = [len(batch) for batch, _ in stream]
    assert set(sizes[:-1]) <= {batch_size} and len(sizes) == len(stream)


def test_the_order_follows_from_the_seed(table):
    def order(stream):
        return np.nan_to_num(whole(stream)[:, 0]).tolist()

    fixed = datasets.stream(table, seed=4)
    assert (
        order(fixed) == order(fixed) == order(datasets.stream(table, seed=4)) != order(datasets.stream(table, seed=5))
    )
    free = datasets.stream(table)
    torch.manual_seed(0)
    first, second = order(free), order(free)
    torch.manual_seed(0)
    assert order(free) == first != second


def test_a_larger_buffer_mixes_more(table):
    """Mean distance of the rows of a batch, which a buffer of one row group cannot make as large as one of all."""
    spread = [
        np.mean(
            [np.ptp(np.nan_to_num(batch[:, 0], nan=5.0)) for batch in Parquet(table, batch_size=5, buffer=b, seed=0)]
        )
        for b in (1, 1000)
    ]
    assert spread[0] < 20 < 50 < spread[1]


@pytest.mark.parametrize("encoding", ["array", "csr_matrix"])
def test_in_order_an_anndata_stream_is_its_matrix(cells, encoding, monkeypatch):
    monkeypatch.setattr("pyrovae.datasets.streams.h5ad.BUFFER", 16 * 4 * 10)  # blocks of 10 rows
    path, x = cells(encoding)
    stream = datasets.stream(path, batch_size=9, shuffle=False)
    assert isinstance(stream, H5ad) and stream.sizes == (10,) * 10 + (3,) and np.array_equal(whole(stream), x)
    assert np.array_equal(whole(H5ad(path, layer="double", shuffle=False)), 2 * x)
    found, kind = whole(H5ad(path, condition="kind", shuffle=False))
    assert np.array_equal(kind, np.arange(N) % 3)
    found, both = whole(H5ad(path, condition=["kind", "depth"], seed=1))
    assert both.shape == (N, 4) and np.array_equal(both[:, 3], found.sum(1)) and not np.array_equal(found, x)
    assert both[:, :3].sum(0).tolist() == [35, 34, 34]


def test_fit_to_streams(table, cells):
    path, _ = cells("csr_matrix")
    history = fit(VAE((2,), 2, likelihood="gaussian"), Parquet(table, columns=["b", "c"]), epochs=2, progress=False)
    assert np.isfinite(history["elbo"]).all()
    vae = VAE((4,), 2, likelihood="poisson", condition_dim=3)
    assert len(fit(vae, H5ad(path, condition="kind", batch_size=50), epochs=2, progress=False)) == 2
    with pytest.raises(ValueError, match="got nan at row 5, column 0"):
        fit(VAE((3,), 2, likelihood="gaussian"), Parquet(table, shuffle=False), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(columns=["a", "x"]), "columns: expected some of a, b, c, got 'x'"),
        (dict(condition="x"), "condition: expected some of a, b, c, got 'x'"),
        (dict(condition=["a", "b", "c"]), "expected columns of x, got none besides the condition"),
        (dict(batch_size=0), "batch_size: expected a whole number of at least 1"),
        (dict(buffer=0), "buffer: expected a whole number of at least 1"),
        (dict(seed=-1), "seed: expected a whole number of at least 0"),
    ],
    ids=str,
)
def test_parquet_options_that_do_not_fit(table, options, text):
    with pytest.raises(ValueError, match=text):
        datasets.stream(table, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(layer="counts"), r"expected layers/counts, and there is none \(layers: double\)"),
        (dict(condition="x"), r"a column of obs \(depth, holes, kind, name\), got 'x'"),
        (dict(condition="name"), "expected categories or numbers in 'name' of obs"),
        (dict(condition="holes"), "expected a category in every row of 'holes', got none at row 7"),
    ],
    ids=str,
)
def test_anndata_options_that_do_not_fit(cells, options, text):
    with pytest.raises(ValueError, match=text):
        datasets.stream(cells()[0], **options)


def test_files_that_do_not_fit(tmp_path, cells):
    for ending in ("parquet", "h5ad"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            datasets.stream(tmp_path / f"none.{ending}")
        (tmp_path / f"bad.{ending}").write_text("no table")
        with pytest.raises(ValueError, match=f"cannot be read as .{ending}"):
            datasets.stream(tmp_path / f"bad.{ending}")
    with pytest.raises(ValueError, match="expected a file ending in .parquet or .h5ad, got '.npy'.*mmap_mode='r'"):
        datasets.stream("x.npy")
    with pytest.raises(ValueError, match=r"sparse by rows \(csr_matrix\), got csc_matrix. Write it with X = X.tocsr"):
        datasets.stream(cells("csc_matrix")[0])
    pd.DataFrame({"a": [1.0], "word": ["b"]}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="expected columns of numbers, got 'word' of (large_)?string"):
        datasets.stream(tmp_path / "text.parquet")
    pd.DataFrame({"a": np.zeros(0)}).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="expected at least one row, got none"):
        datasets.stream(tmp_path / "empty.parquet")


def test_a_library_that_is_not_there_is_named(table, cells, monkeypatch):
    path, _ = cells()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="reading .parquet needs pyarrow: pip install pyarrow"):
        datasets.stream(table)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="reading .h5ad needs h5py: pip install h5py"):
        datasets.stream(path)
