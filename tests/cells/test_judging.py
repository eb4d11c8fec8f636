"""What can be raw counts, and where they are instead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from geneformer_grn.cells.judging import refuse_impossible, refuse_normalised, stored_values
from geneformer_grn.cells.opening import open_source


@pytest.fixture
def source(tmp_path, tiny_adata):
    """A file whose X is all there is."""
    tiny_adata.write_h5ad(tmp_path / "plain.h5ad")
    with open_source(tmp_path / "plain.h5ad") as opened:
        yield opened


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(value, source):
    with pytest.raises(ValueError, match="NaN or infinite"):
        refuse_impossible(stored_values(np.array([1.0, value, 2.0])), "X", source)


def test_negative_values(source):
    with pytest.raises(ValueError, match=r"smallest -0\.5.* Raw counts are needed\.$"):
        refuse_impossible(stored_values(np.array([1.0, -0.5])), "X", source)


@given(
    values=arrays.arrays(
        st.sampled_from(["float32", "float64", "int32", "uint16"]),
        st.integers(0, 30),
        elements=st.integers(0, 50),
    ),
    halves=st.booleans(),
)
def test_values_are_looked_at_one_by_one(values, halves):
    values = values / 2 if halves else values
    seen = stored_values(values)
    broken = [value for value in values.tolist() if value != int(value)]
    assert seen.first_fraction == (broken[0] if broken else None)
    assert (seen.minimum, seen.maximum) == ((min(values), max(values)) if len(values) else (0, 0))
    assert seen.n_not_finite == 0


def test_pieces_change_nothing(monkeypatch):
    monkeypatch.setattr("geneformer_grn.cells.judging._BLOCK", 2)
    seen = stored_values(np.array([3.0, 1.0, np.nan, 7.25, 2.5]))
    assert (seen.minimum, seen.maximum, seen.n_not_finite, seen.first_fraction) == (1.0, 7.25, 1, 7.25)


def test_where_else_raw_counts_are(tmp_path, tiny_adata):
    adata = tiny_adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.layers["scaled"] = adata.X - 0.5 * (adata.X > 0)
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "a.h5ad")
    for where in (adata, tmp_path / "a.h5ad"):
        with open_source(where) as source:
            values = stored_values(source.sample())
            with pytest.raises(ValueError, match=r"in layer 'counts': pass --layer counts\. Without"):
                refuse_normalised(source, values, "X")
        with open_source(where, layer="scaled") as source:
            values = stored_values(source.sample())
            with pytest.raises(ValueError, match="in layer 'counts'"):
                refuse_normalised(source, values, "X")
