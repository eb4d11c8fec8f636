"""First-order estimates against finite differences, against exact passes and against closed forms."""

import numpy as np
import pytest
import torch

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.first_order import Effort, estimate_cells, interpolation, shrunken_mean
from geneformer_grn.perturbation.gated import embed, gated_states
from geneformer_grn.perturbation.requests import PerturbSettings, Request

HEADS = 2


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    """Three cells of 40, 25 and 1 genes."""
    rng = np.random.default_rng(5)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [rng.permutation(genes)[:length] for length in (40, 25, 1)]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    return RankedCells(tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(3))


@pytest.fixture(scope="module")
def goal(tiny_encoder):
    return {"goal": np.random.default_rng(8).standard_normal(tiny_encoder.hidden_size)}


def exact(encoder, ranked, kind, settings, goal):
    """(cell, token) -> exact cell shift and shift towards the goal."""
    tokens = np.unique(ranked.tokens).astype(int)
    requests = [Request(genes=(token,), kind=kind, cells=np.arange(2)) for token in tokens]
    table = perturb_cells(encoder, ranked, requests, settings, states=goal).cells.dropna()
    table["token"] = tokens[table["request"]]
    wide = table.pivot_table(index=["cell_id", "token"], columns="readout", values="shift")
    return dict(zip(wide.index, wide[["cell", "state"]].to_numpy(), strict=True))


def gated(encoder, ids, n_layers):
    tokens = torch.from_numpy(ids)
    with torch.no_grad():
        embedded = embed(encoder.model, tokens, torch.arange(len(ids)))
    embedded.requires_grad_()
    gates = torch.ones(len(ids), requires_grad=True)
    return embedded, gates, gated_states(encoder.model, embedded, gates, n_layers=n_layers)


@pytest.fixture
def double_encoder(tiny_checkpoint):
    """Its own copy of the encoder, to be turned into float64."""
    from geneformer_grn.model.encoder import load_encoder

    return load_encoder(tiny_checkpoint, device="cpu")


def test_gated_states_are_the_encoders(tiny_encoder, ranked):
    from geneformer_grn.cells.batches import pack

    ids = model_input(ranked.cell(0), tiny_encoder.vocabulary).astype(np.int64)
    ours = gated(tiny_encoder, ids, 2)[2]
    theirs = tiny_encoder.hidden_states(pack([ids]), encoder_layer=0)
    torch.testing.assert_close(ours.detach(), theirs.clone(), atol=2e-6, rtol=1e-5)


def test_shutting_a_gate_is_exact_to_the_last_layers_attention(double_encoder, ranked):
    """Of one layer's attention the change is exact; what follows is its derivative, by finite differences."""
    model = double_encoder.model
    ids = model_input(ranked.cell(1), double_encoder.vocabulary).astype(np.int64)
    model.double()
    embedded, gates, output = gated(double_encoder, ids, 1)
    direction = torch.from_numpy(np.random.default_rng(0).standard_normal(output.shape))
    (by_gate,) = torch.autograd.grad(output, gates, direction.to(output.dtype))
    layer = model.bert.encoder.layer[0]

    def after(read):
        states = layer.attention.output(read, embedded)
        return layer.output(layer.intermediate(states), states)

    reads = []
    for key in (None, 5):
        attention = layer.attention.self
        query, keys, value = (
            part(embedded).unflatten(-1, (HEADS, -1)).transpose(0, 1)
            for part in (attention.query, attention.key, attention.value)
        )
        scores = query @ keys.mT / query.shape[-1] ** 0.5
        if key is not None:
            hidden = torch.full((len(ids),), -torch.inf)
            hidden[key] = 0.0  # what a token reads of itself is not gated
            scores[:, :, key] = scores[:, :, key] + hidden
        reads.append((torch.softmax(scores, dim=-1) @ value).transpose(0, 1).flatten(1))
    whole, without = (read.detach() for read in reads)
    step = 1e-6
    change = (after(whole + step * (without - whole)) - after(whole)) / step
    assert -by_gate[5].item() == pytest.approx((change * direction).sum().item(), rel=1e-3)


