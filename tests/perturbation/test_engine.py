"""The engine against plain Hugging Face models: padded, masked, eager, one cell at a time."""

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.embedding import EmbedSettings, embed_cells
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.requests import PerturbSettings, Request


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    """Eight cells of 6 to 60 genes (the model reads 46 of them), one of a single gene."""
    rng = np.random.default_rng(2)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [rng.permutation(genes)[:length] for length in (60, 46, 45, 30, 12, 7, 6, 1)]
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    return RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(len(cells))
    )


@pytest.fixture(scope="module")
def plain(tiny_checkpoint):
    return BertForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()


def plain_states(model, ids, *, layer, hidden=()):
    """Hidden states of one cell, padded; positions `hidden` are no keys in any layer."""
    padded = torch.tensor([[*ids, *[0] * (model.config.max_position_embeddings - len(ids))]])
    mask = torch.ones_like(padded)
    mask[:, len(ids) :] = 0
    mask[:, list(hidden)] = 0
    with torch.no_grad():
        states = model.bert(padded, attention_mask=mask, output_hidden_states=True).hidden_states
    return states[len(states) - 1 + layer][0, : len(ids)].double().numpy()


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def moved_by_quartiles(body, genes, steps):
    """The ranking after each gene went to the middle of the quartile `steps` further down, by lists."""
    for gene in genes:
        rest = [other for other in body if other != gene]
        quartiles = np.arange(len(body)) * 4 // len(body)
        reached = quartiles[body.index(gene)] + steps
        (places,) = np.nonzero(quartiles == reached)
        if reached < 0 or reached > 3:
            place = 0 if reached < 0 else len(body) - 1
        else:
            place = places[len(places) // 2 if steps > 0 else (len(places) - 1) // 2]
        body = [*rest[:place], gene, *rest[place:]]
    return body


def brute_force(model, vocabulary, cell, genes, kind, layer):
    """Gene -> cosine of its state before and after, from two separate padded passes."""
    ids = model_input(cell, vocabulary).tolist()
    first, *body, last = ids
    if kind == "overexpress":
        kept = [gene for gene in body if gene not in genes]
        kept = kept[: vocabulary.max_length - 2 - len(genes)]
        before_ids = [first, *(gene for gene in body if gene in kept or gene in genes), last]
        after_ids = [first, *genes, *kept, last]
    elif not set(genes) <= set(body):
        return None
    else:
        before_ids, kept = ids, [gene for gene in body if gene not in genes]
        after_ids = [first, *kept, last]
        if kind in {"inhibit", "activate"}:
            after_ids = [first, *moved_by_quartiles(body, genes, 2 if kind == "inhibit" else -2), last]
    before = plain_states(model, before_ids, layer=layer)
    if kind == "knockout":
        hidden = [ids.index(gene) for gene in genes]
        after, after_ids = plain_states(model, ids, layer=layer, hidden=hidden), ids
    else:
        after = plain_states(model, after_ids, layer=layer)
    cosines = {gene: cosine(before[before_ids.index(gene)], after[after_ids.index(gene)]) for gene in kept}
    return cosines, cosine(before[0], after[0])


@pytest.mark.parametrize("kind", ["delete", "overexpress", "inhibit", "activate", "knockout"])
@pytest.mark.parametrize("layer", [0, -1])
def test_every_kind_equals_brute_force(tiny_encoder, plain, ranked, kind, layer):
    vocabulary = tiny_encoder.vocabulary
    front, middle = int(ranked.cell(3)[0]), int(ranked.cell(0)[20])
    cells = np.arange(len(ranked))
    requests = [
        Request(genes=genes, kind=kind, cells=cells) for genes in [(front,), (middle,), (middle, front)]
    ]
    for pooling in ("mean", "cls"):
        settings = PerturbSettings(
            encoder_layer=layer, pooling=pooling, readouts=("cell", "genes"), token_budget=100, quartiles=2
        )
        found = perturb_cells(tiny_encoder, ranked, requests, settings)
        table = found.cells.set_index(["request", "cell_id"])["cosine"]
        shifts: dict[tuple[int, int], list[float]] = {}
        n_lacking = 0
        for number, request in enumerate(requests):
            for cell in cells:
                oracle = brute_force(plain, vocabulary, ranked.cell(cell), request.genes, kind, layer)
                if oracle is None or not oracle[0]:
                    n_lacking += 1
                    assert np.isnan(table[number, cell])
                    continue
                by_gene, of_cls = oracle
                expected = np.mean(list(by_gene.values())) if pooling == "mean" else of_cls
                assert abs(table[number, cell] - expected) < 1e-5
                for gene, value in by_gene.items():
                    shifts.setdefault((number, gene), []).append(value)
        assert found.n_without_gene == n_lacking
        genes = found.gene_shifts
        assert len(genes) == len(shifts)
        expected = [1 - np.mean(shifts[key]) for key in sorted(shifts)]
        np.testing.assert_allclose(genes["shift"], expected, atol=1e-5)
        assert genes["n_cells"].tolist() == [len(shifts[key]) for key in sorted(shifts)]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["delete", "knockout", "inhibit"])
