"""``geneformer-grn tokenize``: cells to a corpus of ranked genes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("tokenize", help="Turn cells into a corpus: genes ranked by count over median.")(tokenize)


def tokenize(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Cells with raw counts (.h5ad), or folders of them.", show_default=False
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="CORPUS", help="Folder to write.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Take this checkpoint's vocabulary (default: mini).")
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", metavar="VOCAB_DIR", help="Take this vocabulary.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B", help="obs columns to carry along.")
    ] = None,
    min_genes: Annotated[
        int, typer.Option("--min-genes", min=1, help="Leave out cells with fewer known genes.")
    ] = 1,
    cells: Annotated[
        int | None, typer.Option("--cells", min=1, help="Take a random sample of each file.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Files tokenized at a time.")] = 1,
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumDuplicates = False,
    drop_empty: options.DropEmpty = False,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the corpus; its parameters are in its ``manifest.json``."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.cells.corpus import CorpusSettings, expand_folders, write_corpus
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.genes.vocabulary import GeneVocabulary

        if model is not None and vocabulary is not None:
            raise ValueError("--model and --vocabulary both name a vocabulary; give one of them")
        if vocabulary is None:
            from geneformer_grn.model.checkpoint import read_vocabulary, resolve_checkpoint

            genes = read_vocabulary(resolve_checkpoint(model or "mini"))
        else:
            genes = GeneVocabulary.load(vocabulary)
        read = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            counts_column=counts_column,
            allow_normalised=allow_normalised,
            sum_duplicates=sum_duplicates,
            drop_empty=drop_empty,
        )
        settings = CorpusSettings(
            read=read,
            columns=tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else (),
            min_genes=min_genes,
            n_cells=cells,
            seed=seed,
            workers=workers,
        )
        corpus = write_corpus(expand_folders(files), out, genes, settings)
        facts = ("n_cells", "n_tokens", "n_dropped_filter", "n_dropped_empty", "n_dropped_min_genes", "seed")
        summary |= {
            "corpus": out,
            "n_files": len(corpus.manifest["files"]),
            **{name: corpus.manifest[name] for name in facts},
            "fingerprint": genes.fingerprint,
        }
