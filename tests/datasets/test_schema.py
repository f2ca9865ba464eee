"""What a data frame's columns are taken for, and their way to a tensor and back."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import constraints

from pyrovae.datasets import Column, Schema, load

NAN = np.nan
FRAME = pd.DataFrame(
    {
        "age": [39, 50, NAN, 17],
        "height": [1.5, 1.75, 2.125, NAN],
        "change": [-0.5, 0.0, 2.25, 1.0],
        "balance": [-3, 0, 4, 7],
        "job": ["nurse", None, "clerk", "nurse"],
        "member": [True, False, True, True],
        "flag": [0.0, 1.0, NAN, 1.0],
        "size": pd.Categorical(["L", "S", None, "M"], ["S", "M", "L"], ordered=True),
        "colour": pd.Categorical(["red", "blue", "red", None], ["red", "green", "blue"]),
    }
)
KINDS = ["count", "positive", "real", "real", "categorical", "categorical", "categorical", "ordinal", "categorical"]
CODES = [
    [39, 1.5, -0.5, -3, 1, 1, 0, 2, 0],
    [50, 1.75, 0, 0, NAN, 0, 1, 0, 2],
    [NAN, 2.125, 2.25, 4, 0, 1, NAN, NAN, 0],
    [17, NAN, 1, 7, 1, 1, 1, 1, NAN],
]


def test_kinds_by_the_values():
    schema = Schema.infer(FRAME)
    assert [column.kind for column in schema] == KINDS and schema.names == tuple(FRAME.columns)
    categories = {column.name: column.categories for column in schema if column.categories}
    assert categories == {
        "job": ("clerk", "nurse"),
        "member": (False, True),
        "flag": (0, 1),
        "size": ("S", "M", "L"),
        "colour": ("red", "green", "blue"),
    }
    assert [type(label) for label in categories["flag"] + categories["member"]] == [int, int, bool, bool]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 2], "count"),
        (pd.array([3, None, 5], dtype="Int64"), "count"),
        ([1e6, 2.0, 3.0], "count"),
        ([1, 1, 1], "count"),
        ([0.0, 0.5], "real"),
        ([1e-9, 0.5], "positive"),
        ([-1, 2], "real"),
        ([1.0, np.inf], "positive"),
        (pd.array([0.5, None], dtype="Float64"), "positive"),
        (np.array([1, None, 2.5], dtype=object), "positive"),
        (np.array([1, pd.NA, 4], dtype=object), "count"),
        (np.array([True, None, False], dtype=object), "categorical"),
        (pd.array(["a", None, "b"], dtype="string"), "categorical"),
        (["a", "", "b", "  "], "categorical"),
        (["1", "2"], "categorical"),
    ],
)
def test_kind(values, kind):
    schema = Schema.infer(pd.DataFrame({"a": values}))
    assert schema.columns[0].kind == kind
    assert len(schema.columns[0].categories) == (2 if kind == "categorical" else 0)


def test_encode_and_decode():
    schema = Schema.infer(FRAME)
    x = schema.encode(FRAME)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, CODES)
    back = schema.decode(torch.tensor(x, dtype=torch.float32))
    assert back["age"].dtype == "Int64"  # so that it is written as 39 and not as 39.0
    pd.testing.assert_frame_equal(
        back.astype(object).where(back.notna(), None),
        FRAME.astype(object).where(FRAME.notna(), None),
        check_dtype=False,
    )
    # The labels are kept as categories: what is decoded has the same schema and encodes to the same.
    again = Schema.infer(back)
    assert again.to_list() == schema.to_list()
    np.testing.assert_array_equal(again.encode(back), x)


def test_empty_text_is_missing_and_means_stay_fractions():
    schema = Schema.infer(pd.DataFrame({"a": ["x", "", "y", " "], "n": [1, 2, 3, 4]}))
    frame = pd.DataFrame({"a": ["y", "", " ", None], "n": [1.5, "", "2", None]})
    np.testing.assert_array_equal(schema.encode(frame), [[1, 1.5], [NAN, NAN], [NAN, 2], [NAN, NAN]])
    assert schema.decode(np.array([[0, 1.5]]))["n"].tolist() == [1.5]


def test_json_round_trip():
    schema = Schema.infer(FRAME)
    again = Schema(json.loads(json.dumps(schema.to_list())))
    assert again == schema and Schema(schema) == schema
    np.testing.assert_array_equal(again.encode(FRAME), CODES)


def test_kinds_that_do_not_suit_are_overridden():
    size = Column("job", "ordinal", ("clerk", "nurse", "doctor"))
    kinds = {
        "age": "real",
        "member": "real",
        "balance": "ordinal",
        "job": size,
        "height": "real",
        "size": "categorical",
    }
    schema = Schema.infer(FRAME, kinds)
    found = {column.name: column for column in schema}
    assert [found[name].kind for name in ("age", "member", "height", "size")] == ["real"] * 3 + ["categorical"]
    assert found["balance"] == Column("balance", "ordinal", (-3, 0, 4, 7)) and found["job"] == size
    assert schema.encode(FRAME)[:, 3].tolist() == [0, 1, 2, 3]
    assert schema.encode(FRAME)[:, 5].tolist() == [1, 0, 1, 1]
    assert Schema.infer(FRAME, {"flag": "count"}).columns[6] == Column("flag", "count")


def test_other_columns_and_another_order():
    schema = Schema([Column("b"), Column("a", "categorical", ("x", "y"))])
    frame = pd.DataFrame({"a": ["y"], "c": ["?"], "b": [2.5]})
    assert schema.encode(frame).tolist() == [[2.5, 1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Column("a", "nominal"), "unknown kind of column 'a' 'nominal': expected one of categorical, count"),
        (lambda: Column("a", "ordinal"), "column 'a': expected two or more different categories, got ()"),
        (lambda: Column("a", "categorical", ("x",)), "expected two or more different categories, got ('x',)"),
        (lambda: Column("a", "categorical", ("x", "x")), "expected two or more different categories"),
        (lambda: Column("a", "count", (1, 2)), "expected no categories, because it is count, got (1, 2)"),
        (lambda: Column("a", "ordinal", (1, None)), "expected text, numbers or booleans for categories, got None"),
        (lambda: Schema([Column("a"), Column("a")]), "columns: expected different names, got a, a"),
        (lambda: Schema(["real"]), "columns: expected a Column, or a mapping with name, kind and categories, got 'r"),
        (lambda: Schema([{"name": "a", "sort": "real"}]), "columns: expected a Column, or a mapping with name, kind"),
        (lambda: Schema.infer(FRAME, {"ages": "real"}), "unknown column 'ages': expected one of age"),
        (lambda: Schema.infer(FRAME, {"age": "integer"}), "unknown kind of column 'age' 'integer'"),
        (
            lambda: Schema.infer(FRAME, {"job": "count"}),
            "column 'job': cannot be count, because it holds text ('nurse'",
        ),
        (lambda: Schema.infer(FRAME, {"job": "ordinal"}), "Pass Column(name, 'ordinal', categories), in order."),
        (lambda: Schema.infer(FRAME.assign(age=None)), "column 'age': expected values, got none in any row. Drop it."),
        (lambda: Schema.infer(FRAME.assign(age=" ")), "column 'age': expected values, got none in any row. Drop it."),
        (lambda: Schema.infer(FRAME.assign(job="x")), "column 'job': expected two or more different categories"),
        (
            lambda: Schema.infer(FRAME.assign(age=pd.Timestamp("2020-01-01"))),
            "column 'age': expected numbers, text, booleans or categories, got values of type datetime64",
        ),
        (lambda: Schema.infer(FRAME.assign(age=[1, "a", 2, 3])), "got values of type mixed-integer"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_names_of_rows_are_no_category():
    frame = pd.DataFrame({"name": [f"row {i}" for i in range(300)]})
    with pytest.raises(ValueError, match="expected at most 256 different texts, got 300 in 300 rows"):
        Schema.infer(frame)
    assert len(Schema.infer(frame, {"name": "categorical"}).columns[0].categories) == 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"job": ["nurse", "pilot", "clerk", "pilot"]},
            "column 'job': expected one of clerk, nurse, got 'pilot' at row 1",
        ),
        ({"age": [1, 2, 3, "old"]}, "column 'age': expected a number, got 'old' at row 3"),
        ({"flag": [0, 1, 1, 2]}, "column 'flag': expected one of 0, 1, got 2 at row 3"),
        ({"member": ["yes", True, True, True]}, "column 'member': expected one of False, True, got 'yes' at row 0"),
    ],
)
def test_values_outside_the_schema(change, message):
    with pytest.raises(ValueError) as error:
        Schema.infer(FRAME).encode(FRAME.assign(**change))
    assert str(error.value) == message


def test_a_column_that_is_not_there_and_a_code_that_is_none():
    schema = Schema([Column("a"), Column("b", "ordinal", ("x", "y"))])
    with pytest.raises(ValueError, match="^expected columns a, b, got none called 'b'$"):
        schema.encode(pd.DataFrame({"a": [1.0]}))
    for code in (2.0, -1.0, 0.5):
        with pytest.raises(ValueError, match=rf"column 'b': expected a code from 0 to 1, got {code:g} at row 1"):
            schema.decode(np.array([[0.0, 1.0], [0.0, code]]))
    with pytest.raises(ValueError, match=r"expected shape \(N, 2\), got \(1, 3\)"):
        schema.decode(np.zeros((1, 3)))


# Files and named sets


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_with_a_schema(tmp_path, suffix):
    rng = np.random.default_rng(0)
    n = 40
    frame = pd.DataFrame(
        {
            "row": np.arange(n),
            "income": np.exp(rng.normal(10, 1, n)),
            "job": np.array(["nurse", "clerk", None], dtype=object)[np.arange(n) % 3],
            "children": np.where(np.arange(n) % 5 == 0, np.nan, np.arange(n) % 4),
            "kind": np.array(["p", "q"])[np.arange(n) % 2],
        }
    )
    path = tmp_path / f"t{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    data = load(path, label="kind", schema={"row": "real"})
    assert data.columns == data.schema.names == ("row", "income", "job", "children")
    assert [column.kind for column in data.schema] == ["real", "positive", "categorical", "count"]
    assert data.support is constraints.real and data.loc is None and data.train.dtype == torch.float32
    x = torch.cat([data.train, data.validation, data.test])
    assert [len(data.train), len(x)] == [32, n]
    order = x[:, 0].argsort()
    np.testing.assert_allclose(x[order], data.schema.encode(frame), rtol=1e-6)
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])[order]
    assert [data.label_names[i] for i in labels] == frame["kind"].tolist()
    again = load(path, label="kind", schema=data.schema)
    assert again.schema == data.schema and torch.equal(again.test.nan_to_num(-1), data.test.nan_to_num(-1))


def test_without_a_schema_text_is_still_refused(tmp_path):
    FRAME[["job", "change"]].to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="column 'job' must hold numbers, got 'nurse' at row 0"):
        load(tmp_path / "t.csv")


def test_a_schema_still_refuses_what_is_no_number(tmp_path):
    pd.DataFrame({"a": [1.5, np.inf, 2.0, 3.0]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="expected a finite number, got inf at row 1, column 'a'"):
        load(tmp_path / "t.csv", schema={})
    pd.DataFrame({"a": ["x", "y", "z"]}).to_csv(tmp_path / "t.csv", index=False)
    schema = Schema([Column("a", "categorical", ("x", "y"))])
    with pytest.raises(ValueError) as error:
        load(tmp_path / "t.csv", schema=schema)
    assert str(error.value) == f"{tmp_path}/t.csv: column 'a': expected one of x, y, got 'z' at row 2"


def test_an_array_and_a_named_set_with_a_schema(tmp_path):
    x = np.stack([np.arange(20.0), np.arange(20) % 2, np.linspace(-1, 1, 20)], 1)
    x[3, 1] = NAN
    np.savez(tmp_path / "x.npz", train=x, test=x[:4] + [0, 0, 0.5])
    data = load(tmp_path / "x.npz", schema={})
    assert [column.kind for column in data.schema] == ["count", "categorical", "real"]
    assert data.columns == ("0", "1", "2")
    np.testing.assert_allclose(data.test, x[:4] + [0, 0, 0.5], rtol=1e-6)
    iris = load("iris", schema={"petal width (cm)": "real"})
    assert [column.kind for column in iris.schema] == ["positive"] * 3 + ["real"]
    assert torch.equal(iris.train, load("iris", standardize=False).train)
    with pytest.raises(ValueError, match=r"^digits: a schema is for a table \(N, D\), got rows of shape \(1, 8, 8\)"):
        load("digits", schema={})