def test_states_are_compared_by_pooled_embeddings(tiny_encoder, plain, ranked, pooling, kind):
    vocabulary = tiny_encoder.vocabulary
    gene = int(ranked.cell(4)[3])
    how = EmbedSettings(pooling=pooling)
    embedded = embed_cells(tiny_encoder, ranked, how).astype(np.float64)
    states = {"start": embedded[:4].mean(axis=0), "goal": embedded[4:7].mean(axis=0)}
    settings = PerturbSettings(pooling=pooling, readouts=("cell", "state"))
    request = Request(genes=(gene,), kind=kind, cells=np.array([4]))
    found = perturb_cells(tiny_encoder, ranked, [request], settings, states=states).cells
    ids = model_input(ranked.cell(4), vocabulary).tolist()
    position = ids.index(gene)
    without = [i for i in range(1, len(ids) - 1) if i != position]
    before = plain_states(plain, ids, layer=-1)
    if kind == "knockout":
        pooled_before = before[without].mean(axis=0)
        after = plain_states(plain, ids, layer=-1, hidden=[position])
        pooled_after = after[without].mean(axis=0)
    elif kind == "inhibit":
        pooled_before = before[1:-1].mean(axis=0)
        moved = [ids[0], *moved_by_quartiles(ids[1:-1], [gene], 1), ids[-1]]
        after = plain_states(plain, moved, layer=-1)
        pooled_after = after[1:-1].mean(axis=0)
    else:
        pooled_before = before[1:-1].mean(axis=0)
        after = plain_states(plain, [ids[0], *(ids[i] for i in without), ids[-1]], layer=-1)
        pooled_after = after[1:-1].mean(axis=0)
    if pooling == "cls":
        pooled_before, pooled_after = before[0], after[0]
    for name, state in states.items():
        (row,) = found[found["state"] == name].itertuples()
        expected = cosine(pooled_after, state) - cosine(pooled_before, state)
        assert abs(row.shift - expected) < 1e-5
        assert row.cosine == row.shift
    assert found["readout"].tolist() == ["cell", "state", "state"]


def test_packing_and_company_change_nothing(tiny_encoder, ranked):
    genes = ranked.cell(1)[:6]
    requests = [Request(genes=(int(gene),), kind="delete", cells=np.arange(7)) for gene in genes]
    tables = [
        perturb_cells(tiny_encoder, ranked, requests, PerturbSettings(token_budget=budget)).cells
        for budget in (1, 5000)
    ]
    alone = [
        perturb_cells(tiny_encoder, ranked, [request], PerturbSettings()).cells["shift"]
        for request in requests
    ]
    np.testing.assert_allclose(tables[0]["shift"], tables[1]["shift"], atol=1e-6)
    np.testing.assert_allclose(tables[0]["shift"], np.concatenate(alone), atol=1e-6)


