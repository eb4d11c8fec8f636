"""Ranks of sparse genes and Spearman edges against scipy."""

import numpy as np
import pytest
from scipy import sparse, stats

from geneformer_grn.network.ranks import centred_ranks, spearman_edges

GENES = np.array([f"G{i}" for i in range(10)], dtype=object)


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    """Many ties and zeros; gene 3 is never 0, gene 4 sometimes below, gene 5 constant, gene 6 silent."""
    generator = np.random.default_rng(0)
    values = np.maximum(generator.poisson(1.0, (60, 10)) + generator.poisson(1.0, (60, 1)) - 1.0, 0.0)
    values[:, 3] += 1.0
    values[:, 4] -= 1.0
    values[:, 5], values[:, 6] = 2.0, 0.0
    return values


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_ranks_equal_scipy_up_to_one_shift_a_gene(expression, convert):
    ranks = centred_ranks(convert(expression))
    assert (np.sign(ranks.toarray()) == np.sign(expression)).all()
    assert ranks.nnz == np.count_nonzero(expression)
    shift = stats.rankdata(expression, axis=0) - ranks.toarray()
    np.testing.assert_allclose(shift - shift[0], 0.0, atol=1e-12)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_spearman_equals_scipy(expression, convert):
    regulators, targets = ["G8", "G3", "G4", "G5"], ["G1", "G9", "G3", "G6", "G4"]
    pairs = spearman_edges(convert(expression), GENES, regulators=regulators, targets=targets)
    assert pairs.method == "spearman"
    assert pairs.signed
    assert pairs.regulators.tolist() == regulators
    assert pairs.targets.tolist() == targets
    for i, regulator in enumerate(regulators):
        for j, target in enumerate(targets):
            x, y = (expression[:, int(gene[1:])] for gene in (regulator, target))
            if regulator == target or regulator == "G5" or target == "G6":
                assert np.isnan(pairs.weights[i, j])
                continue
            expected = stats.spearmanr(x, y)
            assert pairs.weights[i, j] == pytest.approx(expected.statistic, abs=1e-6)
            assert pairs.p_values[i, j] == pytest.approx(expected.pvalue, rel=1e-8)
            assert pairs.support[i, j] == ((x > 0) & (y > 0)).sum()


def test_a_gene_that_does_not_vary_is_not_scored_however_it_is_ranked(expression):
    nearly = expression.copy()
    nearly[:, 0] = 5.0 + 1e-12 * np.arange(60)
    pairs = spearman_edges(nearly, GENES, regulators=["G0"], targets=["G1"])
    assert np.isnan(pairs.weights).all()
    with pytest.raises(ValueError, match="'X'"):
        spearman_edges(expression, GENES, regulators=["X"], targets=["G1"])
