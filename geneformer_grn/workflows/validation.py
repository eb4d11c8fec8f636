"""What is found of a count file: facts, problems with their ways out, notes; no text of a screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from geneformer_grn._runtime import raised_on_purpose
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.cells.row_ranges import StoredValues


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth knowing.

    Parameters
    ----------
    what
        What was found, in the words of the verbs that refuse or warn of it.
    way_out
        What to do; empty where `what` says it.
    change
        Fields of `ReadSettings` that get round it.
    """

    what: str
    way_out: str = ""
    change: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ValueFacts:
    """What the stored values are.

    Parameters
    ----------
    n_looked, n_nonzero, n_cells
        Stored values looked at, those other than zero, and the cells they are of.
    seen
        Extremes, what is not finite, the first fraction.
    looks
        ``raw counts``, ``log-normalised``, ``normalised``, ``scaled`` (negative) or ``not numbers``.
    totals
        Minimum, quartiles and maximum of the sums per cell (of log-normalised values: with log1p undone).
    elsewhere
        Other matrices of the file that seem to hold raw counts -> the layer to pass, None for ``X``.
    """

    n_looked: int
    n_nonzero: int
    n_cells: int
    seen: StoredValues
    looks: str
    totals: list[float]
    elsewhere: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class CellFacts:
    """Which cells are read, and what they hold.

    Parameters
    ----------
    n_read, n_filtered, n_not_asked
        Cells that are read, and those left out by ``filter_pass`` and by the expression.
    n_empty
        Cells among those looked at without a count of a known gene.
    known_genes
        Minimum, quartiles and maximum of the known genes per cell.
    longest
        Genes of a cell that the model can read.
    obs
        obs column -> number of different values.
    totals_from
        Where each cell's total counts come from.
    """

    n_read: int
    n_filtered: int
    n_not_asked: int
    n_empty: int
    known_genes: list[float]
    longest: int
    obs: dict[str, int]
    totals_from: str


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What reading takes.

    Parameters
    ----------
    peak_mb
        The most that the process held while it looked, MB (10^6 bytes), program included. ``tokenize`` reads
        the same blocks, and holds what it writes beside them.
    known_mb
        Memory of the known genes' counts of all cells, MB: what verbs that run the model hold beside it.
    seconds
        Estimate of reading and ranking all cells on this machine, by the time it took here; None where a
        quick look does not tell.
    """

    peak_mb: float
    known_mb: float
    seconds: float | None


@dataclass(kw_only=True)
class Validation:
    """What was found of one file.

    Parameters
    ----------
    name
        File name.
    settings
        How it was read.
    quick
        Whether only a part of its cells was looked at.
    kind, matrix, layout, dtype, n_cells, n_genes, n_stored
        As :class:`~geneformer_grn.cells.source.CountSource` has them; unset where it cannot be opened.
    values, cells, needs
        See there; None where the values cannot be read.
    genes
        The report of :func:`geneformer_grn.genes.mapping.map_genes`, with ``identifiers`` (where they are),
        ``n_repeated_ids``, ``looks_like`` (species) and ``share_counts_lost``; empty where none is known.
    problems
        Why the file is refused as it was read; none: it can be used.
    notes
        What is worth knowing beside that.
    """

    name: str
    settings: ReadSettings
    quick: bool = False
    kind: str = ""
    matrix: str = ""
    layout: str = ""
    dtype: str = ""
    n_cells: int = 0
    n_genes: int = 0
    n_stored: int | None = None
    values: ValueFacts | None = None
    cells: CellFacts | None = None
    needs: Needs | None = None
    genes: dict[str, Any] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether the file can be used as it was read."""
        return not self.problems

    @property
    def way_out(self) -> ReadSettings | None:
        """The settings with every change that gets round a finding; None where there is no such change."""
        changes = {
            key: value
            for found in (*self.notes, *self.problems)
            for key, value in found.change.items()
            if getattr(self.settings, key) != value
        }
        return replace(self.settings, **changes) if changes else None

    @contextmanager
    def refusals(self, way_out: str = "", **change: Any) -> Iterator[None]:
        """Note what the body refuses as a problem, and go on behind it."""
        try:
            yield
        except (ValueError, TypeError, OSError) as error:
            if not (raised_on_purpose(error) or isinstance(error, OSError)):
                raise
            self.problems.append(Finding(str(error), way_out, change))
