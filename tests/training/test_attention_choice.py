"""The choice of attention, with the CPU's kinds in place of a GPU's."""

import logging

import pytest
from accelerate import Accelerator

from geneformer_grn.training import attention
from geneformer_grn.training.attention import choose_attention, typical_boundaries
from geneformer_grn.training.data import open_data


@pytest.fixture
def choose(make_config):
    def choose(*changes, before=None):
        config = make_config(*changes)
        return choose_attention(config, open_data(config), Accelerator(cpu=True), before=before)

    return choose


def test_a_cpu_needs_no_measurement(choose, monkeypatch):
    monkeypatch.setattr(attention, "measure_layouts", None)
    assert choose() == "segments"
    assert choose("run.attention=buckets") == "buckets"


def test_the_fastest_that_runs_is_taken_and_said(choose, monkeypatch, caplog):
    kinds = ("varlen", "flex", "segments", "buckets")
    monkeypatch.setattr(attention, "candidates", lambda *_: kinds)
    with caplog.at_level(logging.INFO, "geneformer_grn"):
        chosen = choose()
    assert chosen in {"segments", "buckets"}, "the others have no backward pass on a CPU"
    assert "segments" in caplog.text
    assert " ms" in caplog.text

    seconds = {"segments": 2.0, "buckets": 1.0}
    monkeypatch.setattr(
        attention, "measure_layouts", lambda asked, *_, **__: {k: seconds[k] for k in asked if k in seconds}
    )
    assert choose() == "buckets"
    assert choose("run.compile=true") == "segments", "buckets cannot be compiled"
    assert choose(before="segments") == "segments", "a resumed run keeps its own"
    monkeypatch.setattr(attention, "measure_layouts", lambda *_, **__: {})
    with pytest.raises(ValueError, match=r"no attention of varlen, flex.* runs on this cpu"):
        choose()


def test_the_batch_measured_is_full_and_like_the_corpus(make_config):
    config = make_config("data.token_budget=3000")
    data = open_data(config)
    lengths = typical_boundaries(data).diff()
    assert int(lengths.sum()) == 3000
    assert set(lengths[:-1].tolist()) <= set(data.corpus.lengths.tolist())
