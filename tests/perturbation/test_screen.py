"""Null genes that match in rank and detection, and screens that stay within their bound."""

import numpy as np
import pytest

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation.matching import choose_null_sets, rank_groups
from geneformer_grn.perturbation.screen import PerturbationPlan, plan_screen


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    """120 cells in which low tokens rank high and are held more often, some longer than the model reads."""
    rng = np.random.default_rng(8)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = []
    for _ in range(120):
        held = genes[rng.random(len(genes)) < np.linspace(1.0, 0.3, len(genes))]
        cells.append(held[np.argsort(held + rng.normal(0, 4, len(held)))])
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    return RankedCells(tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(120))


@pytest.fixture(scope="module")
def group(ranked, tiny_vocabulary):
    (only,) = rank_groups(ranked, None, tiny_vocabulary, seed=0)
    return only


def test_ranks_and_detection_by_brute_force(ranked, group, tiny_vocabulary):
    room = tiny_vocabulary.max_length - 2
    for gene in (6, 20, 50, 64):
        places = []
        for row in range(len(ranked)):
            cell = ranked.cell(row)[:room].tolist()
            if gene in cell:
                places.append(cell.index(gene) / (len(cell) - 1))
        assert group.detection[gene] == pytest.approx(len(places) / len(ranked))
        assert group.rank[gene] == pytest.approx(np.mean(places) if places else 1.0)
        assert len(group.holders([gene])) == len(places)
    both = {row for row in range(len(ranked)) if {8, 40} <= set(ranked.cell(row)[:room].tolist())}
    assert set(group.holders([8, 40]).tolist()) == both
    in_front = {row for row in range(len(ranked)) if ranked.cell(row)[0] == 8}
    assert set(group.followers([8]).tolist()) == set(group.holders([8]).tolist()) - in_front


def test_holders_come_in_drawing_order(group):
    place = {cell: i for i, cell in enumerate(group.cells.tolist())}
    places = [place[cell] for cell in group.holders([12]).tolist()]
    assert places == sorted(places)
    assert group.cells.tolist() != sorted(group.cells.tolist())


def test_null_genes_are_the_nearest_and_never_the_tested(group):
    candidates = group.detected(10)
    (null,) = choose_null_sets(group, [(20,)], candidates=candidates, n_null=8).values()
    chosen = [gene for (gene,) in null]
    distance = np.abs(group.rank - group.rank[20]) + np.abs(group.detection - group.detection[20])
    others = candidates[candidates != 20]
    assert sorted(chosen) == sorted(others[np.argsort(distance[others], kind="stable")][:8].tolist())


def test_singles_share_a_pool(group):
    sets = [(gene,) for gene in range(5, 25, 4)]
    chosen = choose_null_sets(group, sets, candidates=group.detected(5), n_null=6)
    pool = {gene for null in chosen.values() for (gene,) in null}
    assert len(pool) <= 12
    assert not pool & {gene for (gene,) in sets}
    for (gene,), null in chosen.items():
        distance = [abs(group.rank[gene] - group.rank[other]) for (other,) in null]
        assert np.mean(distance) < np.mean(np.abs(group.rank[gene] - group.rank[group.detected(5)]))


def test_where_all_genes_are_tested_each_is_compared_with_the_others(group):
    candidates = group.detected(3)
    sets = [(int(gene),) for gene in candidates]
    chosen = choose_null_sets(group, sets, candidates=candidates, n_null=7)
    for genes, null in chosen.items():
        assert len(null) == 7
        assert genes not in null


def test_null_sets_match_member_by_member(group):
    tested = (7, 8, 50)
    (null,) = choose_null_sets(group, [tested], candidates=group.detected(3), n_null=9).values()
    assert len(null) == len(set(null)) == 9
    for members in null:
        assert len(set(members)) == 3
        assert not set(members) & set(tested)
        assert group.rank[members[2]] > group.rank[members[0]]


@pytest.mark.parametrize("bound", [None, 500, 300, 120])
def test_screens_stay_within_their_bound(ranked, tiny_vocabulary, bound):
    groups = np.repeat(["a", "b"], 60)
    ranks = rank_groups(ranked, groups, tiny_vocabulary, seed=1)
    plan = PerturbationPlan(cells_per_gene=12, n_null=20, max_passes=bound)
    screen = plan_screen(ranks, [(10,), (30,)], plan)
    assert bound is None or screen.n_passes <= bound
    assert (screen.cells_per_gene, screen.n_null) == (12, 20) if bound is None else screen.cells_per_gene < 12
    assert sorted(screen.nulls) == [i for i, request in enumerate(screen.requests) if not request.is_null]
    for number, null in screen.nulls.items():
        assert len(null) == screen.n_null
        assert {screen.requests[other].group for other in null} == {screen.requests[number].group}
    for request in screen.requests:
        assert 0 < len(request.cells) <= screen.cells_per_gene
        assert set(groups[request.cells]) == {request.group}


