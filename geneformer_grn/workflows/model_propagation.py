"""Effects that travel through the model's own expectations, in the cells of each group; no edge is followed.

The edge table only says which genes are told of. Effects are in ranks, which have no unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from geneformer_grn._runtime import logger
from geneformer_grn.cells.ranking import rank_cells
from geneformer_grn.network.propagation import PropagationSettings
from geneformer_grn.workflows.cells import OpenedCells


def rerank_groups(
    groups: Mapping[str, tuple[np.ndarray, pd.DataFrame]],
    cells: OpenedCells,
    *,
    sources: Sequence[str],
    settings: PropagationSettings,
) -> pd.DataFrame:
    """Delete each source from the cells of each group, and ask the model again and again where genes belong.

    Parameters
    ----------
    groups
        Group -> ``(n,)`` rows of its cells, and its edges, whose genes are told of.
    cells
        The cells, with the model.
    sources
        Ensembl IDs. In a group whose cells do not hold a source it has no rows (reported).
    settings
        ``n_hops``, ``cells_per_source`` and ``seed``, see
        `geneformer_grn.extraction.propagation.RerankSettings`.

    Returns
    -------
    DataFrame
        ``source``, ``gene``, ``group``, ``hop`` from 1, ``effect``: by how many ranks the hop moves the gene
        to the front, mean over the cells that hold it.

    Raises
    ------
    ValueError
        There is no model, or a source is no gene of its vocabulary.
    """
    from geneformer_grn.extraction.propagation import RerankSettings, rerank_effects

    if cells.encoder is None:
        raise ValueError("effects travel through a model by rerank, and there is none; open cells with one")
    unknown = [gene for gene in sources if gene not in cells.vocabulary.token_of]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not in the vocabulary of model {cells.encoder.name!r}")
    tokens = [cells.vocabulary.token_of[gene] for gene in sources]
    how = RerankSettings(
        n_hops=settings.n_hops, cells_per_source=settings.cells_per_source, seed=settings.seed
    )
    ranked = rank_cells(cells.counts, cells.vocabulary)
    tables = []
    for group, (rows, edges) in groups.items():
        try:
            found = rerank_effects(cells.encoder, ranked, tokens, cells=rows, settings=how)
        except ValueError as error:
            logger.warning("group %r: nothing to propagate: %s", group, error)
            continue
        told = found["gene"].isin({*edges["source"], *edges["target"]}) & (found["effect"] != 0)
        tables.append(found[told].assign(group=group).drop(columns="n_cells"))
    columns = ["source", "gene", "group", "hop", "effect"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
