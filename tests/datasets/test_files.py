"""A user's own files: what becomes of good ones, and the exact words about bad ones."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import constraints

from pyrovae.datasets import load

N = 30


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    columns = {"height": rng.normal(170, 10, N), "count": np.arange(N), "flag": np.arange(N) % 3 == 0}
    return pd.DataFrame(columns | {"species": np.array(["b", "a", "c"])[np.arange(N) % 3]})


def write(frame, path):
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def rows(data, raw=False):
    """All rows of all parts, sorted by their second column, which is the row number in the file."""
    x = torch.cat([data.train, data.validation, data.test]).double()
    if raw:
        x = x * data.scale.double() + data.loc.double()
    order = x[:, 1].argsort()
    return x[order].numpy(), order


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table(tmp_path, table, suffix):
    path = write(table, tmp_path / f"t{suffix}")
    data = load(path, label="species")
    assert data.name == str(path) and data.columns == ("height", "count", "flag")
    assert [len(x) for x in (data.train, data.validation, data.test)] == [24, 3, 3]
    assert data.support is constraints.real and data.event_shape == (3,) and data.train.dtype == torch.float32
    np.testing.assert_allclose(data.train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.std(0, correction=0), 1, rtol=1e-5)
    x, order = rows(data, raw=True)
    np.testing.assert_allclose(x, table[["height", "count", "flag"]].astype(float), rtol=1e-5, atol=1e-5)
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])[order]
    assert data.label_names == ("a", "b", "c") and labels.dtype == torch.int64
    assert [data.label_names[i] for i in labels] == table["species"].tolist()


def test_table_without_standardization_keeps_its_units(tmp_path, table):
    path = write(table.drop(columns="species"), tmp_path / "t.csv")
    data = load(path, standardize=False)
    assert data.loc is None and data.scale is None and data.train_labels is None
    np.testing.assert_allclose(rows(data)[0], pd.read_csv(path).astype(float), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(("label", "dtype"), [("count", torch.int64), ("height", torch.float32), ("flag", torch.int64)])
def test_labels_that_are_numbers_stay_numbers(tmp_path, table, suffix, label, dtype):
    data = load(write(table.drop(columns="species"), tmp_path / f"t{suffix}"), label=label)
    assert data.train_labels.dtype == dtype and data.label_names is None and label not in data.columns
    found = torch.cat([data.train_labels, data.validation_labels, data.test_labels]).sort().values
    np.testing.assert_allclose(found, sorted(table[label].astype(float)), rtol=1e-6)


def test_seed_decides_the_split(tmp_path, table):
    path = write(table, tmp_path / "t.csv")
    a, b, c = (load(path, label="species", seed=s) for s in (0, 0, 1))
    assert torch.equal(a.train, b.train) and torch.equal(a.test_labels, b.test_labels)
    assert not torch.equal(a.train, c.train)


def test_columns_that_hold_numbers_under_another_type(tmp_path):
    frame = pd.DataFrame({"text": ["1.5", "2", "-3"], "missing-aware": pd.array([1, 2, 3], dtype="Int64")})
    data = load(write(frame, tmp_path / "t.parquet"), standardize=False)
    assert sorted(torch.cat([data.train, data.validation, data.test]).tolist()) == [[-3, 3], [1.5, 1], [2, 2]]


def test_counted_column_names_are_names(tmp_path):
    pd.DataFrame(np.random.default_rng(0).random((5, 3))).to_csv(tmp_path / "t.csv", index=False)
    data = load(tmp_path / "t.csv")
    assert data.columns == ("0", "1", "2") and len(data.train) == 3


def test_binary_table_is_boolean_and_stays_as_it_is(tmp_path):
    write(pd.DataFrame({"a": [0, 1, 1, 0], "b": [True, False, True, True]}), tmp_path / "t.csv")
    data = load(tmp_path / "t.csv")
    assert data.support is constraints.boolean and data.loc is None
    assert set(data.train.unique().tolist()) <= {0.0, 1.0}


def array(kind, shape):
    rng = np.random.default_rng(0)
    return {
        "bytes": lambda: rng.integers(0, 256, shape, dtype=np.uint8),
        "unit": lambda: rng.random(shape),
        "binary": lambda: rng.integers(0, 2, shape, dtype=np.uint8),
        "extreme": lambda: 255 * rng.integers(0, 2, shape, dtype=np.uint8),
        "real": lambda: rng.normal(size=shape).astype(np.float32),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "shape", "event_shape", "support", "divisor"),
    [
        ("bytes", (20, 4, 5), (1, 4, 5), constraints.unit_interval, 255),
        ("bytes", (20, 3, 4, 5), (3, 4, 5), constraints.unit_interval, 255),
        ("unit", (20, 4, 5), (1, 4, 5), constraints.unit_interval, 1),
        ("binary", (20, 4, 5), (1, 4, 5), constraints.boolean, 1),
        ("extreme", (20, 4, 5), (1, 4, 5), constraints.boolean, 255),
        ("binary", (20, 6), (6,), constraints.boolean, 1),
        ("real", (20, 2, 4, 5), (2, 4, 5), constraints.real, 1),
        ("real", (20, 6), (6,), constraints.real, 1),
        ("unit", (20, 6), (6,), constraints.real, 1),
        ("bytes", (20, 6), (6,), constraints.real, 1),
    ],
)
def test_array_kinds(tmp_path, kind, shape, event_shape, support, divisor):
    x = array(kind, shape)
    np.save(tmp_path / "x.npy", x)
    data = load(str(tmp_path / "x.npy"), binarize="none")
    assert data.event_shape == event_shape and data.support is support
    found = torch.cat([data.train, data.validation, data.test]).double()
    standardized = support is constraints.real and len(shape) == 2
    assert (data.loc is not None) == standardized
    if standardized:
        found = found * data.scale + data.loc
    expected = x.reshape(20, -1).astype(np.float64) / divisor
    found = found.reshape(20, -1).numpy()
    np.testing.assert_allclose(found[found[:, 0].argsort()][:, 0], np.sort(expected[:, 0]), atol=1e-4)
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(expected.ravel()), atol=1e-4)


def test_grey_array_is_dynamically_binarized_by_default(tmp_path):
    np.save(tmp_path / "x.npy", array("bytes", (20, 4, 5)))
    data = load(tmp_path / "x.npy")
    assert data.support is constraints.boolean and data.transform is not None
    with pytest.raises(
        ValueError, match=r"binarize='static' is for grey values from 0 to 1, and each value here is a "
    ):
        np.save(tmp_path / "x.npy", array("real", (20, 4, 5)))
        load(tmp_path / "x.npy", binarize="static")


def test_a_black_part_does_not_change_the_unit_of_bytes(tmp_path):
    black = np.zeros((3, 2, 2), np.uint8)
    black[0, 0, 0] = 1
    np.savez(tmp_path / "x.npz", train=array("bytes", (20, 2, 2)), test=black)
    assert load(tmp_path / "x.npz", binarize="none").test.max().item() == pytest.approx(1 / 255)


@pytest.mark.parametrize("keys", [("x", "y"), ("x", "labels"), ("anything", "y")])
def test_npz_with_one_array(tmp_path, keys):
    x = np.arange(20.0).reshape(10, 2)
    np.savez(tmp_path / "d.npz", **{keys[0]: x, keys[1]: np.arange(10)})
    data = load(tmp_path / "d.npz", standardize=False)
    assert len(data.train) == 8
    # Labels went with their rows.
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(data, part)[:, 0], 2.0 * getattr(data, f"{part}_labels"))


def test_npz_label_by_its_name(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.eye(4) * 2, kind=np.array(["q", "p", "q", "p"]))
    data = load(tmp_path / "d.npz", label="kind", standardize=False)
    assert data.label_names == ("p", "q")
    with pytest.raises(ValueError) as error:
        load(tmp_path / "d.npz", label="sort")
    assert str(error.value) == f"{tmp_path}/d.npz: expected the labels 'sort' among its arrays, got kind, x"


@pytest.mark.parametrize("validation", ["validation", "valid", "val"])
def test_npz_with_its_own_parts(tmp_path, validation):
    parts = {"train": np.full((6, 2), 5.0), validation: np.full((2, 2), 6.0), "test": np.full((3, 2), 7.0)}
    parts["train"][0] = 3
    labels = {"train_y": ["a"] * 6, f"{validation}_y": ["b"] * 2, "test_y": ["a"] * 3}
    labels = {key.replace(validation, "validation"): np.array(value) for key, value in labels.items()}
    np.savez(tmp_path / "d.npz", **parts, **labels)
    data = load(tmp_path / "d.npz", standardize=False)
    assert torch.equal(data.train, torch.from_numpy(parts["train"]).float())
    assert data.validation.unique().tolist() == [6] and data.test.unique().tolist() == [7]
    # One class has one number in every part.
    assert data.train_labels.tolist() == [0] * 6 and data.validation_labels.tolist() == [1] * 2
    assert data.test_labels.tolist() == [0] * 3 and data.label_names == ("a", "b")
    assert load(tmp_path / "d.npz").loc.tolist() == pytest.approx(parts["train"].mean(0).tolist())


def test_npz_train_alone_is_split(tmp_path):
    np.savez(tmp_path / "d.npz", train=np.arange(20.0).reshape(10, 2))
    data = load(tmp_path / "d.npz", standardize=False)
    assert sorted(torch.cat([data.train, data.validation, data.test])[:, 0].tolist()) == list(range(0, 20, 2))


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


def npy(values):
    return lambda path: np.save(path, values, allow_pickle=True)


def text(content):
    return lambda path: path.write_text(content)


def parquet(**columns):
    return lambda path: pd.DataFrame(columns).to_parquet(path)


def nothing(path):
    path.write_bytes(b"")


HOLE = np.ones((4, 2))
HOLE[2, 1] = np.inf
OBJECTS = "Python objects are never loaded, because they can run code: save plain numbers with numpy.save"
BAD = [
    # Tables
    ("t.csv", text(""), {}, "cannot be read as .csv (No columns to parse from file)"),
    ("t.csv", text("a,b\n"), {}, "expected rows and columns of data, got 0 x 2"),
    ("t.csv", text("a\n1\n2\n3\n"), {"label": "a"}, "expected rows and columns of data, got 3 x 0"),
    ("t.csv", text("a,b\n1,2\n3,4\n"), {}, "expected at least 3 rows to split into train, validation, test, got 2"),
    (
        "t.csv",
        text("a,b\n1,2\n3,?\n5,x\n"),
        {},
        "column 'b' must hold numbers, got '?' at row 1. Encode it as numbers, drop it, or use it as labels with "
        "label='b'.",
    ),
    (
        "t.csv",
        text("a,b\n1,2\n3,\n5,inf\n"),
        {},
        "expected a finite number, got inf at row 2, column 'b' (1 of 6 values are outside).",
    ),
    (
        "t.csv",
        text("a,b\n1,2\n3,4\n-inf,6\n"),
        {},
        "expected a finite number, got -inf at row 2, column 'a' (1 of 6 values are outside).",
    ),
    (
        "t.csv",
        text("a,b\nTrue,2\n,\nFalse,6\n"),
        {},
        "expected an observed cell in every row, got row 1 with none (1 of 3 rows). Drop such rows.",
    ),
    (
        "t.csv",
        text("a,kind\n1,x\n2,y\n"),
        {"label": "kin"},
        "unknown label column 'kin': expected one of a, kind. Did you mean 'kind'?",
    ),
    (
        "t.csv",
        text("a,kind\n1,x\n2,\n3,y\n"),
        {"label": "kind"},
        "labels: expected text, got nan at row 1. Fill in or drop such rows first.",
    ),
    (
        "t.csv",
        text("a,kind\n1,1\n2,\n3,0\n"),
        {"label": "kind"},
        "labels: expected a finite number, got nan at row 1. Fill in or drop such rows first.",
    ),
    (
        "t.csv",
        text("5.1,3.5\n4.9,3.0\n4.7,3.2\n"),
        {},
        "expected column names on the first line, got numbers (5.1, ...). Add a line.",
    ),
    ("t.csv", text("0,1,1\n1,0,1\n"), {}, "expected column names on the first line, got numbers (0, ...). Add a line."),
    (
        "t.csv",
        text(",a\n0,5\n1,6\n2,7\n"),
        {},
        "expected a name for each column, got none for column 0. Name it, or leave it out if it is a row number "
        "(to_csv(index=False)).",
    ),
    ("t.csv", text("a,b\n1,2,3\n4,5,6\n"), {}, "expected one name for each column, got 2 names and longer rows"),
    (
        "t.csv",
        text("a,b\n1,2\n3,4\n5,6,7\n"),
        {},
        "cannot be read as .csv (Error tokenizing data. C error: Expected 2 fields in line 4, saw 3)",
    ),
    (
        "t.csv",
        lambda path: path.write_bytes(b"a,b\n1,\xff\n"),
        {},
        "cannot be read as .csv ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)",
    ),
    (
        "t.parquet",
        parquet(when=pd.to_datetime(["2020-01-01"] * 3)),
        {},
        "column 'when' must hold numbers, got Timestamp('2020-01-01 00:00:00') at row 0. Encode it as numbers, drop "
        "it, or use it as labels with label='when'.",
    ),
    (
        "t.parquet",
        parquet(a=[1.0, np.nan, 2.0]),
        {},
        "expected an observed cell in every row, got row 1 with none (1 of 3 rows). Drop such rows.",
    ),
    # Arrays
    ("x.npy", nothing, {}, "cannot be read as .npy (No data left in file)"),
    ("x.npz", nothing, {}, "cannot be read as .npz (No data left in file)"),
    ("x.npy", npy(np.array([1, "a"], dtype=object)), {}, f"cannot be read as .npy ({OBJECTS})"),
    ("x.npz", npz(x=np.array([1, "a"], dtype=object)), {}, f"array 'x' cannot be read as .npz ({OBJECTS})"),
    ("x.npy", lambda path: path.write_bytes(pickle.dumps([1])), {}, f"cannot be read as .npy ({OBJECTS})"),
    (
        "x.npy",
        npy(np.array([["a"], ["b"]])),
        {},
        "expected an array of numbers, got dtype <U1. Encode text as numbers first.",
    ),
    (
        "x.npy",
        npy(np.ones((3, 2), complex)),
        {},
        "expected an array of numbers, got dtype complex128. Encode text as numbers first.",
    ),
    (
        "x.npy",
        npy(np.ones(5)),
        {},
        "expected a table (N, D) or images (N, H, W) or (N, C, H, W), got shape (5,). For a single column: x[:, None].",
    ),
    (
        "x.npy",
        npy(np.ones((5, 0))),
        {},
        "expected a table (N, D) or images (N, H, W) or (N, C, H, W), got shape (5, 0).",
    ),
    ("x.npy", npy(np.ones((0, 3))), {}, "expected at least 3 rows to split into train, validation, test, got 0"),
    ("x.npy", npy(HOLE), {}, "expected a finite number, got inf at row 2, column 1 (1 of 8 values are outside)."),
    (
        "x.npy",
        npy(np.ones((4, 2))),
        {"label": "y"},
        "expected no label, got 'y': it is one array. Use .npz with x and y.",
    ),
    ("x.npz", npz(a=np.ones(3), b=np.ones(3)), {}, "expected an array x, or train, validation and test, got a, b"),
    ("x.npz", npz(), {}, "expected an array x, or train, validation and test, got no arrays"),
    (
        "x.npz",
        npz(x=np.ones((4, 2)), y=np.ones(3)),
        {},
        "expected one label for each of the 4 rows of train, shape (4,), got shape (3,)",
    ),
    (
        "x.npz",
        npz(train=np.ones((4, 2)), test=np.ones((4, 3))),
        {},
        "expected rows of one shape in every part, got train (4, 2), test (4, 3)",
    ),
    (
        "x.npz",
        npz(train=np.ones((4, 2)), test=np.ones((4, 2)), train_y=np.ones(4)),
        {},
        "expected labels for each part or for none, and 'test' has none",
    ),
    ("x.npz", npz(train=np.ones((4, 2)), test=np.ones((0, 2))), {}, "expected at least one row in 'test', got none"),
    # Paths
    ("x.txt", text("1"), {}, "expected a file ending in .npy, .npz, .csv, .parquet, got '.txt'"),
    ("x", text("1"), {}, "expected a file ending in .npy, .npz, .csv, .parquet, got 'no ending'"),
    ("x.csv", lambda path: path.mkdir(), {}, "expected a file, got a folder"),
]


@pytest.mark.parametrize(("name", "make", "options", "message"), BAD)
def test_bad_files_are_told_apart_in_one_line(tmp_path, name, make, options, message):
    path = tmp_path / name
    make(path)
    with pytest.raises(ValueError) as error:
        load(path, **options)
    separator = " " if message.startswith("labels:") else ": "
    assert str(error.value) == f"{path}{separator}{message}"


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.parquet"])
def test_damaged_files_are_named_in_one_line(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pd.DataFrame({"a": np.arange(100.0)}).to_parquet(path)
    else:
        (np.save if name.endswith("npy") else np.savez)(path, np.arange(100.0).reshape(50, 2))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: cannot be read as {path.suffix} (")
    assert "\n" not in str(error.value)


def test_no_such_file(tmp_path):
    for path in (tmp_path / "x.csv", str(tmp_path / "x.npz")):
        with pytest.raises(FileNotFoundError) as error:
            load(path)
        assert str(error.value) == f"{path}: no such file"


def test_numbers_beyond_float32_are_not_turned_into_infinity(tmp_path):
    pd.DataFrame({"a": [1.0, 1e300, 2.0, 3.0]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"as float32\): expected a finite number, got inf at row \d, column 'a'"):
        load(tmp_path / "t.csv", standardize=False)


def test_a_pickle_in_a_file_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (shutil.rmtree, (str(tmp_path / "victim"),))

    (tmp_path / "victim").mkdir()
    np.save(tmp_path / "x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="never loaded"):
        load(tmp_path / "x.npy")
    assert (tmp_path / "victim").is_dir()
