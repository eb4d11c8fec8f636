"""The readout expression against a plain padded model: one masked cell at a time, sums by plain loops."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.perturbation import expectations as module
from geneformer_grn.perturbation.expression import (
    EXPRESSION_COLUMNS,
    ExpressionSums,
    expression_changes,
    expression_sums,
)
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.tasks import make_tasks

KINDS = ["delete", "overexpress", "inhibit", "activate", "knockout"]


@pytest.fixture(scope="module")
def ranked(any_encoder):
    """Cells of 60 genes (more than the model reads), 14, 4 and 1."""
    rng = np.random.default_rng(2)
    genes = np.arange(any_encoder.vocabulary.n_special, len(any_encoder.vocabulary))
    cells = [rng.permutation(genes)[:length] for length in (60, 14, 4, 1)]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    return RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(len(cells))
    )


def genes_to_perturb(ranked):
    """A gene in the middle of the first cell, one that the model does not get to read there, a pair."""
    front, middle, unread = (int(ranked.cell(0)[place]) for place in (0, 20, 55))
    return [(middle,), (unread,), (front, middle), (int(ranked.cell(1)[3]),)]


def log_probabilities(model, ids, hidden=()):
    """``(L, V)`` log-softmax of one padded cell; positions `hidden` are no keys in any layer."""
    padded = torch.tensor([[*ids, *[0] * (48 - len(ids))]])
    mask = torch.ones_like(padded)
    mask[:, len(ids) :] = 0
    mask[:, list(hidden)] = 0
    with torch.no_grad():
        logits = model(padded, attention_mask=mask).logits[0, : len(ids)]
    return torch.log_softmax(logits.double(), dim=1).numpy()


def moved(body, gene, kind):
    """The ranking after `gene` went two quartiles on, worked out place by place."""
    steps = 2 if kind == "inhibit" else -2
    quartiles = [4 * place // len(body) for place in range(len(body))]
    reached = quartiles[body.index(gene)] + steps
    places = [place for place, quartile in enumerate(quartiles) if quartile == reached]
    rest = [other for other in body if other != gene]
    if reached < 0 or reached > 3:
        place = 0 if reached < 0 else len(body) - 1
    elif not places:
        earlier = sum(quartile < reached for quartile in quartiles)
        place = min(earlier, len(body) - 1) if steps > 0 else earlier - 1
    else:
        place = places[len(places) // 2 if steps > 0 else (len(places) - 1) // 2]
    return [*rest[:place], gene, *rest[place:]]


def brute_force(model, vocabulary, cell, genes, kind, settings):
    """Gene -> (change in nats, change of expected rank), or None where the cell lacks the gene."""
    ids = model_input(cell, vocabulary).tolist()
    n_front = int(vocabulary.n_wrapping > 0)
    front, body, back = ids[:n_front], ids[n_front : len(ids) - n_front], ids[len(ids) - n_front :]
    kept, hidden = [gene for gene in body if gene not in genes], []
    if kind == "overexpress":
        kept = kept[: 48 - 2 * n_front - len(genes)]
        before = [*front, *(gene for gene in body if gene in kept or gene in genes), *back]
        after = [*front, *genes, *kept, *back]
    elif not set(genes) <= set(body) or not kept:
        return None
    else:
        before, after = ids, [*front, *kept, *back]
        if kind == "knockout":
            after, hidden = ids, [ids.index(gene) for gene in genes]
        if kind in {"inhibit", "activate"}:
            for gene in genes:
                body = moved(body, gene, kind)
            after = [*front, *body, *back]
    order = np.random.default_rng(settings.fold_seed).permutation(len(vocabulary))
    dealt = sorted(ids[n_front : len(ids) - n_front], key=lambda gene: order[gene])
    n_folds = min(7, len(dealt))
    changes = {}
    for fold in range(n_folds):
        asked = [gene for gene in kept if dealt.index(gene) % n_folds == fold]
        if not asked:
            continue
        answers = []
        for which, unseen in ((before, []), (after, hidden)):
            log_p = log_probabilities(model, [1 if gene in asked else gene for gene in which], unseen)
            places = {gene: ids.index(gene) for gene in asked}
            answers.append(
                {
                    gene: (
                        log_p[which.index(gene), gene],
                        sum(places[other] * np.exp(log_p[which.index(other), gene]) for other in asked)
                        / sum(np.exp(log_p[which.index(other), gene]) for other in asked),
                    )
                    for gene in asked
                }
            )
        for gene in asked:
            (nats, rank), (nats_after, rank_after) = answers[0][gene], answers[1][gene]
            changes[gene] = nats_after - nats, rank - rank_after
    return changes


@pytest.mark.parametrize(
    "kind", [*KINDS[:2], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[2:])]
)
def test_every_kind_equals_brute_force(any_encoder, plain_model, ranked, kind):
    vocabulary, cells = any_encoder.vocabulary, np.arange(len(ranked))
    requests = [Request(genes=genes, kind=kind, cells=cells) for genes in genes_to_perturb(ranked)]
    settings = PerturbSettings(quartiles=2, token_budget=100, fold_seed=3)
    expected = {}
    for number, request in enumerate(requests):
        for cell in cells:
            changes = brute_force(plain_model, vocabulary, ranked.cell(cell), request.genes, kind, settings)
            for gene, values in (changes or {}).items():
                expected.setdefault((number, gene), []).append(values)
    pairs = np.repeat(np.arange(len(requests)), len(cells)), np.tile(cells, len(requests))
    tasks = [task for task in make_tasks(vocabulary, ranked, requests, pairs, quartiles=2) if task]
    sums = expression_sums(any_encoder, tasks, settings)
    assert list(zip(sums["request"], sums["affected"], strict=True)) == sorted(expected)
    assert sums["n_cells"].tolist() == [len(expected[key]) for key in sorted(expected)]
    values = [np.array(expected[key]) for key in sorted(expected)]
    for column, name in enumerate(("delta_nats", "delta_rank")):
        np.testing.assert_allclose(sums[name], [one[:, column].sum() for one in values], atol=2e-5)
        squares = [(one[:, column] ** 2).sum() for one in values]
        np.testing.assert_allclose(sums[f"{name}_squared"], squares, atol=2e-5, rtol=1e-4)
    assert sums["delta_nats"].abs().max() > 0.01
    assert sums["delta_rank"].abs().max() > 0.01

    table = expression_changes(any_encoder, ranked, requests, settings)
    assert tuple(table.columns) == EXPRESSION_COLUMNS
    np.testing.assert_allclose(table["delta_nats"], [one[:, 0].mean() for one in values], atol=1e-5)
    np.testing.assert_allclose(table["delta_rank_sd"], [one[:, 1].std() for one in values], atol=1e-4)
    assert table["n_cells"].tolist() == sums["n_cells"].tolist()
    names = vocabulary.ensembl_ids
    assert table["gene"].tolist() == ["+".join(names[list(requests[i].genes)]) for i in sums["request"]]
    assert table["affected"].tolist() == names[sums["affected"]].tolist()
    assert set(table["kind"]) == {kind}


def tasks_of(any_encoder, ranked, genes, kind, cells, **flags):
    requests = [Request(genes=(gene,), kind=kind, cells=cells, **flags) for gene in genes]
    pairs = np.repeat(np.arange(len(requests)), len(cells)), np.tile(cells, len(requests))
    return [task for task in make_tasks(any_encoder.vocabulary, ranked, requests, pairs) if task]


def test_passes_are_shared_and_counted(any_encoder, ranked):
    """Seven folds of two genes: the cell once, and for each gene its own fold and seven perturbed ones."""
    genes = [int(gene) for gene in ranked.cell(1)]
    whole = ExpressionSums(any_encoder, PerturbSettings(token_budget=200))
    tasks = tasks_of(any_encoder, ranked, genes, "delete", np.array([1]))
    whole.add(tasks)
    assert whole.n_passes == 7 + 14 * (1 + 7)
    # Knocking the same genes out needs no further unperturbed pass.
    whole.add([*tasks, *tasks_of(any_encoder, ranked, genes, "knockout", np.array([1]))])
    assert whole.n_passes == 7 + 14 * (1 + 7) + 2 * 14 * 7


def test_a_gene_outside_the_cell_needs_no_pass_of_its_own(any_encoder, ranked):
    absent = [int(gene) for gene in ranked.cell(0) if gene not in ranked.cell(1)][:3]
    sums = ExpressionSums(any_encoder, PerturbSettings())
    sums.add(tasks_of(any_encoder, ranked, absent, "overexpress", np.array([1])))
    assert sums.n_passes == 7 + 3 * 7


@pytest.mark.parametrize("kind", KINDS)
def test_sums_add_over_parts_wherever_they_are_cut(any_encoder, ranked, kind):
    genes = [int(gene) for gene in ranked.cell(1)[:3]]
    tasks = tasks_of(any_encoder, ranked, genes, kind, np.arange(4))
    assert len(tasks) > 4
    settings = PerturbSettings(token_budget=150)
    whole = expression_sums(any_encoder, tasks, settings)
    parts = [expression_sums(any_encoder, part, settings) for part in (tasks[:3], tasks[3:4], tasks[4:])]
    added = pd.concat(parts).groupby(["request", "affected"], as_index=False).sum()
    pd.testing.assert_frame_equal(added, whole, check_exact=False, atol=1e-5)
    in_turn = ExpressionSums(any_encoder, settings)
    for task in tasks:
        in_turn.add([task])
    pd.testing.assert_frame_equal(in_turn.frame(), whole, check_exact=False, atol=1e-5)
    again = expression_sums(any_encoder, tasks, settings)
    pd.testing.assert_frame_equal(again, whole, check_exact=True)


def test_null_perturbations_cost_nothing(any_encoder, ranked):
    genes = [int(gene) for gene in ranked.cell(1)[:2]]
    sums = ExpressionSums(any_encoder, PerturbSettings())
    sums.add(tasks_of(any_encoder, ranked, genes, "delete", np.array([1]), is_null=True))
    assert sums.n_passes == 0
    assert sums.frame().empty


@pytest.mark.parametrize(("share", "n_folds"), [(0.15, 7), (0.1, 10), (0.5, 2), (1 / 3, 3), (0.25, 4)])
def test_folds_are_balanced_and_the_same_in_every_perturbation(any_encoder, ranked, share, n_folds):
    settings = PerturbSettings(masked_share=share)
    assert settings.n_folds == n_folds
    sums = ExpressionSums(any_encoder, settings)
    tasks = tasks_of(any_encoder, ranked, [int(gene) for gene in ranked.cell(0)[:9]], "delete", np.array([0]))
    read = set(tasks[0].cell_ids[sums._layout.genes(48)].tolist())
    together = []
    for task in tasks:
        folds = [set(task.cell_ids[fold.before].tolist()) for fold in sums._folds(task)]
        assert len(folds) == n_folds
        assert sum(len(fold) for fold in folds) == len(read) - 1
        assert read - set().union(*folds) == {int(ranked.cell(0)[len(together)])}
        assert max(len(fold) for fold in folds) <= -(-len(read) // n_folds)
        together.append(folds)
    for folds in together:
        for fold, first in zip(folds, together[0], strict=True):
            assert len(fold ^ first) <= 2  # the two perturbed genes
    other = ExpressionSums(any_encoder, replace(settings, fold_seed=1))
    assert [set(tasks[0].cell_ids[fold.before].tolist()) for fold in other._folds(tasks[0])] != together[0]


def test_the_head_is_cut_into_slices(any_encoder, ranked, monkeypatch):
    tasks = tasks_of(any_encoder, ranked, [int(ranked.cell(1)[4])], "delete", np.arange(2))
    whole = expression_sums(any_encoder, tasks, PerturbSettings())
    monkeypatch.setattr(module, "SLICE_VALUES", {"cpu": 2 * len(any_encoder.vocabulary)})
    sliced = expression_sums(any_encoder, tasks, PerturbSettings())
    pd.testing.assert_frame_equal(sliced, whole, check_exact=False, atol=1e-5)


def test_a_share_that_makes_no_sense_is_refused():
    for share in (0.0, -0.1, 0.6):
        with pytest.raises(ValueError, match=r"above 0 and at most 0\.5, got"):
            PerturbSettings(masked_share=share)
