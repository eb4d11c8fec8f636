"""Influence and gene shifts against a plain padded model: one masked cell at a time, sums by plain loops."""

import math

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer_grn.extraction import influence as influence_module
from geneformer_grn.extraction import removals as removals_module
from geneformer_grn.extraction.gene_shifts import ShiftSettings, gene_shift_edges
from geneformer_grn.extraction.influence import InfluenceSettings, influence, influence_edges, most_passes
from geneformer_grn.extraction.removals import draw_removals, removal_tasks
from geneformer_grn.perturbation.axes import gene_axes

CELLS = np.array([2, 5, 11, 14, 17, 20, 23, 28])
MIN_SUPPORT = 2


@pytest.fixture(scope="module")
def few(genes):
    return genes[0][[7, 2, 5]], genes[1]


@pytest.fixture(scope="module")
def plain_model(tiny_checkpoint):
    return BertForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()


def run(model, ids, hidden):
    """States (layers + 1, L, d) and log-probabilities (L, V); positions `hidden` are no keys in any layer."""
    padded = torch.tensor([[*ids, *[0] * (48 - len(ids))]])
    mask = (torch.arange(48)[None] < len(ids)).long()
    mask[:, hidden] = 0
    with torch.no_grad():
        output = model(padded, attention_mask=mask, output_hidden_states=True)
    states = torch.stack(output.hidden_states)[:, 0, : len(ids)].double().numpy()
    return states, torch.log_softmax(output.logits[0, : len(ids)].double(), dim=1).numpy()


def without(ids, gene, kind, task):
    """The tokens a plain model is given when `gene` is taken out, and which positions are no keys."""
    if kind == "knockout":
        return ids, [ids.index(gene)]
    if kind == "delete":
        return [other for other in ids if other != gene], []
    return (task.edit.input_ids if kind == "swap" else np.where(np.array(ids) == gene, 1, ids)).tolist(), []


def mean_by_loops(values, regulators, targets, sign):
    """(R, T) means of {(regulator, target): [values of cells]}, and how many there are."""
    support = np.array([[len(values.get((r, t), [])) for t in targets] for r in regulators])
    weights = np.full(support.shape, np.nan)
    for i, j in zip(*np.nonzero(support >= MIN_SUPPORT), strict=True):
        weights[i, j] = sign * np.mean(values[regulators[i], targets[j]])
    return weights, support


def removed(encoder, ranked, regulators, kind):
    """(ids, gene, task) of every removal; what is swapped in comes from the task, and is tested elsewhere."""
    found = draw_removals(encoder.vocabulary, ranked, regulators, CELLS, cells_per_regulator=4, seed=0)
    task_kind = kind if kind in {"hide", "swap"} else "hide"
    for task in removal_tasks(encoder.vocabulary, ranked, regulators, found, kind=task_kind):
        yield task.cell_ids.tolist(), int(regulators[task.request]), task


@pytest.mark.parametrize("kind", ["hide", "swap", "delete", "knockout"])
def test_influence_equals_brute_force(tiny_encoder, plain_model, ranked, few, kind, monkeypatch):
    monkeypatch.setattr(removals_module, "_PIECE_TOKENS", 100)  # a cell or two at a time
    order = np.random.default_rng(0).permutation(len(tiny_encoder.vocabulary))
    nats, ranks = {}, {}
    for ids, gene, task in removed(tiny_encoder, ranked, few[0], kind):
        after, hidden = without(ids, gene, kind, task)
        dealt = sorted(set(ids[1:-1]) & set(few[1].tolist()), key=lambda token: order[token])
        n_folds = min(math.ceil(7 * len(dealt) / (len(ids) - 2)), len(dealt))
        for fold in range(n_folds):
            asked = [other for other in dealt[fold::n_folds] if other != gene]
            answers = []
            for which, unseen in ((ids, []), (after, hidden)):
                _, log_p = run(plain_model, [1 if token in asked else token for token in which], unseen)
                p = {other: np.exp(log_p[[which.index(at) for at in asked], other]) for other in asked}
                place = {
                    other: sum(ids.index(at) * q for at, q in zip(asked, p[other], strict=True))
                    / p[other].sum()
                    for other in asked
                }
                answers.append(({other: log_p[which.index(other), other] for other in asked}, place))
            for other in asked:
                nats.setdefault((gene, other), []).append(answers[1][0][other] - answers[0][0][other])
                ranks.setdefault((gene, other), []).append(answers[0][1][other] - answers[1][1][other])
    settings = InfluenceSettings(
        removal=kind, cells_per_regulator=4, min_support=MIN_SUPPORT, token_budget=200
    )
    both = influence(tiny_encoder, ranked, regulators=few[0], targets=few[1], settings=settings, cells=CELLS)
    # both models are in float32: a log-probability is known to about 1e-6, a rank of up to 46 is less so
    for readout, values, rounding in (("nats", nats, 3e-6), ("rank", ranks, 3e-5)):
        weights, support = mean_by_loops(values, *few, -1.0)
        np.testing.assert_array_equal(both[readout].support, support)
        np.testing.assert_allclose(both[readout].weights, weights, rtol=0, atol=rounding)
        assert np.isfinite(weights).sum() > 20
        assert both[readout].signed == (readout == "rank")


