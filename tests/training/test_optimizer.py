from __future__ import annotations

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
