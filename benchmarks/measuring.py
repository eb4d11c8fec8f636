"""What benchmarks share: the machine in words, contestants timed in turn, and the ratios between them."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geneformer_grn._runtime import library_versions, sha256_file
from geneformer_grn.model.folder import resolve_checkpoint


def device() -> dict[str, Any]:
    """Return the processor's model name, where the system tells it, and the cores this process may use."""
    cpu = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    for line in lines:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": usable}


def versions(*more: str) -> dict[str, str]:
    """Return the versions every result names, those of `more` installed distributions, and the shipped model.

    A model has no version number: ``mini`` is the digest of its weights, so that figures of an earlier one
    can be told apart.
    """
    found = {**library_versions(), **{name: importlib.metadata.version(name) for name in more}}
    weights = resolve_checkpoint("mini") / "model.safetensors"
    return found | ({"mini": sha256_file(weights)[:16]} if weights.is_file() else {})


def timed_rounds(
    contestants: Mapping[str, Callable[[Path], object]],
    folder: Path,
    *,
    repetitions: int,
    n_cells: int,
    at_most_s: float | None = None,
) -> list[dict[str, Any]]:
    """Time every contestant once a repetition, each repetition starting with another one.

    A contestant is given a path in `folder` where nothing is yet; what it writes there is removed untimed.
    After `at_most_s` seconds no further repetition begins.
    """
    names = list(contestants)
    rows: list[dict[str, Any]] = []
    begun = time.perf_counter()
    for repetition in range(repetitions):
        if rows and at_most_s is not None and time.perf_counter() - begun > at_most_s:
            break
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            place = folder / f"{name}-{repetition}"
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            contestants[name](place)
            seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
            shutil.rmtree(place, ignore_errors=True)
            rows.append(
                {
                    "name": name, "repetition": repetition, "cells": n_cells, "seconds": seconds,
                    "cpu_seconds": cpu_seconds, "cells_per_s": n_cells / seconds,
                }
            )  # fmt: skip
    return rows


def summarise(rows: list[dict[str, Any]], ratios: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return median speeds, and for each ratio (ours, other) its median and extremes over repetitions.

    A ratio compares two contestants within one repetition, so that what slows a whole repetition cancels.
    """
    speeds: dict[str, list[float]] = {}
    for row in rows:
        speeds.setdefault(row["name"], []).append(row["cells_per_s"])
    paired = {key: np.divide(speeds[ours], speeds[other]) for key, (ours, other) in ratios.items()}
    return {
        "cells_per_s": {name: float(np.median(values)) for name, values in speeds.items()},
        "ratios": {key: float(np.median(values)) for key, values in paired.items()},
        "ratio_ranges": {key: [float(values.min()), float(values.max())] for key, values in paired.items()},
    }
