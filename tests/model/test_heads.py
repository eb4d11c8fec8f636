"""Heads over packed cells against loops over single cells, and against the formulas they follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.packing import pack
from geneformer_grn.cells.ranking import RankedCells, model_input, rank_cells
from geneformer_grn.model.heads import Finetuned, HeadSpec, TaskHead

POOLINGS = ["mean", "cls", "attention"]


@pytest.fixture(scope="module")
def ranked(tiny_adata, tiny_vocabulary) -> RankedCells:
    """Twenty cells, the last of them empty."""
    cells = rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)
    offsets = np.append(cells.offsets[:20], cells.offsets[19])
    return RankedCells(cells.tokens[: offsets[-1]], offsets, cells.n_counts[:20])


def make_model(encoder, *specs: HeadSpec, max_length: int | None = None) -> Finetuned:
    generator = torch.Generator().manual_seed(1)
    heads = nn.ModuleList(TaskHead(spec, encoder.hidden_size) for spec in specs).eval()
    for weight in heads.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return Finetuned(encoder, heads, specs, max_length)


def classes(n: int) -> tuple[str, ...]:
    return tuple("abcdef"[:n])


def states_alone(encoder, ranked, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and last states of one cell that is run by itself, as float64."""
    ids = model_input(ranked.cell(cell), encoder.vocabulary)
    return ids, encoder.hidden_states(pack([ids]), encoder_layer=0).double().numpy()


def affine(layer: nn.Linear, rows: np.ndarray) -> np.ndarray:
    return rows @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_cell_is_predicted_as_it_would_be_alone(tiny_encoder, ranked, pooling):
    model = make_model(tiny_encoder, HeadSpec("kind", "cell", "classification", classes(3), pooling))
    head = model.head("kind")
    found = model.predict(ranked, token_budget=150)["kind"]
    assert found.dtype == np.float64
    assert found.shape == (20, 3)
    assert np.isnan(found[19]).all(), "a cell without genes has no prediction"
    for cell in range(19):
        ids, states = states_alone(tiny_encoder, ranked, cell)
        genes = states[ids >= tiny_encoder.vocabulary.n_special]
        if pooling == "mean":
            logits = affine(head.classifier, genes.mean(axis=0))
        elif pooling == "cls":
            logits = affine(head.classifier, np.tanh(affine(head.dense, states[0])))
        else:
            shares = softmax(affine(head.attend, genes)[:, 0])
            logits = affine(head.classifier, shares @ genes)
        np.testing.assert_allclose(found[cell], softmax(logits), atol=1e-5)


def test_a_gene_is_the_mean_over_the_cells_that_hold_it(tiny_encoder, ranked):
    model = make_model(tiny_encoder, HeadSpec("role", "gene", "classification", classes(2)))
    found = model.predict(ranked, token_budget=150)["role"]
    sums, counts = np.zeros((len(tiny_encoder.vocabulary), 2)), np.zeros(len(tiny_encoder.vocabulary))
    for cell in range(19):
        ids, states = states_alone(tiny_encoder, ranked, cell)
        np.add.at(sums, ids, softmax(affine(model.head("role").classifier, states)))
        np.add.at(counts, ids, 1)
    seen = counts > 0
    np.testing.assert_allclose(found[seen], sums[seen] / counts[seen, None], atol=1e-6)
    assert np.isnan(found[~seen]).all()


def test_outputs_are_what_is_predicted_with_gradients_to_the_tokens(tiny_encoder, ranked):
    specs = (HeadSpec("kind", "cell", "classification", classes(3)), HeadSpec("age", "cell", "regression"))
    model = make_model(tiny_encoder, *specs)
    cells = np.array([4, 2, 9])
    batch = pack([model_input(ranked.cell(cell), tiny_encoder.vocabulary) for cell in cells])
    embedded = model.token_embeddings(batch).detach().requires_grad_()
    outputs = model.outputs(batch, inputs_embeds=embedded)
    for name, values in model.outputs(batch).items():
        torch.testing.assert_close(values, outputs[name])
    predicted = model.predict(ranked, cells=cells)
    np.testing.assert_allclose(softmax(outputs["kind"].detach().numpy()), predicted["kind"], atol=1e-5)
    np.testing.assert_allclose(outputs["age"][:, 0].detach().numpy(), predicted["age"], atol=1e-5)
    (gradient,) = torch.autograd.grad(outputs["kind"][0, 1], embedded)
    lengths = batch.cu_seqlens.diff().tolist()
    of_cell = gradient[0].abs().sum(dim=1).split(lengths)
    assert (of_cell[0] > 0).all()
    assert not of_cell[1].any(), "no cell sees another"