def test_blocks_of_queries_change_nothing(tiny_encoder, ranked, monkeypatch):
    from geneformer_grn.perturbation import gated as room

    ids = model_input(ranked.cell(0), tiny_encoder.vocabulary).astype(np.int64)
    found = []
    for block in (1000, 7):
        monkeypatch.setattr(room, "_QUERIES", block)
        embedded, gates, output = gated(tiny_encoder, ids, 2)
        found.append(torch.autograd.grad(output.sin().sum(), (embedded, gates)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["delete", "knockout"])
def test_estimates_agree_with_exact_passes(tiny_encoder, ranked, goal, kind, pooling):
    settings = PerturbSettings(encoder_layer=0, pooling=pooling, readouts=("cell", "state"))
    truth = exact(tiny_encoder, ranked, kind, settings, goal)
    effort = Effort(projections=200, cuts=25)
    rows = []
    for cell in estimate_cells(
        tiny_encoder, ranked, np.arange(3), kind, settings, effort=effort, states=goal, seed=1
    ):
        assert cell.n_passes == effort.passes(1) - (0 if kind == "delete" else 25)
        rows += [
            (*truth[cell.cell, gene], *values)
            for gene, values in zip(cell.genes.tolist(), cell.values, strict=True)
        ]
    assert len(rows) == 65  # the cell of one gene is passed over
    true_shift, true_state, shift, state = np.array(rows).T
    assert np.corrcoef(np.log(true_shift), np.log(shift))[0, 1] > 0.9
    assert np.median(shift / true_shift) == pytest.approx(1.0, abs=0.25)
    assert np.corrcoef(true_state, state)[0, 1] > 0.9
    assert np.polyfit(true_state, state, 1)[0] == pytest.approx(1.0, abs=0.25)


def test_all_cuts_make_the_move_exact(tiny_encoder, ranked, goal, monkeypatch):
    """With a cut at every gene and no gates, what is left of deletion is the move of positions, exactly."""
    from geneformer_grn.cells.batches import pack
    from geneformer_grn.perturbation.derivatives import CellRun

    plain = CellRun.changes

    def without_gates(self, direction, rows):
        shut, moved = plain(self, direction, rows)
        return np.zeros_like(shut), moved

    monkeypatch.setattr(CellRun, "changes", without_gates)
    settings = PerturbSettings(encoder_layer=0, pooling="mean")
    (cell,) = estimate_cells(
        tiny_encoder, ranked, np.array([1]), "delete", settings, effort=Effort(projections=1, cuts=25)
    )
    ids = model_input(ranked.cell(1), tiny_encoder.vocabulary).astype(np.int64)
    before = tiny_encoder.hidden_states(pack([ids]), encoder_layer=0).double().numpy()[1:-1]
    for place in (0, 11, 24):
        positions = np.arange(len(ids))
        positions[place + 2 :] -= 1
        after = tiny_encoder.hidden_states(pack([ids], position_ids=[positions]), encoder_layer=0)
        after = after.double().numpy()[1:-1]
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        cosine = (before * after).sum(axis=1) / norms
        assert cell.values[place, 0] == pytest.approx(1.0 - cosine.mean(), abs=1e-7)


def test_estimates_of_a_cell_do_not_depend_on_the_others(tiny_encoder, ranked):
    settings = PerturbSettings()
    effort = Effort(projections=3, cuts=4)
    both = list(estimate_cells(tiny_encoder, ranked, np.array([0, 1]), "delete", settings, effort=effort))
    (alone,) = estimate_cells(tiny_encoder, ranked, np.array([1]), "delete", settings, effort=effort)
    np.testing.assert_array_equal(both[1].values, alone.values)


def test_without_projections_the_cell_shift_is_unknown(tiny_encoder, ranked, goal):
    effort = Effort(projections=0, cuts=4)
    (cell,) = estimate_cells(
        tiny_encoder, ranked, np.array([0]), "delete", PerturbSettings(), effort=effort, states=goal
    )
    assert np.isnan(cell.values[:, 0]).all()
    assert np.isfinite(cell.values[:, 1]).all()


@pytest.mark.parametrize("kind", ["overexpress", "inhibit", "activate"])
def test_other_kinds_are_refused(tiny_encoder, ranked, kind):
    with pytest.raises(ValueError, match="Use perturb"):
        next(estimate_cells(tiny_encoder, ranked, np.array([0]), kind, PerturbSettings()))


def test_effort_keeps_to_its_passes():
    for kind, cell_shift, states in (("delete", True, 0), ("knockout", True, 0), ("delete", False, 2)):
        effort = Effort.within(100.0, kind, n_states=states, cell_shift=cell_shift)
        assert effort.passes(states) <= 100
        assert (effort.projections > 0) == cell_shift
        assert (effort.cuts > 0) == (kind == "delete")


def test_interpolation_is_numpys():
    places = np.array([0, 3, 9])
    values = np.array([2.0, -1.0, 5.0])
    expected = np.interp(np.arange(10), places, values)
    np.testing.assert_allclose(values @ interpolation(10, places), expected, atol=1e-12)


def test_shrinking_helps_where_there_is_little_but_noise():
    rng = np.random.default_rng(4)
    for signal, most in ((0.0, 0.35), (0.3, 0.95), (10.0, 1.01)):
        truth = signal * rng.standard_normal(200)
        samples = truth + rng.standard_normal((5, 200))
        plain, shrunken = samples.mean(axis=0), shrunken_mean(samples)
        ratio = ((shrunken - truth) ** 2).sum() / ((plain - truth) ** 2).sum()
        assert ratio < most
    np.testing.assert_array_equal(shrunken_mean(samples[:1]), np.zeros(200))


@pytest.mark.parametrize("encoder_layer", [5, 1, -3])
def test_a_layer_that_the_model_lacks_is_refused(tiny_encoder, ranked, encoder_layer):
    settings = PerturbSettings(encoder_layer=encoder_layer)
    with pytest.raises(ValueError, match=f"encoder layer {encoder_layer} does not exist"):
        next(estimate_cells(tiny_encoder, ranked, np.arange(2), "knockout", settings))
