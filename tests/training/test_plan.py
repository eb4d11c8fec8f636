from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.model.encoder import ModelConfig, new_model
from geneformer_grn.training.config import ModelSection
from geneformer_grn.training.cost import n_parameters
from geneformer_grn.training.plan import LENGTH_SIGMA, plan_stated, plan_steps, stated_lengths
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


@pytest.mark.parametrize(
    "changes",
    [
        ("data.balance=cell_type", "data.evenness=1"),
        ("data.curriculum=[[0.5, 10], [1.25, 20]]",),
        ("data.balance=cell_type", "data.curriculum=[[1.5, 15]]", "optim.accumulation=2"),
    ],
)
def test_balanced_and_staged_epochs_are_what_the_stream_gives(make_config, skewed, changes: tuple[str, ...]):
    """All steps and tokens of two epochs, whose cells and lengths differ."""
    config = make_config("run.epochs=2", f"data.corpus={skewed}", *changes)
    data = open_data(config)
    plan = plan_run(config, world_size=2)
    share = Share(1, 2, config.optim.accumulation), Share(0, 2, config.optim.accumulation)
    streams = [training_steps(data.corpus, data.vocabulary, data.batches, share=part) for part in share]
    by_epoch = {0: [], 1: []}
    for pair in zip(*streams, strict=True):
        epoch = pair[0].after[0]
        if epoch == 2:
            break
        by_epoch[epoch].append(sum(part.n_tokens for part in pair))
    assert plan["steps_per_epoch"] == len(by_epoch[0])
    assert plan["tokens_per_epoch"] == sum(by_epoch[0])
    if config.data.curriculum:  # else the second epoch is planned as the first, whose draws are others
        assert plan["steps"] == len(by_epoch[0]) + len(by_epoch[1])
        assert plan["tokens"] == sum(by_epoch[0]) + sum(by_epoch[1])
        assert sum(by_epoch[0]) < sum(by_epoch[1])


@pytest.fixture(scope="module")
def skewed(tiny_adata, tiny_vocabulary, tmp_path_factory):
    """All 40 cells of group A and 8 of group B, as a corpus with ``cell_type``."""
    folder = tmp_path_factory.mktemp("skewed")
    tiny_adata[:48].copy().write_h5ad(folder / "cells.h5ad")
    settings = CorpusSettings(columns=("cell_type",))
    write_corpus([folder / "cells.h5ad"], folder / "corpus", tiny_vocabulary, settings)
    return folder / "corpus"


def test_balanced_cells_are_those_that_are_planned(make_config, skewed):
    plain = plan_run(make_config("run.epochs=1", f"data.corpus={skewed}"), world_size=1)
    changes = ("data.balance=cell_type", "data.evenness=1")
    balanced = plan_run(make_config("run.epochs=1", f"data.corpus={skewed}", *changes), world_size=1)
    assert plain["cells"] == 48
    # Which copies of a cell come is drawn: 40 cells 0.6 times, 8 three times.
    assert 48 - 12 <= balanced["cells"] <= 48 + 12
    assert balanced["cells"] != 48 or balanced["tokens_per_epoch"] != plain["tokens_per_epoch"]


def test_a_curriculum_of_a_stated_corpus_counts(make_config):
    stated = {"n_cells": 1_000, "mean_length": 700.0, "setting": "v1"}
    changes = ("run.epochs=3", "data.token_budget=8192")
    plain = plan_stated(make_config(*changes), **stated)
    staged = plan_stated(make_config(*changes, "data.curriculum=[[1, 256], [2, 512]]"), **stated)
    lengths = stated_lengths(1_000, 700.0, longest=2048)
    by_hand = sum(np.minimum(lengths, longest).sum() for longest in (256, 512, 2048))
    assert staged["tokens"] == by_hand
    assert staged["tokens_per_epoch"] == np.minimum(lengths, 256).sum()
    assert staged["steps"] < plain["steps"]
    assert plain["tokens"] == pytest.approx(3 * lengths.sum(), rel=0.02)
    endless = make_config("run.max_steps=2", "data.token_budget=8192", "data.curriculum=[[1e9, 256]]")
    assert plan_stated(endless, **stated)["steps"] == 2


