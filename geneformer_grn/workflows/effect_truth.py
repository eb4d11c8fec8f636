"""Perturbations as they were measured, read from whatever form they come in.

Three forms: perturbed single cells with their controls, contrasts already tested (a row each), or a table. In
all of them every gene measured must be listed, not only those that responded: the others are what responders
are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geneformer_grn.cells.counts import CellCounts, ReadSettings, log_normalised, read_counts
from geneformer_grn.evaluation.effects import Measured
from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.workflows.effect_names import (
    FORMS,
    control_label,
    gene_column,
    known_genes,
    perturbed_genes,
)

if TYPE_CHECKING:
    from anndata import AnnData

_TABLES = (".tsv", ".csv", ".txt", ".parquet")
_NEEDED = ("gene", "affected", "effect")


@dataclass(frozen=True, kw_only=True)
class TruthSettings:
    """How measured perturbations are read.

    Parameters
    ----------
    column
        obs column that names the perturbed gene; None: perturbation, target, gene, ko_ensembl, ko_gene or
        condition, the first there is.
    control
        Its value for unperturbed cells; None: found among the usual names.
    fdr
        Responders have a q-value of at most this.
    min_effect
        And an effect of at least this size (in the units of the truth).
    min_cells
        Perturbations with fewer cells are left out.
    read
        How counts are read; its ``where`` also chooses contrasts.
    """

    column: str | None = None
    control: str | None = None
    fdr: float = 0.05
    min_effect: float = 0.0
    min_cells: int = 20
    read: ReadSettings = field(default_factory=lambda: ReadSettings(drop_empty=True))

    def __post_init__(self) -> None:
        if not 0 < self.fdr < 1 or self.min_effect < 0:
            raise ValueError(
                f"an FDR lies between 0 and 1 and a smallest effect is not negative; got {self.fdr} and "
                f"{self.min_effect}"
            )


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Measured perturbations.

    Parameters
    ----------
    measured
        One entry a perturbation (a contrast, a group of cells).
    controls
        Unperturbed cells of the same experiment, where the truth holds them.
    facts
        ``form``, ``file`` and what was left out.
    """

    measured: list[Measured]
    controls: CellCounts | None
    facts: dict[str, Any]


def read_effect_truth(
    path: Path | str, vocabulary: GeneVocabulary, settings: TruthSettings | None = None
) -> Truth:
    """Read measured perturbations.

    Parameters
    ----------
    path
        Cells: an ``.h5ad`` of raw counts whose obs say which gene was perturbed, and which cells are
        controls; responders are found by `evaluation.responders.differential_expression`. Contrasts: an
        ``.h5ad`` with a row each, ``X`` log fold changes, the layer ``padj`` and where there is one
        ``tested``. A table (``.tsv``, ``.csv``, gzipped or not, ``.parquet``): ``gene, affected, effect`` and
        optionally ``q_value`` and ``group``, a row for every gene measured.
    vocabulary
        Names are mapped to its genes; others are left out and counted.
    settings
        See `TruthSettings`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is in none of the forms, or nothing in it can be used.
    """
    settings, path = settings or TruthSettings(), Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no truth at {path}")
    if any(suffix in _TABLES for suffix in path.suffixes[-2:]):
        truth = truth_of_table(_read_table(path), path.name, vocabulary, settings)
    else:
        from geneformer_grn.cells.opening import read_h5ad

        adata = read_h5ad(path)
        make = truth_of_contrasts if "padj" in adata.layers else truth_of_cells
        truth = make(adata, path.name, vocabulary, settings)
    truth.facts["n_perturbations"] = len(truth.measured)
    return truth


def truth_of_table(
    table: pd.DataFrame, name: str, vocabulary: GeneVocabulary, settings: TruthSettings
) -> Truth:
    """Return the perturbations of a table with a row for every gene measured."""
    missing = [column for column in _NEEDED if column not in table.columns]
    if missing:
        known = ", ".join(map(str, table.columns)) or "none"
        raise ValueError(f"{name} lacks the column {' and '.join(missing)} (it has: {known}); {FORMS}")
    try:
        effect = table["effect"].to_numpy(dtype=np.float64)
        q_value = table["q_value"].to_numpy(dtype=np.float64) if "q_value" in table.columns else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: effect and q_value must be numbers ({error})") from error
    affected = known_genes(table["affected"], vocabulary, name)
    genes, n_unknown = perturbed_genes(table["gene"], vocabulary, name)
    responds = _responds(effect, q_value, settings)
    if bool(responds[np.isfinite(effect)].all()):
        raise ValueError(
            f"every gene of {name} responds, so there is nothing to compare them with; list all genes "
            "measured, or set --min-effect"
        )
    group = table["group"].astype(str) if "group" in table.columns else pd.Series("", index=table.index)
    frame = pd.DataFrame(
        {
            "gene": genes,
            "group": group.to_numpy(),
            "affected": affected,
            "effect": effect,
            "responds": responds,
        }
    ).dropna(subset=["gene", "affected"])
    frame = frame.drop_duplicates(["gene", "group", "affected"])
    measured = [
        Measured(
            gene=str(gene), group=str(of_group), affected=part["affected"].to_numpy(dtype=object),
            effect=part["effect"].to_numpy(), responds=part["responds"].to_numpy(dtype=bool),
        )
        for (gene, of_group), part in frame.groupby(["gene", "group"], sort=True)
    ]  # fmt: skip
    return Truth(measured=measured, controls=None, facts=_facts("table", name, n_unknown))


