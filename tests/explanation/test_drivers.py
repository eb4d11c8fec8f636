"""Driver genes: means over a class's cells, what they rest on, and their overlap with other lists."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from geneformer_grn.explanation.attributions import Attributions, averaged
from geneformer_grn.explanation.drivers import (
    DRIVER_COLUMNS,
    crossed_class_scores,
    driver_genes,
    fold_agreement,
    list_overlap,
)


def attributions(cells: list[dict[int, float]], targets: list[int]) -> Attributions:
    """One dictionary of token -> score a cell."""
    n = len(cells)
    return Attributions(
        method="m",
        cells=np.arange(n),
        targets=np.array(targets),
        tokens=np.concatenate([list(cell) for cell in cells]).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]),
        scores=np.concatenate([list(cell.values()) for cell in cells]).astype(float),
        outputs=np.zeros(n),
        baseline_outputs=np.full(n, np.nan),
        steps=np.zeros(n, dtype=np.int64),
    )


@pytest.fixture
def two_classes() -> Attributions:
    return attributions(
        [{5: 1.0, 6: 2.0}, {5: 3.0}, {6: 4.0, 7: -1.0}, {7: 0.5, 5: 0.25}, {8: 1.0}], [0, 0, 0, 1, 1]
    )


def test_scores_are_means_over_the_class_and_absent_genes_count_nothing(two_classes, tiny_vocabulary):
    table = driver_genes(two_classes, ("A", "B"), tiny_vocabulary, n_top=1)
    assert tuple(table) == DRIVER_COLUMNS
    of_a = table[table["class"] == "A"].set_index("gene")
    ids = tiny_vocabulary.ensembl_ids
    assert list(of_a.index) == [ids[6], ids[5], ids[7]]
    np.testing.assert_allclose(of_a["score"], [2.0, 4 / 3, -1 / 3])
    np.testing.assert_allclose(of_a["score_where_held"], [3.0, 2.0, -1.0])
    assert of_a["n_cells"].tolist() == [2, 2, 1]
    assert of_a["rank"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(of_a["share_of_cells"], [2 / 3, 2 / 3, 1 / 3])
    assert table[table["class"] == "B"]["rank"].tolist() == [1, 2, 3]
    assert table["gene_symbol"].iloc[0] == tiny_vocabulary.symbols[6]


def test_intervals_and_stability_are_those_of_a_plain_bootstrap(tiny_vocabulary):
    """Beside a loop that draws cells; gene 6 leads gene 5 in most resamples."""
    rng = np.random.default_rng(4)
    values = rng.normal([0.8, 1.0], 0.7, size=(12, 2))
    found = driver_genes(
        attributions([{5: a, 6: b} for a, b in values], [0] * 12), ("A",), tiny_vocabulary,
        n_top=1, n_bootstrap=4000, seed=1,
    ).set_index("gene_symbol")  # fmt: skip
    means = np.array([values[rng.integers(0, 12, 12)].mean(axis=0) for _ in range(4000)])
    for column, token in enumerate((5, 6)):
        row = found.loc[tiny_vocabulary.symbols[token]]
        low, high = np.quantile(means[:, column], [0.025, 0.975])
        np.testing.assert_allclose([row["ci_low"], row["ci_high"]], [low, high], atol=0.04)
        assert row["stability"] == pytest.approx((means.argmax(axis=1) == column).mean(), abs=0.04)


def test_one_cell_has_a_score_and_no_interval(tiny_vocabulary):
    table = driver_genes(attributions([{5: 1.0}], [0]), ("A",), tiny_vocabulary)
    assert table["score"].tolist() == [1.0]
    assert table[["ci_low", "ci_high", "stability"]].isna().all(axis=None)


def test_folds_agree_where_their_lists_do(two_classes, tiny_vocabulary):
    table = driver_genes(two_classes, ("A", "B"), tiny_vocabulary)
    other = driver_genes(two_classes.with_scores(-two_classes.scores), ("A", "B"), tiny_vocabulary)
    _, same = fold_agreement([table, table], n_top=1)
    assert same[["jaccard", "spearman"]].to_numpy().tolist() == [[1.0, 1.0]] * 2
    genes, opposite = fold_agreement([table, other], n_top=1)
    np.testing.assert_allclose(opposite["spearman"], -1.0)
    assert opposite["jaccard"].tolist() == [0.0, 0.0]
    share = genes[genes["class"] == "A"].set_index("gene")["fold_share"]
    assert share[tiny_vocabulary.ensembl_ids[6]] == share[tiny_vocabulary.ensembl_ids[7]] == 0.5
    _, alone = fold_agreement([table])
    assert alone[["jaccard", "spearman"]].isna().all(axis=None)


def test_overlap_is_counted_and_held_against_chance():
    genes = [f"g{i}" for i in range(20)]
    drivers = pd.DataFrame({"class": "A", "gene": genes, "rank": range(1, 21)})
    listed = pd.DataFrame({"class": "A", "gene": genes[2:] + genes[:2] + ["x"], "rank": range(1, 22)})
    row = list_overlap(drivers, listed, n_top=5).iloc[0]
    assert (row["n_genes"], row["n_top"], row["overlap"], row["expected"]) == (20, 5, 3, 1.25)
    by_hand = sum(hypergeom.pmf(k, 20, 5, 5) for k in (3, 4, 5))
    assert row["p_value"] == pytest.approx(by_hand)


def test_a_class_is_judged_by_the_other_half_of_its_cells():
    """Gene 5 has the cell's own number, so a mean over other cells is never of its own."""
    cells = attributions([{5: float(2**i), 6: 1.0} for i in range(6)] + [{5: 9.0}], [0] * 6 + [1])
    crossed = crossed_class_scores(cells, 70)
    scores = crossed.scores[:12].reshape(6, 2)
    np.testing.assert_allclose(scores[:, 1], 1.0)
    total = {round(value * 3): set(np.flatnonzero(scores[:, 0] == value)) for value in scores[:, 0]}
    assert len(total) == 2
    for sum_of_others, rows in total.items():
        assert sum(2**i for i in range(6) if i not in rows) == sum_of_others
    assert crossed.scores[12] == 0.0  # a class of one cell has no other half
    assert np.isnan(crossed.completeness_error).all()


def test_models_are_averaged_only_over_the_same_cells(two_classes):
    mean = averaged([two_classes, two_classes.with_scores(3 * two_classes.scores)])
    np.testing.assert_allclose(mean.scores, 2 * two_classes.scores)
    other = attributions([{5: 1.0}], [0])
    with pytest.raises(ValueError, match="other cells"):
        averaged([two_classes, other])
