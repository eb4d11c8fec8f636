"""``geneformer-grn vocab``: build a vocabulary from count files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Cells with raw counts (.h5ad).", show_default=False)
]
Out = Annotated[
    Path, typer.Option("--out", metavar="VOCAB_DIR", help="Folder to write genes.tsv and vocabulary.json to.")
]
SettingOption = Annotated[str, typer.Option("--setting", help="Special tokens and crop: v1, v2 or default.")]
MinCells = Annotated[
    int, typer.Option("--min-cells", help="A gene must be seen in at least this many cells.")
]
MaxGenes = Annotated[
    int | None, typer.Option("--max-genes", help="Keep at most this many genes, those seen in most cells.")
]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", help="Longest model input (default: the setting's own).")
]
Biotypes = Annotated[
    list[str] | None,
    typer.Option("--biotype", help="Keep genes of this biotype, such as protein_coding (repeatable)."),
]


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    vocab = typer.Typer(help="Vocabularies: which gene is which token.", no_args_is_help=True)
    app.add_typer(vocab, name="vocab")

    @vocab.command("build")
    def build(
        files: Files,
        *,
        out: Out,
        setting: SettingOption = "default",
        min_cells: MinCells = 10,
        max_genes: MaxGenes = None,
        max_length: MaxLength = None,
        biotypes: Biotypes = None,
        layer: options.Layer = None,
        gene_column: options.GeneColumn = None,
        counts_column: options.CountsColumn = None,
        allow_normalised: options.AllowNormalised = False,
        quiet: options.Quiet = False,
        as_json: options.Json = False,
    ) -> None:
        """Build a vocabulary: the genes of some files, and their exact non-zero medians."""
        with verb(quiet=quiet, as_json=as_json) as summary:
            from geneformer_grn._runtime import atomic_path, logger
            from geneformer_grn.cells.counts import ReadSettings
            from geneformer_grn.cells.medians import VocabularySettings, build_vocabulary

            settings = VocabularySettings(
                setting=setting,  # type: ignore[arg-type]  # checked there, with the known names
                min_cells=min_cells,
                max_genes=max_genes,
                biotypes=tuple(biotypes or ()),
                max_length=max_length,
                read=ReadSettings(
                    layer=layer,
                    gene_column=gene_column,
                    counts_column=counts_column,
                    allow_normalised=allow_normalised,
                ),
            )
            vocabulary = build_vocabulary(files, settings)
            with atomic_path(out) as folder:
                vocabulary.save(folder)
            logger.info("wrote %s", out)
            summary |= {
                "vocabulary": out,
                "n_genes": len(vocabulary) - vocabulary.n_special,
                "n_regulators": int(vocabulary.is_regulator.sum()),
                "n_cells": vocabulary.provenance["n_cells"],
                "fingerprint": vocabulary.fingerprint,
            }