@pytest.mark.parametrize("kind", ["delete", "knockout"])
def test_shifts_equal_brute_force(tiny_encoder, plain_model, ranked, few, kind):
    axes = gene_axes(tiny_encoder, ranked, cells=CELLS)
    shifts, along = {}, {}
    for ids, gene, task in removed(tiny_encoder, ranked, few[0], kind):
        after_ids, hidden = without(ids, gene, kind, task)
        before, after = run(plain_model, ids, [])[0][-2], run(plain_model, after_ids, hidden)[0][-2]
        for other in ids[1:-1]:
            if other == gene:
                continue
            old, new = before[ids.index(other)], after[after_ids.index(other)]
            cosine = old @ new / np.linalg.norm(old) / np.linalg.norm(new)
            shifts.setdefault((gene, other), []).append(1.0 - cosine)
            along.setdefault((gene, other), []).append((new - old) @ axes.directions[other])
    call = {"regulators": few[0], "targets": few[1], "cells": CELLS}
    how = {"kind": kind, "cells_per_regulator": 4, "min_support": MIN_SUPPORT}
    found = gene_shift_edges(tiny_encoder, ranked, settings=ShiftSettings(**how), **call)
    weights, support = mean_by_loops(shifts, *few, 1.0)
    np.testing.assert_array_equal(found.support, support)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-6, atol=1e-6)
    assert not found.signed
    signed = gene_shift_edges(
        tiny_encoder, ranked, settings=ShiftSettings(readout="signed_shift", **how), **call
    )
    weights, _ = mean_by_loops(along, *few, -1.0)
    assert np.isfinite(weights).sum() > 10
    np.testing.assert_allclose(signed.weights, weights, rtol=1e-6, atol=1e-6)
    assert signed.signed


def test_the_price_is_told_before_it_is_paid(tiny_encoder, ranked, genes, caplog, monkeypatch):
    paid = []

    class Counting(influence_module.ExpressionSums):
        def frame(self):
            paid.append(self.n_passes)
            return super().frame()

    monkeypatch.setattr(influence_module, "ExpressionSums", Counting)
    settings = InfluenceSettings(cells_per_regulator=3)
    caplog.set_level("INFO")
    influence_edges(tiny_encoder, ranked, regulators=genes[0], targets=genes[1], settings=settings)
    found = draw_removals(tiny_encoder.vocabulary, ranked, genes[0], None, cells_per_regulator=3, seed=0)
    told = most_passes(tiny_encoder, ranked, found, genes[1], settings)
    assert f"{len(found.cell)} removals from {found.n_cells} cells, at most {told} passes" in caplog.text
    assert 0.8 * told < sum(paid) <= told


def test_bad_calls(tiny_encoder, ranked, genes):
    with pytest.raises(ValueError, match="removal 'eat' is unknown; use one of hide, swap, delete, knockout"):
        InfluenceSettings(removal="eat")
    with pytest.raises(ValueError, match="readout 'cell' is unknown; use one of rank, nats"):
        InfluenceSettings(readout="cell")
    with pytest.raises(ValueError, match="masked_share must be above 0"):
        InfluenceSettings(masked_share=0.0)
    with pytest.raises(ValueError, match="cells_per_regulator must be at least 1"):
        ShiftSettings(cells_per_regulator=0)
    with pytest.raises(ValueError, match="kind 'overexpress' is unknown; use knockout or delete"):
        ShiftSettings(kind="overexpress")
    for score in (influence_edges, gene_shift_edges):
        with pytest.raises(ValueError, match="none of the 12 regulators is in the model input"):
            score(tiny_encoder, ranked, regulators=genes[0], targets=genes[1], cells=np.array([], dtype=int))
        with pytest.raises(ValueError, match="at least one regulator and one target"):
            score(tiny_encoder, ranked, regulators=genes[0], targets=genes[1][:0])
