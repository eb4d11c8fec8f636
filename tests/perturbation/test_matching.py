"""What null genes are matched on, by brute force; how many there are."""

import itertools

import anndata
import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.perturbation.matching import NULL_GENES, GroupRanks, choose_null_sets, rank_groups


@pytest.fixture(scope="module")
def counts(tiny_adata, tiny_vocabulary):
    return read_counts(tiny_adata, tiny_vocabulary)


def group_of(n_genes, **traits):
    """A group of one cell that holds every gene, with given traits."""
    flat = np.full(n_genes, 0.5)
    return GroupRanks(
        name="all",
        cells=np.arange(traits["held"].shape[0] if "held" in traits else 1),
        rank=traits.get("rank", flat),
        detection=traits.get("detection", flat),
        held=traits.get("held", sparse.csc_matrix(np.ones((1, n_genes), dtype=bool))),
        leading=np.zeros(1, dtype=np.int64),
        expression=traits.get("expression"),
    )


def test_expression_is_the_place_of_the_mean_among_held_genes(counts, tiny_adata, tiny_vocabulary):
    groups = tiny_adata.obs["cell_type"].to_numpy()
    ranks = rank_groups(rank_cells(counts, tiny_vocabulary), groups, tiny_vocabulary, seed=0, counts=counts)
    for group in ranks:
        dense = tiny_adata[groups == group.name].X.toarray().astype(np.float64)
        mean = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)
        held = group.detection[tiny_vocabulary.n_special :] > 0
        for gene in np.flatnonzero(held):
            below = np.sum(mean[held] < mean[gene]) + (np.sum(mean[held] == mean[gene]) + 1) / 2
            place = group.expression[tiny_vocabulary.n_special + gene]
            assert place == pytest.approx(below / held.sum(), abs=0.02)  # float32 may swap near ties
        assert not group.expression[: tiny_vocabulary.n_special].any()
    assert ranks[0].expression.max() == 1


def test_genes_no_cell_holds_have_no_place(tiny_adata, tiny_vocabulary):
    matrix = tiny_adata.X.toarray()
    matrix[:, 7] = 0
    adata = anndata.AnnData(sparse.csr_matrix(matrix), obs=tiny_adata.obs, var=tiny_adata.var)
    counts = read_counts(adata, tiny_vocabulary)
    ranked = rank_cells(counts, tiny_vocabulary)
    (group,) = rank_groups(ranked, None, tiny_vocabulary, seed=0, counts=counts)
    assert group.expression[tiny_vocabulary.n_special + 7] == 0
    assert (group.expression[group.detection > 0] > 0).all()


@pytest.mark.parametrize("trait", ["rank", "detection", "expression"])
def test_every_trait_counts(trait):
    values = np.array([0.5, 0.9, 0.45, 0.1, 0.52])
    group = group_of(5, **{trait: values})
    assert group.nearest(0, np.array([1, 2, 3, 4])).tolist() == [4, 2, 1, 3]  # ties of 0.4: by place


def test_traits_add_up():
    rng = np.random.default_rng(1)
    rank, detection, expression = rng.random((3, 40))
    group = group_of(40, rank=rank, detection=detection, expression=expression)
    others = np.arange(1, 40)
    distance = [
        abs(rank[i] - rank[0]) + abs(detection[i] - detection[0]) + abs(expression[i] - expression[0])
        for i in others
    ]
    assert group.nearest(0, others).tolist() == others[np.argsort(distance)].tolist()


def test_the_nearest_few_are_the_first_of_all():
    group = group_of(300, rank=np.random.default_rng(0).integers(0, 9, 300) / 8)  # with many ties
    others = np.arange(1, 300)
    for n in (1, 20, 298, 299, 500):
        assert group.nearest(0, others, n).tolist() == group.nearest(0, others)[:n].tolist()


def test_pairs_share_a_pool_of_null_pairs():
    rng = np.random.default_rng(2)
    group = group_of(600, rank=rng.random(600), detection=rng.random(600))
    pairs = list(itertools.combinations(range(8), 2))
    chosen = choose_null_sets(group, pairs, candidates=np.arange(600), n_null=30)
    pool = {null for nulls in chosen.values() for null in nulls}
    assert len(pool) == len({frozenset(null) for null in pool}) <= 60
    assert not {gene for null in pool for gene in null} & set(range(8))
    traits = np.column_stack([group.rank, group.detection])

    def distance(one, other):
        one, other = (sorted(genes, key=lambda gene: group.rank[gene]) for genes in (one, other))
        return np.abs(traits[one] - traits[other]).sum()

    found = []
    for pair, nulls in chosen.items():
        nearest = sorted(distance(pair, null) for null in pool)[:30]
        np.testing.assert_allclose([distance(pair, null) for null in nulls], nearest)
        found += nearest
    at_random = [distance(pair, rng.choice(600, 2, replace=False)) for pair in pairs for _ in range(30)]
    assert np.mean(found) < 0.7 * np.mean(at_random)