def test_attention_begins_as_a_mean(tiny_encoder, ranked):
    spec = [HeadSpec("kind", "cell", "regression", (), pooling) for pooling in ("mean", "attention")]
    heads = [TaskHead(one, tiny_encoder.hidden_size).eval() for one in spec]
    heads[1].classifier.load_state_dict(heads[0].classifier.state_dict())
    found = [
        Finetuned(tiny_encoder, nn.ModuleList([head]), (head.spec,)).predict(ranked)["kind"] for head in heads
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_a_shorter_input_is_that_of_cropped_cells(tiny_encoder, ranked):
    spec = HeadSpec("age", "cell", "regression")
    found = make_model(tiny_encoder, spec, max_length=12).predict(ranked)["age"]
    lengths = np.minimum(ranked.lengths, 10)  # and <cls>, <eos>
    tokens = np.concatenate([ranked.cell(cell)[:10] for cell in range(20)])
    short = RankedCells(tokens, np.concatenate([[0], np.cumsum(lengths)]), ranked.n_counts)
    np.testing.assert_array_equal(found, make_model(tiny_encoder, spec).predict(short)["age"])


def test_grades_follow_the_cumulative_link_model():
    head = TaskHead(HeadSpec("grade", "cell", "ordinal", classes(4)), 8)
    head.start_at(np.repeat([0, 1, 2, 3], [10, 40, 30, 20]))
    shares = head.probabilities(torch.zeros(1, 1).double()).detach().numpy()[0]
    np.testing.assert_allclose(shares, np.array([10.5, 40.5, 30.5, 20.5]) / 102, atol=1e-6)
    places = torch.tensor([[-3.0], [0.2], [5.0]]).double()
    below = 1 / (1 + np.exp(-(head.thresholds.detach().double().numpy()[None] - places.numpy())))
    expected = np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))), axis=1)
    found = head.probabilities(places).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_grades_that_nobody_has_keep_the_thresholds_apart():
    head = TaskHead(HeadSpec("grade", "cell", "ordinal", classes(4)), 8)
    head.start_at(np.array([0, 0, 3]))
    assert (head.thresholds.diff() > 0).all()
    assert torch.isfinite(head.thresholds).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_folding_changes_no_prediction_but_its_unit(pooling):
    head = TaskHead(HeadSpec("age", "cell", "regression", (), pooling), 8).eval()
    head.centre.normal_()
    head.scale.uniform_(0.1, 3.0)
    pooled = torch.randn(5, 8)
    before = head(pooled).detach()
    head.fold()
    torch.testing.assert_close(head(pooled), before, atol=1e-5, rtol=1e-5)
    head.fold(mean=40.0, deviation=12.0)
    torch.testing.assert_close(head(pooled), before * 12.0 + 40.0, atol=1e-4, rtol=1e-5)
    assert not head.centre.any()


def test_a_task_that_is_not_there_is_named(tiny_encoder, ranked):
    model = make_model(tiny_encoder, HeadSpec("kind", "cell", "regression"))
    with pytest.raises(ValueError, match="no task 'sort'; it has kind"):
        model.predict(ranked, tasks=["sort"])


def test_bf16_predicts_nearly_the_same(tiny_checkpoint, tiny_encoder, ranked):
    from geneformer_grn.model.encoder import load_encoder

    spec = HeadSpec("kind", "cell", "classification", classes(3))
    half = load_encoder(tiny_checkpoint, device="cpu", precision="bf16")
    found = make_model(half, spec).predict(ranked)["kind"]
    np.testing.assert_allclose(found, make_model(tiny_encoder, spec).predict(ranked)["kind"], atol=0.05)
