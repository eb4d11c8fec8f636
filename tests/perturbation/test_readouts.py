"""Gene shifts: hand-made cells of four genes, every alignment written out, against a plain padded model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation.axes import GeneAxes
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.parts import add_sums, perturb_part
from geneformer_grn.perturbation.readouts import GENE_SHIFT_COLUMNS, GeneShifts, gene_shift_table
from geneformer_grn.perturbation.requests import PerturbSettings, Request

# Kind, quartiles, most genes of an input, perturbed genes; then the cell ABCD as it is compared, the
# perturbed cell ("_": a place nobody reads), and the genes that have a shift.
CASES = [
    ("delete", 1, 9, "A", "ABCD", "BCD", "BCD"),
    ("delete", 1, 9, "B", "ABCD", "ACD", "ACD"),
    ("delete", 1, 9, "D", "ABCD", "ABC", "ABC"),
    ("delete", 1, 9, "DB", "ABCD", "AC", "AC"),
    ("knockout", 1, 9, "B", "ABCD", "A_CD", "ACD"),
    ("knockout", 1, 9, "DA", "ABCD", "_BC_", "BC"),
    ("overexpress", 1, 9, "E", "ABCD", "EABCD", "ABCD"),
    ("overexpress", 1, 9, "C", "ABCD", "CABD", "ABD"),
    ("overexpress", 1, 9, "A", "ABCD", "ABCD", "BCD"),
    ("overexpress", 1, 9, "EC", "ABCD", "ECABD", "ABD"),
    ("overexpress", 1, 9, "CE", "ABCD", "CEABD", "ABD"),
    ("overexpress", 1, 4, "E", "ABC", "EABC", "ABC"),
    ("overexpress", 1, 4, "C", "ABCD", "CABD", "ABD"),
    ("overexpress", 1, 4, "EF", "AB", "EFAB", "AB"),
    ("overexpress", 1, 4, "EC", "ABC", "ECAB", "AB"),
    ("inhibit", 1, 9, "A", "ABCD", "BACD", "BCD"),
    ("inhibit", 2, 9, "A", "ABCD", "BCAD", "BCD"),
    ("inhibit", 3, 9, "B", "ABCD", "ACDB", "ACD"),
    ("inhibit", 1, 9, "D", "ABCD", "ABCD", "ABC"),
    ("inhibit", 1, 9, "AB", "ABCD", "ABCD", "CD"),
    ("inhibit", 1, 9, "BA", "ABCD", "CABD", "CD"),
    ("activate", 1, 9, "D", "ABCD", "ABDC", "ABC"),
    ("activate", 3, 9, "D", "ABCD", "DABC", "ABC"),
    ("activate", 1, 9, "A", "ABCD", "ABCD", "BCD"),
    ("activate", 1, 9, "CD", "ABCD", "ACDB", "AB"),
]


def cells_of(lists):
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in lists])])
    tokens = np.concatenate(lists).astype(np.uint16)
    return RankedCells(tokens=tokens, offsets=offsets, n_counts=np.ones(len(lists)))


def tokens_of(letters, vocabulary):
    return [vocabulary.n_special + 7 * "ABCDEF".index(letter) for letter in letters]


@pytest.fixture(scope="module")
def axes(any_encoder):
    """Axes drawn at random; the gene D has none."""
    vocabulary = any_encoder.vocabulary
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(vocabulary), any_encoder.hidden_size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sd = rng.uniform(0.5, 2.0, len(vocabulary))
    (without,) = tokens_of("D", vocabulary)
    directions[without], sd[without] = np.nan, np.nan
    return GeneAxes(
        axes=directions.astype(np.float32), sd=sd, rank_correlation=sd, n_cells=np.full(len(sd), 3)
    )


def plain_states(model, vocabulary, letters, layer, hidden=()):
    """Letter -> state at its place, in one padded cell; places `hidden` are no keys in any layer."""
    front, back = vocabulary.wrapping or (None, None)
    ids = tokens_of(letters, vocabulary)
    ids = ids if front is None else [front, *ids, back]
    n_front = int(front is not None)
    padded = torch.tensor([[*ids, *[0] * (12 - len(ids))]])
    mask = (torch.arange(12) < len(ids)).long()[None]
    mask[:, [n_front + place for place in hidden]] = 0
    with torch.no_grad():
        states = model.bert(padded, attention_mask=mask, output_hidden_states=True).hidden_states
    rows = states[len(states) - 1 + layer][0, n_front:].double().numpy()
    return dict(zip(letters, rows, strict=False))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3]}-{case[5]}")
@pytest.mark.parametrize("layer", [0, -1])
def test_four_genes_are_aligned_by_hand(any_encoder, plain_model, axes, case, layer):
    kind, quartiles, room, perturbed, before, after, affected = case
    vocabulary = replace(any_encoder.vocabulary, max_length=room + any_encoder.vocabulary.n_wrapping)
    encoder = replace(any_encoder, vocabulary=vocabulary)
    request = Request(
        genes=tuple(tokens_of(perturbed, vocabulary)), kind=kind, cells=np.array([0]), group="g"
    )
    settings = PerturbSettings(readouts=("cell", "genes"), quartiles=quartiles, encoder_layer=layer)
    ranked = cells_of([tokens_of("ABCD", vocabulary)])
    table = perturb_cells(encoder, ranked, [request], settings, axes=axes).gene_shifts

    hidden = [place for place, letter in enumerate(after) if letter == "_"]
    old = plain_states(plain_model, vocabulary, before, layer)
    new = plain_states(plain_model, vocabulary, "ABCD" if hidden else after, layer, hidden)
    tokens = sorted(tokens_of(affected, vocabulary))
    assert table["affected"].tolist() == vocabulary.ensembl_ids[tokens].tolist()
    for row, token in zip(table.itertuples(), tokens, strict=True):
        letter = "ABCDEF"[(token - vocabulary.n_special) // 7]
        cosine = old[letter] @ new[letter] / np.linalg.norm(old[letter]) / np.linalg.norm(new[letter])
        assert row.shift == pytest.approx(1.0 - cosine, abs=1e-6)
        assert row.shift_sd == row.signed_shift_sd == 0.0 or letter == "D"
        if letter == "D":
            assert np.isnan(row.signed_shift)
            assert np.isnan(row.signed_shift_sd)
        else:
            along = (new[letter] - old[letter]) @ axes.axes[token].astype(np.float64) / axes.sd[token]
            assert row.signed_shift == pytest.approx(along, abs=1e-5)
        assert (row.kind, row.group, row.n_cells) == (kind, "g", 1)
        assert row.gene == "+".join(vocabulary.ensembl_ids[tokens_of(perturbed, vocabulary)])


@pytest.mark.parametrize("kind", ["delete", "knockout", "inhibit", "activate"])
def test_a_cell_without_all_the_genes_has_no_shift(any_encoder, kind):
    vocabulary = any_encoder.vocabulary
    request = Request(genes=tuple(tokens_of("AE", vocabulary)), kind=kind, cells=np.array([0]))
    ranked = cells_of([tokens_of("ABCD", vocabulary)])
    found = perturb_cells(any_encoder, ranked, [request], PerturbSettings(readouts=("genes",)))
    assert found.gene_shifts.empty
    assert found.n_without_gene == 1


@pytest.mark.parametrize("kind", ["delete", "overexpress", "knockout"])
def test_sums_over_cells_add_over_parts(any_encoder, axes, kind):
    """Twelve cells at once, and in three parts: the same sums, and their means and deviations."""
    vocabulary = any_encoder.vocabulary
    rng = np.random.default_rng(4)
    genes = np.arange(vocabulary.n_special, vocabulary.n_special + 40)
    ranked = cells_of([rng.permutation(genes)[:length] for length in rng.integers(8, 40, 12)])
    requests = [Request(genes=(int(gene),), kind=kind, cells=np.arange(12)) for gene in genes[:3]]
    cells = np.repeat(np.arange(12), 3), np.tile(np.arange(3), 12)
    settings = PerturbSettings(readouts=("genes",), token_budget=120)

    def part(rows):
        pairs = cells[1][rows], cells[0][rows]
        return perturb_part(any_encoder, ranked, requests, pairs, settings, axes=axes).sums["genes"]

    whole = part(slice(0, 36))
    added = add_sums([part(slice(0, 7)), part(slice(7, 8)), part(slice(8, 36))])
    pd.testing.assert_frame_equal(added, whole, check_exact=False, atol=1e-5)
    one_by_one = pd.concat([part(slice(i, i + 1)) for i in range(36)])
    names = np.array(["x", "y", "z"], dtype=object)
    table = gene_shift_table(whole, names, names, names, vocabulary)
    assert tuple(table.columns) == GENE_SHIFT_COLUMNS
    groups = one_by_one.groupby(["request", "affected"])
    np.testing.assert_array_equal(table["n_cells"], groups.size())
    np.testing.assert_allclose(table["shift"], groups["shift"].mean(), atol=1e-6)
    np.testing.assert_allclose(table["shift_sd"], groups["shift"].std(ddof=0), atol=1e-5)
    has_axis = np.isfinite(axes.sd[whole["affected"]])
    assert 0 < (~has_axis).sum() < len(whole)
    signed = groups["signed"].mean().where(has_axis)
    np.testing.assert_allclose(table["signed_shift"], signed, atol=1e-5)
    spread = groups["signed"].std(ddof=0).where(has_axis)
    np.testing.assert_allclose(table["signed_shift_sd"], spread, atol=1e-5)


def test_a_tiny_spread_survives_the_sums():
    """Shifts of 1e-7 that differ by a tenth: squares of cosines would round that away."""
    shifts = 1e-7 * np.array([1.0, 1.1, 0.9, 1.05])
    sums = GeneShifts(10)
    sums.add(np.zeros(4, dtype=np.int64), np.full(4, 6), 1.0 - shifts)
    table = gene_shift_table(
        sums.frame(), *(np.array(["x"], dtype=object) for _ in range(3)), vocabulary=_Names()
    )
    np.testing.assert_allclose(table["shift"], shifts.mean(), rtol=1e-6)
    np.testing.assert_allclose(table["shift_sd"], shifts.std(), rtol=1e-4)
    assert np.isnan(table["signed_shift"]).all()


class _Names:
    ensembl_ids = np.array([f"ENSG{token}" for token in range(10)], dtype=object)
