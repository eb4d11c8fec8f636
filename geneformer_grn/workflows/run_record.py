"""What the main job records of itself: parameters, versions, fingerprints, findings and warnings."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer_grn._runtime import library_versions, sha256_file
from geneformer_grn.cells.corpora.plan import sha256_of
from geneformer_grn.cells.counts import CellCounts
from geneformer_grn.workflows.grouping import Grouping
from geneformer_grn.workflows.network import NetworkResult
from geneformer_grn.workflows.run_steps import RunSettings

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer_grn.model.encoder import Encoder
    from geneformer_grn.perturbation.effects import PerturbationResult


def warnings_of(
    counts: CellCounts, network: NetworkResult, *, left_out: list[str], unknown: list[str]
) -> list[str]:
    """Return the sentences a reader of the results must not miss."""
    found = []
    report = counts.report
    if report["share_counts_lost"] > 0.2:
        found.append(f"{report['share_counts_lost']:.0%} of the counts lie on genes the model does not know.")
    if "species_warning" in report:
        found.append(f"{report['species_warning']}.".replace("..", "."))
    if report["normalised"]:
        found.append("The input was normalised, not raw: ranks mostly survive, count-based figures do not.")
    if unknown:
        found.append(f"Not in the model's vocabulary, so not perturbed: {', '.join(unknown)}.")
    if network.skipped:
        sizes = ", ".join(f"{group} ({size})" for group, size in network.skipped.items())
        found.append(f"Too few cells for a network: {sizes}.")
    if left_out:
        found.append(f"Not perturbed, to stay within the bound on passes: {', '.join(left_out)}.")
    return found


def record_of(
    source: Path | str | AnnData,
    settings: RunSettings,
    *,
    encoder: Encoder,
    counts: CellCounts,
    grouping: Grouping,
    network: NetworkResult,
    screen: PerturbationResult,
    warnings_found: list[str],
) -> dict[str, Any]:
    """Return what was run on what, for ``run.json``: parameters, versions, fingerprints, what was found."""
    from geneformer_grn.model.folder import SHIPPED, resolve_checkpoint

    weights = resolve_checkpoint(settings.model) / "model.safetensors"
    values, sizes = np.unique(grouping.labels.astype(str), return_counts=True)
    return {
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "input": {
            "name": counts.name,
            "sha256": sha256_of(Path(source)) if isinstance(source, str | Path) else None,
            **counts.report,
        },
        "model": {
            "name": encoder.name,
            "parameters": encoder.n_parameters,
            "layers": encoder.n_layers,
            "hidden_size": encoder.hidden_size,
            "max_length": encoder.vocabulary.max_length,
            "weights_sha256": sha256_file(weights) if weights.is_file() else None,
            "vocabulary_fingerprint": encoder.vocabulary.fingerprint,
            "device": encoder.device.type,
            "shipped": resolve_checkpoint(settings.model).parent == SHIPPED,
        },
        "parameters": {
            **asdict(settings),
            "model": encoder.name,
            "regulators": Path(settings.regulators).name,
        },
        "groups": {
            "source": grouping.source,
            "note": grouping.note,
            "sizes": dict(zip(values.tolist(), sizes.tolist(), strict=True)),
        },
        "network": {
            "n_regulators": len(network.universe.regulators),
            "n_targets": len(network.universe.targets),
            "agreement": network.agreement,
            "groups_too_small": network.skipped,
        },
        "perturbation": screen.facts,
        "warnings": warnings_found,
        "versions": library_versions(),
    }


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Return nested facts as one level of ``section.key``, as an h5ad holds them: no lists, nothing unset."""
    found: dict[str, str | int | float | bool] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.".replace("/", "|"))
        elif isinstance(value, list | tuple):
            found[f"{prefix}{key}".replace("/", "|")] = ", ".join(map(str, value))
        elif value is not None:
            plain = value if isinstance(value, str | int | float | bool) else str(value)
            found[f"{prefix}{key}".replace("/", "|")] = plain
    return found
