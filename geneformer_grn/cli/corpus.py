"""``geneformer-grn corpus``: what a corpus is; several as one; one as parts; one made by many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb

_Corpus = Annotated[
    Path, typer.Argument(metavar="CORPUS", help="Folder that tokenize wrote.", show_default=False)
]

_Planned = Annotated[
    Path, typer.Argument(metavar="CORPUS", help="The corpus that is planned.", show_default=False)
]


def add(app: typer.Typer) -> None:
    """Register the verb."""
    corpus = typer.Typer(
        help="Corpora of tokenized cells: look into, merge, split, make on a cluster.", no_args_is_help=True
    )
    corpus.command("build", help="From a recipe to a training and a held-out corpus, with their data card.")(
        build
    )
    corpus.command("info", help="Say what a corpus is and how to open it.")(info)
    corpus.command("merge", help="Join corpora of one vocabulary; the same cell twice is refused.")(merge)
    corpus.command("split", help="Split by donor, file or cell type; a leak between parts is refused.")(split)
    corpus.command("duplicates", help="List cells that are in several files, by their counts.")(duplicates)
    corpus.command("task", help="Do one share of the work that tokenize --plan planned.")(task)
    corpus.command("finish", help="Join what all shares made to the corpus.")(finish)
    app.add_typer(corpus, name="corpus")


def build(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.toml", help="What goes in; see docs/corpus.md.", show_default=False),
    ],
    *,
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder of the recipe's paths.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")],
    include_unlicensed: Annotated[
        bool, typer.Option("--include-unlicensed", help="Train on files of no stated licence; do not ship.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write train, heldout, vocabulary and data card. Killed, the same call goes on."""
    with verb(quiet=quiet, as_json=as_json, repeatable=True) as summary:
        from geneformer_grn.workflows.corpus_build import build_corpus
        from geneformer_grn.workflows.corpus_card_text import card_text

        card = build_corpus(recipe, data, out, include_unlicensed=include_unlicensed, workers=workers)
        if not quiet:
            typer.echo(card_text(card))
        facts = ("parts", "vocabulary", "duplicates", "may_be_shipped", "left_out_for_licence", "recipe")
        summary |= {"out": out, **{name: card[name] for name in facts}, "seed": seed}


def info(
    corpus: _Corpus,
    *,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Print the facts on one screen."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.cells.corpora.corpus import Corpus
        from geneformer_grn.cells.corpora.facts import corpus_facts, facts_text

        facts = corpus_facts(Corpus.open(corpus))
        if not quiet:
            typer.echo(facts_text(facts))
        summary |= facts | {"seed": seed}


def duplicates(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of cells, or folders.", show_default=False)
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="TABLE", help="Table to write, for --without.")],
    keep: Annotated[
        list[Path] | None,
        typer.Option("--keep", metavar="FILE", help="Files whose cells stay, such as those to judge on."),
    ] = None,
    model: options.Model = "mini",
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the cells to leave out, a row each, and where the cell is that stays."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.cells.opening import find_files
        from geneformer_grn.cells.reading import ReadSettings
        from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint
        from geneformer_grn.workflows.duplicates import write_duplicates

        read = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            sum_duplicates=True,
            drop_empty=True,
            species=species,  # type: ignore[arg-type]  # checked there, with the known names
        )
        vocabulary = read_vocabulary(resolve_checkpoint(model))
        facts = write_duplicates(find_files(files), vocabulary, out, keep=keep or [], settings=read)
        if not quiet:
            typer.echo(facts["text"])
        summary |= {name: facts[name] for name in ("table", "n_files", "n_cells", "n_copies", "pairs")}
        summary["seed"] = seed