def truth_of_contrasts(
    adata: AnnData, name: str, vocabulary: GeneVocabulary, settings: TruthSettings
) -> Truth:
    """Return the perturbations of tested contrasts, a row each."""
    from geneformer_grn.cells.filters import choose_rows

    rows = choose_rows(adata.obs, name, where=settings.read.where).rows
    column = gene_column(adata.obs, settings.column, name)
    genes, n_unknown = perturbed_genes(adata.obs[column].iloc[rows], vocabulary, name)
    affected = known_genes(adata.var_names, vocabulary, name)
    _, first = np.unique(affected[affected != None], return_index=True)  # noqa: E711 - elementwise
    columns = np.flatnonzero(affected != None)[np.sort(first)]  # noqa: E711
    measured = []
    for row, gene in zip(rows, genes, strict=True):
        if gene is None:
            continue
        effect = _dense(adata.X[row])[columns]
        q_value = _dense(adata.layers["padj"][row])[columns]
        tested = _dense(adata.layers["tested"][row])[columns] > 0 if "tested" in adata.layers else effect != 0
        measured.append(
            Measured(
                gene=gene, affected=affected[columns][tested], effect=effect[tested],
                responds=_responds(effect, q_value, settings)[tested],
            )
        )  # fmt: skip
    return Truth(measured=measured, controls=None, facts=_facts("contrasts", name, n_unknown))


def truth_of_cells(adata: AnnData, name: str, vocabulary: GeneVocabulary, settings: TruthSettings) -> Truth:
    """Return the perturbations of perturbed single cells, each tested against the control cells."""
    from geneformer_grn.evaluation.responders import differential_expression

    counts = read_counts(adata, vocabulary, settings.read, name=name)
    labels = counts.obs[gene_column(counts.obs, settings.column, name)].astype(str).to_numpy(dtype=object)
    control = control_label(labels, settings.control, name)
    sizes = pd.Series(labels).value_counts()
    names = sorted(sizes.index[(sizes >= settings.min_cells) & (sizes.index != control)].astype(str))
    genes, n_unknown = perturbed_genes(names, vocabulary, name)
    expression = log_normalised(counts)
    unperturbed = expression[labels == control]
    affected = vocabulary.ensembl_ids[counts.column_tokens]
    measured = []
    for label, gene in zip(names, genes, strict=True):
        if gene is None:
            continue
        effect, q_value = differential_expression(expression[labels == label], unperturbed)
        responds = _responds(effect, q_value, settings)
        measured.append(Measured(gene=gene, affected=affected, effect=effect, responds=responds))
    facts = _facts("cells", name, n_unknown) | {"control": control, "n_control": int(sizes[control])}
    return Truth(measured=measured, controls=_rows(counts, labels == control), facts=facts)


def _rows(counts: CellCounts, chosen: np.ndarray) -> CellCounts:
    return CellCounts(
        matrix=counts.matrix[chosen], column_tokens=counts.column_tokens, n_counts=counts.n_counts[chosen],
        obs=counts.obs.iloc[np.flatnonzero(chosen)], kept=counts.kept[chosen], report=counts.report,
        name=counts.name,
    )  # fmt: skip


def _facts(form: str, name: str, n_unknown: int) -> dict[str, Any]:
    return {"form": form, "file": name, "n_perturbations_unknown": n_unknown}


def _read_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, sep="," if ".csv" in path.suffixes else "\t")
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read as a table ({error}); {FORMS}") from error


def _dense(row: Any) -> np.ndarray:
    return np.asarray(row.toarray() if hasattr(row, "toarray") else row, dtype=np.float64).ravel()


def _responds(effect: np.ndarray, q_value: np.ndarray | None, settings: TruthSettings) -> np.ndarray:
    """Return which genes respond: significant where that was tested, else any effect, and large enough."""
    moved = (np.abs(effect) >= settings.min_effect) & (effect != 0) & np.isfinite(effect)
    return moved if q_value is None else moved & (q_value <= settings.fdr)
