"""Re-ranking through the model: one hop against the readout ``expression``, more against transformers."""

import math

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.extraction.propagation import RerankSettings, rerank_effects
from geneformer_grn.perturbation.expression import expression_changes
from geneformer_grn.perturbation.requests import PerturbSettings, Request


def test_the_first_hop_is_the_change_in_expectation(tiny_encoder, tiny_vocabulary, ranked, genes):
    source = int(genes[0][2])
    found = rerank_effects(
        tiny_encoder, ranked, [source], settings=RerankSettings(n_hops=1, token_budget=200)
    )
    inputs = [model_input(ranked.cell(cell), tiny_vocabulary) for cell in range(len(ranked))]
    holders = np.array([cell for cell, ids in enumerate(inputs) if source in ids])
    request = Request(genes=(source,), kind="delete", cells=holders)
    expected = expression_changes(tiny_encoder, ranked, [request], PerturbSettings()).set_index("affected")
    found = found.set_index("gene")
    assert set(found.index) == set(expected.index)
    np.testing.assert_allclose(found["effect"], expected["delta_rank"].reindex(found.index), atol=1e-5)
    assert found["n_cells"].tolist() == expected["n_cells"].reindex(found.index).tolist()


def by_hand(model, vocabulary, cell: np.ndarray, source: int, n_hops: int) -> list[dict[int, float]]:
    """Total change of place after each hop, with one gene masked at a time's fold, all in plain loops."""
    deal = np.random.default_rng(0).permutation(len(vocabulary))
    ids = model_input(cell, vocabulary)
    genes = [int(gene) for gene in ids[1:-1]]
    n_folds = min(math.ceil(1 / 0.15), len(genes))
    fold = {gene: turn % n_folds for turn, gene in enumerate(sorted(genes, key=lambda gene: deal[gene]))}
    others = [gene for gene in genes if gene != source]
    place = {gene: genes.index(gene) for gene in others}
    ladder = sorted(place.values())

    def expected(order: list[int]) -> dict[int, float]:
        standing = {gene: ladder[turn] for turn, gene in enumerate(g for g in order if g != source)}
        answer = {}
        for number in {fold[gene] for gene in others}:
            masked = [gene for gene in others if fold[gene] == number]
            tokens = [ids[0], *(vocabulary.token_of["<mask>"] if g in masked else g for g in order), ids[-1]]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([tokens])).logits[0].double()
            p = torch.softmax(logits, dim=1).numpy()
            for gene in masked:
                weights = np.array([p[1 + order.index(other), gene] for other in masked])
                answer[gene] = weights @ [standing[other] for other in masked] / weights.sum()
        return answer

    before, order, totals = expected(genes), list(others), []
    for _ in range(n_hops):
        after = expected(order)
        totals.append({gene: before[gene] - after[gene] for gene in others})
        order = sorted(others, key=lambda gene: place[gene] - totals[-1][gene])
    return totals


def test_hops_equal_plain_transformers(tiny_encoder, tiny_checkpoint, tiny_vocabulary, ranked):
    model = BertForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    cell = max(range(len(ranked)), key=lambda row: len(ranked.cell(row)))
    tokens = ranked.cell(cell).astype(np.int64)
    source = int(tokens[3])
    totals = by_hand(model, tiny_vocabulary, tokens, source, 3)
    found = rerank_effects(
        tiny_encoder, ranked, [source], cells=np.array([cell]), settings=RerankSettings(n_hops=3)
    )
    summed = np.zeros(len(tiny_vocabulary))
    assert totals[1] != totals[0]
    for hop, total in enumerate(totals, start=1):
        effects = found[found["hop"] == hop].set_index("gene")["effect"]
        for gene, value in total.items():
            summed[gene] += effects[tiny_vocabulary.ensembl_ids[gene]]
            assert summed[gene] == pytest.approx(value, abs=2e-4)
    moved = found.loc[found["hop"] == 2, "effect"].abs().max()
    assert moved > 1e-3  # cells were re-ranked


def test_refusals_and_genes_without_cells(tiny_encoder, ranked, genes, caplog):
    source, other = int(genes[0][0]), int(genes[0][1])
    with pytest.raises(ValueError, match="named twice"):
        rerank_effects(tiny_encoder, ranked, [source, source])
    alone = RankedCells(
        tokens=np.array([source, int(genes[1][0])], dtype=np.uint16),
        offsets=np.array([0, 2], dtype=np.int64),
        n_counts=np.ones(1),
    )
    with pytest.raises(ValueError, match="none of the 1 sources"):
        rerank_effects(tiny_encoder, alone, [other])
    found = rerank_effects(tiny_encoder, alone, [source, other])
    assert found["n_cells"].tolist() == [1, 1]
    assert "it has no effects" in caplog.text
    with pytest.raises(ValueError, match="n_hops must be at least 1"):
        RerankSettings(n_hops=0)
    with pytest.raises(ValueError, match="masked_share"):
        RerankSettings(masked_share=0.0)
