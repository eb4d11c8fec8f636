"""Build the gene table that ships with the package, from HGNC, GENCODE, 10x and ortholog tables.

Two gzipped tables come out: ``genes.tsv.gz`` (one row a gene) and ``identifiers.tsv.gz`` (one row a symbol,
alias, retired ID or mouse symbol, already resolved to one gene), with ``SOURCES.md`` beside them. Resolving
names here, and not when they are looked up, makes loading a matter of two dictionaries and the rule a matter
of record; the price is that a name which several genes share always means the same one of them.
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from geneformer_grn._runtime import atomic_path, logger
from geneformer_grn.genes.sources import sources_text
from geneformer_grn.genes.table import DATA_FOLDER, GENES_FILE, IDENTIFIERS_FILE, MOUSE, RETIRED

SOURCES_FILE = "SOURCES.md"

GENE_TABLE = "human_gene_table.tsv.gz"
ORTHOLOG_TABLE = "human_mouse_one2one_orthologs.tsv"
# Newest first: where two references pair a name with different genes, the newer one is right more often.
REFERENCE_TABLES = (
    "10x_cellranger3.0_GRCh38_33538.tsv.gz",
    "10x_cellranger1.2_GRCh38_33694.tsv.gz",
    "10x_cellranger_hg19_32738.tsv.gz",
)

# What a name can be to a gene, strongest first. A reference's own name stands above a previous symbol, since
# counts filed under it were counted on exactly that gene.
KINDS = ("approved", "gencode", "10x", "previous", "alias")


@dataclass(frozen=True)
class BuildReport:
    """What a build of the gene table found (counts of genes or of identifiers)."""

    n_genes: int
    n_regulators: int
    n_regulators_unresolved: int
    n_identifiers: int
    n_shared: int
    n_ambiguous: int
    n_retired: int
    n_retired_unresolved: int
    n_orthologs: int
    n_mouse_symbols: int
    n_mouse_ambiguous: int


def build_gene_table(genes: Path, regulators: list[Path], out: Path | None = None) -> BuildReport:
    """Build ``genes.tsv.gz``, ``identifiers.tsv.gz`` and ``SOURCES.md``.

    A name that several genes carry goes to the gene for which it is the strongest kind of name (approved
    symbol, GENCODE name, 10x reference name, previous symbol, alias); among equals to a protein-coding gene,
    then to one that a 10x reference holds, then to the smallest Ensembl ID. A retired Ensembl ID of a 10x
    reference goes to the gene that carries its name today, unless every reference with this ID holds that
    gene too (then they were two genes to it). A mouse symbol that several mouse genes with an ortholog carry
    goes to the gene of that symbol in human, else to the ortholog of high confidence, else to the smallest
    Ensembl ID.

    Parameters
    ----------
    genes
        Folder with the source tables named in this module.
    regulators
        Tables with a ``symbol`` and an ``ensembl_id`` column; where there is a ``class`` column, only rows of
        class ``tf`` count. A gene is a regulator if any of the tables says so.
    out
        Folder to write to; default: the package's own data folder.

    Returns
    -------
    BuildReport
        Numbers of genes, names, ambiguous and unresolved ones.

    Raises
    ------
    FileNotFoundError
        A source table is missing.
    ValueError
        A source table lacks a column.
    """
    if not regulators:
        raise ValueError("no regulator list was given; pass at least one --regulators FILE")
    out = DATA_FOLDER if out is None else Path(out)
    columns = [
        "ensembl_id",
        "symbol",
        "hgnc_id",
        "gencode_name",
        "biotype",
        "alias_symbols",
        "previous_symbols",
    ]
    table = _read(Path(genes) / GENE_TABLE, columns).sort_values("ensembl_id", ignore_index=True)
    references = [_read(Path(genes) / name, ["ensembl_id", "symbol"]) for name in REFERENCE_TABLES]
    orthologs = _read(
        Path(genes) / ORTHOLOG_TABLE, ["human_ensembl_id", "mouse_ensembl_id", "mouse_symbol", "confidence"]
    )

    names, n_shared = _resolve_names(_name_candidates(table, references), table, references)
    retired, n_unresolved = _resolve_retired(table, references, names)
    marked, n_unknown = _regulator_ids(regulators, table, names)

    mouse_of = dict(zip(orthologs["human_ensembl_id"], orthologs["mouse_ensembl_id"], strict=True))
    compact = table[["ensembl_id", "symbol", "biotype"]].assign(
        is_regulator=table["ensembl_id"].isin(marked).astype(int),
        mouse_ensembl_id=table["ensembl_id"].map(mouse_of).fillna(""),
    )
    mouse = _resolve_mouse(orthologs, table)
    identifiers = pd.concat([names, retired, mouse]).sort_values(["identifier", "kind"], ignore_index=True)
    report = BuildReport(
        n_genes=len(compact),
        n_regulators=int(compact["is_regulator"].sum()),
        n_regulators_unresolved=n_unknown,
        n_identifiers=len(names),
        n_shared=n_shared,
        n_ambiguous=int((names["n_genes"] > 1).sum()),
        n_retired=len(retired),
        n_retired_unresolved=n_unresolved,
        n_orthologs=int((compact["mouse_ensembl_id"] != "").sum()),
        n_mouse_symbols=len(mouse),
        n_mouse_ambiguous=int((mouse["n_genes"] > 1).sum()),
    )
    write_table(compact, out / GENES_FILE)
    write_table(identifiers, out / IDENTIFIERS_FILE)
    inputs = [Path(genes) / name for name in (GENE_TABLE, *REFERENCE_TABLES, ORTHOLOG_TABLE)]
    with atomic_path(out / SOURCES_FILE) as path:
        path.write_text(sources_text([*inputs, *regulators], asdict(report)), encoding="utf-8")
    logger.info("wrote %s: %s", out, ", ".join(f"{key} {value:,}" for key, value in asdict(report).items()))
    return report


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a gzipped TSV without quotes; its bytes depend on its content only (no time, no file name)."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as handle:
        handle.write(
            table.to_csv(sep="\t", index=False, lineterminator="\n", quoting=csv.QUOTE_NONE).encode()
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read the named text columns of a TSV, empty cells as empty strings."""
    if not path.is_file():
        raise FileNotFoundError(f"the gene table needs {path.name}, which is not in {path.parent}")
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(
            f"{path.name} lacks the column(s) {', '.join(missing)}; it has {', '.join(table.columns)}"
        )
    return table[columns]


