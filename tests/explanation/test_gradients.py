"""Integrated gradients add up and equal closed forms; gradients equal finite differences."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from geneformer_grn.explanation import gradients
from geneformer_grn.explanation.gradients import gradient_x_input, integrated_gradients
from geneformer_grn.explanation.settings import AttributionSettings
from geneformer_grn.explanation.target import Explained
from geneformer_grn.model.heads import HeadSpec


@pytest.fixture
def linear(tiny_encoder):
    """A model whose output is linear in the embeddings, and its weights ``(d,)``, times the position + 1."""
    weights = torch.randn(tiny_encoder.hidden_size, generator=torch.Generator().manual_seed(0))
    table = tiny_encoder.model.bert.embeddings.word_embeddings

    def outputs(batch, *, inputs_embeds=None):
        embedded = table(batch.input_ids) if inputs_embeds is None else inputs_embeds
        terms = (embedded[0] @ weights) * (batch.position_ids[0] + 1)
        cell_of = torch.repeat_interleave(torch.arange(len(batch)), batch.cu_seqlens.diff())
        return {"age": torch.zeros(len(batch)).index_add(0, cell_of, terms)[:, None]}

    spec = HeadSpec("age", "cell", "regression")
    model = SimpleNamespace(encoder=tiny_encoder, specs=(spec,), max_length=None, outputs=outputs)
    return Explained(model, spec), weights


def at(found, number):
    return found.scores[found.offsets[number] : found.offsets[number + 1]]


def test_scores_add_up_to_the_output_less_the_baselines(explained, ranked, chosen):
    found = integrated_gradients(explained, ranked, *chosen)
    assert (found.completeness_error <= 0.01).all()
    inputs = [(explained.input_of(ranked, cell), None) for cell in chosen[0]]
    np.testing.assert_allclose(found.outputs, explained.run_many(inputs, chosen[1]), atol=1e-4)
    sums = [at(found, i).sum() for i in range(5)]
    np.testing.assert_allclose(sums, found.outputs - found.baseline_outputs, rtol=0.011)


def test_scores_are_of_the_genes_in_their_order(by_mean, ranked, chosen, tiny_vocabulary):
    found = integrated_gradients(by_mean, ranked, *chosen)
    for number, cell in enumerate(chosen[0]):
        part = found.tokens[found.offsets[number] : found.offsets[number + 1]]
        np.testing.assert_array_equal(part, ranked.cell(cell)[: tiny_vocabulary.max_length - 2])


@pytest.mark.parametrize("baseline", ["pad", "mask"])
def test_a_linear_model_has_its_closed_form(linear, ranked, baseline):
    explained, weights = linear
    cells, targets = np.array([2, 50]), np.zeros(2, dtype=int)
    settings = AttributionSettings(baseline=baseline, steps=1)
    found = integrated_gradients(explained, ranked, cells, targets, settings)
    by_slope = gradient_x_input(explained, ranked, cells, targets)
    table = explained.model.encoder.model.bert.embeddings.word_embeddings.weight.detach()
    away = table[explained.vocabulary.token_of[f"<{baseline}>"]]
    for number, cell in enumerate(cells):
        own = table[torch.from_numpy(ranked.cell(cell)[:46].astype(int))]
        places = np.arange(2, len(own) + 2)  # behind <cls>
        np.testing.assert_allclose(at(found, number), ((own - away) @ weights).numpy() * places, rtol=1e-4)
        np.testing.assert_allclose(at(by_slope, number), (own @ weights).numpy() * places, rtol=1e-4)


def test_integrals_are_those_of_many_small_steps(explained, ranked):
    """Midpoints of 400 steps, cell by cell, with a slope each."""
    found = integrated_gradients(explained, ranked, np.array([7]), np.array([1]))
    cell = gradients._Cell(explained, ranked, 7, 1)
    own, baseline = cell.embedded(), cell.baseline("mask")
    shares = (torch.arange(400) + 0.5) / 400
    points = (baseline + shares[:, None, None] * (own - baseline)).requires_grad_()
    (slopes,) = torch.autograd.grad(cell(points).sum(), points)
    expected = ((own - baseline) * slopes.mean(dim=0)).sum(dim=2)[0, 1:-1]
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=2e-3 * expected.abs().max().item())


def test_slopes_are_those_of_finite_differences(explained, ranked):
    """Each gene's embedding made 1 % longer and shorter."""
    found = gradient_x_input(explained, ranked, np.array([7]), np.array([1]))
    cell = gradients._Cell(explained, ranked, 7, 1)
    own = cell.embedded()
    longer = own.repeat(len(cell), 1, 1)
    every = torch.arange(len(cell))
    longer[every, every] *= 1.01
    shorter = 2 * own - longer
    with torch.no_grad():
        slope = ((cell(longer).double() - cell(shorter).double()) / 0.02)[1:-1].numpy()
    np.testing.assert_allclose(found.scores, slope, atol=0.01 * np.abs(slope).max())
    assert np.isnan(found.completeness_error).all()


def test_steps_double_until_a_cell_is_complete(by_mean, ranked, chosen):
    once = integrated_gradients(by_mean, ranked, *chosen, AttributionSettings(steps=1, most_steps=1))
    assert once.completeness_error.max() > 0.01  # reported, not hidden
    found = integrated_gradients(by_mean, ranked, *chosen, AttributionSettings(steps=1, most_steps=256))
    assert (found.completeness_error <= 0.01).all()
    assert found.steps.max() > 1
    assert (np.log2(found.steps) % 1 == 0).all()


def test_the_budget_changes_nothing(by_mean, ranked, chosen):
    whole = integrated_gradients(by_mean, ranked, *chosen)
    small = integrated_gradients(by_mean, ranked, *chosen, AttributionSettings(token_budget=100))
    np.testing.assert_allclose(small.scores, whole.scores, atol=1e-4)


def test_without_captum_the_way_out_is_named(by_mean, ranked, chosen, monkeypatch):
    imported = importlib.import_module

    def missing(name):
        if name.startswith("captum"):
            raise ModuleNotFoundError(name)
        return imported(name)

    monkeypatch.setattr(gradients.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "geneformer-grn\[explain\]"'):
        integrated_gradients(by_mean, ranked, *chosen)
    assert len(gradient_x_input(by_mean, ranked, *chosen)) == 5


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"baseline": "zero"}, "baseline 'zero' is unknown; use mask or pad"),
        ({"occlusion": "inhibit"}, "occlusion 'inhibit' is unknown; use delete or knockout"),
        ({"steps": 64, "most_steps": 32}, "steps must be from 1 to most_steps"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"token_budget": 0}, "token_budget"),
    ],
)
def test_settings_that_make_no_sense(asked, message):
    with pytest.raises(ValueError, match=message):
        AttributionSettings(**asked)


def test_no_cells(by_mean, ranked):
    with pytest.raises(ValueError, match="0 cells"):
        gradient_x_input(by_mean, ranked, np.empty(0, dtype=int), np.empty(0, dtype=int))