def merge(
    corpora: Annotated[
        list[Path], typer.Argument(metavar="CORPUS...", help="Two corpora or more.", show_default=False)
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="CORPUS", help="Folder to write.")],
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B|common", help="Columns to keep (default: all, if all agree)."),
    ] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the corpora as one; where it comes from is in its ``manifest.json``."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.cells.corpora.merging import merge_corpora

        names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
        merged = merge_corpora(corpora, out, columns=names)
        facts = ("n_cells", "n_tokens")
        summary |= {
            "corpus": out,
            "n_corpora": len(corpora),
            "n_files": len(merged.manifest["files"]),
            **{name: merged.manifest[name] for name in facts},
            "fingerprint": merged.manifest["vocabulary"]["fingerprint"],
            "seed": seed,
        }


def split(
    corpus: _Corpus,
    *,
    by: Annotated[
        str,
        typer.Option("--by", metavar="COLUMN", help="Column of the groups: file, or one carried from obs."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the parts into.")],
    fractions: Annotated[
        str | None,
        typer.Option("--fractions", metavar="PART=SHARE,...", help="Such as train=0.8,valid=0.1,test=0.1."),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--assign", metavar="PART=GROUP,...", help="Groups of a part; the rest is train. Repeatable."
        ),
    ] = None,
    missing: Annotated[
        str | None, typer.Option("--missing", metavar="PART", help="Part of the cells without a group.")
    ] = None,
    apart: Annotated[
        str | None,
        typer.Option("--apart", metavar="A,B", help="Columns that must not share a value between parts."),
    ] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write each part as a corpus; how it was split is in its ``manifest.json``."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.cells.corpora.dealing import SplitSettings, parse_assignments, parse_fractions
        from geneformer_grn.cells.corpora.splitting import split_corpus

        settings = SplitSettings(
            by=by,
            fractions=parse_fractions(fractions),
            assign=parse_assignments(assign),
            missing=missing,
            apart=tuple(name.strip() for name in apart.split(",") if name.strip()) if apart else (),
            seed=seed,
        )
        parts = split_corpus(corpus, out, settings)
        record = next(iter(parts.values())).manifest["split"]
        shown = {name: {**facts, "n_groups": len(facts["groups"])} for name, facts in record["parts"].items()}
        for facts in shown.values():
            del facts["groups"]
        if not quiet:
            for name, facts in shown.items():
                asked = "" if facts["asked"] is None else f", asked for {100 * facts['asked']:.3g} %"
                typer.echo(
                    f"{name}: {facts['n_cells']:,} cells of {facts['n_groups']:,} {record['by']} "
                    f"({100 * facts['share']:.3g} %{asked})"
                )
        summary |= {"out": out, "id": record["id"], "by": record["by"], "parts": shown, "seed": seed}


def task(
    corpus: _Planned,
    *,
    share: Annotated[
        str, typer.Option("--share", metavar="I/N", help="Which share, from 0, of how many: 3/100.")
    ],
    threads: options.Threads = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the share's parts; those that are there stay. Killed, the same call goes on."""
    with verb(quiet=quiet, as_json=as_json, repeatable=True) as summary:
        from geneformer_grn.cells.corpora.cluster import run_share
        from geneformer_grn.cells.stamps import parse_share

        index, count = parse_share(share, "--share")
        n_done = run_share(corpus, index=index, count=count, threads=threads)
        summary |= {"corpus": corpus, "share": share, "n_parts_written": n_done, "seed": seed}


def finish(
    corpus: _Planned, *, seed: options.Seed = 0, quiet: options.Quiet = False, as_json: options.Json = False
) -> None:
    """Write the corpus and remove the folder of the plan."""
    with verb(quiet=quiet, as_json=as_json, repeatable=True) as summary:
        from geneformer_grn.cells.corpora.corpus import Corpus
        from geneformer_grn.cells.corpora.plan import CorpusPlan, finish_plan, is_finished

        if not is_finished(corpus):
            finish_plan(CorpusPlan.load(corpus))
        manifest = Corpus.open(corpus).manifest
        facts = {name: manifest[name] for name in ("n_cells", "n_tokens")}
        summary |= {"corpus": corpus, **facts, "seed": seed}
