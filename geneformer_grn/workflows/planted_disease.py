"""A labelled data set that anyone can make: shipped immune cells dealt to donors, half of them ill.

The disease is planted, so that what a table says can be checked against the truth: some genes are up in every
cell of an ill donor. Donors differ for reasons of their own, too, as strongly in half as many genes, which is
what makes a split by cells look better than it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True)
class PlantedSettings:
    """How the disease is planted.

    Parameters
    ----------
    n_donors
        Donors, every second one ill; each belongs to one of two studies, which hold both states.
    n_genes
        Genes of the disease, and half as many of each donor's own.
    fold
        Up to how many times they are up: a factor drawn between its root and itself for each gene.
    min_share
        Genes detected in at least this share of the cells are eligible.
    """

    n_donors: int = 12
    n_genes: int = 60
    fold: float = 4.0
    min_share: float = 0.15


def planted_disease(settings: PlantedSettings | None = None, *, seed: int = 0) -> AnnData:
    """Return the shipped cells with donors, studies and a planted disease.

    Parameters
    ----------
    settings
        How.
    seed
        Seed of everything drawn.

    Returns
    -------
    AnnData
        Raw counts; ``obs["disease"]`` (``healthy``, ``ill``), ``obs["donor"]``, ``obs["study"]``,
        ``obs["severity"]`` (0 in healthy donors, else how strongly the programme is up, 0.6 to 1);
        ``var["disease_gene"]`` says which genes carry the disease.
    """
    from anndata import read_h5ad
    from scipy import sparse

    settings = settings or PlantedSettings()
    with as_file(files("geneformer_grn") / "_demo" / "cells.h5ad") as path:
        adata = read_h5ad(path)
    generator = np.random.default_rng([seed, 11])
    matrix = sparse.csc_matrix(adata.X, dtype=np.float64)
    eligible = np.flatnonzero(matrix.getnnz(axis=0) >= settings.min_share * adata.n_obs)
    donor = generator.permutation(np.arange(adata.n_obs) % settings.n_donors)
    ill = np.arange(settings.n_donors) % 2 == 1
    severity = np.where(ill, generator.uniform(0.6, 1.0, settings.n_donors), 0.0)
    disease = generator.choice(eligible, settings.n_genes, replace=False)
    strength = generator.uniform(0.5, 1.0, settings.n_genes) * np.log(settings.fold)
    log_factor = np.zeros((settings.n_donors, adata.n_vars))
    log_factor[:, disease] = severity[:, None] * strength
    for one in range(settings.n_donors):
        own = generator.choice(eligible, settings.n_genes // 2, replace=False)
        log_factor[one, own] += generator.choice([-1.0, 1.0], len(own)) * strength[: len(own)]
    rows = matrix.tocoo()
    rate = rows.data * np.exp(log_factor[donor[rows.row], rows.col])
    counts = sparse.csr_matrix(
        (np.floor(rate + generator.uniform(size=len(rate))), (rows.row, rows.col)), shape=matrix.shape
    )
    counts.eliminate_zeros()
    adata.X = counts.astype(np.float32)
    adata.obs["donor"] = [f"donor{one + 1:02d}" for one in donor]
    adata.obs["study"] = [f"study{one // 2 % 2 + 1}" for one in donor]
    adata.obs["disease"] = np.where(ill[donor], "ill", "healthy")
    adata.obs["severity"] = severity[donor]
    adata.var["disease_gene"] = np.isin(np.arange(adata.n_vars), disease)
    return adata
