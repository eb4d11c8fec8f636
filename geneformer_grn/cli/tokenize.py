"""``geneformer-grn tokenize``: cells to a corpus of ranked genes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geneformer_grn.cli import options, verb

if TYPE_CHECKING:
    from geneformer_grn.genes.vocabulary import GeneVocabulary

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="Cells with raw counts (.h5ad, 10x, loom, zarr, CSV/TSV), or folders of them.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="CORPUS", help="Folder to write.")]
OfModel = Annotated[
    str | None, typer.Option("--model", help="Take this checkpoint's vocabulary (default: mini).")
]
Vocabulary = Annotated[
    Path | None, typer.Option("--vocabulary", metavar="VOCAB_DIR", help="Take this vocabulary.")
]
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="A,B", help="obs columns to carry along, as text.")
]
MinGenes = Annotated[int, typer.Option("--min-genes", min=1, help="Leave out cells with fewer known genes.")]
MinCounts = Annotated[
    float, typer.Option("--min-counts", min=0.0, help="Leave out cells with a smaller total count.")
]
SampleCells = Annotated[int | None, typer.Option("--cells", min=1, help="Take a random sample of each file.")]
KeepCounts = Annotated[
    bool, typer.Option("--keep-counts", help="Write the count of each token, in a column of its own.")
]
PartCells = Annotated[
    int, typer.Option("--part-cells", min=1, help="Cells of a shard, and at most lost when interrupted.")
]


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("tokenize", help="Turn cells into a corpus: genes ranked by count over median.")(tokenize)


def tokenize(
    files: Files,
    *,
    out: Out,
    model: OfModel = None,
    vocabulary: Vocabulary = None,
    columns: Columns = None,
    where: options.Where = None,
    without: Annotated[
        Path | None,
        typer.Option(
            "--without", metavar="TABLE", help="Leave out the copies that corpus duplicates listed."
        ),
    ] = None,
    min_genes: MinGenes = 1,
    min_counts: MinCounts = 0.0,
    cells: SampleCells = None,
    keep_counts: KeepCounts = False,
    part_cells: PartCells = 65_536,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    threads: options.Threads = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only plan the work, for corpus task on many machines.")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Run on the Ray cluster, or a local one.")] = False,
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumUnlessRefused = True,
    drop_empty: options.DropUnlessRefused = True,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the corpus; its parameters are in its ``manifest.json``. Killed, the same call goes on."""
    with verb(quiet=quiet, as_json=as_json, repeatable=True) as summary:
        from geneformer_grn.cells.corpora.shards import CorpusSettings
        from geneformer_grn.cells.corpora.tokenizing import plan_corpus, write_corpus
        from geneformer_grn.cells.opening import find_files
        from geneformer_grn.cells.reading import ReadSettings

        genes = vocabulary_of(model, vocabulary)
        read = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            counts_column=counts_column,
            allow_normalised=allow_normalised,
            sum_duplicates=sum_duplicates,
            drop_empty=drop_empty,
            where=where,
            without=None if without is None else str(without.resolve()),
            species=species,  # type: ignore[arg-type]  # checked there, with the known names
        )
        settings = CorpusSettings(
            read=read,
            columns=column_names(columns),
            min_genes=min_genes,
            min_counts=min_counts,
            n_cells=cells,
            keep_counts=keep_counts,
            part_cells=part_cells,
            seed=seed,
        )
        if plan:
            planned = plan_corpus(find_files(files), out, genes, settings)
            summary |= {"corpus": out, "plan": planned.folder, **planned.counts(), "seed": seed}
            return
        corpus = write_corpus(
            find_files(files), out, genes, settings, workers=workers, threads=threads, ray=ray
        )
        facts = (
            "n_cells", "n_tokens", "n_dropped_filter", "n_dropped_where", "n_dropped_copies",
            "n_dropped_empty", "n_dropped_min_genes", "n_dropped_min_counts", "seed",
        )  # fmt: skip
        mapped = ("n_matched", "n_lost", "n_summed", "n_ambiguous")
        summary |= {
            "corpus": out,
            "n_files": len(corpus.manifest["files"]),
            **{name: corpus.manifest[name] for name in facts},
            "files": [
                {name: entry[name] for name in ("name", "n_cells", *mapped, "share_counts_lost")}
                for entry in corpus.manifest["files"]
            ],
            "fingerprint": genes.fingerprint,
        }


def column_names(text: str | None) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def vocabulary_of(model: str | None, vocabulary: Path | None) -> GeneVocabulary:
    """Return the vocabulary that a call names.

    Raises
    ------
    ValueError
        It names two.
    """
    if model is not None and vocabulary is not None:
        raise ValueError("--model and --vocabulary both name a vocabulary; give one of them")
    if vocabulary is not None:
        from geneformer_grn.genes.vocabulary import GeneVocabulary

        return GeneVocabulary.load(vocabulary)
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    return read_vocabulary(resolve_checkpoint(model or "mini"))
