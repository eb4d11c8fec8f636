from __future__ import annotations

import pytest

from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.training.config import ModelSection
from geneformer_grn.training.plan import n_parameters
from geneformer_grn.training.pretrain import open_data, plan_run
from geneformer_grn.training.stream import Share, training_steps


@pytest.mark.parametrize(
    "shape", [ModelSection(), ModelSection(n_layers=1, hidden_size=24, n_heads=3, ffn_size=7)]
)
def test_parameters_are_those_of_the_model(shape: ModelSection, tiny_vocabulary):
    model = new_model(ModelConfig(**shape.shape), tiny_vocabulary, seed=0)
    counted = sum(weight.numel() for weight in model.parameters())
    assert n_parameters(shape, len(tiny_vocabulary), tiny_vocabulary.max_length) == counted


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_steps_of_an_epoch_are_what_the_stream_gives(make_config, world_size: int, accumulation: int):
    config = make_config("run.epochs=1", f"optim.accumulation={accumulation}")
    data = open_data(config)
    plan = plan_run(config, world_size=world_size)
    share = Share(0, world_size, accumulation)
    steps = 0
    for step in training_steps(data.corpus, data.vocabulary, data.batches, share=share):
        if step.after[0] > 0:
            break
        steps += 1
    assert plan["steps"] == plan["steps_per_epoch"] == steps
    assert plan["tokens"] == plan["tokens_per_epoch"] == data.corpus.lengths.sum()
    assert plan["cells"] == 80
    assert 0.8 < plan["budget_filled"] <= 1.0


def test_operations_against_a_profiler(make_config):
    """Forward and backward matrix products of one real step, as torch counts them, to 10 %."""
    from torch.utils.flop_counter import FlopCounterMode

    from geneformer_grn.training.loop import SummedLoss

    config = make_config("model.hidden_size=64", "model.ffn_size=128", "model.dropout=0")
    data = open_data(config)
    step = next(training_steps(data.corpus, data.vocabulary, data.batches, share=Share()))
    module = SummedLoss(new_model(ModelConfig(**config.model.shape), data.vocabulary, seed=0), "fp32")
    with FlopCounterMode(display=False) as counter:
        module(step.batches[0]).backward()
    planned = plan_run(config)["mflop_per_token"] * 1e6 * step.n_tokens
    # Attention is one operator of ours that the counter does not see: 4 * length * width a token and layer.
    lengths = step.batches[0].cu_seqlens.diff().double()
    attention = 3 * 2 * 4 * 64 * float((lengths**2).sum())
    assert planned == pytest.approx(counter.get_total_flops() + attention, rel=0.1)
