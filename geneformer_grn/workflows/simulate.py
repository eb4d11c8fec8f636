"""A simulation as files: cells, the network that made them, perturbed cells and what truly follows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import library_versions, logger, package_version, staged_folder, write_json

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.network.simulated_truth import Simulation, SimulationSettings
    from geneformer_grn.network.simulator_network import RegulatoryNetwork


def simulate_files(
    out: Path | str,
    settings: SimulationSettings,
    *,
    seed: int = 0,
    network: Path | str | None = None,
    keep_clean: bool = True,
) -> Simulation:
    """Simulate, and write what came out into a folder: all files or none.

    Parameters
    ----------
    out
        Folder for ``cells.h5ad``, ``truth.tsv`` and ``parameters.json``; with perturbed genes also
        ``knockouts.h5ad`` and ``knockout_effects.parquet``, ``overexpressed.h5ad`` and
        ``overexpressed_effects.parquet``. What they hold says
        `geneformer_grn.network.simulated_truth.Simulation`.
    settings, seed
        What to make.
    network
        Table of edges (``source, target, sign[, strength]``) to simulate instead of a drawn network.
    keep_clean
        Whether ``layers["clean"]`` is written; it is dense.

    Returns
    -------
    Simulation
        What was written.

    Raises
    ------
    FileNotFoundError
        There is no such network.
    ValueError
        The numbers are impossible together, or the network cannot be simulated.
    PermissionError, NotADirectoryError, IsADirectoryError
        `out` cannot be written.
    """
    from geneformer_grn.network.simulated_truth import simulate

    with staged_folder(out) as folder:
        given = None if network is None else _read_network(Path(network), settings, seed)
        simulation = simulate(settings, seed=seed, network=given)
        _write(simulation.cells, folder / "cells.h5ad", simulation, keep_clean=keep_clean)
        simulation.truth.to_csv(folder / "truth.tsv", sep="\t", index=False)
        for experiment, cells, effects in (
            (simulation.knockouts, "knockouts.h5ad", "knockout_effects.parquet"),
            (simulation.overexpressed, "overexpressed.h5ad", "overexpressed_effects.parquet"),
        ):
            if experiment is not None:
                _write(experiment.cells, folder / cells, simulation, keep_clean=keep_clean)
                experiment.effects.to_parquet(folder / effects, index=False)
        record: dict[str, Any] = {"verb": "simulate", "network": network, **simulation.facts}
        record |= {"settings": asdict(settings), "files": sorted(path.name for path in folder.iterdir())}
        write_json(folder / "parameters.json", record | {"versions": library_versions()})
    logger.info(
        "wrote %s: %s cells, %s genes, %s edges of %s regulators", out, f"{simulation.cells.n_obs:,}",
        f"{simulation.network.n_genes:,}", f"{len(simulation.truth):,}",
        f"{len(simulation.network.regulators):,}",
    )  # fmt: skip
    return simulation


def _write(adata: AnnData, path: Path, simulation: Simulation, *, keep_clean: bool) -> None:
    """Write cells with where they come from; empty ones are reported, since readers refuse them."""
    empty = int(np.sum(np.diff(adata.X.indptr) == 0))
    if empty:
        logger.warning(
            "%s: %d of %d cells have no molecules; ask for more UMI", path.name, empty, adata.n_obs
        )
    written = adata if keep_clean else adata.copy()
    if not keep_clean:
        del written.layers["clean"]
    provenance = {"package_version": package_version(), **simulation.facts}
    written.uns["geneformer_grn"] = {"simulate": provenance}
    written.write_h5ad(path, compression="gzip", compression_opts=1)


def _read_network(path: Path, settings: SimulationSettings, seed: int) -> RegulatoryNetwork:
    """Read edges to simulate; what the table does not say is drawn."""
    import pandas as pd

    from geneformer_grn.network.simulated_network import network_of_table

    if not path.is_file():
        raise FileNotFoundError(f"no network at {path}; give a table with source, target and sign")
    try:
        table = pd.read_csv(path, sep="\t", dtype={"source": str, "target": str})
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path.name} is not a tab-separated table of edges: {error}") from error
    return network_of_table(table, settings.rates, np.random.default_rng(seed))
