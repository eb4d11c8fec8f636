"""The options that verbs share, typed once, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Cells = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Cells with raw counts: .h5ad, 10x, loom, zarr, CSV.", show_default=False
    ),
]
Model = Annotated[
    str, typer.Option("--model", help="A checkpoint folder, a Hugging Face id on disk, or a shipped name.")
]
Groups = Annotated[str | None, typer.Option("--groups", metavar="COLUMN", help="obs column of cell groups.")]
LARGEST_SEED = 2**31 - 1
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings; no progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="Print a one-line JSON summary as the last line.")]

Layer = Annotated[
    str | None, typer.Option("--layer", help="AnnData layer with the raw counts, instead of X.")
]
GeneColumn = Annotated[
    str | None,
    typer.Option("--gene-column", help="var column with Ensembl IDs or symbols (default: found by content)."),
]
CountsColumn = Annotated[
    str | None, typer.Option("--counts-column", help="obs column with each cell's total counts.")
]
AllowNormalised = Annotated[
    bool,
    typer.Option(
        "--allow-normalised", help="Accept log-normalised input: the order of genes mostly survives."
    ),
]
SumDuplicates = Annotated[
    bool, typer.Option("--sum-duplicates", help="Add up the counts of gene IDs that occur more than once.")
]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="EXPRESSION", help="Read only cells that fit, such as 'n_genes > 500'."),
]
Species = Annotated[
    str, typer.Option("--species", help="Of the file's genes: human, or mouse (mapped through orthologs).")
]
SumUnlessRefused = Annotated[
    bool,
    typer.Option(
        "--sum-duplicates/--refuse-duplicates",
        help="Add up the counts of gene IDs that occur more than once, or refuse the file.",
    ),
]
DropUnlessRefused = Annotated[
    bool,
    typer.Option("--drop-empty/--refuse-empty", help="Leave out cells without any counted gene, or refuse."),
]
DropEmpty = Annotated[bool, typer.Option("--drop-empty", help="Leave out cells without any counted gene.")]

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="fp32 or bf16.")]
TokenBudget = Annotated[int, typer.Option("--token-budget", min=1, help="Tokens in one packed batch.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: all).")]
EncoderLayer = Annotated[
    int, typer.Option("--encoder-layer", help="Layer to read: 0 is the last, -1 the one before.")
]
Donors = Annotated[
    str | None,
    typer.Option("--donors", metavar="COLUMN", help="obs column of donors; intervals are then over donors."),
]
NullGenes = Annotated[
    int, typer.Option("--null-genes", min=0, help="Matched genes to compare each gene with; 0: no p-values.")
]
NullCells = Annotated[int, typer.Option("--null-cells", min=1, help="Cells each null gene is perturbed in.")]
