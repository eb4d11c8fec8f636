"""``gg.get``: what ``gg.tl`` wrote into an AnnData, as tidy tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData


def embedding(adata: AnnData) -> pd.DataFrame:
    """Return the cell embeddings, ``(n, d)`` float32, by cell name; NaN for cells that were left out.

    Raises
    ------
    ValueError
        `adata` holds none.

    Examples
    --------
    >>> gg.get.embedding(adata).shape  # doctest: +SKIP
    (559, 128)
    """
    return _table(adata.obsm.get("X_geneformer"), adata.obs_names, "obsm['X_geneformer']")


def gene_embedding(adata: AnnData) -> pd.DataFrame:
    """Return the gene embeddings, ``(n_seen, d)`` float32, by gene name; genes without one are left out.

    Raises
    ------
    ValueError
        `adata` holds none.
    """
    return _table(adata.varm.get("geneformer"), adata.var_names, "varm['geneformer']").dropna()


def provenance(adata: AnnData, key: str = "embed") -> dict[str, Any]:
    """Return how a result came about: version, model, vocabulary fingerprint, parameters, genes matched.

    Raises
    ------
    ValueError
        `adata` holds no result of that key.
    """
    found: dict[str, dict[str, Any]] = adata.uns.get("geneformer_grn", {})
    if key not in found:
        raise ValueError(
            f"no result {key!r} in this AnnData (found: {', '.join(sorted(found)) or 'none'}); run "
            f"gg.tl.{key}(adata) first"
        )
    return found[key]


def _table(values: Any, names: pd.Index, place: str) -> pd.DataFrame:
    if values is None:
        raise ValueError(f"{place} is not there; run gg.tl.embed(adata) first")
    columns = [f"geneformer_{number}" for number in range(1, values.shape[1] + 1)]
    return pd.DataFrame(values, index=names, columns=columns)
