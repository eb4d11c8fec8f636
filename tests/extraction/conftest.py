"""Cells, genes, and the eager attention matrices of transformers that streaming is held against."""

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer_grn.cells.ranking import RankedCells, model_input

N_CELLS = 30


@pytest.fixture(scope="session")
def ranked(tiny_vocabulary) -> RankedCells:
    """30 cells of 3 to 60 genes: some longer than the model's 48 tokens."""
    generator = np.random.default_rng(0)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [generator.permutation(genes)[: generator.integers(3, 61)] for _ in range(N_CELLS)]
    return RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64),
        n_counts=np.ones(N_CELLS),
    )


@pytest.fixture(scope="session")
def genes(tiny_vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """12 regulators, and 30 targets of which some are regulators, in no order of tokens."""
    regulators = np.flatnonzero(tiny_vocabulary.is_regulator)
    targets = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))[::-2].copy()
    return regulators, targets


@pytest.fixture(scope="session")
def eager(tiny_checkpoint, tiny_vocabulary, ranked) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids and the (layers, heads, L, L) attention of every cell, from padded batches of 10."""
    model = BertForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    found = []
    for start in range(0, N_CELLS, 10):
        inputs = [model_input(ranked.cell(cell), tiny_vocabulary) for cell in range(start, start + 10)]
        padded = np.zeros((len(inputs), max(map(len, inputs))), dtype=np.int64)
        mask = np.zeros_like(padded)
        for row, ids in enumerate(inputs):
            padded[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        with torch.no_grad():
            output = model(
                torch.from_numpy(padded), attention_mask=torch.from_numpy(mask), output_attentions=True
            )
        matrices = torch.stack(output.attentions, dim=1).double().numpy()  # (cell, layer, head, L, L)
        found += [(ids, matrices[row, :, :, : len(ids), : len(ids)]) for row, ids in enumerate(inputs)]
    return found


@pytest.fixture(scope="session")
def mean_over_cells(eager, genes):
    """A function: mean over cells of a (C, L, L) reading (query, key) of each cell, as (C, R, T), support."""

    def mean(reading, *, cells=range(N_CELLS), min_support=3):
        regulators, targets = genes
        readings = {cell: reading(*eager[cell]) for cell in cells}
        n_channels = len(next(iter(readings.values())))
        weights = np.full((n_channels, len(regulators), len(targets)), np.nan)
        support = np.zeros(weights.shape[1:], dtype=int)
        for i, regulator in enumerate(regulators):
            for j, target in enumerate(targets):
                values = []
                for cell in cells:
                    ids = eager[cell][0].tolist()
                    if regulator in ids and target in ids:
                        values.append(readings[cell][:, ids.index(target), ids.index(regulator)])
                support[i, j] = len(values)
                if len(values) >= min_support and regulator != target:
                    weights[:, i, j] = np.mean(values, axis=0)
        return weights, support

    return mean
