"""Attribution by taking genes away, one at a time: exact, a pass for every gene of every cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geneformer_grn._runtime import progress
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.attributions import Attributions, empty_attributions
from geneformer_grn.explanation.settings import AttributionSettings
from geneformer_grn.explanation.target import Explained, Input
from geneformer_grn.perturbation.edits import InputLayout, edit_function


def occlusion(
    explained: Explained,
    ranked: RankedCells,
    cells: np.ndarray,
    targets: np.ndarray,
    settings: AttributionSettings | None = None,
) -> Attributions:
    """Return by how much the output falls when a gene is perturbed away, for each gene of each cell.

    The edits are those of in-silico perturbation (`perturbation.edits`): ``delete``, after which later genes
    stand one place further up, or ``knockout``, after which nothing has moved.

    Parameters, errors as in `explanation.gradients.integrated_gradients`; a cell of one gene is refused, as
    nothing would be left of it.

    Notes
    -----
    Zeiler and Fergus (2014), Visualizing and understanding convolutional networks, section 4.2.
    """
    settings = settings or AttributionSettings()
    blank = empty_attributions("occlusion", explained, ranked, cells, targets)
    scores, outputs = np.empty_like(blank.scores), np.empty(len(blank))
    for number in progress(range(len(blank)), desc="occlusion", unit="cell"):
        ids = explained.input_of(ranked, int(blank.cells[number]))
        genes = ids[explained.is_gene(ids)]
        inputs: list[Input] = [(ids, None)]
        inputs += [without(ids, gene, settings.occlusion, explained) for gene in genes[:, None]]
        same = np.full(len(inputs), blank.targets[number])
        found = explained.run_many(inputs, same, token_budget=settings.token_budget)
        outputs[number] = found[0]
        scores[blank.offsets[number] : blank.offsets[number + 1]] = found[0] - found[1:]
    return replace(blank, scores=scores, outputs=outputs)


def without(ids: np.ndarray, genes: np.ndarray, kind: str, explained: Explained) -> Input:
    """Return a model input without some of its genes, and the positions of what is left.

    Raises
    ------
    ValueError
        No other gene would be left.
    """
    layout = InputLayout.of(explained.vocabulary)
    edit = edit_function(kind)(ids, genes.tolist(), layout)
    if edit is None:
        raise ValueError(
            f"a cell of {len(ids):,} tokens cannot do without {len(genes):,} genes: none is left"
        )
    return edit.input_ids, edit.position_ids
