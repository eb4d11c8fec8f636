"""What a user may ask of a screen, and the tables that come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geneformer_grn.workflows.perturb_options import PerturbOptions

if TYPE_CHECKING:
    import pandas as pd

LEAST_SAVING = 3.0
"""How many times fewer passes a screen of open share must take than running every gene."""


@dataclass(frozen=True, kw_only=True)
class ScreenOptions:
    """What a user may choose.

    Parameters
    ----------
    perturb
        What is perturbed where. Single genes of kind ``delete`` or ``knockout``, the readouts ``cell`` and
        ``state``, no null genes.
    share
        Share of the genes of each group that is run exactly: the top of the estimate. None: as many as keep
        the screen `least_saving` times below the passes that running every gene takes. One that is given is
        obeyed, whatever it saves.
    audit
        Share of all genes, drawn at random, that is run exactly to measure the recall; 0: it is not measured.
        The recall is of the strongest tenth of them: below 20 of those it is too few to tell.
    effort
        What the estimate may cost, as a share of the passes that running every gene takes.
    least_saving
        With the share left open: run every gene exactly unless the screen takes so many times fewer passes.
    """

    perturb: PerturbOptions
    share: float | None = None
    audit: float = 0.05
    effort: float = 0.125
    least_saving: float = LEAST_SAVING

    def __post_init__(self) -> None:
        for name in ("share", "audit", "effort"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is a share between 0 and 1, got {value}")
        if self.share == 0.0:
            raise ValueError("a screen without genes to run exactly finds nothing; share must be above 0")
        asked = self.perturb
        if asked.together or asked.pairs or asked.anchor is not None:
            raise ValueError("a screen takes genes one at a time; run sets, pairs and anchors with perturb")
        if asked.n_null or asked.statistics:
            raise ValueError(
                "a screen has no null genes and no tests: what the estimate leaves out would be missing "
                "among them. Test the leading genes with perturb"
            )
        others = set(asked.readouts or ()) - {"cell", "state"}
        if others:
            raise ValueError(
                f"a screen has no readout {', '.join(sorted(others))}, only cell and state; read it off the "
                "leading genes with perturb"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class ScreenTables:
    """What a screen found.

    Parameters
    ----------
    effects, cells
        As `perturb` gives them, of the genes that were run exactly.
    genes
        One row per gene and group that was screened: ``gene``, ``group``, ``n_cells`` that hold it,
        ``estimate`` (of the readout and state that ranks; NaN where every gene was run), ``rank`` by its
        size, 1 for the largest, ``listed`` (top of the estimate), ``audited`` (random sample), ``shift``
        (exact, else NaN).
    facts
        What was done: passes, what every gene would have taken, and the recall with its interval.
    record
        The same and the parameters in single values, by section.
    """

    effects: pd.DataFrame
    cells: pd.DataFrame
    genes: pd.DataFrame
    facts: dict[str, Any]
    record: dict[str, Any]
