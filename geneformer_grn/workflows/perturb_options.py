"""What a user may ask of a perturbation, and how lists of names are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from geneformer_grn.perturbation.requests import Pooling

ALL, REGULATORS, REFERENCE = "all", "regulators", "reference"
NULL_GENES = 200  # as `perturbation.matching.NULL_GENES`, which loads numba to say so
PART_TOKENS = 2_000_000  # as `perturbation.parts.PART_TOKENS`, likewise


@dataclass(frozen=True, kw_only=True)
class PerturbOptions:
    """What a user may choose.

    Parameters
    ----------
    genes
        Symbols or Ensembl IDs; ``all``: every gene of the cells; ``regulators``: those of the vocabulary.
    kind
        ``delete``, ``overexpress``, ``inhibit``, ``activate`` or ``knockout``.
    quartiles
        How many quartiles of the ranking ``inhibit`` and ``activate`` move a gene, 1 to 3.
    together
        Perturb the named genes as one set.
    pairs
        Perturb each named gene, and all pairs of them, and compare each pair with the sum of its genes.
    anchor
        Symbol or Ensembl ID of a gene perturbed first, and with each of the others.
    groups
        obs column of cell groups; None: all cells are one group.
    states
        obs column of cell states; only cells in the start state are perturbed then.
    start, goal, alternatives
        Values of that column.
    readouts
        Of ``cell``, ``state``, ``genes``, ``expression``; None: ``cell``, with states also ``state``. Without
        either of those ``cell`` comes too, which costs nothing more.
    donors
        obs column of donors: intervals are then over donors and cells.
    statistics
        ``reference``: the reference's four statistics too, in tables of their own. Needs all cells in memory.
    n_null, null_cells
        Null genes per perturbed gene, and cells that each is perturbed in.
    max_passes
        Upper bound on passes through the model; None: as many as it takes.
    encoder_layer, pooling, token_budget
        See `geneformer_grn.perturbation.requests.PerturbSettings`.
    part_tokens
        Tokens of passes in a part: what an interrupted run loses at most.
    seed
        Seed of the null's cells and of the bootstrap.
    """

    genes: tuple[str, ...] | Literal["all", "regulators"]
    kind: str = "delete"
    quartiles: int = 1
    together: bool = False
    pairs: bool = False
    anchor: str | None = None
    groups: str | None = None
    states: str | None = None
    start: str | None = None
    goal: str | None = None
    alternatives: tuple[str, ...] = ()
    readouts: tuple[str, ...] | None = None
    donors: str | None = None
    statistics: tuple[str, ...] = ()
    n_null: int = NULL_GENES
    null_cells: int = 10
    max_passes: int | None = None
    encoder_layer: int = -1
    pooling: Pooling | None = None
    token_budget: int = 16_384
    part_tokens: int = PART_TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("states", "start", "goal") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise ValueError(
                f"only {' and '.join(given)} given: states need the obs column, a start and a goal state"
            )
        if self.alternatives and not given:
            raise ValueError("alternative states need the obs column, a start state and a goal state too")
        self._check_combination()
        if unknown := [name for name in self.statistics if name != REFERENCE]:
            raise ValueError(f"statistics {', '.join(unknown)} are unknown; choose {REFERENCE}, or none")
        if self.part_tokens < 1:
            raise ValueError(f"a part needs at least 1 token, got {self.part_tokens}")
        named = [self.start, self.goal, *self.alternatives]
        if given and len(set(named)) < len(named):
            raise ValueError(f"a state is named twice: {', '.join(map(str, named))}")

    def _check_combination(self) -> None:
        """Raise ValueError where ways of combining genes contradict each other or what is perturbed."""
        ways = {"together": self.together, "pairs": self.pairs, "an anchor": self.anchor is not None}
        chosen = [way for way, is_chosen in ways.items() if is_chosen]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} combine genes in different ways; choose one")
        if (self.together or self.pairs) and isinstance(self.genes, str):
            raise ValueError(f"{chosen[0]!r} combines named genes; {self.genes!r} names none")
        if self.quartiles != 1 and self.kind not in {"inhibit", "activate"}:
            raise ValueError(
                f"kind {self.kind!r} moves no gene by {self.quartiles} quartiles; inhibit and activate do"
            )


def split_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in text with commas, without blanks around them; those of a list as they are."""
    if not isinstance(text, str):
        return tuple(text)
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_genes(text: str | Sequence[str]) -> tuple[str, ...] | Literal["all", "regulators"]:
    """Return gene names from a list or from text with commas; ``all`` and ``regulators`` pass through.

    Raises
    ------
    ValueError
        No gene is named.
    """
    if isinstance(text, str) and text.strip().lower() in {ALL, REGULATORS}:
        return "all" if text.strip().lower() == ALL else "regulators"
    parts = split_names(text)
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise ValueError("no gene to perturb; give symbols or Ensembl IDs, 'all' or 'regulators'")
    return names
