"""Which rows are read: filter_pass, expressions that can do nothing but compare, samples."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.filters import LeftOut, choose_rows, read_left_out, rows_where


@pytest.fixture
def obs():
    return pd.DataFrame(
        {
            "cell_type": pd.Categorical(["B", "T", "B", "NK", None, "T"]),
            "n_genes": [100, 600, 700, 800, 900, np.nan],
            "my donor": ["a", "a", "b", "b", "c", "c"],
            "good": [True, True, False, True, False, True],
        },
        index=[f"cell{i}" for i in range(6)],
    )


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("cell_type == 'B'", [0, 2]),
        ("cell_type in ['B', 'NK'] and n_genes > 500", [2, 3]),
        ("cell_type not in ['B', 'T']", [3, 4]),
        ("n_genes / 2 >= 350", [2, 3, 4]),
        ("not (n_genes > 500)", [0, 5]),
        ("100 < n_genes <= 800", [1, 2, 3]),
        ("good", [0, 1, 3, 5]),
        ("good & (n_genes > 500) | cell_type == 'B'", [0, 1, 2, 3]),
        ("`my donor` == 'b'", [2, 3]),
        ("n_genes != n_genes", [5]),
    ],
)
def test_expressions(obs, where, rows):
    np.testing.assert_array_equal(np.flatnonzero(rows_where(obs, where, "cells")), rows)


def test_columns_that_pandas_calls_nullable():
    obs = pd.DataFrame(
        {"n": pd.array([1, None, 3], dtype="Int64"), "good": pd.array([True, None, False], dtype="boolean")}
    )
    np.testing.assert_array_equal(rows_where(obs, "n > 0", "cells"), [True, False, True])
    np.testing.assert_array_equal(rows_where(obs, "good", "cells"), [True, False, False])


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "@obs",
        "n_genes.__class__",
        "n_genes.sum() > 1",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "n_genes if good else good",
        "n_genes[0]",
        "n_genes ** 9 > 1",
        "f'{n_genes}' == '1'",
        "good = 1",
        "n_genes >",
        "",
    ],
)
def test_nothing_but_comparisons_is_run(obs, where):
    with pytest.raises(ValueError, match="--where"):
        rows_where(obs, where, "cells")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("tissue == 'lung'", "no obs column; columns there: cell_type, n_genes, my donor, good"),
        ("`my tissue` == 'lung'", "'my tissue'"),
        ("n_genes", "does not say yes or no"),
        ("True", "does not say yes or no"),
        ("cell_type > 5", "cannot be computed"),
    ],
)
def test_what_cannot_be_used_is_named(obs, where, message):
    with pytest.raises(ValueError, match=message):
        rows_where(obs, where, "cells")


def test_all_reasons_are_counted(obs):
    obs["filter_pass"] = [1, 1, 1, 0, 1, 1]
    chosen = choose_rows(obs, "cells", where="n_genes > 500", n_cells=2, seed=3)
    assert (chosen.n_filtered, chosen.n_not_asked, chosen.n_not_sampled) == (1, 2, 1)
    assert len(chosen.rows) == 2
    assert set(chosen.rows) <= {1, 2, 4}
    assert chosen.rows.tolist() == sorted(chosen.rows)
    np.testing.assert_array_equal(choose_rows(obs, "cells").rows, [0, 1, 2, 4, 5])


@pytest.mark.parametrize("values", [["1", "0", "1"], [1.0, 0.0, 1.0], [True, False, True], [1, 0, 1]])
def test_filter_pass_in_any_type(values):
    obs = pd.DataFrame({"filter_pass": values})
    np.testing.assert_array_equal(choose_rows(obs, "cells").rows, [0, 2])


def test_nothing_left(obs):
    with pytest.raises(ValueError, match="none of its 6 cells fits"):
        choose_rows(obs, "cells", where="n_genes > 5000")
    with pytest.raises(ValueError, match="filter_pass"):
        choose_rows(obs.assign(filter_pass=0), "cells")
    with pytest.raises(ValueError, match="at least 1"):
        choose_rows(obs, "cells", n_cells=0)


def test_a_table_that_says_why_tells_copies_from_the_rest(tmp_path):
    table = tmp_path / "left_out.tsv"
    table.write_text("file\trow\tcell\twhy\na\t1\tNA\tcopy\na\t3\tx3\tfew genes\nb\t0\tx0\tcopy\n")
    obs = pd.DataFrame({"n_genes": [9, 9, 9, 9, 1]}, index=["x0", "NA", "x2", "x3", "x4"])
    left_out = read_left_out(table, "a", obs.index)
    chosen = choose_rows(obs, "a", where="n_genes > 5", copies=left_out)
    np.testing.assert_array_equal(chosen.rows, [0, 2])
    assert (chosen.n_copies, chosen.n_not_asked) == (1, 2)
    table.write_text("file\trow\tcell\na\t1\tNA\na\t3\tx3\n")  # as `corpus duplicates` writes it
    chosen = choose_rows(obs, "a", copies=read_left_out(table, "a", obs.index))
    assert (chosen.n_copies, chosen.n_not_asked) == (2, 0)
    with pytest.raises(ValueError, match="all of its cells are left out"):
        choose_rows(obs[1:2], "a", copies=LeftOut(copies=np.array([0]), others=np.array([], dtype=int)))
