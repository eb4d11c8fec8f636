"""From the tables of a perturbation run to trials: what it says of each gene, beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.evaluation.effect_baselines import Baselines, other_perturbations
from geneformer_grn.evaluation.effects import (
    MIN_RESPONDERS,
    N_RIVALS,
    Measured,
    Trial,
    can_be_scored,
    make_trial,
    score_card,
)

_KEY = ["gene", "kind", "group"]
COMBINED = "delta_nats_with_coexpression"
OTHERS = "other_perturbations"
_UNTRAINED = "untrained_"
_LEAST_OTHERS = 2  # perturbations that a mean is taken over


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """What a run says of one perturbation in one group of cells.

    Parameters
    ----------
    gene, kind, group
        As in the run's tables.
    strength, direction
        Index: affected Ensembl ID; a column per readout, see `predictions_of`.
    n_cells
        Index: affected Ensembl ID; in how many perturbed cells it was seen.
    """

    gene: str
    kind: str
    group: str
    strength: pd.DataFrame
    direction: pd.DataFrame
    n_cells: pd.Series


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """How predictions are scored.

    Parameters
    ----------
    n_rivals
        Matched genes each responder is compared with.
    min_responders
        Perturbations with fewer, or with fewer other genes, are not scored.
    seed
        Of the bootstrap.
    """

    n_rivals: int = N_RIVALS
    min_responders: int = MIN_RESPONDERS
    seed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Rivals:
    """What predictions are compared with.

    Parameters
    ----------
    cells
        Baselines from unperturbed cells, by group (the key ``""`` serves every other group); empty where no
        cells are at hand.
    others
        Shares and mean effects of `other_perturbations`, or None.
    """

    cells: Mapping[str, Baselines] = field(default_factory=dict)
    others: tuple[pd.DataFrame, pd.DataFrame] | None = None

    def of_group(self, group: str) -> Baselines | None:
        """Return the baselines for a group of cells."""
        return self.cells.get(group, self.cells.get(""))


def predictions_of(expression: pd.DataFrame | None, gene_shifts: pd.DataFrame | None) -> list[Prediction]:
    """Return what the readouts ``expression`` and ``genes`` say of each perturbation.

    Parameters
    ----------
    expression
        ``gene, affected, kind, group, delta_nats, n_cells`` and, where they were written, ``delta_nats_sd``
        and ``delta_rank``.
    gene_shifts
        ``gene, affected, kind, group, shift, n_cells`` and, where it was written, ``signed_shift``.

    Returns
    -------
    list of Prediction
        With the strengths ``delta_nats`` and ``delta_rank`` (absolute), ``delta_nats_moderated`` (over its
        standard error, the spread between cells taken together with that of the median gene), ``gene_shift``
        and ``signed_shift`` (absolute); and the directions ``delta_nats``, ``delta_rank`` (above 0: the gene
        is expected further to the front) and ``signed_shift``. With three perturbations of the same cells or
        more also ``delta_rank_specific``: ``delta_rank`` less its mean over the others.
    """
    found: dict[tuple[str, ...], list[tuple[pd.DataFrame, pd.DataFrame, pd.Series]]] = {}
    for table, read in ((expression, _of_expression), (gene_shifts, _of_shifts)):
        if table is not None:
            for key, part in table.groupby(_KEY, sort=True):
                rows = part.drop_duplicates("affected").set_index("affected")
                found.setdefault(tuple(map(str, key)), []).append(read(rows))
    predictions = [
        Prediction(
            gene=gene, kind=kind, group=group,
            strength=pd.concat([one[0] for one in parts], axis=1, join="inner"),
            direction=pd.concat([one[1] for one in parts], axis=1, join="inner"),
            n_cells=parts[0][2],
        )
        for (gene, kind, group), parts in found.items()
    ]  # fmt: skip
    return _with_specific(predictions)


def _with_specific(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return predictions with their change of rank less the mean of other perturbations of the same cells.

    What moving any gene does to a cell (the others change places) is no effect of this gene.
    """
    sums: dict[tuple[str, str], list[pd.Series]] = {}
    ranked = [one for one in predictions if "delta_rank" in one.direction]
    for one in ranked:
        sums.setdefault((one.kind, one.group), []).append(one.direction["delta_rank"])
    totals = {key: pd.concat(parts).groupby(level=0).agg(["sum", "count"]) for key, parts in sums.items()}
    found = []
    for one in predictions:
        if "delta_rank" in one.direction and len(sums[one.kind, one.group]) > _LEAST_OTHERS:
            own = one.direction["delta_rank"]
            total = totals[one.kind, one.group].loc[own.index]
            others = (total["count"] - 1).where(total["count"] > 1, np.nan)
            specific = own - ((total["sum"] - own) / others).fillna(0.0)
            strength = one.strength.assign(delta_rank_specific=specific.abs())
            direction = one.direction.assign(delta_rank_specific=specific)
            found.append(replace(one, strength=strength, direction=direction))
        else:
            found.append(one)
    return found


