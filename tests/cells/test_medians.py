"""Exact medians in one pass and in many, against numpy.median on dense matrices; equal means equal bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn.cells import medians as module
from geneformer_grn.cells.medians import Search, Tally, new_search, next_search

N_GENES = 40


def random_counts(seed: int, n_cells: int = 50) -> np.ndarray:
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.gamma(0.3, 2.0, N_GENES), size=(n_cells, N_GENES))
    counts[:, 0] += 1
    return counts.astype(np.float32)


def brute_force(blocks: list[np.ndarray], n_counts: list[np.ndarray], target_sum: float) -> np.ndarray:
    """Median of the non-zero entries of each column, from the dense matrix."""
    dense = np.concatenate([block.astype(np.float64) for block in blocks])
    scaled = dense / np.concatenate(n_counts)[:, None] * target_sum
    return np.array([np.median(column[column > 0]) if (column > 0).any() else np.nan for column in scaled.T])


def run(blocks, n_genes, *, collect=False, most_values=0, target_sum=1e4, keep=None) -> tuple[Search, int]:
    """Search with a file a block, as the build does, answers and questions passing through arrays."""
    search, n_passes = new_search(n_genes, collect=collect), 0
    while not search.is_done:
        answers = []
        for matrix, n_counts, genes in blocks:
            tally = Tally(search, target_sum)
            tally.add(matrix, n_counts, genes)
            answers.append(tally.arrays())
        first = n_passes == 0
        search = next_search(search, answers[::-1], most_values=most_values, keep=keep if first else None)
        search, n_passes = Search.from_arrays(search.arrays()), n_passes + 1
        assert n_passes < 12
    return search, n_passes


def as_blocks(counts, n_counts):
    return [(sparse.csr_matrix(c), n, np.arange(c.shape[1])) for c, n in zip(counts, n_counts, strict=True)]


WAYS = [
    {"collect": True},
    {"most_values": 10**9},  # counted once, then collected
    {"most_values": 200},  # counted several times, then collected
    {"most_values": 0},  # counted to the last bit
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target_sum", [10_000.0, 1.0])
def test_medians_over_files_equal_numpy_to_the_last_bit(way, target_sum):
    counts = [random_counts(seed, n_cells) for seed, n_cells in enumerate((50, 1, 33))]
    n_counts = [block.sum(axis=1, dtype=np.float64) + 17 for block in counts]
    search, n_passes = run(as_blocks(counts, n_counts), N_GENES, target_sum=target_sum, **way)
    expected = brute_force(counts, n_counts, target_sum)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(search.medians(), expected)
    np.testing.assert_array_equal(search.n, (np.concatenate(counts) > 0).sum(axis=0))
    assert n_passes >= {0: 6, 200: 3, 10**9: 2}.get(way.get("most_values"), 1)


COUNTS = st.lists(
    st.lists(st.integers(0, 3) | st.integers(0, 10**6), min_size=3, max_size=3), min_size=1, max_size=12
)


@given(
    counts=st.lists(COUNTS, min_size=1, max_size=3),
    totals=st.lists(st.sampled_from([1.0, 3.0, 7.0, 1e-9, 123456.5]), min_size=36, max_size=36),
    target_sum=st.sampled_from([1e4, 1.0, 1e-12, 1e15]),
)
@settings(max_examples=80, deadline=None)
def test_ties_even_numbers_and_extremes_have_the_bits_of_numpy(counts, totals, target_sum):
    blocks = [np.array(block, dtype=np.float64) for block in counts]
    n_counts = [np.array(totals[place * 12 : place * 12 + len(block)]) for place, block in enumerate(blocks)]
    expected = brute_force(blocks, n_counts, target_sum)
    for way in ({"collect": True}, {"most_values": 3}, {"most_values": 0}):
        search, _ = run(as_blocks(blocks, n_counts), 3, target_sum=target_sum, **way)
        np.testing.assert_array_equal(search.medians(), expected)


@pytest.mark.parametrize("way", WAYS)
def test_one_cell_and_constant_genes(way):
    one = np.array([[3.0, 0.0]])
    search, _ = run(as_blocks([one], [np.array([7.0])]), 2, **way)
    np.testing.assert_array_equal(search.medians(), [3 / 7 * 1e4, np.nan])
    same = np.full((8, 2), 2.0)
    search, _ = run(as_blocks([same], [np.full(8, 9.0)]), 2, **way)
    np.testing.assert_array_equal(search.medians(), [2 / 9 * 1e4] * 2)


@pytest.mark.parametrize("way", WAYS)
def test_files_may_hold_other_genes_in_another_order(way):
    first, second = random_counts(0), random_counts(1)
    shuffled = np.random.default_rng(2).permutation(N_GENES)[:25]
    n_counts = [first.sum(1).astype(float), second.sum(1).astype(float)]
    blocks = [
        (sparse.csr_matrix(first), n_counts[0], np.arange(N_GENES)),
        (sparse.csr_matrix(second[:, shuffled]), n_counts[1], shuffled),
    ]
    search, _ = run(blocks, N_GENES, **way)
    second[:, np.setdiff1d(np.arange(N_GENES), shuffled)] = 0
    np.testing.assert_array_equal(search.medians(), brute_force([first, second], n_counts, 1e4))


def test_blocks_of_a_file_add_up_like_files():
    counts = random_counts(3)
    n_counts = counts.sum(axis=1, dtype=np.float64)
    for collect in (True, False):
        search = new_search(N_GENES, collect=collect)
        whole, cut = Tally(search, 1e4), Tally(search, 1e4)
        whole.add(sparse.csr_matrix(counts), n_counts, np.arange(N_GENES))
        for rows in (slice(0, 20), slice(20, 21), slice(21, 50)):
            cut.add(sparse.csr_matrix(counts[rows]), n_counts[rows], np.arange(N_GENES))
        for one, other in zip(whole.arrays().values(), cut.arrays().values(), strict=True):
            np.testing.assert_array_equal(np.sort(one), np.sort(other))


@pytest.mark.parametrize("collect", [True, False])
def test_stored_zeros_are_no_counts(collect):
    matrix = sparse.csr_matrix((np.array([0.0, 4.0, 2.0]), [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    blocks = [(matrix, np.array([8.0, 2.0]), np.array([0, 1]))]
    search, _ = run(blocks, 2, collect=collect, target_sum=8.0)
    np.testing.assert_array_equal(search.medians(), [np.nan, 6.0])  # 4/8*8 and 2/2*8
    np.testing.assert_array_equal(search.n, [0, 2])


def test_genes_that_are_not_kept_are_not_searched():
    counts = random_counts(0)
    n_counts = counts.sum(axis=1, dtype=np.float64)
    keep = np.arange(N_GENES) % 3 == 0
    search, _ = run(as_blocks([counts], [n_counts]), N_GENES, keep=keep)
    expected = brute_force([counts], [n_counts], 1e4)
    np.testing.assert_array_equal(search.medians()[keep], expected[keep])
    assert np.isnan(search.medians()[~keep]).all()


def test_the_bins_of_a_pass_fit_in_their_memory(monkeypatch):
    one_each = np.zeros(65_000, dtype=np.uint64)
    search = new_search(65_000, collect=False)
    arrays = search.arrays() | {
        "kind": np.asarray("refine"),
        "low": one_each,
        "high": one_each + np.uint64(1 << 50),
    }
    search = Search.from_arrays(arrays)
    assert 2 * (65_000 << search.bits) * 12 > module._HISTOGRAM_BYTES >= (65_000 << search.bits) * 12
    assert ((search.high - search.low) >> search.shift).max() < 1 << search.bits
    assert (78_902 << new_search(78_902, collect=False).bits) * 12 < module._HISTOGRAM_BYTES


def test_wrong_blocks_and_answers_are_refused():
    matrix = sparse.csr_matrix(np.ones((2, 2)))
    tally = Tally(new_search(2, collect=False), 1e4)
    with pytest.raises(ValueError, match="same gene"):
        tally.add(matrix, np.ones(2), np.array([0, 0]))
    with pytest.raises(ValueError, match="1 cells have no positive total"):
        tally.add(matrix, np.array([1.0, 0.0]), np.array([0, 1]))
    tally.add(matrix, np.array([1.0, 2.0]), np.array([0, 1]))
    answer = tally.arrays()
    for most_values in (0, 10):
        second = next_search(new_search(2, collect=False), [answer], most_values=most_values)
        with pytest.raises(ValueError, match="do not add up"):
            next_search(second, [Tally(second, 1e4).arrays()])
