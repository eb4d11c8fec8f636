"""The gene table that ships with the package: what a symbol, alias or retired ID means.

Read once a process from two small gzipped tables (0.2 s), offline; ``genes/build.py`` makes them and
``genes/data/SOURCES.md`` says from what.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DATA_FOLDER = Path(__file__).parent / "data"
GENES_FILE = "genes.tsv.gz"
IDENTIFIERS_FILE = "identifiers.tsv.gz"
RETIRED = "retired"  # kind of the identifiers that are Ensembl IDs of the past
MOUSE = "mouse"  # kind of the identifiers that are symbols of mouse genes


@dataclass(frozen=True, eq=False)
class GeneTable:
    """Human genes by Ensembl ID (without version), and what they are called.

    Parameters
    ----------
    ensembl_of
        Upper-case symbol, previous symbol, alias or 10x reference name -> Ensembl ID.
    ambiguous_of
        By species, the names in `ensembl_of` (``human``) and `human_of_mouse` (``mouse``) that several genes
        carry with equal right (decided by the build's tie rules).
    symbol_of
        Ensembl ID -> symbol; the ID itself where a gene has none. Its keys are all genes, ascending.
    biotype_of
        Ensembl ID -> GENCODE biotype such as ``protein_coding``; empty where unknown.
    regulators
        Ensembl IDs of transcription factors.
    retired
        Retired Ensembl ID -> the gene's present ID.
    human_of_mouse
        Mouse Ensembl ID, or upper-case symbol, of a gene -> its one-to-one human ortholog.
    """

    ensembl_of: dict[str, str]
    ambiguous_of: dict[str, frozenset[str]]
    symbol_of: dict[str, str]
    biotype_of: dict[str, str]
    regulators: frozenset[str]
    retired: dict[str, str]
    human_of_mouse: dict[str, str]

    def __len__(self) -> int:
        return len(self.symbol_of)

    def is_regulator(self, ensembl_id: str) -> bool:
        """Return whether a gene, by its present or a retired ID, is a transcription factor."""
        return ensembl_id in self.regulators or self.retired.get(ensembl_id) in self.regulators


@lru_cache(maxsize=1)
def load_gene_table() -> GeneTable:
    """Return the package's gene table, read once and kept.

    Raises
    ------
    FileNotFoundError
        The package was installed without its data.

    Examples
    --------
    >>> load_gene_table().ensembl_of["OCT4"]
    'ENSG00000204531'
    """
    return read_gene_table(DATA_FOLDER)


def read_gene_table(folder: Path) -> GeneTable:
    """Read a gene table from the folder that :func:`~geneformer_grn.genes.build.build_gene_table` wrote.

    Raises
    ------
    FileNotFoundError
        The folder lacks ``genes.tsv.gz`` or ``identifiers.tsv.gz``.
    """
    for name in (GENES_FILE, IDENTIFIERS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no gene table ({name} is missing); geneformer-grn genes build makes it"
            )
    genes = _read_columns(folder / GENES_FILE)
    names = _read_columns(folder / IDENTIFIERS_FILE)
    ids = genes["ensembl_id"]
    by_kind = list(
        zip(names["identifier"], names["ensembl_id"], names["kind"], names["n_genes"], strict=True)
    )
    mouse_ids = {other: gene for other, gene in zip(genes["mouse_ensembl_id"], ids, strict=True) if other}
    shared = [(name, kind) for name, _, kind, n_genes in by_kind if n_genes != "1"]
    return GeneTable(
        ensembl_of={name: gene for name, gene, kind, _ in by_kind if kind not in {RETIRED, MOUSE}},
        ambiguous_of={
            "human": frozenset(name for name, kind in shared if kind != MOUSE),
            "mouse": frozenset(name for name, kind in shared if kind == MOUSE),
        },
        symbol_of=dict(zip(ids, genes["symbol"], strict=True)),
        biotype_of=dict(zip(ids, genes["biotype"], strict=True)),
        regulators=frozenset(
            gene for gene, mark in zip(ids, genes["is_regulator"], strict=True) if mark == "1"
        ),
        retired={name: gene for name, gene, kind, _ in by_kind if kind == RETIRED},
        human_of_mouse=mouse_ids | {name: gene for name, gene, kind, _ in by_kind if kind == MOUSE},
    )


def _read_columns(path: Path) -> dict[str, list[str]]:
    """Read a TSV without quotes as columns of str; pandas would take three times as long."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    n_columns = text[: text.index("\n")].count("\t") + 1
    cells = text.replace("\n", "\t").split("\t")[:-1]
    return {cells[column]: cells[n_columns + column :: n_columns] for column in range(n_columns)}
