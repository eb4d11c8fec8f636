"""``geneformer-grn vocab build``: a vocabulary from count files.

What is known so far lies in ``OUT.unfinished`` until the vocabulary is written: the same command goes on
there after an interruption, and ``--part I/N`` does one machine's share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    vocab = typer.Typer(help="Vocabularies: which gene is which token.", no_args_is_help=True)
    vocab.command("build", help="Build a vocabulary: the genes of some files and their exact medians.")(build)
    app.add_typer(vocab, name="vocab")


def build(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Cells with raw counts, or folders of them.", show_default=False
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="VOCAB_DIR", help="Folder to write.")],
    setting: Annotated[
        str, typer.Option("--setting", help="Special tokens and crop: v1, v2 or default.")
    ] = "default",
    min_cells: Annotated[
        int, typer.Option("--min-cells", help="Keep genes seen in at least this many cells.")
    ] = 10,
    max_genes: Annotated[
        int | None, typer.Option("--max-genes", help="Keep at most this many, those seen in most cells.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Longest model input (default: the setting's own).")
    ] = None,
    biotypes: Annotated[
        list[str] | None,
        typer.Option("--biotype", help="Keep genes of this biotype, such as protein_coding; repeatable."),
    ] = None,
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    where: options.Where = None,
    species: options.Species = "human",
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumUnlessRefused = True,
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="I/N",
            help="Do share I of N, from 0, of the present pass's files and leave: for many machines.",
        ),
    ] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Build a vocabulary and write it as a folder."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        import shutil

        from geneformer_grn._runtime import logger, staged_folder
        from geneformer_grn.cells.reading import ReadSettings
        from geneformer_grn.cells.stamps import parse_share
        from geneformer_grn.cells.vocabulary_build import VocabularySettings, build_part, build_vocabulary

        read = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            counts_column=counts_column,
            allow_normalised=allow_normalised,
            sum_duplicates=sum_duplicates,
            where=where,
            species=species,  # type: ignore[arg-type]
        )
        settings = VocabularySettings(
            setting=setting,  # type: ignore[arg-type]  # checked there, with the known names
            min_cells=min_cells,
            max_genes=max_genes,
            biotypes=tuple(biotypes or ()),
            max_length=max_length,
            read=read,
        )
        work = out.with_name(f"{out.name}.unfinished")
        if part is not None:
            state = build_part(files, settings, work=work, part=parse_share(part, "--part"))
            logger.info(
                "pass %s: %s of %s files; %s", state["pass"], state["n_done"], state["n_files"],
                "finish it without --part" if state["finished"] else "not finished yet",
            )  # fmt: skip
            summary |= {**state, "seed": seed}
            return
        begun = work.exists()
        try:
            with staged_folder(out) as folder:
                vocabulary = build_vocabulary(files, settings, work=work)
                vocabulary.save(folder)
        except (ValueError, TypeError, FileNotFoundError, PermissionError):
            # The files or options are wrong: nothing there to go on with.
            if not begun:
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work)
        logger.info("wrote %s", out)
        summary |= {
            "vocabulary": out,
            "n_genes": len(vocabulary) - vocabulary.n_special,
            "n_regulators": int(vocabulary.is_regulator.sum()),
            "n_cells": vocabulary.provenance["n_cells"],
            "fingerprint": vocabulary.fingerprint,
            "seed": seed,
        }
