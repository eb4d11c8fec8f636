"""What can be asked of a network: methods and their options, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geneformer_grn._runtime import logger
from geneformer_grn.extraction.attention import CORRECTIONS, DIRECTIONS
from geneformer_grn.extraction.methods import METHODS as FROM_MODEL
from geneformer_grn.network.methods import GENE_LIMITS, MODEL_FREE, PAIR_LIMITS

PER_HEAD = "attention_heads"
"""Attention of every head on its own; its edges are called ``attention_l0h0`` and so on."""

SELECTED = "attention_selected"
"""Mean rank by the heads that find known edges best, each regulator scored by heads chosen without it."""

COMBINED = "combined"
"""All other methods asked for, as one ranking."""

METHODS = (*FROM_MODEL, *MODEL_FREE)
"""Methods that score pairs each on its own."""

CHOICES = (*FROM_MODEL, PER_HEAD, SELECTED, *MODEL_FREE, COMBINED)
"""All that can be asked for by name."""

REMOVAL_LIMITS = {"influence": 4_000, "gene_shifts": 15_000}
"""Method -> regulators × cells of each above which it would take more than about ten minutes on a CPU."""

SOURCES = (
    "attention",
    "attention_rank_corrected",
    "embedding",
    "contextual",
    "correlation",
    "spearman",
    "partial_correlation",
    "ridge",
)
"""What ``combined`` combines where no other method is named: those that take minutes, not hours."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How networks are scored.

    Parameters
    ----------
    methods
        Of `CHOICES`; each is compared with correlation where that is among them, else with the first. ``all``
        is every method and their combination: those that cannot take so many genes, would take more than
        about ten minutes (trees), or need a package which is not installed, are left out with a warning, and
        out of one group those that cannot take its cells.
    regulators
        Symbols or Ensembl IDs; ``auto``: the vocabulary's transcription factors.
    top
        Edges kept per group and method.
    max_targets
        Targets: the genes whose log-normalised expression varies most, at most this many, and all regulators.
    min_cells
        Smaller groups are left out, and smaller states where edges are scored within states.
    min_support
        Cells of a group that must express a gene for it to be scored there, and, for the model, hold a pair.
    attention_layers, attention_heads, attention_direction, attention_correction
        Of ``attention``, and but for the correction of ``attention_rank_corrected`` and, but for heads, of
        `PER_HEAD`; see `geneformer_grn.extraction.attention.AttentionSettings`.
    cells_per_regulator
        Most cells each regulator is taken out of by ``influence`` and ``gene_shifts``.
    token_budget
        Tokens in one packed batch.
    device
        Where regressions that are solved step by step run: ``auto``, ``cpu`` or ``cuda``.
    seed
        Of the cells and folds drawn, of bootstraps and of permutations.
    """

    methods: tuple[str, ...] | Literal["all"] = ("attention", "correlation")
    regulators: tuple[str, ...] | Literal["auto"] = "auto"
    top: int = 5000
    max_targets: int = 2000
    min_cells: int = 20
    min_support: int = 5
    attention_layers: tuple[int, ...] | Literal["all"] = "all"
    attention_heads: tuple[tuple[int, int], ...] | Literal["all"] = "all"
    attention_direction: str = "target_reads"
    attention_correction: str = "none"
    cells_per_regulator: int = 50
    token_budget: int = 16_384
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        named = self.chosen
        unknown = [method for method in named if method not in CHOICES]
        if unknown or not named:
            raise ValueError(
                f"network method {', '.join(unknown) or '(none)'} is not available; "
                f"choose from {', '.join(CHOICES)}, or all"
            )
        if len(set(named)) < len(named):
            raise ValueError(f"a network method is named twice: {', '.join(named)}")
        least = {"top": 1, "max_targets": 1, "min_cells": 3, "min_support": 1, "cells_per_regulator": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")
        for name, known in (("correction", CORRECTIONS), ("direction", DIRECTIONS)):
            if (value := getattr(self, f"attention_{name}")) not in known:
                raise ValueError(f"attention {name} {value!r} is unknown; use one of {', '.join(known)}")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods by name, before any is left out; ``combined`` last."""
        if self.methods == "all":
            return (*METHODS, COMBINED)
        if self.methods == (COMBINED,):
            return (*SOURCES, COMBINED)
        named = [method for method in self.methods if method != COMBINED]
        return (*named, *[COMBINED] * self.methods.count(COMBINED))

    @property
    def lenient(self) -> bool:
        """Whether methods that cannot run here are left out; a method asked for by name is refused."""
        return self.methods in ("all", (COMBINED,))

    @property
    def needs_model(self) -> bool:
        """Whether a method reads the model's weights."""
        return any(method in FROM_MODEL or method in (PER_HEAD, SELECTED) for method in self.chosen)


def methods_of(text: str) -> tuple[str, ...] | Literal["all"]:
    """Return methods as a user types them: names with commas between them, or ``all``."""
    names = tuple(filter(None, map(str.strip, text.split(","))))
    return "all" if names == ("all",) else names


def heads_of(text: str) -> tuple[tuple[int, int], ...] | Literal["all"]:
    """Return attention heads as a user types them: ``0:3,2:1`` (layer:head, from 0), or ``all``.

    Raises
    ------
    ValueError
        It is neither.
    """
    if text.strip() == "all":
        return "all"
    try:
        pairs = tuple(tuple(map(int, head.split(":"))) for head in text.split(","))
        return tuple((layer, head) for layer, head in pairs)
    except ValueError:
        raise ValueError(f"attention heads are written layer:head, such as 0:3,2:1; got {text!r}") from None


def affordable(
    settings: NetworkSettings, *, n_genes: int, n_regulators: int, n_targets: int
) -> tuple[str, ...]:
    """Return the methods to run on so many genes, regulators and targets.

    Raises
    ------
    ValueError
        A method was asked for by name and takes fewer genes.
    """
    too_many = [method for method in settings.chosen if n_genes > GENE_LIMITS.get(method, n_genes)]
    limits = ", ".join(f"{method} takes at most {GENE_LIMITS[method]:,}" for method in too_many)
    if too_many and not settings.lenient:
        raise ValueError(
            f"{n_genes:,} regulators and targets are too many: {limits}; use fewer targets (--max-targets), "
            "or leave it out"
        )
    if too_many:
        logger.warning("left out, for %d regulators and targets: %s (--max-targets)", n_genes, limits)
    n_pairs, n_removals = n_regulators * n_targets, n_regulators * settings.cells_per_regulator
    slow = [
        method
        for method in settings.chosen
        if method not in too_many
        and (
            n_pairs > PAIR_LIMITS.get(method, n_pairs) or n_removals > REMOVAL_LIMITS.get(method, n_removals)
        )
    ]
    if not settings.lenient:
        slow = []
    if slow:
        logger.warning(
            "left out, since %d regulators × %d targets would take them more than about ten minutes on a "
            "CPU: %s; ask for them by name (--methods %s) to run them all the same",
            n_regulators, n_targets, ", ".join(slow), ",".join(slow),
        )  # fmt: skip
    return tuple(method for method in settings.chosen if method not in {*too_many, *slow})
