"""The compiled sort against numpy's, on every shape of input that takes another way through it."""

from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer_grn.cells import radix


def expected_order(ratios, tokens):
    return tokens[np.lexsort((tokens, -ratios))]


def check(ratios):
    tokens = np.arange(len(ratios), dtype=np.uint16)
    ordered = tokens.copy()
    radix.sort_cells(ratios, ordered, np.array([0, len(ratios)], dtype=np.int64))
    np.testing.assert_array_equal(ordered, expected_order(ratios, tokens))


@given(
    n=st.integers(0, 400),
    kind=st.sampled_from(["counts", "ties", "wide", "close"]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_order_is_that_of_lexsort(n, kind, seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 30, n).astype(np.float64)
    ratios = {
        "counts": counts / generator.uniform(0.5, 3, n),
        "ties": counts,
        "wide": counts * 10.0 ** generator.integers(-300, 300, n),
        "close": 1.0 + counts * 2.0**-52,
    }[kind]
    check(ratios)


def test_keys_that_share_their_high_bits_take_the_long_way():
    # One far value makes the 22 bits coarse; the others then differ in low bits only, in the worst order.
    ratios = np.concatenate([[1e300], 1.0 + np.arange(2000) * 2.0**-52])
    check(ratios)
    check(ratios[::-1].copy())


def test_giving_up_loses_no_gene():
    keys = np.arange(100, dtype=np.uint64)[::-1].copy()
    tokens = np.arange(100, dtype=np.uint16)
    assert not radix.insertion(keys, tokens, 10)
    np.testing.assert_array_equal(np.sort(tokens), np.arange(100))
    np.testing.assert_array_equal(99 - keys, tokens)


def test_extreme_values():
    check(np.array([np.finfo(np.float64).max, 5e-324, 1.0, np.finfo(np.float64).tiny] * 30))


def test_cells_do_not_mix():
    generator = np.random.default_rng(0)
    lengths = np.array([3, 0, 200, 1, 60])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ratios = generator.uniform(1, 2, offsets[-1])
    tokens = np.concatenate([np.arange(length) for length in lengths]).astype(np.uint16)
    ordered = tokens.copy()
    radix.sort_cells(ratios, ordered, offsets)
    for start, stop in pairwise(offsets):
        np.testing.assert_array_equal(
            ordered[start:stop], expected_order(ratios[start:stop], tokens[start:stop])
        )


def test_compiles_where_no_cache_can_be_written(monkeypatch):
    compile_function = numba.njit

    def njit(function, *, cache=False, nogil):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_function(function, nogil=nogil)

    monkeypatch.setattr(numba, "njit", njit)
    assert radix.compiled(lambda value: value + 1)(2) == 3


def test_other_errors_are_not_hidden(monkeypatch):
    def njit(function, **_):
        raise TypeError("no")

    monkeypatch.setattr(numba, "njit", njit)
    with pytest.raises(TypeError):
        radix.compiled(len)
