"""The pgmpy adapter against pgmpy's own search with its own score."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.network import bayesian
from geneformer_grn.network.bayesian import bayesian_network_edges, climb, gaussian_bic, residual_variance

GENES = np.array([f"g{i}" for i in range(6)], dtype=object)


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    """g2 follows g0 and g1, g3 goes against g2, g4 follows g3 and g0; g5 is noise."""
    cells = np.random.default_rng(0).normal(size=(150, 6))
    cells[:, 2] += cells[:, 0] + cells[:, 1]
    cells[:, 3] -= cells[:, 2]
    cells[:, 4] += 0.8 * cells[:, 3] + cells[:, 0]
    return cells


@pytest.fixture
def pgmpy_search():
    """pgmpy's hill climbing with its own score, fitted to cells."""
    pytest.importorskip("pgmpy", reason="the extra 'bayes' is not installed")
    from pgmpy.causal_discovery import ExpertKnowledge, HillClimbSearch

    def search(cells: np.ndarray, possible: list[tuple[str, str]]) -> set[tuple[str, str]]:
        table = pd.DataFrame(cells, columns=list(GENES[: cells.shape[1]]))
        found = HillClimbSearch(
            scoring_method="bic-g", expert_knowledge=ExpertKnowledge(search_space=possible),
            return_type="dag", show_progress=False,
        ).fit(table)  # fmt: skip
        return set(found.causal_graph_.edges())

    return search


def test_the_score_is_pgmpys_up_to_a_constant_for_each_gene(expression):
    pytest.importorskip("pgmpy")
    from pgmpy.structure_score import BICGauss

    table = pd.DataFrame(expression, columns=list(GENES))
    theirs, correlation = BICGauss(table), np.corrcoef(expression, rowvar=False)
    ours = gaussian_bic(correlation, len(expression), pd.DataFrame(np.zeros((2, 6))))
    for gene in (3, 4):
        alone = ours.local_score(gene, ()) - theirs.local_score(f"g{gene}", ())
        for parents in ((0,), (2, 1), (1, 2, 5)):
            of_theirs = theirs.local_score(f"g{gene}", tuple(f"g{parent}" for parent in parents))
            # theirs takes the variance over n - parents - 1 cells, and does not refit it
            assert ours.local_score(gene, parents) - of_theirs == pytest.approx(alone, abs=0.05)
    fit = np.linalg.lstsq(np.column_stack([np.ones(150), expression[:, [1, 5]]]), expression[:, 2])
    assert residual_variance(correlation, 2, [1, 5]) == pytest.approx(
        fit[1][0] / 150 / expression[:, 2].var(), rel=1e-9
    )


@pytest.mark.filterwarnings("ignore")
def test_the_same_edges_as_pgmpy_finds_by_itself(expression, pgmpy_search):
    """Three regulators, of which one is regulated; two other targets, each searched on its own here."""
    possible = [
        (source, target) for source in ("g0", "g1", "g2") for target in ("g0", "g2", "g3", "g4", "g5")
        if source != target
    ]  # fmt: skip
    pairs = bayesian_network_edges(
        expression, GENES, regulators=["g0", "g1", "g2"], targets=["g0", "g2", "g3", "g4", "g5"]
    )
    found = {
        (str(pairs.regulators[i]), str(pairs.targets[j]))
        for i, j in np.argwhere(np.nan_to_num(pairs.weights) != 0)
    }
    assert found == pgmpy_search(expression, possible)
    assert {("g2", "g3"), ("g0", "g4")} <= found
    standard = (expression - expression.mean(axis=0)) / expression.std(axis=0)
    for j, target in enumerate([0, 2, 3, 4, 5]):
        chosen = np.flatnonzero(np.nan_to_num(pairs.weights[:, j]))
        fit = np.linalg.lstsq(standard[:, chosen], standard[:, target])[0]
        np.testing.assert_allclose(pairs.weights[chosen, j], fit, atol=1e-5)
    assert pairs.signed
    assert np.isnan(pairs.weights[0, 0])


def test_limits_of_parents_and_candidates(expression):
    call = {"regulators": ["g0", "g1", "g2", "g3"], "targets": ["g4"]}
    free = bayesian_network_edges(expression, GENES, **call)
    assert np.count_nonzero(free.weights) == 2
    one = bayesian_network_edges(expression, GENES, **call, max_parents=1)
    assert np.count_nonzero(one.weights) == 1
    strongest = np.argmax(np.abs(np.corrcoef(expression, rowvar=False)[:4, 4]))
    assert np.flatnonzero(one.weights).tolist() == [strongest]
    narrow = bayesian_network_edges(expression, GENES, **call, candidates=1)
    assert np.flatnonzero(narrow.weights).tolist() == [strongest]


@pytest.mark.slow
def test_ties_are_broken_alike_in_every_run():
    code = (
        "import numpy as np\n"
        "from geneformer_grn.network.bayesian import climb\n"
        "c = np.corrcoef(np.random.default_rng(0).normal(size=(40, 3)) @ np.ones((3, 6)) * 0.5"
        " + np.random.default_rng(1).normal(size=(40, 6)), rowvar=False)\n"
        "print(climb(c, 40, ~np.eye(6, dtype=bool), max_parents=3).astype(int).ravel().tolist())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert "1" in runs[0]


def test_no_loop_where_all_may_regulate_all(expression):
    import networkx as nx

    correlation = np.corrcoef(expression, rowvar=False)
    edges = climb(correlation, 150, ~np.eye(6, dtype=bool), max_parents=5)
    assert nx.is_directed_acyclic_graph(nx.from_numpy_array(edges, create_using=nx.DiGraph))
    joined = edges | edges.T
    assert joined[2, 3]
    assert joined[0, 4]
    assert not joined[5].any()


def test_genes_that_do_not_vary_and_sparse_cells(expression):
    cells = np.maximum(expression, 0.0)
    cells[:, 1] = 0.0
    call = {"regulators": ["g0", "g1", "g2"], "targets": list(GENES)}
    pairs = bayesian_network_edges(sparse.csr_matrix(cells), GENES, **call)
    assert np.isnan(pairs.weights[1]).all()
    assert np.isnan(pairs.weights[:, 1]).all()
    assert pairs.support[2, 3] == ((cells[:, 2] > 0) & (cells[:, 3] > 0)).sum()
    np.testing.assert_allclose(bayesian_network_edges(cells, GENES, **call).weights, pairs.weights, atol=1e-6)
    none = bayesian_network_edges(cells, GENES, regulators=["g1"], targets=["g0"])
    assert np.isnan(none.weights).all()


def test_bad_calls(expression, monkeypatch):
    call = {"regulators": ["g0"], "targets": list(GENES)}
    for wrong in ({"max_parents": 0}, {"candidates": 0}):
        with pytest.raises(ValueError, match="counted from 1"):
            bayesian_network_edges(expression, GENES, **call, **wrong)
    with pytest.raises(ValueError, match="needs at least 8 cells, got 7"):
        bayesian_network_edges(expression[:7], GENES, **call)
    monkeypatch.setattr(bayesian, "MAX_GENES", 5)
    with pytest.raises(ValueError, match=r"at most 5 regulators and targets; got 6\. Use fewer targets"):
        bayesian_network_edges(expression, GENES, **call)
