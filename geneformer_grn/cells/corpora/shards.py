"""What a corpus is made of: how files become cells, and the parts in which the work is done.

A part is a range of a file's rows, written under a name that is the hash of everything it depends on. So a
part that is there is done, whoever did it, and doing one twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.genes.vocabulary import GeneVocabulary

CORPUS_KIND = "geneformer-grn corpus"
MANIFEST = "manifest.json"
OWN_COLUMNS = ("input_ids", "length", "cell_id", "source", "counts")
_FORMAT = 2  # part of every key: raise it when the same input is to give other bytes


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """How files become a corpus.

    Parameters
    ----------
    read
        How each file is read.
    columns
        obs columns to carry along, as text; every file must have them.
    min_genes
        Cells with fewer known genes are left out.
    min_counts
        Cells with a smaller total count are left out.
    n_cells
        Take a random sample of at most this many cells of each file; None: all.
    keep_counts
        Write the count of each token beside it, in a column ``counts``.
    part_cells
        Rows of a file that make a part, which is a shard and what an interruption can cost.
    seed
        Seed of the sample.
    """

    read: ReadSettings = field(default_factory=ReadSettings)
    columns: tuple[str, ...] = ()
    min_genes: int = 1
    min_counts: float = 0.0
    n_cells: int | None = None
    keep_counts: bool = False
    part_cells: int = 65_536
    seed: int = 0

    def __post_init__(self) -> None:
        if reserved := [name for name in self.columns if name in OWN_COLUMNS]:
            raise ValueError(
                f"column {reserved[0]!r} is one of the corpus's own; rename it in obs to carry it along"
            )
        if self.part_cells < 1 or self.min_genes < 1:
            raise ValueError(
                f"part_cells ({self.part_cells}) and min_genes ({self.min_genes}) must be at least 1"
            )

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> CorpusSettings:
        """Return the settings that :func:`dataclasses.asdict` made `facts` of."""
        return cls(**{**facts, "read": ReadSettings(**facts["read"]), "columns": tuple(facts["columns"])})


@dataclass(frozen=True, kw_only=True)
class Part:
    """A range of a file's rows, and the name of what becomes of it."""

    start: int
    stop: int
    key: str

    @property
    def shard(self) -> str:
        """File name of its shard."""
        return f"part-{self.key}.arrow"

    @property
    def entry(self) -> str:
        """File name of what is known of it; written last, so that it says that the part is done."""
        return f"part-{self.key}.json"


def parts_of(
    n_rows: int, identity: dict[str, Any], settings: CorpusSettings, vocabulary: GeneVocabulary
) -> list[Part]:
    """Cut a file into parts.

    Parameters
    ----------
    n_rows
        Rows of the file, those that are left out included.
    identity
        What tells this state of the file from others: name, size, time of change.
    settings, vocabulary
        What else the shards depend on.
    """
    parts = []
    facts = {
        **asdict(settings),
        "identity": identity,
        "vocabulary": vocabulary.fingerprint,
        "format": _FORMAT,
    }
    for start in range(0, n_rows, settings.part_cells):
        stop = min(start + settings.part_cells, n_rows)
        text = json.dumps({**facts, "rows": [start, stop]}, sort_keys=True)
        parts.append(Part(start=start, stop=stop, key=hashlib.sha256(text.encode()).hexdigest()[:24]))
    return parts
