"""What the main job's report says: its record and tables turned into the sections of the page.

The words are here because only the workflow knows what was done; how they look is the report room's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from geneformer_grn.report.content import CellsSection, InputSection, ReportContent

if TYPE_CHECKING:
    from anndata import AnnData

METHODS = (
    (
        "Cells as ranked genes",
        "Each cell becomes the list of its genes, ordered by count divided by the gene's typical non-zero "
        "count (rank-value encoding, as in Geneformer). Only the order enters the model, cropped to its "
        "longest input.",
    ),
    (
        "Embedding",
        "A cell's embedding is the mean of the states of its genes in the model's second-to-last layer, "
        "unless another layer was asked for. The map is a UMAP of it; distances on a UMAP are not to be "
        "measured.",
    ),
    (
        "Edges",
        "Attention: how strongly the target's position reads the regulator's, relative to reading all "
        "genes alike (1 = no preference), averaged over heads, layers and the cells that hold both genes. "
        "Co-expression: Pearson correlation of log-normalised expression. Neither says that one gene "
        "regulates the other.",
    ),
    (
        "Perturbation",
        "The gene's token is deleted from cells of the group, and the shift is 1 minus the cosine between "
        "the states of the other genes before and after, averaged over them. p compares it with deleting "
        "other genes of similar rank and detection: (1 + those at least as strong) / (1 + their number), "
        "q is Benjamini-Hochberg over the genes of a group. The interval is a 95 % bootstrap over cells.",
    ),
    (
        "Downstream",
        "Attention carries no sign, so the edges' coefficients are refitted by ridge regression to the "
        "group's expression. The deleted gene is set to zero expression and its change passed on hop by "
        "hop; effects are changes of mean log-normalised expression.",
    ),
)

CAVEATS = (
    "An edge is a hypothesis. Attention says what the model reads, which need not be regulation, and "
    "co-expression follows cell identity; where the two agree closely, attention adds little.",
    "Cells are not replicates: intervals over cells say how well this sample is measured, not whether "
    "another donor would show the same.",
    "Deleting a token is not knocking out a gene: it also moves every later gene up by one rank, and part "
    "of every shift is that move. The matched null genes share it.",
    "Propagation is linear and follows correlation in these cells; feedback, dosage and time are not in it.",
)


_LOW_Q = 0.05

SHIPPED_CAVEAT = (
    "The shipped model is small and was trained on few cells, half of them blood. Much of what it has "
    "learned is to read the genes at neighbouring ranks, and its attention shows that too. Its model card "
    "says what it was measured against."
)


def report_content(
    record: dict[str, Any],
    cells: AnnData,
    edges: pd.DataFrame,
    *,
    effects: pd.DataFrame,
    signed: pd.DataFrame,
    propagated: pd.DataFrame,
    outputs: Sequence[tuple[str, str]],
) -> ReportContent:
    """Return the page of a run.

    Parameters
    ----------
    record
        What ``run.json`` holds.
    cells
        The written cells, with embedding, UMAP and groups.
    edges, effects, propagated
        The written tables.
    signed
        Refitted edges; their signs colour the drawn network.
    outputs
        File names and what they are.
    """
    groups, perturbation = record["groups"], record["perturbation"]
    return ReportContent(
        title=f"Gene networks of {record['input']['name']}",
        summary=_summary(record, edges, effects),
        facts={
            "File": record["input"]["name"],
            "Cells": f"{cells.n_obs:,}",
            "Groups": f"{len(groups['sizes'])}",
            "Model": record["model"]["name"],
            "Date": record["date"],
            "Seed": str(record["parameters"]["seed"]),
        },
        inputs=_inputs(record["input"]),
        warnings=record["warnings"],
        cells=CellsSection(
            umap=cells.obsm[record["umap"]],
            groups=cells.obs["geneformer_group"].astype(str).to_numpy(),
            group_note=groups["note"],
        ),
        edges=_with_signs(edges, signed),
        agreement=_agreement_table(record["network"]["agreement"]),
        effects=effects,
        propagated=propagated,
        notes={
            "perturbation": (
                f"{perturbation['n_passes']:,} passes through the model; each null gene was deleted in "
                f"{perturbation['cells_per_gene']} cells of the group, and each gene compared with up to "
                f"{perturbation['n_null']} null genes, so that the smallest possible p is "
                f"{1 / (1 + max(perturbation['n_null'], 1)):.2g}."
            )
        },
        methods=METHODS,
        caveats=(*CAVEATS, SHIPPED_CAVEAT) if record["model"]["shipped"] else CAVEATS,
        provenance={
            "parameters": record["parameters"],
            "model": record["model"],
            "versions": record["versions"],
            "seconds": record["timings_s"],
        },
        outputs=outputs,
    )


def _summary(record: dict[str, Any], edges: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    inputs, network = record["input"], record["network"]
    sizes = record["groups"]["sizes"]
    known = effects[effects["shift"].notna()]
    sentences = [
        f"{inputs['n_cells']:,} cells in {len(sizes)} groups were read; {inputs['n_matched']:,} of "
        f"{inputs['n_genes']:,} genes are known to the model.",
        f"{network['n_regulators']:,} regulators were scored against {network['n_targets']:,} targets; the "
        f"{len(edges):,} strongest edges over groups and methods are kept.",
    ]
    if len(known):
        row = known.iloc[int(known["shift"].to_numpy().argmax())]
        n_low = int((known["q_value"] < _LOW_Q).sum())
        sentences.append(
            f"{n_low:,} of {len(known):,} deletions shift their cells more than other genes of the same "
            f"rank do (q < {_LOW_Q}). The largest shift came from deleting {row['gene_symbol']} in "
            f"{row['group']} ({row['n_cells']:,} cells, q {row['q_value']:.2g})."
        )
    return sentences


def _inputs(report: dict[str, Any]) -> InputSection:
    return InputSection(
        n_genes=report["n_genes"],
        n_genes_matched=report["n_matched"],
        n_cells=report["n_cells_file"],
        n_cells_kept=report["n_cells"],
        share_counts_lost=report["share_counts_lost"],
        n_genes_summed=report["n_summed"],
        n_genes_ambiguous=report["n_ambiguous"],
        first_lost=tuple(report["first_lost"]),
        dropped={
            "filter_pass is not 1": report["n_dropped_filter"],
            "no count of a known gene": report["n_dropped_empty"],
            "not in the random sample": report["n_not_sampled"],
        },
    )


def _with_signs(edges: pd.DataFrame, signed: pd.DataFrame) -> pd.DataFrame:
    """Return the edges with the sign of the refitted coefficient where their own method gives none."""
    key = ["group", "source", "target"]
    refitted = edges[key].merge(signed[[*key, "sign"]], on=key, how="left")["sign"].fillna(0).to_numpy()
    own = edges["sign"].to_numpy()
    return edges.assign(sign=pd.Series(own, index=edges.index).where(own != 0, refitted).astype(int))


def _agreement_table(agreement: dict[str, dict[str, dict[str, Any]]]) -> pd.DataFrame:
    """Return one row per group: how far attention agrees with correlation."""
    rows = []
    for group, methods in agreement.items():
        found = methods.get("attention", {})
        if "spearman" not in found:
            continue
        rows.append(
            {
                "group": group,
                "n_pairs": found["n_pairs"],
                "spearman": found["spearman"],
                "top_k": found["k"],
                "overlap": found["overlap"],
                "overlap_expected": found["expected"],
            }
        )
    return pd.DataFrame(
        rows, columns=["group", "n_pairs", "spearman", "top_k", "overlap", "overlap_expected"]
    )