def test_null_pairs_are_held_together_by_as_many_cells():
    held = np.random.default_rng(1).random((60, 80)) < 0.3
    group = group_of(80, held=sparse.csc_matrix(held))
    together = [np.count_nonzero(held[:, a] & held[:, b]) for a, b in ((0, 1), (2, 3))]
    assert min(together) < 8 < max(together) + 8
    for genes, least in zip([(0, 1), (2, 3)], together, strict=True):
        (nulls,) = choose_null_sets(group, [genes], candidates=np.arange(80), n_null=20, n_cells=5).values()
        assert len(nulls) == 20
        assert min(np.count_nonzero(held[:, a] & held[:, b]) for a, b in nulls) >= min(least, 5)
    nobody = group_of(80, held=sparse.csc_matrix(np.eye(80, dtype=bool)))
    (nulls,) = choose_null_sets(nobody, [(0, 1)], candidates=np.arange(80), n_null=5, n_cells=5).values()
    assert len(nulls) == 5  # nor does any cell hold the tested pair


def test_200_null_genes_or_as_many_as_exist():
    rng = np.random.default_rng(3)
    group = group_of(900, rank=rng.random(900), detection=rng.random(900), expression=rng.random(900))
    sets = [(5,), (60,), (300,), (7, 8)]
    assert NULL_GENES == 200
    for candidates, expected in ((np.arange(900), {200}), (np.arange(100), {99, 100, 200})):
        chosen = choose_null_sets(group, sets, candidates=candidates, n_null=NULL_GENES)
        assert {len(null) for null in chosen.values()} <= expected
        for genes, null in chosen.items():
            assert len(set(null)) == len(null)
            assert genes not in null
    assert all(len(null) == 200 for null in choose_null_sets(group, sets, candidates=np.arange(900)).values())


def test_matched_genes_are_closer_than_others_in_all_three(counts, tiny_vocabulary):
    ranked = rank_cells(counts, tiny_vocabulary)
    (group,) = rank_groups(ranked, None, tiny_vocabulary, seed=0, counts=counts)
    candidates = group.detected(10)
    sets = [(int(gene),) for gene in candidates]
    chosen = choose_null_sets(group, sets, candidates=candidates, n_null=8)
    for trait in (group.rank, group.detection, group.expression):
        near = np.mean(
            [np.abs(trait[[g for (g,) in null]] - trait[gene]).mean() for (gene,), null in chosen.items()]
        )
        every = np.mean(np.abs(trait[candidates][:, None] - trait[candidates]))
        assert near < 0.8 * every


def test_counts_of_other_cells_are_refused(counts, tiny_vocabulary):
    ranked = rank_cells(counts, tiny_vocabulary)
    fewer = type(counts)(
        matrix=counts.matrix[:5], column_tokens=counts.column_tokens, n_counts=counts.n_counts[:5],
        obs=counts.obs[:5], kept=counts.kept[:5],
    )  # fmt: skip
    with pytest.raises(ValueError, match="counts of 5 cells were given for 80 ranked cells"):
        rank_groups(ranked, None, tiny_vocabulary, seed=0, counts=fewer)


def test_rare_genes_are_compared_with_rare_genes_and_others_are_not():
    rng = np.random.default_rng(4)
    share = np.concatenate([np.full(6, 0.06), np.full(6, 0.9), np.linspace(0.05, 1.0, 288)])
    held = rng.random((60, 300)) < share
    n_holders = held.sum(axis=0)
    group = group_of(300, rank=rng.random(300), detection=n_holders / 60, held=sparse.csc_matrix(held))
    sets = [(gene,) for gene in range(12)]
    rare = [gene for gene in range(6) if n_holders[gene]]
    assert max(n_holders[rare]) < 10 <= min(n_holders[6:12])
    chosen = choose_null_sets(group, sets, candidates=group.detected(1), n_null=40, n_cells=10)
    for (gene,), null in chosen.items():
        assert len(null) == 40
        assert min(n_holders[other] for (other,) in null) >= min(10, n_holders[gene])
    pool = {null for nulls in chosen.values() for null in nulls}
    assert len(pool) <= 3 * 40
    for gene in rare:  # alone: the nearest of all that enough cells hold
        (null,) = choose_null_sets(
            group, [(gene,)], candidates=group.detected(1), n_null=5, n_cells=10
        ).values()
        distance = np.abs(group.rank - group.rank[gene]) + np.abs(group.detection - group.detection[gene])
        able = [other for other in range(300) if other != gene and n_holders[other] >= n_holders[gene]]
        assert [other for (other,) in null] == sorted(able, key=lambda other: distance[other])[:5]
        assert min(n_holders[other] for (other,) in null) < 10
    few = choose_null_sets(group, sets, candidates=np.arange(20), n_null=40, n_cells=10)  # tested ones, too
    for (gene,), null in few.items():
        able = [other for other in range(20) if n_holders[other] >= max(min(10, n_holders[gene]), 1)]
        assert {other for (other,) in null} <= set(able) - {gene}
        assert {*rare, *range(6, 12)} & set(able) - {gene} <= {other for (other,) in null}