def test_each_unperturbed_cell_is_encoded_once(tiny_encoder, ranked):
    cell = ranked.cell(1)
    requests = [Request(genes=(int(gene),), kind="delete", cells=np.array([1])) for gene in cell]
    found = perturb_cells(tiny_encoder, ranked, requests, PerturbSettings(token_budget=60))
    assert found.n_passes == len(cell) + 1
    assert (found.cells["shift"] > 0).all()


@pytest.mark.parametrize("kind", ["delete", "overexpress", "inhibit", "activate", "knockout"])
def test_gene_shifts_name_the_perturbed_gene_and_the_others(tiny_encoder, ranked, kind):
    """Every gene of a cell in turn: a row per other gene, none for the gene itself."""
    genes = [int(gene) for gene in ranked.cell(5)]
    requests = [Request(genes=(gene,), kind=kind, cells=np.array([5])) for gene in genes]
    found = perturb_cells(tiny_encoder, ranked, requests, PerturbSettings(readouts=("cell", "genes")))
    names = tiny_encoder.vocabulary.ensembl_ids[genes]
    for name, part in found.gene_shifts.groupby("gene"):
        assert sorted(part["affected"]) == sorted(set(names) - {name})
    unmoved = {"overexpress": [0], "inhibit": [6], "activate": [0]}.get(kind, [])  # seven genes
    assert np.flatnonzero(np.abs(found.cells["shift"]) < 1e-9).tolist() == unmoved
    by_gene = found.gene_shifts.groupby("gene")["shift"].mean().loc[names]
    np.testing.assert_allclose(by_gene, found.cells["shift"], atol=1e-12)


def test_null_requests_enter_no_gene_shift(tiny_encoder, ranked):
    requests = [
        Request(genes=(int(ranked.cell(1)[i]),), kind="delete", cells=np.array([1]), is_null=i == 1)
        for i in (0, 1)
    ]
    found = perturb_cells(tiny_encoder, ranked, requests, PerturbSettings(readouts=("genes",)))
    names = tiny_encoder.vocabulary.ensembl_ids
    assert found.gene_shifts["gene"].unique().tolist() == [names[requests[0].genes[0]]]


def test_wrong_settings_are_refused(tiny_encoder, ranked):
    with pytest.raises(ValueError, match="cell, state, genes, expression"):
        PerturbSettings(readouts=("edges",))
    with pytest.raises(ValueError, match="mean or cls"):
        PerturbSettings(pooling="max")
    with pytest.raises(ValueError, match="1, 2 or 3 quartiles, not by 4"):
        PerturbSettings(quartiles=4)
    with pytest.raises(ValueError, match="distinct genes"):
        Request(genes=(), kind="delete", cells=np.array([0]))
    request = Request(genes=(7,), kind="delete", cells=np.array([0]))
    with pytest.raises(ValueError, match="start and a goal"):
        perturb_cells(tiny_encoder, ranked, [request], PerturbSettings(readouts=("state",)))


def test_an_unexpressed_gene_at_full_length_pushes_the_last_one_out(tiny_encoder, plain, ranked):
    """And is credited itself: the gene of the request, not the one pushed out."""
    vocabulary, cell = tiny_encoder.vocabulary, ranked.cell(1)
    assert len(cell) + 2 == vocabulary.max_length
    absent = [gene for gene in range(vocabulary.n_special, len(vocabulary)) if gene not in cell][:3]
    requests = [Request(genes=(gene,), kind="overexpress", cells=np.array([1])) for gene in absent]
    settings = PerturbSettings(pooling="mean", readouts=("cell", "genes"))
    found = perturb_cells(tiny_encoder, ranked, requests, settings)
    assert found.n_without_gene == 0
    ids = vocabulary.ensembl_ids
    assert found.cells["gene"].tolist() == ids[absent].tolist()
    for gene, cosine_found in zip(absent, found.cells["cosine"], strict=True):
        by_gene, _ = brute_force(plain, vocabulary, cell, (gene,), "overexpress", -1)
        assert abs(cosine_found - np.mean(list(by_gene.values()))) < 1e-5
        affected = found.gene_shifts.loc[found.gene_shifts["gene"] == ids[gene], "affected"]
        assert sorted(affected) == sorted(ids[cell[:-1]])
