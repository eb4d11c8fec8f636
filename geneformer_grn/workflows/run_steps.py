"""The steps of the main job, one function each, from the opened file to the perturbed groups.

Two choices are made here: which genes are perturbed when none are named (the hubs of the network just found),
and which groups when passes are scarce (the largest).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from geneformer_grn._runtime import Precision, logger
from geneformer_grn.cells.counts import CellCounts, ReadSettings, read_counts
from geneformer_grn.cells.opening import read_anndata
from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.genes.mapping import find_genes, lookup
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.grouping import Grouping, column_labels
from geneformer_grn.workflows.network import NetworkResult, NetworkSettings, score_network
from geneformer_grn.workflows.regulators import read_gene_list, regulator_tokens

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.perturbation.effects import PerturbationResult


GROUP_COLUMN = "geneformer_group"
"""obs column that the groups of the main job are written to."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the main job is asked to do.

    Parameters
    ----------
    model
        A shipped name, a checkpoint folder, or a Hugging Face id on disk.
    groups
        obs column of cell groups; None: the cells are clustered.
    regulators
        ``auto`` (the vocabulary's), or a text file with one gene a line.
    perturb
        ``auto`` (hubs of the network), or symbols and Ensembl IDs with commas between them.
    n_cells
        Use a random sample of so many cells; None: all.
    seed
        Seed of everything random.
    max_passes
        Most passes of perturbed cells through the model, nulls and unperturbed cells included.
    n_hubs
        Genes perturbed by ``auto``.
    cells_per_gene, n_null
        Cells each gene is deleted in, and null genes each is compared with; lowered to fit `max_passes`.
    top
        Edges kept per group and method.
    min_support
        Cells of a group that must express a gene, and hold a pair, for it to be scored there.
    encoder_layer
        Layer of embeddings and effects; 0 is the last, -1 the one before.
    device, precision, token_budget
        How the model runs.
    name
        What the report calls the cells; None: the file's name.
    read
        How counts are read.
    """

    model: str | Path = "mini"
    groups: str | None = None
    regulators: str | Path = "auto"
    perturb: str = "auto"
    n_cells: int | None = None
    seed: int = 0
    max_passes: int = 3000
    n_hubs: int = 8
    cells_per_gene: int = 20
    n_null: int = 100
    top: int = 1000
    min_support: int = 10
    encoder_layer: int = -1
    device: str = "auto"
    precision: Precision = "fp32"
    token_budget: int = 16_384
    name: str | None = None
    read: ReadSettings = field(default_factory=ReadSettings)


def open_input(source: Path | str | AnnData, settings: RunSettings) -> tuple[AnnData, Encoder, CellCounts]:
    """Return the input, the model, and the input's counts over the model's genes."""
    from geneformer_grn.model.encoder import load_encoder

    adata = read_anndata(source, settings.read.layer) if isinstance(source, str | Path) else source
    if settings.groups is not None:
        column_labels(adata.obs, settings.groups)  # refused before the work, not after it
    encoder = load_encoder(settings.model, device=settings.device, precision=settings.precision)
    encoder.require_layer(settings.encoder_layer)
    counts = read_counts(
        adata,
        encoder.vocabulary,
        settings.read,
        n_cells=settings.n_cells,
        seed=settings.seed,
        name=settings.name or (Path(source).name if isinstance(source, str | Path) else None),
    )
    return adata, encoder, counts


def embed_input(
    adata: AnnData,
    encoder: Encoder,
    counts: CellCounts,
    *,
    ranked: RankedCells,
    grouping: Grouping,
    settings: RunSettings,
) -> AnnData:
    """Return the kept cells of the input with ``obsm["X_geneformer"]``, a UMAP of it, and their groups."""
    from geneformer_grn.embedding import EmbedSettings, embed_cells

    how = EmbedSettings(encoder_layer=settings.encoder_layer, token_budget=settings.token_budget)
    embedding = embed_cells(encoder, ranked, how)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # symbols rarely are
        kept = adata[counts.kept].to_memory() if adata.isbacked else adata[counts.kept].copy()
    kept.obsm["X_geneformer"] = embedding
    kept.obsm[umap_key(adata)] = umap(embedding, seed=settings.seed)
    if GROUP_COLUMN in kept.obs:
        logger.warning("obs[%r] of the input is replaced", GROUP_COLUMN)
    kept.obs[GROUP_COLUMN] = pd.Categorical(grouping.labels)
    return kept


def umap_key(adata: AnnData) -> str:
    """Return where the UMAP of an input goes: an input's own stays where scanpy looks for it."""
    return "X_umap_geneformer" if "X_umap" in adata.obsm else "X_umap"


def umap(embedding: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the ``(n, 2)`` float32 UMAP (McInnes et al. 2018) of an ``(n, d)`` embedding, through scanpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn and scanpy announce their own deprecations
        import anndata
        import scanpy

        cells = anndata.AnnData(np.zeros((len(embedding), 1), dtype=np.float32), obsm={"X": embedding})
        scanpy.pp.neighbors(cells, n_neighbors=min(15, len(embedding) - 1), use_rep="X", random_state=seed)
        scanpy.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class AskedGenes:
    """Genes the user named, looked up before the work begins.

    Parameters
    ----------
    regulators
        Names, or ``auto``.
    perturb
        Tokens; None: to be chosen from the network.
    unknown
        Names to perturb that the vocabulary does not have.
    """

    regulators: tuple[str, ...] | Literal["auto"]
    perturb: list[int] | None
    unknown: list[str]


def asked_genes(settings: RunSettings, vocabulary: GeneVocabulary) -> AskedGenes:
    """Look up the regulators and the genes to perturb.

    Raises
    ------
    FileNotFoundError, ValueError
        The file of regulators cannot be read, or none of the named genes is known.
    """
    regulators: tuple[str, ...] | Literal["auto"] = "auto"
    if settings.regulators != "auto":
        regulators = read_gene_list(settings.regulators)
        regulator_tokens(regulators, vocabulary)
    if settings.perturb == "auto":
        return AskedGenes(regulators=regulators, perturb=None, unknown=[])
    names = list(dict.fromkeys(name.strip() for name in settings.perturb.split(",") if name.strip()))
    if not names:
        raise ValueError("--perturb names no gene; give symbols or Ensembl IDs with commas, or auto")
    tokens, unknown = lookup(names, vocabulary)
    if not tokens:
        find_genes(names, vocabulary)  # raises, with the names that come close
    if unknown:
        logger.warning("not in the vocabulary, left out of --perturb: %s", ", ".join(unknown))
    return AskedGenes(regulators=regulators, perturb=list(dict.fromkeys(tokens)), unknown=unknown)


def extract_edges(
    encoder: Encoder,
    counts: CellCounts,
    *,
    ranked: RankedCells,
    labels: np.ndarray,
    asked: AskedGenes,
    settings: RunSettings,
) -> NetworkResult:
    """Return the edges of every group of cells, by attention and by co-expression."""
    how = NetworkSettings(
        regulators=asked.regulators,
        top=settings.top,
        min_support=settings.min_support,
        token_budget=settings.token_budget,
    )
    return score_network(
        counts, encoder.vocabulary, settings=how, encoder=encoder, ranked=ranked,
        labels=labels, groups_column=settings.groups or GROUP_COLUMN,
    )  # fmt: skip


def hub_regulators(network: NetworkResult, vocabulary: GeneVocabulary, *, n_hubs: int) -> list[int]:
    """Return the tokens of the regulators with the most edges.

    Counted is a regulator's share of all edges of its group and method, summed over groups and methods: hubs
    of both methods come first, so that what is perturbed has a network to travel through.
    """
    share = network.edges.groupby(["group", "method"])["source"].value_counts(normalize=True)
    hubs = share.groupby(level="source").sum().sort_values(ascending=False, kind="stable")
    return [vocabulary.token_of[gene] for gene in hubs.index[:n_hubs]]


def _cells_holding(ranked: RankedCells, genes: list[int]) -> np.ndarray:
    """Return how many of the genes each cell holds, ``(n,)`` int64."""
    places = np.flatnonzero(np.isin(ranked.tokens, genes))
    cells = np.searchsorted(ranked.offsets, places, side="right") - 1
    return np.bincount(cells, minlength=len(ranked))


def perturb_groups(
    encoder: Encoder,
    ranked: RankedCells,
    labels: np.ndarray,
    *,
    counts: CellCounts,
    network: NetworkResult,
    genes: list[int],
    settings: RunSettings,
) -> tuple[PerturbationResult, list[str]]:
    """Delete each gene in the groups that have a network, next to null genes of like rank and expression.

    Returns
    -------
    tuple
        The screen, and the groups left out: those whose cells hold the fewest of the genes, where not all
        fit into the bound on passes.

    Raises
    ------
    ValueError
        Not even one group fits.
    """
    from geneformer_grn.perturbation.effects import CellFacts, run_screen
    from geneformer_grn.perturbation.matching import rank_groups
    from geneformer_grn.perturbation.requests import PerturbSettings
    from geneformer_grn.perturbation.screen import PerturbationPlan, plan_screen

    # Over all genes, as the embedding is, also for models whose reference reads <cls>.
    how = PerturbSettings(
        encoder_layer=settings.encoder_layer, pooling="mean", token_budget=settings.token_budget
    )
    plan = PerturbationPlan(
        cells_per_gene=settings.cells_per_gene,
        n_null=settings.n_null,
        max_passes=settings.max_passes,
        seed=settings.seed,
    )
    sets = [(gene,) for gene in genes]
    holding = _cells_holding(ranked, genes)
    held = {group: int(holding[labels == group].sum()) for group in network.universe.n_cells}
    order = sorted(held, key=lambda group: (-held[group], group))
    for n_groups in range(len(order), 0, -1):
        kept = labels.astype(object)
        kept[~np.isin(labels, order[:n_groups])] = None
        try:
            ranks = rank_groups(ranked, kept, encoder.vocabulary, seed=plan.seed, counts=counts)
            plan_screen(ranks, sets, plan)
        except ValueError:
            if n_groups == 1:
                raise
            continue
        break
    left_out = order[n_groups:]
    if left_out:
        logger.warning(
            "%d passes reach for the groups whose cells hold most of the genes: %s; not perturbed: %s (allow "
            "more by --passes)", settings.max_passes, ", ".join(order[:n_groups]), ", ".join(left_out),
        )  # fmt: skip
    known = CellFacts(counts=counts)
    return run_screen(encoder, ranked, kept, sets, plan, settings=how, known=known), left_out
