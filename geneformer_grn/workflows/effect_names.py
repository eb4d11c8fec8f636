"""What a truth's genes, columns and controls are called: names found, mapped, or refused with what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geneformer_grn.genes.mapping import lookup, map_genes
from geneformer_grn.genes.vocabulary import GeneVocabulary

_GENE_COLUMNS = ("perturbation", "target", "gene", "ko_ensembl", "ko_gene", "condition")
_CONTROLS = ("control", "non-targeting", "ctrl", "NT", "non_targeting")
FORMS = (
    "TRUTH is an .h5ad of perturbed and control cells, an .h5ad of tested contrasts (X: log fold changes, "
    "layer 'padj'), or a table with the columns gene, affected, effect[, q_value][, group]"
)


def known_genes(
    names: Sequence[str] | pd.Series | pd.Index, vocabulary: GeneVocabulary, name: str
) -> np.ndarray:
    """Return the Ensembl ID of each name, None where it is no gene of the vocabulary."""
    unique, place = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    tokens = map_genes(list(unique), vocabulary).tokens
    if len(unique) and (tokens < 0).all():
        raise ValueError(
            f"none of the {len(unique):,} measured genes of {name} is known (first: {unique[0]!r}); the "
            "truth needs Ensembl IDs or symbols"
        )
    found = np.where(tokens >= 0, vocabulary.ensembl_ids[np.maximum(tokens, 0)], None)
    return np.asarray(found[place], dtype=object)


def perturbed_genes(
    names: Sequence[str] | pd.Series, vocabulary: GeneVocabulary, name: str
) -> tuple[list[str | None], int]:
    """Return each perturbed gene (or set, joined by ``+``) as Ensembl IDs, and how many are unknown.

    People typed these names: symbols count also under a published vocabulary that maps IDs alone.
    """
    typed = [str(one) for one in names]
    unique = list(dict.fromkeys(typed))
    found: dict[str, str | None] = {}
    for one in unique:
        tokens, unknown = lookup(one.split("+"), vocabulary)
        found[one] = None if unknown else "+".join(sorted(vocabulary.ensembl_ids[tokens]))
    n_unknown = sum(value is None for value in found.values())
    if n_unknown == len(unique):
        shown = ", ".join(map(repr, unique[:3])) or "none"
        raise ValueError(f"no perturbation of {name} is of a known gene (found: {shown}); {FORMS}")
    return [found[one] for one in typed], n_unknown


def gene_column(obs: pd.DataFrame, column: str | None, name: str) -> str:
    """Return the obs column of perturbed genes: the one named, else the first of the usual names."""
    chosen = column or next((one for one in _GENE_COLUMNS if one in obs.columns), None)
    if chosen is None or chosen not in obs.columns:
        known = ", ".join(map(str, obs.columns)) or "none"
        raise ValueError(
            f"{name} has no obs column {chosen or 'perturbation'!r} of perturbed genes (it has: {known}); "
            f"name it with --perturbation-column. {FORMS}"
        )
    return chosen


def control_label(labels: np.ndarray, control: str | None, name: str) -> str:
    """Return the label of control cells: the one named, else the first of the usual names."""
    present = set(labels.tolist())
    if control is None:
        control = next((one for one in _CONTROLS if one in present), None)
    if control is None or control not in present:
        shown = ", ".join(sorted(map(str, present))[:8])
        raise ValueError(
            f"{name} has no cells {control or 'control'!r} among its perturbations ({shown}, ...); name the "
            "control cells with --control"
        )
    return control
