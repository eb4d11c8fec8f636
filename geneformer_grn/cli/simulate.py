"""``geneformer-grn simulate``: cells from a known gene network, and what perturbing it truly does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("simulate", help="Make cells from a known gene network, with true effects.")(simulate)


def simulate(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    genes: Annotated[
        int | None, typer.Option("--genes", metavar="N", help="Genes of the network to draw.")
    ] = None,
    cells: Annotated[int, typer.Option("--cells", metavar="N", help="Cells.")] = 2_000,
    umi: Annotated[float, typer.Option("--umi", metavar="N", help="Mean molecules a cell.")] = 5_000,
    knockouts: Annotated[
        int | None,
        typer.Option(
            "--knockouts", metavar="K", help="Genes to knock out, regulators first (default: 10, or all)."
        ),
    ] = None,
    overexpressed: Annotated[
        int, typer.Option("--overexpressed", metavar="K", help="Genes to overexpress, one by one.")
    ] = 0,
    fold: Annotated[float, typer.Option("--fold", help="Factor of production of overexpressed genes.")] = 3.0,
    perturbed_cells: Annotated[
        int, typer.Option("--perturbed-cells", metavar="N", help="Cells of each perturbation, and controls.")
    ] = 200,
    network: Annotated[
        Path | None,
        typer.Option(
            "--network", metavar="EDGES.tsv", help="Simulate this one: source, target, sign[, strength]."
        ),
    ] = None,
    regulators: Annotated[
        int | None,
        typer.Option("--regulators", metavar="N", help="Regulators (default: a fifth of the genes)."),
    ] = None,
    topology: Annotated[
        str, typer.Option("--topology", help="Out-degrees: scale-free, hubs or random.")
    ] = "scale-free",
    density: Annotated[
        float | None,
        typer.Option("--density", help="Edges / (regulators × genes); default: 3 a gene, at most 0.1."),
    ] = None,
    levels: Annotated[int, typer.Option("--levels", help="Levels of regulators.")] = 3,
    hubs: Annotated[int, typer.Option("--hubs", help="Regulators that the topology 'hubs' favours.")] = 3,
    feed_forward: Annotated[
        float, typer.Option("--feed-forward", help="Share of further edges that close feed-forward loops.")
    ] = 0.2,
    repressing: Annotated[float, typer.Option("--repressing", help="Share of edges that repress.")] = 0.3,
    feedback: Annotated[
        int, typer.Option("--feedback", metavar="N", help="Edges against the levels; above 0: loops.")
    ] = 0,
    cell_types: Annotated[int, typer.Option("--cell-types", metavar="N", help="Cell types.")] = 3,
    driver: Annotated[
        str | None,
        typer.Option("--driver", metavar="GENE|auto", help="Add states 'on' and 'off' that this gene makes."),
    ] = None,
    noise: Annotated[float, typer.Option("--noise", help="Amplitude of the Langevin noise.")] = 1.0,
    library_sd: Annotated[
        float, typer.Option("--library-sd", help="Spread of library sizes (log-normal).")
    ] = 0.4,
    outliers: Annotated[float, typer.Option("--outliers", help="Share of outlier genes.")] = 0.01,
    dropout: Annotated[
        float | None,
        typer.Option("--dropout", metavar="PERCENTILE", help="Logistic drop-outs, half at this percentile."),
    ] = None,
    gene_names: Annotated[
        str, typer.Option("--gene-names", help="human (Ensembl IDs of the shipped vocabulary) or synthetic.")
    ] = "human",
    clean: Annotated[
        bool, typer.Option("--clean/--no-clean", help="Keep the levels before counting in layers['clean'].")
    ] = True,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write cells.h5ad, truth.tsv and parameters.json; of perturbed genes the cells and true effects."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.network.simulated_truth import SimulationSettings
        from geneformer_grn.network.simulator import LangevinSettings
        from geneformer_grn.network.simulator_sequencing import SequencingSettings
        from geneformer_grn.network.topologies import TopologySettings
        from geneformer_grn.workflows.simulate import simulate_files

        if (genes is None) == (network is None):
            raise ValueError("give either --genes N for a drawn network, or --network EDGES.tsv")
        drawn = None
        if genes is not None:
            drawn = TopologySettings(
                n_genes=genes,
                n_regulators=regulators,
                topology=topology,  # type: ignore[arg-type]  # checked there, with the known names
                density=density,
                n_levels=levels,
                n_hubs=hubs,
                feed_forward=feed_forward,
                repressing=repressing,
                n_feedback=feedback,
            )
        settings = SimulationSettings(
            topology=drawn,
            n_cells=cells,
            n_types=cell_types,
            driver=driver,
            n_knockouts=knockouts,
            n_overexpressed=overexpressed,
            fold=fold,
            perturbed_cells=perturbed_cells,
            names=gene_names,  # type: ignore[arg-type]  # checked there, with the known names
            langevin=LangevinSettings(noise=noise, threads=threads),
            sequencing=SequencingSettings(umi=umi, library_sd=library_sd, outliers=outliers, dropout=dropout),
        )
        simulation = simulate_files(out, settings, seed=seed, network=network, keep_clean=clean)
        summary |= {"out": out, **simulation.facts}