def test_operations_against_a_profiler(make_config):
    """Forward and backward matrix products of one real step, as torch counts them, to 10 %."""
    from torch.utils.flop_counter import FlopCounterMode

    from geneformer_grn.training.loop import SummedLoss

    config = make_config("model.hidden_size=64", "model.ffn_size=128", "model.dropout=0")
    data = open_data(config)
    step = next(training_steps(data.corpus, data.vocabulary, data.batches, share=Share()))
    module = SummedLoss(new_model(ModelConfig(**config.model.shape), data.vocabulary, seed=0), "fp32")
    with FlopCounterMode(display=False) as counter:
        module(step.batches[0])[0].backward()
    planned = plan_run(config)["mflop_per_token"] * 1e6 * step.n_tokens
    # Attention is one operator of ours that the counter does not see: 4 * length * width a token and layer.
    lengths = step.batches[0].cu_seqlens.diff().double()
    attention = 3 * 2 * 4 * 64 * float((lengths**2).sum())
    assert planned == pytest.approx(counter.get_total_flops() + attention, rel=0.1)


@pytest.mark.parametrize(("mean", "longest"), [(900.0, 1024), (1300.0, 2048), (1500.0, 4096), (1.0, 48)])
def test_stated_lengths_have_the_mean_that_was_stated(mean: float, longest: int):
    lengths = stated_lengths(5_000, mean, longest=longest)
    assert lengths.mean() == pytest.approx(mean, rel=0.001)
    assert lengths.min() >= 1
    assert lengths.max() <= longest


def test_stated_lengths_are_log_normal():
    logs = np.log(stated_lengths(20_000, 10_000.0, longest=10**9))
    assert logs.std() == pytest.approx(LENGTH_SIGMA, rel=0.01)
    assert np.median(logs) == pytest.approx(np.log(10_000.0) - LENGTH_SIGMA**2 / 2, rel=0.01)


@pytest.mark.parametrize("mean", [0.5, 48.0, 60.0])
def test_an_impossible_mean_length_is_refused(mean: float):
    with pytest.raises(ValueError, match="not possible in inputs of 1 to 48"):
        stated_lengths(10, mean, longest=48)


def test_a_stated_corpus_is_planned_as_one_of_these_lengths(make_config, tiny_vocabulary):
    """The same cells given as lengths, cell by cell; only the size of the vocabulary differs."""
    config = make_config("run.epochs=2", "optim.accumulation=2", "data.token_budget=4096")
    data = open_data(config)
    stated = plan_stated(config, n_cells=500, mean_length=700.0, setting="v1", world_size=2)
    lengths = stated_lengths(500, 700.0, longest=2048)
    vocabulary = replace(tiny_vocabulary, max_length=2048)
    real = plan_steps(config, lengths, vocabulary, replace(data.batches, seed=0), world_size=2)
    same = ("cells", "tokens_per_epoch", "budget_filled", "steps_per_epoch", "steps", "tokens", "mean_length")
    assert {key: stated[key] for key in same} == {key: real[key] for key in same}
    assert stated["vocabulary"] == 25_426
    assert stated["parameters"] == n_parameters(config.model, 25_426, 2048)
    assert "log-normal" in stated["lengths"]


def test_many_stated_cells_are_planned_from_a_sample(make_config):
    config = make_config("run.epochs=3", "data.token_budget=65536")
    plan = plan_stated(config, n_cells=27_400_000, mean_length=1300.0, setting="v1")
    tokens = 27_400_000 * 1300
    assert plan["tokens_per_epoch"] == pytest.approx(tokens, rel=1e-3)
    assert 0.97 < plan["budget_filled"] <= 1.0
    assert plan["steps"] == pytest.approx(3 * tokens / 65_536 / plan["budget_filled"], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setting": "v3"}, "use v1, v2, default"),
        ({"n_cells": 0}, "0 cells"),
        ({"world_size": 0}, "0 processes"),
    ],
)
def test_a_stated_corpus_that_makes_no_sense_is_refused(make_config, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        plan_stated(make_config(), **({"n_cells": 5, "mean_length": 30.0} | changes))
