from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.training.config import OptimSection
from geneformer_grn.training.optimizer import make_optimizer
from geneformer_grn.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_schedule_equals_transformers_shifted_by_one_in_warm_up(schedule, reference):
    """Theirs starts at 0 and wastes the first update; from the peak on both are the same curve."""
    settings = OptimSection(lr=0.3, warmup_steps=10, schedule=schedule)
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = reference(dummy, num_warmup_steps=10, num_training_steps=50)
    expected = []
    for _ in range(50):
        expected.append(theirs.get_last_lr()[0])
        dummy.step()
        theirs.step()
    ours = [learning_rate(step, 50, settings) for step in range(50)]
    np.testing.assert_allclose(ours[10:], expected[10:], rtol=1e-12)
    np.testing.assert_allclose(ours[:9], expected[1:10], rtol=1e-12)


def test_schedule_ends_where_asked_and_survives_odd_lengths():
    settings = OptimSection(lr=1.0, warmup_steps=0, final_lr_share=0.1)
    assert learning_rate(0, 10, settings) == 1.0
    assert learning_rate(10, 10, settings) == pytest.approx(0.1)
    assert learning_rate(99, 10, settings) == pytest.approx(0.1)
    assert learning_rate(3, 3, OptimSection(warmup_steps=100)) > 0


def test_decay_is_on_matrices_only(tiny_vocabulary):
    model = new_model(
        ModelConfig(n_layers=2, hidden_size=16, n_heads=2, ffn_size=32), tiny_vocabulary, seed=0
    )
    optimizer = make_optimizer(model, OptimSection(weight_decay=0.5), device=torch.device("cpu"))
    decayed = {id(weight) for weight in optimizer.param_groups[0]["params"]}
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    named = dict(model.named_parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)
    for name, weight in named.items():
        expected = name.endswith("weight") and "embeddings" not in name and "LayerNorm" not in name
        assert (id(weight) in decayed) == expected, name


def test_wsd_stays_at_the_peak_and_falls_in_the_last_part():
    settings = OptimSection(lr=1.0, warmup_steps=5, schedule="wsd", decay_share=0.2, final_lr_share=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(rates[5:81], 1.0)
    np.testing.assert_allclose(rates[80:], 1.0 - 0.9 * np.arange(20) / 20)
    assert rates[:80] == [learning_rate(step, 400, settings) for step in range(80)], "can be prolonged"


def small_model(vocabulary):
    return new_model(ModelConfig(n_layers=2, hidden_size=16, n_heads=2, ffn_size=32), vocabulary, seed=0)


def test_embeddings_are_decayed_on_request(tiny_vocabulary):
    model = small_model(tiny_vocabulary)
    settings = OptimSection(weight_decay=0.5, decay_embeddings=True)
    optimizer = make_optimizer(model, settings, device=torch.device("cpu"))
    decayed = {
        id(weight) for group in optimizer.param_groups if group["weight_decay"] for weight in group["params"]
    }
    for name, weight in model.named_parameters():
        assert (id(weight) in decayed) == (weight.ndim == 2), name


def step_with(optimizer, model, seed):
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def test_muon_moves_matrices_by_orthogonal_steps_and_the_rest_as_adamw(tiny_vocabulary):
    model, other = small_model(tiny_vocabulary), small_model(tiny_vocabulary)
    settings = OptimSection(optimizer="muon", weight_decay=0.0)
    muon = make_optimizer(model, settings, device=torch.device("cpu"))
    adamw = make_optimizer(other, OptimSection(weight_decay=0.0), device=torch.device("cpu"))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    step_with(muon, model, 1)
    step_with(adamw, other, 1)
    theirs = dict(other.named_parameters())
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name:
            sizes = torch.linalg.svdvals((weight - before[name]).detach())
            # Newton-Schulz brings the singular values to about 1, here times 0.2 * sqrt(longer side) * lr.
            expected = 0.01 * 0.2 * max(weight.shape) ** 0.5
            assert float(sizes.min()) > 0.2 * expected, name
            assert float(sizes.max()) < 1.4 * expected, name
        else:
            torch.testing.assert_close(weight, theirs[name], msg=name)


def test_muons_state_comes_back(tiny_vocabulary):
    model, other = small_model(tiny_vocabulary), small_model(tiny_vocabulary)
    settings = OptimSection(optimizer="muon")
    ours = make_optimizer(model, settings, device=torch.device("cpu"))
    step_with(ours, model, 1)
    theirs = make_optimizer(other, settings, device=torch.device("cpu"))
    other.load_state_dict(model.state_dict())
    theirs.load_state_dict({"state": copy.deepcopy(ours.state_dict()["state"]), "param_groups": []})
    for optimizer, trained in ((ours, model), (theirs, other)):
        step_with(optimizer, trained, 2)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
