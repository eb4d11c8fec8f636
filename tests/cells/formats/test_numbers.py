"""The parser reads what Python's float reads, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer_grn.cells.formats.numbers import parse

WORDS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False).map(repr),
    st.floats(allow_nan=False).map("{:.3f}".format),
    st.sampled_from(
        ["0", "00", "1.", ".5", "-0", "1e5", "1E-3", "+4", '"7"', " 3 ", "9007199254740993", "-.25"]
    ),
)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=1, max_size=5), st.sampled_from("\t,;"))
def test_as_float(lines, delimiter):
    text = "".join(f"a name{delimiter}{delimiter.join(line)}\r\n" for line in lines).encode()
    rows, fields, values, n_lines = parse(
        text, Path("a.csv"), delimiter=delimiter, named=True, first_line=1, keep_zeros=True
    )
    expected = [float(word.strip('" ')) for line in lines for word in line]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(rows, np.repeat(np.arange(len(lines)), 3))
    np.testing.assert_array_equal(fields, np.tile(np.arange(3), len(lines)))
    assert n_lines == len(lines)


def test_zeros_are_left_out_and_quoted_names_skipped():
    rows, fields, values, _ = parse(
        b'"a,b",0,2,0\nc,0,0,5\n', Path("a.csv"), delimiter=",", named=True, first_line=2
    )
    assert (rows.tolist(), fields.tolist(), values.tolist()) == ([0, 1], [1, 2], [2.0, 5.0])


def test_runs_of_spaces():
    _, fields, values, _ = parse(
        b"  1   2\t3.5 \n4 5 6\n", Path("a"), delimiter=" ", named=False, first_line=1
    )
    assert (fields.tolist(), values.tolist()) == ([0, 1, 2] * 2, [1, 2, 3.5, 4, 5, 6])


@pytest.mark.parametrize("word", ["", "x", "1x", "--1", "1.2.3", "1,5", "0x10", "NA", '"'])
def test_what_is_no_number(word):
    with pytest.raises(ValueError, match=r"line 7, column 3 holds"):
        parse(f"a;1;{word};2\n".encode(), Path("a"), delimiter=";", named=True, first_line=7)
