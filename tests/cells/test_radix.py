"""The compiled sort against numpy's, on every shape of input that takes another way through it."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer_grn.cells import radix


def check(keys, tokens):
    """Sort keys and tokens, and compare both with numpy's order."""
    order = np.lexsort((tokens, keys))
    expected = keys[order], tokens[order]
    radix.sort_cell(keys, tokens, radix.new_spare(len(keys) + 3))
    np.testing.assert_array_equal(keys, expected[0])
    np.testing.assert_array_equal(tokens, expected[1])


def bits(ratios):
    return np.asarray(ratios, dtype=np.float64).view(np.uint64)


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
    check(bits(ratios), generator.permutation(n).astype(np.uint16))


def test_keys_that_share_their_high_bits_take_the_long_way():
    # One far value makes the 22 bits coarse; the others then differ in low bits only, in the worst order.
    ratios = np.concatenate([[1e300], 1.0 + np.arange(2000)[::-1] * 2.0**-52])
    check(bits(ratios), np.arange(2001, dtype=np.uint16))


def test_equal_keys_come_by_token_on_the_long_way_too():
    keys = np.repeat(np.array([1 << 63, 5, 3], dtype=np.uint64), [1, 2000, 1000])
    check(keys, np.arange(65_535, 65_535 - 3001, -1).astype(np.uint16))


def test_giving_up_loses_no_gene():
    keys = np.arange(100, dtype=np.uint64)[::-1].copy()
    tokens = np.arange(100, dtype=np.uint16)
    assert not radix.insertion(keys, tokens, 10)
    np.testing.assert_array_equal(np.sort(tokens), np.arange(100))
    np.testing.assert_array_equal(99 - keys, tokens)


def test_extreme_values():
    ratios = np.array([np.finfo(np.float64).max, 5e-324, 1.0, np.finfo(np.float64).tiny, 0.0, np.inf] * 30)
    check(bits(ratios), np.arange(180, dtype=np.uint16)[::-1].copy())


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
