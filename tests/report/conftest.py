"""A made-up run of any size: symbols that exist, values drawn once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.page import CellsSection, InputSection, ReportContent

REGULATORS = ["SPI1", "PAX5", "CEBPA", "TBX21", "EOMES", "GATA3", "LEF1", "TCF7", "IRF8", "EBF1"]
TARGETS = [
    "LYZ",
    "CD14",
    "S100A8",
    "FCGR3A",
    "MS4A1",
    "CD79A",
    "CD3D",
    "IL7R",
    "GZMB",
    "NKG7",
    "CST3",
    "PPBP",
]
GROUPS = ["CD4+ T", "Monocytes", "B", "CD8+ T", "NK", "FCGR3A+ monocytes", "Dendritic", "Megakaryocytes"]


def make_content(
    groups: list[str], *, n_cells: int = 300, n_edges: int = 30, **changes: object
) -> ReportContent:
    generator = np.random.default_rng(0)
    labels = np.array(groups)[np.arange(n_cells) % len(groups)]
    ids = {name: f"ENSG{number:011d}" for number, name in enumerate([*REGULATORS, *TARGETS])}
    pairs = [(source, target) for source in REGULATORS for target in TARGETS]
    edges, effects, propagated = [], [], []
    for group in groups:
        for method in ("attention", "correlation"):
            for index in generator.choice(len(pairs), n_edges, replace=False):
                source, target = pairs[index]
                edges.append(
                    {
                        "source": ids[source],
                        "target": ids[target],
                        "source_symbol": source,
                        "target_symbol": target,
                        "weight": generator.gamma(2.0, 0.01),
                        "support": int(generator.integers(20, 400)),
                        "group": group,
                        "method": method,
                        "sign": int(generator.choice([1, -1, 0])),
                    }
                )
        for source in REGULATORS:
            shift = float(generator.gamma(2.0, 0.004))
            effects.append(
                {
                    "gene": ids[source],
                    "gene_symbol": source,
                    "kind": "delete",
                    "group": group,
                    "shift": shift,
                    "n_cells": 50,
                    "ci_low": 0.9 * shift,
                    "ci_high": 1.1 * shift,
                    "p_value": float(generator.uniform()),
                    "q_value": 0.01 if source == "SPI1" else 0.7,
                    "null_mean": 0.006,
                    "null_low": 0.002,
                    "null_high": 0.011,
                }
            )
    for hop in (1, 2):
        propagated += [
            {
                "source": ids["SPI1"],
                "source_symbol": "SPI1",
                "gene": ids[target],
                "gene_symbol": target,
                "group": groups[0],
                "hop": hop,
                "effect": float(generator.normal()),
            }
            for target in TARGETS
        ]
    agreement = pd.DataFrame(
        {"group": groups, "n_pairs": 1000, "spearman": 0.4, "overlap": 0.1, "overlap_expected": 0.01}
    )
    content = {
        "title": "Gene network of cells.h5ad",
        "summary": ["295 of 300 cells were read.", "SPI1 has the most targets."],
        "facts": {"File": "cells.h5ad", "Model": "mini", "Seed": "0"},
        "inputs": InputSection(
            n_genes=2000,
            n_genes_matched=1900,
            n_cells=300,
            n_cells_kept=295,
            share_counts_lost=0.02,
            first_lost=["FOO1"],
            dropped={"filter_pass is 0": 5},
        ),
        "warnings": ["One group has few cells."],
        "cells": CellsSection(
            umap=generator.normal(size=(n_cells, 2)), groups=labels, group_note="Named by marker genes."
        ),
        "edges": pd.DataFrame(edges),
        "agreement": agreement,
        "effects": pd.DataFrame(effects),
        "propagated": pd.DataFrame(propagated),
        "notes": {"perturbation": "40 matched genes each."},
        "methods": [("Rank-value encoding", "Each cell becomes a ranked list.")],
        "caveats": ["Cells are not replicates."],
        "provenance": {"seed": 0, "versions": {"numpy": "2"}},
        "outputs": [("edges.tsv", "all edges")],
    }
    return ReportContent(**(content | changes))


@pytest.fixture(scope="session")
def content() -> ReportContent:
    return make_content(GROUPS)


@pytest.fixture(scope="session")
def content_factory():
    return make_content