def _name_candidates(table: pd.DataFrame, references: list[pd.DataFrame]) -> pd.DataFrame:
    """Return every (identifier, ensembl_id, kind rank, order) in which a name stands for a current gene."""
    approved = table["hgnc_id"] != ""
    parts = [
        (table.loc[approved, ["symbol", "ensembl_id"]], "approved"),
        (table.loc[~approved, ["symbol", "ensembl_id"]], "gencode"),
        (table[["gencode_name", "ensembl_id"]], "gencode"),
        *((reference[["symbol", "ensembl_id"]], "10x") for reference in references),
    ]
    for column, kind in (("previous_symbols", "previous"), ("alias_symbols", "alias")):
        split = table[[column, "ensembl_id"]].assign(**{column: table[column].str.split("|")}).explode(column)
        parts.append((split, kind))
    frames = []
    for order, (part, kind) in enumerate(parts):
        frame = part.set_axis(["identifier", "ensembl_id"], axis=1)
        newest_first = order if kind == "10x" else 0
        frames.append(frame.assign(rank=KINDS.index(kind), reference=newest_first))
    found = pd.concat(frames, ignore_index=True)
    found["identifier"] = found["identifier"].str.strip().str.upper()
    named = (found["identifier"] != "") & ~found["identifier"].str.fullmatch(r"ENSG\d{11}")
    return found[named & found["ensembl_id"].isin(table["ensembl_id"])]


