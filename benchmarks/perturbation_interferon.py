"""Interferon-beta on blood cells: what stands for it, and whether cells move towards stimulated ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from perturbation_sets import Bench, predictions_for
from scipy import sparse

from geneformer_grn.cells.counts import CellCounts, ReadSettings, log_normalised, read_counts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.embedding import EmbedSettings, embed_cells
from geneformer_grn.evaluation.effect_trials import Rivals, TrialSettings, cards_of
from geneformer_grn.evaluation.effects import Measured
from geneformer_grn.evaluation.responders import differential_expression
from geneformer_grn.genes.mapping import find_genes
from geneformer_grn.metrics import shares_beaten
from geneformer_grn.model.encoder import Encoder
from geneformer_grn.perturbation.axes import take_cells
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.matching import choose_null_sets, rank_groups
from geneformer_grn.perturbation.requests import PerturbSettings, Request
from geneformer_grn.statistics import bootstrap_interval
from geneformer_grn.workflows.evaluate_effects import cell_baselines
from geneformer_grn.workflows.suite_bench import rows_of
from geneformer_grn.workflows.suite_stimulus import CELL_TYPES, COMPLEX, MIN_EFFECT, Typed, typed_cells

PATHWAY = ("IFNAR1", "IFNAR2", "JAK1", "TYK2", "STAT1", "STAT2", "IRF9")
_N_RESPONDERS = 20
_LEAST_CELLS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Blood:
    """Control and stimulated cells, typed.

    Parameters
    ----------
    counts, ranked
        All cells.
    expression
        ``(n, g)`` log-normalised.
    typed
        Type and state of each.
    """

    counts: CellCounts
    ranked: RankedCells
    expression: sparse.csr_matrix
    typed: Typed


def interferon(bench: Bench) -> dict[str, Any]:
    """Score the stimulus by overexpressing the genes of its pathway in control cells."""
    vocabulary, blood = bench.encoder.vocabulary, read_blood(bench)
    ids = vocabulary.ensembl_ids[blood.counts.column_tokens]
    expression = blood.expression
    sets = {
        "+".join(names): tuple(find_genes(names, vocabulary))
        for names in (COMPLEX, *zip(PATHWAY, strict=True))
    }
    key_of = {name: "+".join(sorted(vocabulary.ensembl_ids[list(genes)])) for name, genes in sets.items()}
    measured, requests, baselines, up = [], [], {}, {}
    for kind in CELL_TYPES:
        control, treated = (blood.typed.rows(kind, stimulated=state) for state in (False, True))
        effect, q_value = differential_expression(expression[treated], expression[control])
        responds = (q_value <= 0.05) & (np.abs(effect) >= MIN_EFFECT)
        up[kind] = blood.counts.column_tokens[
            np.argsort(-np.where(responds, effect, -np.inf))[:_N_RESPONDERS]
        ]
        baselines[kind] = cell_baselines(rows_of(blood.counts, control), vocabulary, list(key_of.values()))
        cells = np.random.default_rng(bench.seed).permutation(control)
        for name, genes in sets.items():
            n_cells = bench.n_cells if len(genes) > 1 else bench.n_cells // 4
            if n_cells < _LEAST_CELLS:
                continue  # what each gene does alone is a side question
            measured.append(
                Measured(gene=key_of[name], affected=ids, effect=effect, responds=responds, group=kind)
            )
            requests.append(
                Request(genes=genes, kind="overexpress", cells=np.sort(cells[:n_cells]), group=kind)
            )
    predictions = predictions_for(bench, blood.ranked, requests)
    settings, cards = TrialSettings(seed=bench.seed), {}
    for name, key in key_of.items():
        if mine := [one for one in predictions if one.gene == key]:
            cards[name] = cards_of(mine, measured, Rivals(cells=baselines), settings)["overexpress"]
    state = _towards(bench, blood, up)
    return {
        "cards": {f"overexpress {'+'.join(COMPLEX)}": cards["+".join(COMPLEX)]},
        "cards_of_single_genes": {
            f"overexpress {name}": cards[name] for name in PATHWAY if name in cards
        },
        "state": state,
        "text": _text(cards, state),
        "label_accuracy": blood.typed.accuracy,
        "caveats": [
            "IFNB1 is not in the vocabulary: overexpressing its receptors, kinases and transcription factors "
            "in control cells stands for it; measured is stimulated less control of the same type",
            "stimulated cells carry no type: they are given that of the nearest control centroid, over genes "
            "that the stimulus leaves alone (right for "
            f"{100 * blood.typed.accuracy:.0f} % of held-out control cells)",
            "donors of the stimulated cells are unknown: tests are over cells; responders have q <= 0.05 and "
            f"move by at least {MIN_EFFECT} in mean log-normalised expression",
        ],
    }  # fmt: skip


def read_blood(bench: Bench) -> Blood:
    """Return the cells; those stimulated get the type of the most correlated control centroid."""
    path = bench.data / "perturbation" / "kang_ifnb_subset_9k.h5ad"
    counts = read_counts(path, bench.encoder.vocabulary, ReadSettings(drop_empty=True))
    expression = log_normalised(counts)
    return Blood(
        counts=counts, ranked=rank_cells(counts, bench.encoder.vocabulary), expression=expression,
        typed=typed_cells(counts, expression, seed=bench.seed),
    )  # fmt: skip


def _towards(bench: Bench, blood: Blood, up: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return whether overexpressed genes move control cells towards stimulated ones more than their equals.

    Movement is the change of the cosine to the mean of stimulated cells, less that to control cells. Tested
    are the genes of the pathway, and as a positive control genes that the stimulus raises: put in front of a
    cell, a gene that only stimulated cells express must make it look like them.
    """
    pathway = find_genes(PATHWAY, bench.encoder.vocabulary)
    found: dict[str, Any] = {}
    for kind in CELL_TYPES[:2]:
        genes = {"pathway": pathway, "responders": [int(g) for g in up[kind] if int(g) not in pathway]}
        control = blood.typed.rows(kind, stimulated=False)
        labels = np.full(len(blood.typed.types), None, dtype=object)
        labels[control] = kind
        vocabulary = bench.encoder.vocabulary
        (group,) = rank_groups(blood.ranked, labels, vocabulary, seed=bench.seed, counts=blood.counts)
        sets = [(gene,) for part in genes.values() for gene in part]
        nulls = choose_null_sets(group, sets, candidates=group.detected(3), n_null=bench.n_null)
        everything = list(dict.fromkeys([*sets, *(null for part in nulls.values() for null in part)]))
        cells = np.sort(group.cells[: max(bench.n_cells // 3, 3)])
        requests = [Request(genes=one, kind="overexpress", cells=cells) for one in everything]
        for encoder in (bench.encoder, bench.twin):
            moved = dict(zip(everything, _movement(encoder, blood, kind, requests), strict=True))
            for name, members in genes.items():
                shares = np.concatenate(
                    [
                        shares_beaten(
                            np.array([moved[gene,]]), np.array([[moved[one] for one in nulls[gene,]]])
                        )
                        for gene in members
                    ]
                )
                low, high = bootstrap_interval(shares, rng=np.random.default_rng(bench.seed))
                found[f"{kind}: {name}, {encoder.name}"] = {
                    "mean": float(shares.mean()), "low": low, "high": high, "n_genes": len(members),
                    "n_null": bench.n_null, "n_cells": len(cells),
                    "genes": dict(zip(vocabulary.symbols[members], shares.tolist(), strict=True)),
                }  # fmt: skip
    return found


def _movement(encoder: Encoder, blood: Blood, kind: str, requests: list[Request]) -> np.ndarray:
    """Return the mean movement towards stimulated cells of each request."""
    settings = PerturbSettings(readouts=("state",))
    how = EmbedSettings(
        pooling=settings.pooling_for(encoder.vocabulary), encoder_layer=settings.encoder_layer
    )
    states = {
        name: embed_cells(
            encoder, take_cells(blood.ranked, blood.typed.rows(kind, stimulated=side)), how
        ).mean(axis=0)
        for name, side in (("control", False), ("stimulated", True))
    }
    cells = perturb_cells(encoder, blood.ranked, requests, settings, states=states).cells
    means = cells[cells["readout"] == "state"].groupby(["state", "request"])["shift"].mean()
    return np.asarray((means["stimulated"] - means["control"]).sort_index())


def _text(cards: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    methods = ("delta_rank", "delta_rank_specific", "untrained_delta_rank", "coexpression")
    lines = [f"| overexpressed: AUROC, matched | {' | '.join(methods)} |", "|---" * (1 + len(methods)) + "|"]
    for name, card in cards.items():
        shown = [card["strength"][one]["matched"]["mean"] for one in methods if one in card["strength"]]
        lines.append(f"| {name} | " + " | ".join(f"{one:.3f}" for one in shown) + " |")
    lines += ["", "| towards stimulated, more than matched genes | AUROC |", "|---|---|"]
    for name, one in state.items():
        lines.append(f"| {name} | {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f}) |")
    return "\n".join(lines)
