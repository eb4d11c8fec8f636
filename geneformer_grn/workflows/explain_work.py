"""The work of an explanation: attributions of every model by every method, and the tables made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.attributions import Attributions, averaged
from geneformer_grn.explanation.drivers import (
    crossed_class_scores,
    driver_genes,
    fold_agreement,
    list_overlap,
)
from geneformer_grn.explanation.faithfulness import (
    Deletion,
    averaged_deletions,
    deletion_curve,
    deletion_table,
)
from geneformer_grn.explanation.methods import METHODS
from geneformer_grn.explanation.target import Explained
from geneformer_grn.workflows.explain_cells import ChosenCells
from geneformer_grn.workflows.explain_options import ExplainOptions

TENTH = 0.1
RIVAL = "differential_expression"


class MethodFound:
    """What one method found, over all models.

    Parameters
    ----------
    models
        The heads, one of each model.
    ranked, chosen, options
        What is explained.
    method
        Name of the method.
    """

    def __init__(
        self,
        models: Sequence[Explained],
        ranked: RankedCells,
        chosen: ChosenCells,
        options: ExplainOptions,
        method: str,
    ) -> None:
        self._models, self._ranked, self._chosen, self._options = models, ranked, chosen, options
        self.method = method
        self._parts = [
            METHODS[method](model, ranked, chosen.cells, chosen.targets, options.attribution)
            for model in models
        ]
        self.mean = averaged(self._parts)

    def drivers(self, expression: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the driver genes and, by class, how far they agree with other lists."""
        options, vocabulary, names = self._options, self._models[0].vocabulary, self._models[0].names
        table = driver_genes(self.mean, names, vocabulary, n_top=options.n_top, seed=options.seed)
        agreement = pd.DataFrame({"class": list(dict.fromkeys(table["class"]))})
        if len(self._parts) > 1:
            each = [driver_genes(part, names, vocabulary, n_bootstrap=1) for part in self._parts]
            shares, alike = fold_agreement(each, n_top=options.n_top)
            table = table.merge(shares, on=["class", "gene"], how="left")
            agreement = agreement.merge(alike, on="class")
        if len(expression):
            named = {"rank": "de_rank", "difference": "de_difference", "q_value": "de_q_value"}
            table = table.merge(expression.rename(columns=named), on=["class", "gene"], how="left")
            overlap = list_overlap(table, expression, n_top=options.n_top)
            agreement = agreement.merge(overlap, on="class")
        return table, agreement.assign(method=self.method)

    def deletions(self) -> dict[str, Deletion]:
        """Return the deletion curves by each cell's own scores, and by the driver genes of its class."""
        size, seed = len(self._models[0].vocabulary), self._options.seed
        crossed = [crossed_class_scores(part, size, seed=seed) for part in self._parts]
        return {"cell": self._curves(self._parts), "class": self._curves(crossed)}

    def rival(self, expression: pd.DataFrame) -> Deletion:
        """Return the deletion curve by the genes that are higher in the class's cells than in others."""
        vocabulary, first = self._models[0].vocabulary, self.mean
        scores = np.full(len(first.scores), -float(len(vocabulary)))
        names = np.array(self._models[0].names, dtype=object)[first.targets][first.cell_of]
        for name, part in expression.groupby("class", sort=False):
            rank = pd.Series(part["rank"].to_numpy(), index=part["gene"].to_numpy())
            own = names == name
            scores[own] = -rank.reindex(vocabulary.ensembl_ids[first.tokens[own]]).fillna(len(vocabulary))
        return self._curves([first.with_scores(scores)] * len(self._models))

    def cells(self) -> pd.DataFrame:
        """Return a row per cell, see `Explanation.cells`."""
        mean = self.mean
        return pd.DataFrame(
            {
                "cell_id": mean.cells,
                "class": np.array(self._models[0].names, dtype=object)[mean.targets],
                "method": self.method,
                "output": mean.outputs,
                "baseline_output": mean.baseline_outputs,
                "completeness_error": np.max([part.completeness_error for part in self._parts], axis=0),
                "steps": mean.steps,
            }
        )

    def scores(self) -> pd.DataFrame:
        """Return a row per cell and gene, see `Explanation.scores`."""
        mean, model = self.mean, self._models[0]
        return pd.DataFrame(
            {
                "cell_id": mean.cells[mean.cell_of],
                "class": np.array(model.names, dtype=object)[mean.targets][mean.cell_of],
                "method": self.method,
                "gene": model.vocabulary.ensembl_ids[mean.tokens],
                "score": mean.scores,
            }
        )

    def _curves(self, parts: Sequence[Attributions]) -> Deletion:
        return averaged_deletions(
            [
                deletion_curve(model, self._ranked, part, self._options.deletion)
                for model, part in zip(self._models, parts, strict=True)
            ]
        )


def deletion_rows(
    deletion: Deletion, names: Sequence[str], donors: np.ndarray | None, *, seed: int, method: str,
    ranking: str,
) -> pd.DataFrame:  # fmt: skip
    """Return the deletion table of all cells, and beneath it that of each class.

    The driver genes of a class were found in other cells of it, so by the ranking ``class`` a class of which
    one cell is explained has no rows.
    """
    if ranking == "class":
        rows = np.flatnonzero(np.bincount(deletion.targets)[deletion.targets] > 1)
        deletion, donors = deletion.of(rows), None if donors is None else donors[rows]
        if not len(rows):
            return pd.DataFrame()
    whole = deletion_table(deletion, groups=donors, seed=seed).assign(**{"class": ""})
    parts = [whole]
    for number in np.unique(deletion.targets) if len(names) > 1 else []:
        rows = np.flatnonzero(deletion.targets == number)
        own = None if donors is None else donors[rows]
        table = deletion_table(deletion.of(rows), groups=own, n_bootstrap=500, seed=seed)
        parts.append(table.assign(**{"class": names[number]}))
    return pd.concat(parts, ignore_index=True).assign(method=method, ranking=ranking)


def main_figures(deletion: pd.DataFrame, cells: pd.DataFrame, tolerance: float) -> dict[str, dict[str, Any]]:
    """Return for each method its completeness, and what taking the leading tenth of genes away does."""
    found: dict[str, dict[str, Any]] = {}
    for method, part in deletion[deletion["class"] == ""].groupby("method", sort=False):
        figures: dict[str, Any] = {}
        errors = cells.loc[cells["method"] == method, "completeness_error"].dropna()
        if len(errors):
            figures["share_complete"] = float((errors <= tolerance).mean())
            figures["largest_completeness_error"] = float(errors.max())
        for ranking, rows in part.groupby("ranking", sort=False):
            nearest = rows.iloc[(rows["share"] - TENTH).abs().argmin()]
            names = ("share", "drop_named", "drop_random", "excess", "excess_low", "excess_high")
            figures[str(ranking)] = {name: float(nearest[name]) for name in names}
            last = rows.iloc[-1]
            figures[str(ranking)] |= {name: float(last[name]) for name in ("area", "area_low", "area_high")}
        found[str(method)] = figures
    return found
