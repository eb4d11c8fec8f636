"""Perturbations that share their first layer, and fast cosines, against each computed on its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geneformer_grn.cells.packing import pack
from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.model.encoder import packed_states
from geneformer_grn.model.inference import InferenceLayers
from geneformer_grn.perturbation import first_layer
from geneformer_grn.perturbation.cosines import cosines_of_rows
from geneformer_grn.perturbation.edits import EDITS, InputLayout
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.first_layer import SharedFirstLayer, removed_position, shared_groups
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.perturbation.tasks import Task


@pytest.fixture(scope="module")
def ids(tiny_vocabulary):
    rng = np.random.default_rng(5)
    genes = rng.permutation(np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary)))
    return model_input(genes[:30], tiny_vocabulary)


@pytest.fixture(scope="module")
def layers(tiny_encoder):
    return InferenceLayers(tiny_encoder.model, torch.float32)


def first_layer_alone(encoder, ids, position, *, moves):
    """The cell without one token through the first layer, as any other packed cell."""
    kept = np.delete(np.arange(len(ids)), position)
    places = np.arange(len(kept)) if moves else kept
    with torch.inference_mode():
        return packed_states(encoder.model, pack([ids[kept]], position_ids=[places]), n_layers=1)[0]


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.parametrize("removed", [[0, 1, 2, 3], [3, 9, 10, 27, 31], [31], [4, 4, 20]])
@pytest.mark.parametrize("held", [1, 1 << 21])
def test_a_shared_first_layer_equals_one_of_its_own(
    tiny_encoder, layers, ids, monkeypatch, moves, removed, held
):
    monkeypatch.setattr(first_layer, "_HELD", held)  # 1: every query is a block of its own
    with torch.inference_mode():
        shared = SharedFirstLayer(layers, torch.from_numpy(ids), moves=moves)
        states = shared.finish(removed, shared.attend(removed)).unflatten(0, (len(removed), -1))
        whole = packed_states(tiny_encoder.model, pack([ids]), n_layers=1)[0]
        torch.testing.assert_close(shared.unperturbed(), whole, atol=1e-5, rtol=1e-5)
    for position, found in zip(removed, states, strict=True):
        expected = first_layer_alone(tiny_encoder, ids, position, moves=moves)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_gene_that_had_all_the_attention_is_not_divided_by(layers, ids):
    with torch.inference_mode():
        shared = SharedFirstLayer(layers, torch.from_numpy(ids), moves=False)
        shared._front.key[:, 7] = 1e4 * shared._front.query[:, 3]
        assert shared.attend([6, 7]) is None
        assert shared.attend([6]) is not None


def task_of(kind, ids, genes, layout):
    edit = EDITS[kind](ids, genes, layout)
    return Task(row=0, request=0, edit=edit, cell_ids=ids, original=(0, b""), counted=True)


def test_what_takes_one_gene_out_is_recognised(tiny_vocabulary, ids):
    layout = InputLayout.of(tiny_vocabulary)
    for position in (1, 2, 15, 30):
        gene = (int(ids[position]),)
        assert removed_position(task_of("delete", ids, gene, layout)) == (position, True)
        assert removed_position(task_of("knockout", ids, gene, layout)) == (position, False)
        for kind in ("overexpress", "inhibit", "activate"):
            assert removed_position(task_of(kind, ids, gene, layout)) is None
    two = (int(ids[4]), int(ids[5]))
    assert removed_position(task_of("delete", ids, two, layout)) is None
    bare = ids[1:-1]  # no special tokens: the last token is a gene, with nothing behind it to move
    layout = InputLayout(n_front=0, n_back=0, max_length=64)
    for kind in ("delete", "knockout"):
        assert removed_position(task_of(kind, bare, (int(bare[-1]),), layout))[0] == len(bare) - 1
        assert removed_position(task_of(kind, bare, (int(bare[0]),), layout)) == (0, kind == "delete")


def test_groups_are_of_one_cell_and_kind(tiny_vocabulary, ids):
    layout = InputLayout.of(tiny_vocabulary)
    deleted = [task_of("delete", ids, (int(ids[p]),), layout) for p in (9, 3, 20, 5, 6)]
    hidden = [task_of("knockout", ids, (int(ids[p]),), layout) for p in (4, 2, 8, 7)]
    elsewhere = [replace(task, original=(1, b"")) for task in deleted[:3]]  # too few to be worth it
    groups, alone = shared_groups([*deleted, *elsewhere, *hidden])
    assert [(moves, removed) for moves, removed, _ in groups] == [
        (True, [3, 5, 6, 9, 20]),
        (False, [2, 4, 7, 8]),
    ]
    assert [task.edit for task in groups[0][2]] == [deleted[i].edit for i in (1, 3, 4, 0, 2)]
    assert alone == elsewhere


@pytest.fixture
def ranked(tiny_vocabulary):
    rng = np.random.default_rng(6)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [rng.permutation(genes)[:length] for length in (40, 12)]
    return RankedCells(np.concatenate(cells).astype(np.uint16), np.array([0, 40, 52]), np.ones(2))


@pytest.mark.parametrize("kind", ["delete", "knockout"])
@pytest.mark.parametrize("held", [1, 1 << 23])
def test_sharing_changes_no_shift(tiny_encoder, ranked, monkeypatch, kind, held):
    from geneformer_grn.perturbation import passes

    requests = [Request((int(gene),), kind, np.arange(2)) for gene in ranked.cell(0)]
    settings = PerturbSettings(readouts=("cell", "genes"), token_budget=90)
    monkeypatch.setattr(passes, "_SHARED_STATES", held)
    shared = perturb_cells(tiny_encoder, ranked, requests, settings)
    monkeypatch.setattr(first_layer, "_WORTH", 1_000)
    alone = perturb_cells(tiny_encoder, ranked, requests, settings)
    assert shared.n_passes == alone.n_passes
    np.testing.assert_allclose(shared.cells["shift"], alone.cells["shift"], atol=1e-6)
    assert shared.cells["shift"].notna().sum() > 45
    np.testing.assert_allclose(shared.gene_shifts["shift"], alone.gene_shifts["shift"], atol=1e-6)


def test_cells_that_cannot_share_have_passes_of_their_own(tiny_encoder, ranked, monkeypatch):
    requests = [Request((int(gene),), "delete", np.array([0])) for gene in ranked.cell(0)]
    expected = perturb_cells(tiny_encoder, ranked, requests, PerturbSettings())
    monkeypatch.setattr(SharedFirstLayer, "attend", lambda *_: None)
    found = perturb_cells(tiny_encoder, ranked, requests, PerturbSettings())
    assert found.n_passes == expected.n_passes
    np.testing.assert_allclose(found.cells["shift"], expected.cells["shift"], atol=1e-6)


def test_cosines_of_rows_are_numpys():
    rng = np.random.default_rng(7)
    before, after = (rng.normal(size=(9, 33)).astype(np.float32) for _ in range(2))
    before[4], after[5] = 0.0, before[6] * 3
    first, second = np.array([0, 4, 6, 8, 8]), np.array([1, 2, 5, 8, 0])
    found = np.empty(5)
    cosines_of_rows(before, after, first, second, found)
    one, two = before[first].astype(np.float64), after[second].astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    expected = np.divide((one * two).sum(axis=1), norms, out=np.zeros(5), where=norms > 0)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert found[2] == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
@pytest.mark.parametrize("encoder_layer", [5, 1, -3])
def test_a_layer_that_the_model_lacks_is_refused(tiny_encoder, ids, kind, encoder_layer):
    ranked = RankedCells(
        tokens=ids[1:-1].astype(np.uint16), offsets=np.array([0, len(ids) - 2]), n_counts=np.ones(1)
    )
    first = np.zeros(1, dtype=np.int64)
    requests = [Request(genes=(int(gene),), kind=kind, cells=first) for gene in ids[1:9]]  # enough to share
    with pytest.raises(ValueError, match=f"encoder layer {encoder_layer} does not exist"):
        perturb_cells(tiny_encoder, ranked, requests, PerturbSettings(encoder_layer=encoder_layer))