def _resolve_names(
    candidates: pd.DataFrame, table: pd.DataFrame, references: list[pd.DataFrame]
) -> tuple[pd.DataFrame, int]:
    """Give every name to one gene; also return how many names several genes carry, of whatever kind."""
    coding = set(table.loc[table["biotype"] == "protein_coding", "ensembl_id"])
    in_reference = set().union(*(reference["ensembl_id"] for reference in references))
    ordered = candidates.assign(
        not_coding=~candidates["ensembl_id"].isin(coding),
        not_10x=~candidates["ensembl_id"].isin(in_reference),
    ).sort_values(["identifier", "rank", "reference", "not_coding", "not_10x", "ensembl_id"])
    best = ordered.groupby("identifier")["rank"].transform("min") == ordered["rank"]
    rivals = ordered[best].groupby("identifier")["ensembl_id"].nunique()
    shared = int((ordered.groupby("identifier")["ensembl_id"].nunique() > 1).sum())
    names = ordered.drop_duplicates("identifier")
    return pd.DataFrame(
        {
            "identifier": names["identifier"].to_numpy(),
            "ensembl_id": names["ensembl_id"].to_numpy(),
            "kind": [KINDS[rank] for rank in names["rank"]],
            "n_genes": rivals.reindex(names["identifier"]).to_numpy(),
        }
    ), shared


def _resolve_retired(
    table: pd.DataFrame, references: list[pd.DataFrame], names: pd.DataFrame
) -> tuple[pd.DataFrame, int]:
    """Give retired IDs of the 10x references to the genes that carry their names today."""
    trusted = names[(names["n_genes"] == 1) & names["kind"].isin(["approved", "gencode", "previous"])]
    gene_named = dict(zip(trusted["identifier"], trusted["ensembl_id"], strict=True))
    current = set(table["ensembl_id"])
    found: dict[str, str] = {}
    unresolved: set[str] = set()
    for reference in references:
        held = set(reference["ensembl_id"])
        for old, symbol in zip(reference["ensembl_id"], reference["symbol"], strict=True):
            if old in current or old in found:
                continue
            target = gene_named.get(symbol.upper())
            if target is None or target in held:
                unresolved.add(old)
            else:
                found[old] = target
    rows = pd.DataFrame(sorted(found.items()), columns=["identifier", "ensembl_id"])
    return rows.assign(kind=RETIRED, n_genes=1), len(unresolved - found.keys())


def _resolve_mouse(orthologs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Give every mouse symbol to the human ortholog of one mouse gene that carries it."""
    known = orthologs["human_ensembl_id"].isin(table["ensembl_id"]) & (orthologs["mouse_symbol"] != "")
    rows = pd.DataFrame(
        {
            "identifier": orthologs["mouse_symbol"].str.strip().str.upper(),
            "ensembl_id": orthologs["human_ensembl_id"],
            "low": orthologs["confidence"] != "1",
        }
    )[known]
    symbol_of = dict(zip(table["ensembl_id"], table["symbol"].str.upper(), strict=True))
    rows["other"] = rows["ensembl_id"].map(symbol_of) != rows["identifier"]
    rows["n_genes"] = rows.groupby("identifier")["ensembl_id"].transform("nunique")
    rows = rows.sort_values(["identifier", "other", "low", "ensembl_id"]).drop_duplicates("identifier")
    return rows.assign(kind=MOUSE)[["identifier", "ensembl_id", "kind", "n_genes"]]


def _regulator_ids(files: list[Path], table: pd.DataFrame, names: pd.DataFrame) -> tuple[set[str], int]:
    """Return the genes that any of the lists calls a transcription factor, and how many rows name no gene."""
    current = set(table["ensembl_id"])
    gene_named = dict(zip(names["identifier"], names["ensembl_id"], strict=True))
    found: set[str] = set()
    n_unknown = 0
    for path in files:
        rows = _read(Path(path), ["symbol", "ensembl_id"])
        header = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if "class" in header:
            rows = rows[header["class"] == "tf"]
        for symbol, ensembl_id in zip(rows["symbol"], rows["ensembl_id"], strict=True):
            target = ensembl_id if ensembl_id in current else gene_named.get(symbol.upper())
            if target is None:
                n_unknown += 1
            else:
                found.add(target)
    return found, n_unknown
