"""The layers for inference alone against the stock modules, and attention in bf16 against float64."""

import numpy as np
import pytest
import torch

from geneformer_grn.cells.batches import pack
from geneformer_grn.model import inference
from geneformer_grn.model.encoder import packed_states
from geneformer_grn.model.inference import InferenceLayers, attend_runs


@pytest.mark.parametrize("held", [1, 100, 1 << 20])
def test_attention_in_bf16_by_blocks(monkeypatch, held):
    monkeypatch.setattr(inference, "_SCORES", held)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(34, 2, 8, generator=generator).bfloat16() for _ in range(3))
    runs = [(slice(0, 30), (3, 10)), (slice(30, 34), (1, 4))]
    found = attend_runs(query, key, value, runs)
    for start, stop in ((0, 10), (10, 20), (20, 30), (30, 34)):
        q, k, v = (part[start:stop].double().transpose(0, 1) for part in (query, key, value))
        expected = torch.softmax(q @ k.mT / 8**0.5, dim=-1) @ v
        part = found[start:stop].double().unflatten(1, (2, 8)).transpose(0, 1)
        assert (part - expected).abs().max() < 0.03


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_equal_the_modules(tiny_encoder, tiny_vocabulary, precision):
    rng = np.random.default_rng(1)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    batch = pack([rng.permutation(genes)[:length] for length in (9, 9, 9, 30, 1)])
    layers = InferenceLayers(tiny_encoder.model, torch.float32 if precision == "fp32" else torch.bfloat16)
    with torch.inference_mode():
        embedded = layers.embed(batch.input_ids[0], batch.position_ids[0])
        for stop in range(tiny_encoder.n_layers + 1):
            found = layers.run(embedded, batch.cu_seqlens, batch.max_seqlen, layers=range(stop))
            expected = packed_states(tiny_encoder.model, batch, n_layers=stop)[0]
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, atol=1e-5 if precision == "fp32" else 0.1, rtol=0)
    assert torch.equal(embedded, layers.embed(batch.input_ids[0], batch.position_ids[0]))  # left as it was
