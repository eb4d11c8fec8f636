"""The edge table: what passes, what is refused, and that files come back as they went."""

import gzip

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.network.edges import (
    EDGE_COLUMNS,
    Universe,
    check_edges,
    read_edges,
    read_universe,
    write_edges,
)


@pytest.fixture
def edges() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": ["A", "A", "B"],
            "target": ["B", "C", "C"],
            "weight": [0.1, -2.5, 1e-7],
            "support": [5, 6, 7],
            "sign": [1, -1, 0],
            "group": ["NA", "T cell", "T cell"],
            "method": "ridge",
            "p_value": [np.nan, 1e-300, 0.5],
            "q_value": [np.nan, 1e-299, 0.5],
        }
    )


@pytest.mark.parametrize("name", ["edges.tsv", "edges.tsv.gz"])
def test_round_trip(edges, tmp_path, name):
    universe = Universe(
        regulators=("A", "B"), targets=("B", "C"), n_cells={"NA": 3, "T cell": 9}, groups_column="type"
    )
    write_edges(edges.assign(agreement=[1.0, 2.0, 3.0]), tmp_path / name, universe=universe)
    back = read_edges(tmp_path / name)
    assert list(back.columns) == [*EDGE_COLUMNS, "agreement"]
    assert back["weight"].dtype == np.float32
    assert back["support"].dtype == np.int32
    assert back["sign"].dtype == np.int8
    assert back["group"].tolist() == ["NA", "T cell", "T cell"]
    np.testing.assert_array_equal(back["weight"], edges["weight"].astype(np.float32))
    np.testing.assert_array_equal(back["p_value"], edges["p_value"])
    assert read_universe(tmp_path / name) == universe
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "edges.universe.json"])


def test_equal_tables_make_equal_files(edges, tmp_path):
    write_edges(edges, tmp_path / "a.tsv.gz")
    write_edges(edges, tmp_path / "b.tsv.gz")
    assert gzip.decompress((tmp_path / "a.tsv.gz").read_bytes()) == gzip.decompress(
        (tmp_path / "b.tsv.gz").read_bytes()
    )
    assert read_universe(tmp_path / "a.tsv.gz") is None


def test_three_columns_are_enough():
    table = check_edges(pd.DataFrame({"source": ["A"], "target": ["B"], "weight": ["0.5"]}))
    assert table["weight"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": [1.0, np.nan, 2.0]}, "weight in row 2"),
        ({"weight": [1.0, "strong", 2.0]}, "'strong' as weight in row 2"),
        ({"weight": [1.0, np.inf, 2.0]}, "finite"),
        ({"sign": [1, 2, 0]}, "-1, 0 or 1"),
        ({"source": ["A", "", "B"]}, "empty source in row 2"),
        ({"source": ["A", None, "B"]}, "empty source in row 2"),
        ({"p_value": [0.1, "x", 0.2]}, "p_value"),
        (
            {"source": ["A", "A", "A"], "target": ["B", "C", "C"], "group": ["g", "g", "g"]},
            "1 repeated edges.*A → C",
        ),
    ],
)
def test_bad_tables_are_named(edges, change, message):
    with pytest.raises(ValueError, match=message):
        check_edges(edges.assign(**change))


def test_missing_columns_are_named(edges):
    with pytest.raises(ValueError, match=r"no column weight.*found: source, target, support"):
        check_edges(edges.drop(columns="weight"))


def test_self_edges_are_left_out(edges, caplog):
    assert len(check_edges(edges.assign(target=["A", "C", "C"]))) == 2
    assert "1 self-edges left out" in caplog.text


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="no edge table"):
        read_edges(tmp_path / "none.tsv")
    with pytest.raises(IsADirectoryError, match="folder"):
        read_edges(tmp_path)
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "binary.tsv").write_bytes(b"\x89PNG\xff\xfe\x00\x01")
    (tmp_path / "torn.tsv.gz").write_bytes(b"not gzip at all")
    for name in ("empty.tsv", "binary.tsv", "torn.tsv.gz"):
        with pytest.raises(ValueError, match=name):
            read_edges(tmp_path / name)
    (tmp_path / "edges.universe.json").write_text("[]")
    with pytest.raises(ValueError, match=r"edges\.universe\.json is not"):
        read_universe(tmp_path / "edges.tsv")


def test_only_tsv_is_written(edges, tmp_path):
    with pytest.raises(ValueError, match=r"\.tsv"):
        write_edges(edges, tmp_path / "edges.parquet")
    assert not list(tmp_path.iterdir())
