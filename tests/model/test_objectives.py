"""The masked-only head against the full head and cross-entropy of the stock model."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from geneformer_grn.cells.batches import PackedBatch, pack
from geneformer_grn.model.encoder import ModelConfig, load_encoder, new_model, packed_states
from geneformer_grn.model.objectives import masked_language_and_cell_loss, masked_language_loss


@pytest.fixture
def model(tiny_vocabulary):
    config = ModelConfig(n_layers=2, hidden_size=32, n_heads=2, ffn_size=64, initializer_range=0.2)
    return new_model(config, tiny_vocabulary, seed=1).eval()  # eval: no dropout to compare through


def masked_batch(vocabulary, seed=0):
    generator = np.random.default_rng(seed)
    cells = [generator.integers(vocabulary.n_special, len(vocabulary), length) for length in (20, 5, 31)]
    labels = [np.where(generator.random(len(cell)) < 0.3, cell, -100) for cell in cells]
    return pack(cells, labels=labels)


def full_head_loss(model, batch):
    logits = model.cls(packed_states(model, batch))[0]
    return functional.cross_entropy(logits, batch.labels[0], ignore_index=-100, reduction="sum")


def test_loss_and_gradients_equal_the_full_head(model, tiny_vocabulary):
    batch = masked_batch(tiny_vocabulary)
    expected = full_head_loss(model, batch)
    expected.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    loss, n_masked = masked_language_loss(model, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert int(n_masked) == int((batch.labels != -100).sum()) > 0
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4, rtol=1e-4)


def test_padded_masked_positions_are_ignored(model, tiny_vocabulary):
    batch = masked_batch(tiny_vocabulary)
    padding = torch.full((7,), -100)
    fields = {name: getattr(batch, name) for name in vars(batch)}
    longer = PackedBatch(**fields | {"masked_index": torch.cat([batch.masked_index, padding])})
    loss, n_masked = masked_language_loss(model, batch)
    padded_loss, padded_n = masked_language_loss(model, longer)
    torch.testing.assert_close(padded_loss, loss)
    assert int(padded_n) == int(n_masked)


def cells_one_by_one(model, batch, n_special):
    """The cells' loss from its definition: a loop over cells and stock hidden states."""
    total = torch.zeros(())
    model.set_attn_implementation("eager")
    for left, right in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        ids, labels = batch.input_ids[0, left:right], batch.labels[0, left:right]
        states = model.bert(ids[None], output_hidden_states=True).hidden_states[-2][0]
        seen = states[(labels == -100) & (ids >= n_special)]
        if len(seen):
            shares = model.cls.predictions.decoder(seen.mean(dim=0)).log_softmax(dim=0)
            total = total - shares[labels[labels != -100]].sum()
    return total


def test_the_cells_loss_equals_its_definition(model, tiny_vocabulary):
    batch = masked_batch(tiny_vocabulary)
    batch.input_ids[0, [0, 20, 25]] = 2  # a special token before each cell is no gene of it
    batch.labels[0, [0, 20, 25]] = -100
    batch = PackedBatch(
        **{name: getattr(batch, name) for name in vars(batch)}
        | {"masked_index": torch.cat([torch.where(batch.labels[0] != -100)[0], torch.full((5,), -100)])}
    )
    tokens, cells = masked_language_and_cell_loss(model, batch, n_special=tiny_vocabulary.n_special)
    expected_tokens, _ = masked_language_loss(model, batch)
    cells.backward()
    ours = model.bert.embeddings.word_embeddings.weight.grad.clone()
    assert model.bert.encoder.layer[-1].output.dense.weight.grad is None  # the last layer is the head's alone
    model.zero_grad()
    torch.testing.assert_close(tokens, expected_tokens)
    expected = cells_one_by_one(model, batch, tiny_vocabulary.n_special)
    expected.backward()
    torch.testing.assert_close(cells, expected)
    torch.testing.assert_close(ours, model.bert.embeddings.word_embeddings.weight.grad, atol=1e-5, rtol=1e-4)


def test_a_cell_without_visible_genes_is_asked_from_the_bias_alone(model, tiny_vocabulary):
    genes = np.arange(6, 16)
    batch = pack([genes, genes + 10], labels=[genes, np.full(10, -100)])
    _, cells = masked_language_and_cell_loss(model, batch, n_special=tiny_vocabulary.n_special)
    shares = model.cls.predictions.decoder.bias.log_softmax(dim=0)
    torch.testing.assert_close(cells, -shares[genes].sum())


def test_a_batch_without_masked_genes_has_loss_zero(model):
    loss, n_masked = masked_language_loss(model, pack([np.arange(5, 15)]))
    loss.backward()
    assert (float(loss.detach()), int(n_masked)) == (0.0, 0)


def test_attention_dropout_is_refused_in_training_only(tiny_checkpoint, tiny_vocabulary):
    model = load_encoder(tiny_checkpoint, device="cpu").model
    for layer in model.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.02  # as published checkpoints have it
    batch = masked_batch(tiny_vocabulary)
    masked_language_loss(model, batch)
    with pytest.raises(ValueError, match="no attention dropout"):
        masked_language_loss(model.train(), batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own warnings
@pytest.mark.parametrize("with_cells", [False, True])
def test_it_compiles_as_one_graph_with_its_gradients(model, tiny_vocabulary, *, with_cells: bool):
    def loss_of(model, batch):
        if with_cells:
            return sum(masked_language_and_cell_loss(model, batch, n_special=tiny_vocabulary.n_special))
        return masked_language_loss(model, batch)[0]

    batch = masked_batch(tiny_vocabulary)
    loss = loss_of(model, batch)
    loss.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(loss_of, fullgraph=True)(model, batch)
    compiled.backward()
    torch.testing.assert_close(compiled, loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4, rtol=1e-4)