def _of_expression(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    nats = rows["delta_nats"]
    strength, direction = {"delta_nats": nats.abs()}, {"delta_nats": nats}
    if "delta_nats_sd" in rows:
        variance = rows["delta_nats_sd"] ** 2
        typical = variance.median()
        pooled = (variance.fillna(typical) + typical) / rows["n_cells"]
        strength["delta_nats_moderated"] = nats.abs() / pooled.where(pooled > 0, 1.0) ** 0.5
    if "delta_rank" in rows:
        strength["delta_rank"], direction["delta_rank"] = rows["delta_rank"].abs(), rows["delta_rank"]
    return pd.DataFrame(strength), pd.DataFrame(direction), rows["n_cells"]


def _of_shifts(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    strength, direction = {"gene_shift": rows["shift"]}, {}
    if "signed_shift" in rows:
        direction["signed_shift"] = rows["signed_shift"].fillna(0.0)  # a gene without an axis
        strength["signed_shift"] = direction["signed_shift"].abs()
    return pd.DataFrame(strength), pd.DataFrame(direction, index=rows.index), rows["n_cells"]


def with_untrained(predictions: Sequence[Prediction], twins: Sequence[Prediction]) -> list[Prediction]:
    """Return predictions with those of an untrained model of the same shape beside them, as baselines.

    Parameters
    ----------
    predictions, twins
        Of the same perturbations of the same cells.
    """
    twin_of = {(one.gene, one.kind, one.group): one for one in twins}
    joined = []
    for one in predictions:
        twin = twin_of[one.gene, one.kind, one.group]
        strength = one.strength.join(twin.strength.add_prefix(_UNTRAINED), how="inner")
        direction = one.direction.join(twin.direction.add_prefix(_UNTRAINED), how="inner")
        joined.append(replace(one, strength=strength, direction=direction))
    return joined


def rivals_of(measured: Sequence[Measured], cells: Mapping[str, Baselines]) -> Rivals:
    """Return what predictions of these perturbations are compared with."""
    n_genes = len({one.gene for one in measured})
    return Rivals(cells=cells, others=other_perturbations(measured) if n_genes > 1 else None)


def trials_of(predictions: Sequence[Prediction], measured: Sequence[Measured], rivals: Rivals) -> list[Trial]:
    """Return a trial for every prediction and every measurement of the same gene (and group).

    A measurement without a group fits the predictions of all groups; a contrast measured twice makes two
    trials. Without unperturbed cells, genes are matched on the share of perturbed cells alone.
    """
    return [
        _trial(prediction, one, rivals)
        for prediction in predictions
        for one in measured
        if one.gene == prediction.gene and one.group in {"", prediction.group}
    ]


def _trial(prediction: Prediction, measured: Measured, rivals: Rivals) -> Trial:
    strength, direction = prediction.strength, prediction.direction
    traits = prediction.n_cells.to_frame("n_cells")
    baselines = rivals.of_group(prediction.group)
    if baselines is not None:
        strength = strength.join(baselines.strength(measured.gene), how="inner")
        direction = direction.join(baselines.direction(measured.gene, prediction.kind), how="inner")
        traits = baselines.traits()
    if rivals.others is not None:
        responded, effect = rivals.others
        strength = strength.join(responded.T[[measured.gene]].set_axis([OTHERS], axis=1), how="inner")
        direction = direction.join(effect.T[[measured.gene]].set_axis([OTHERS], axis=1), how="inner")
    genes = strength.index[strength.index.isin(measured.affected)]
    strength = strength.loc[genes]
    if "coexpression" in strength and "delta_nats" in strength:
        both = strength[["delta_nats", "coexpression"]].rank(pct=True)
        strength = strength.assign(**{COMBINED: both.mean(axis=1)})
    return make_trial(measured, strength, direction, traits, group=prediction.group)


def cards_of(
    predictions: Sequence[Prediction],
    measured: Sequence[Measured],
    rivals: Rivals,
    settings: TrialSettings | None = None,
) -> dict[str, Any]:
    """Return a score card per kind of perturbation.

    Parameters
    ----------
    predictions, measured, rivals
        See `predictions_of`, `Measured`, `rivals_of`.
    settings
        See `TrialSettings`.

    Returns
    -------
    dict
        Kind -> card of `score_card`, with ``n_too_few_responders`` (trials not scored).

    Raises
    ------
    ValueError
        The two share no perturbed gene, or no trial holds enough responders.
    """
    settings = settings or TrialSettings()
    cards: dict[str, Any] = {}
    n_trials = 0
    for kind in sorted({one.kind for one in predictions}):
        of_kind = [one for one in predictions if one.kind == kind]
        trials = trials_of(of_kind, measured, rivals)
        n_trials += len(trials)
        scored = [one for one in trials if can_be_scored(one, min_responders=settings.min_responders)]
        if scored:
            names = [*of_kind[0].strength.columns, *of_kind[0].direction.columns, COMBINED]
            ours = [name for name in names if not name.startswith(_UNTRAINED)]
            card = score_card(scored, ours=ours, n_rivals=settings.n_rivals, seed=settings.seed)
            cards[kind] = {**card, "n_too_few_responders": len(trials) - len(scored)}
    if not n_trials:
        raise ValueError(
            f"no gene was both perturbed and measured: {_first(predictions)} perturbed, {_first(measured)} "
            "measured (groups must agree too, where the truth has them)"
        )
    if not cards:
        raise ValueError(
            f"none of {n_trials:,} measured perturbations has {settings.min_responders} responders, and as "
            "many other genes, among the genes the model scores; lower --min-responders or --min-effect, or "
            "raise --fdr"
        )
    return cards


def _first(items: Sequence[Prediction] | Sequence[Measured]) -> str:
    genes = sorted({one.gene for one in items})
    return f"{', '.join(genes[:3])}{', ...' if len(genes) > 3 else ''}" or "none"