def test_a_bound_too_low_says_how_much_is_needed(ranked, tiny_vocabulary):
    ranks = rank_groups(ranked, None, tiny_vocabulary, seed=0)
    with pytest.raises(ValueError, match=r"at least \d+ passes"):
        plan_screen(ranks, [(10,)], PerturbationPlan(max_passes=5))


def test_tested_and_null_genes_share_cells(ranked, tiny_vocabulary):
    ranks = rank_groups(ranked, None, tiny_vocabulary, seed=0)
    screen = plan_screen(ranks, [(8,)], PerturbationPlan(cells_per_gene=10, n_null=10))
    used = np.unique(np.concatenate([request.cells for request in screen.requests]))
    assert len(used) < 20  # of 11 × 10 drawn at random from 120 cells, about 72 would differ


def test_every_cell_or_every_holder_can_be_tested(ranked, tiny_vocabulary):
    ranks = rank_groups(ranked, None, tiny_vocabulary, seed=0)
    every = plan_screen(ranks, [(50,)], PerturbationPlan(tested_cells="all", n_null=0))
    assert sorted(every.requests[0].cells.tolist()) == list(range(120))
    holding = plan_screen(ranks, [(50,)], PerturbationPlan(tested_cells="holders", n_null=0))
    assert sorted(holding.requests[0].cells.tolist()) == sorted(ranks[0].holders([50]).tolist())
    over = PerturbationPlan(kind="overexpress", cells_per_gene=4, n_null=0)
    assert plan_screen(ranks, [(50,)], over).requests[0].cells.tolist() == ranks[0].cells[:4].tolist()


def test_group_labels_are_checked(ranked, tiny_vocabulary):
    labels = np.array(["a"] * 60 + [None] * 60, dtype=object)
    (only,) = rank_groups(ranked, labels, tiny_vocabulary, seed=0)
    assert sorted(only.cells.tolist()) == list(range(60))
    with pytest.raises(ValueError, match="3 group labels were given for 120 cells"):
        rank_groups(ranked, ["a", "b", "c"], tiny_vocabulary, seed=0)
    with pytest.raises(ValueError, match="no cell has a group label"):
        rank_groups(ranked, [None] * 120, tiny_vocabulary, seed=0)
    with pytest.raises(ValueError, match="at least 1 cell"):
        PerturbationPlan(cells_per_gene=0)


def test_the_largest_size_within_the_bound_is_found(ranked, tiny_vocabulary):
    """Against a search through all sizes: null genes are kept before cells, down to three cells."""
    ranks = rank_groups(ranked, np.repeat(["a", "b"], 60), tiny_vocabulary, seed=1)
    sets = [(10,), (30,)]

    def passes(n_cells, n_null):
        return plan_screen(ranks, sets, PerturbationPlan(cells_per_gene=n_cells, n_null=n_null)).n_passes

    levels = [24, 18, 13, 10]
    sizes = [(cells, null) for null in levels for cells in range(9, 2, -1)] + [(2, 10), (1, 10)]
    for bound in (60, 95, 110, 150, 200, 260, 333, 500):
        plan = PerturbationPlan(cells_per_gene=9, n_null=24, max_passes=bound)
        expected = next((size for size in sizes if passes(*size) <= bound), None)
        if expected is None:
            with pytest.raises(ValueError, match="passes"):
                plan_screen(ranks, sets, plan)
        else:
            screen = plan_screen(ranks, sets, plan)
            assert (screen.cells_per_gene, screen.n_null) == expected
            assert screen.n_passes <= bound


def test_passes_are_counted_and_cells_kept_small(ranked, tiny_vocabulary):
    ranks = rank_groups(ranked, np.repeat(["a", "b"], 60), tiny_vocabulary, seed=1)
    for kind, times in (("delete", 1), ("overexpress", 2)):
        screen = plan_screen(ranks, [(10,), (30, 31)], PerturbationPlan(kind=kind, n_null=5))
        pairs = [cell for request in screen.requests for cell in request.cells.tolist()]
        assert screen.n_passes == len(pairs) + times * len(set(pairs))
        assert {request.cells.dtype for request in screen.requests} == {np.dtype(np.int32)}
        assert all(request.cells.base is None for request in screen.requests)
    assert plan_screen([], [], PerturbationPlan()).n_passes == 0


def test_genes_that_few_cells_hold_have_null_genes_that_few_cells_hold(tiny_vocabulary):
    rng = np.random.default_rng(0)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    share = np.where(np.arange(len(genes)) < 30, 0.08, 0.9)
    cells = [rng.permutation(genes[rng.random(len(genes)) < share]) for _ in range(60)]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    some = RankedCells(tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(60))
    (group,) = rank_groups(some, None, tiny_vocabulary, seed=0)
    rare, often = int(genes[np.argmin(group.detection[genes[:30]])]), int(genes[-1])
    screen = plan_screen([group], [(rare,), (often,)], PerturbationPlan(n_null=10))
    n_cells = [len(request.cells) for request in screen.requests]
    assert min(n_cells[number] for number in screen.nulls[0]) >= n_cells[0]
    assert np.median([n_cells[number] for number in screen.nulls[0]]) < 10
    assert {n_cells[number] for number in screen.nulls[1]} == {10}
