"""The standard suite: every question that a model card has to answer, asked of any checkpoint in one call.

Each question is a function in a file of its own; this one asks them in turn, times them, and turns a missing
file or library into a row that says so. Questions are small on purpose: a laptop answers them all in less
than half an hour, at the price of wide intervals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import logger, n_cores, raised_on_purpose
from geneformer_grn.workflows.suite_annotation import annotation_rows
from geneformer_grn.workflows.suite_bench import Bench
from geneformer_grn.workflows.suite_effects import STAND_INS, morphic_rows, papalexi_rows
from geneformer_grn.workflows.suite_embeddings import donor_rows, protocol_rows
from geneformer_grn.workflows.suite_genes import regulator_rows
from geneformer_grn.workflows.suite_masked import TASK as MASKED
from geneformer_grn.workflows.suite_masked import masked_file, masked_rows
from geneformer_grn.workflows.suite_networks import blood_rows, simulated_rows
from geneformer_grn.workflows.suite_robustness import (
    depth_rows,
    other_donor_rows,
    other_protocol_rows,
    other_species_rows,
)
from geneformer_grn.workflows.suite_rows import not_run, summary_of, verdict
from geneformer_grn.workflows.suite_stimulus import interferon_rows

WATTS_PER_THREAD = 10.0
"""Assumed power of a busy CPU thread with its share of memory and supply; no meter was read."""
GPU_WATTS = 700.0
"""Assumed power of a GPU in use, an upper bound for today's data-centre cards."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the suite.

    Parameters
    ----------
    task, data
        As in its rows.
    run
        Bench -> rows.
    needs
        Keys of the files that are scored: they must be there, and the model must not have seen them.
    inputs
        Keys of files that must be there and hold no answer: a model may have seen them, and the rows say so.
    """

    task: str
    data: str
    run: Callable[[Bench], list[dict[str, Any]]]
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


def _demo_rows(bench: Bench) -> list[dict[str, Any]]:
    return masked_rows(bench, _demo(bench), "demo cells")


def _demo_regulators(bench: Bench) -> list[dict[str, Any]]:
    return regulator_rows(bench, _demo(bench), "demo cells")


def _demo(bench: Bench) -> Any:
    from geneformer_grn.cells.counts import ReadSettings, read_counts
    from geneformer_grn.workflows.evaluate import demo_cells

    name, cells, digest = demo_cells()
    if digest in bench.known:
        raise ValueError(f"{name} {bench.known[digest]}")
    return read_counts(cells, bench.encoder.vocabulary, ReadSettings(drop_empty=True), name=name)


QUESTIONS: tuple[Question, ...] = (
    Question(task=MASKED, data="demo cells", run=_demo_rows),
    Question(task=MASKED, data="pbmc3k", run=masked_file("pbmc3k", "pbmc3k"), needs=("pbmc3k",)),
    Question(
        task=MASKED, data="lung cancer lines, Drop-seq",
        run=masked_file("lung_dropseq", "lung cancer lines, Drop-seq"), needs=("lung_dropseq",),
    ),
    Question(task="cell embeddings", data="Kang PBMC, 8 donors", run=donor_rows, needs=("kang",)),
    Question(
        task="cell embeddings", data="lung cancer lines, 2 protocols", run=protocol_rows,
        needs=("lung_celseq2", "lung_dropseq"),
    ),
    Question(task="few-shot annotation", data="Kang PBMC, 8 donors", run=annotation_rows, needs=("kang",)),
    Question(task="gene class", data="demo cells", run=_demo_regulators),
    Question(task="network truth", data="simulated network", run=simulated_rows),
    Question(
        task="network truth", data="pbmc3k", run=blood_rows, needs=("pbmc3k", "trrust", "dorothea")
    ),
    Question(task="perturbation truth", data="Papalexi THP-1", run=papalexi_rows, needs=("papalexi",)),
    Question(
        task="perturbation truth", data="MorPhiC bulk knock-outs", run=morphic_rows, needs=("morphic",),
        inputs=STAND_INS,
    ),
    Question(
        task="perturbation truth", data="Kang PBMC, interferon-beta", run=interferon_rows,
        needs=("interferon",),
    ),
    Question(task="robustness: depth", data="pbmc3k", run=depth_rows, needs=("pbmc3k",)),
    Question(
        task="robustness: technology", data="lung cancer lines, 2 protocols", run=other_protocol_rows,
        needs=("lung_celseq2", "lung_dropseq"),
    ),
    Question(task="robustness: donor", data="Kang PBMC, 8 donors", run=other_donor_rows, needs=("kang",)),
    Question(
        task="robustness: species", data="mouse pancreas", run=other_species_rows, needs=("mouse_pancreas",)
    ),
)  # fmt: skip
"""In the order of the card."""


def run_suite(
    bench: Bench, more: Sequence[Question] = (), *, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Ask every question of a model.

    Parameters
    ----------
    bench
        The model, its twin and the files.
    more
        Further questions, asked first (of files that the caller brings).
    only
        Begin of the tasks to ask (``masked``, ``robustness``); None: all.

    Returns
    -------
    dict
        ``rows`` (see `geneformer_grn.workflows.suite_rows.suite_row`; ``seconds`` is the time of the whole
        question), ``summary``, ``files`` (name, sha256, source, licence of those used), ``seconds``,
        ``hardware``, ``energy`` (an estimate from the power that is assumed of each thread).

    Raises
    ------
    ValueError
        No task begins so.
    """
    asked = chosen([*more, *QUESTIONS], only)
    begun = time.perf_counter()
    rows, used = [], set()
    for question in asked:
        found = ask(question, bench)
        rows += found
        used |= {*question.needs, *question.inputs} if "not_run" not in found[0] else set()
    seconds = time.perf_counter() - begun
    return {
        "rows": rows,
        "summary": summary_of(rows),
        "files": [bench.facts(key) for key in sorted(used)],
        "seconds": round(seconds, 1),
        "hardware": hardware(bench.encoder.device),
        "energy": energy(seconds / 3600, threads=_threads(), gpu=bench.encoder.device.type == "cuda"),
    }


def chosen(questions: Sequence[Question], only: Sequence[str] | None = None) -> list[Question]:
    """Return the questions whose task begins with one of `only`; None: all.

    Raises
    ------
    ValueError
        There is none that begins so.
    """
    if only is None:
        return list(questions)
    for start in only:
        if not any(one.task.startswith(start) for one in questions):
            known = ", ".join(dict.fromkeys(one.task for one in questions))
            raise ValueError(f"no task begins with {start!r}; they are: {known}")
    return [one for one in questions if one.task.startswith(tuple(only))]


def ask(question: Question, bench: Bench) -> list[dict[str, Any]]:
    """Return the rows of a question, or one that says why there are none.

    What our own code refuses (a label that is missing, too few genes known to the vocabulary, an extra that
    is not installed) is a reason; any other error is a fault and is not caught.
    """
    keys = (*question.needs, *question.inputs)
    reasons = [reason for key in question.needs if (reason := bench.lacks(key))]
    reasons += [reason for key in question.inputs if (reason := bench.misses(key))]
    sources = [f"{bench.listed[key].name}: {bench.listed[key].source}" for key in keys]
    if reasons:
        return [not_run(question.task, question.data, reason="; ".join(reasons), sources=sources)]
    begun = time.perf_counter()
    try:
        rows = question.run(bench)
    except (ValueError, ModuleNotFoundError) as error:
        if not raised_on_purpose(error):
            raise
        return [not_run(question.task, question.data, reason=str(error), sources=sources)]
    seconds = round(time.perf_counter() - begun, 1)
    named = [note for key in question.needs if (note := bench.overlap(key))]
    named += [note for key in question.inputs if (note := bench.seen(key) or bench.overlap(key))]
    for row in rows:
        row["seconds"] = seconds
        row["note"] = "; ".join(filter(None, (row["note"], *named)))
    logger.info("%s, %s: %d rows in %.0f s", question.task, question.data, len(rows), seconds)
    return rows


def suite_table(suite: dict[str, Any]) -> str:
    """Return all rows as one Markdown table, those lost among those won, and below it those not run."""
    lines = [
        "| question | cells | measure | model | untrained | best simple method | ahead of untrained | "
        "ahead of best simple method |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in suite["rows"]:
        if "not_run" in row:
            continue
        best = row["ahead_of_baseline"]["name"]
        arrow = "" if row["higher_is_better"] else " (lower is better)"
        shown = [
            row["task"], row["data"], f"{row['measure']}{arrow}", _number(row["model"]),
            _number(row["untrained"]), f"{_number(row['baselines'][best])}, {best.replace('_', ' ')}",
            _gain(row["ahead_of_untrained"]), _gain(row["ahead_of_baseline"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(shown) + " |")
    missing = [row for row in suite["rows"] if "not_run" in row]
    if missing:
        lines += ["", "| not run | cells | why | source |", "|---|---|---|---|"]
        lines += [
            f"| {row['task']} | {row['data']} | {row['not_run']} | {row['source']} |" for row in missing
        ]
    return "\n".join(lines)


def suite_verdict(suite: dict[str, Any]) -> str:
    """Return in words how many rows the model wins, draws and loses."""
    summary = suite["summary"]
    parts = [
        f"against {what} it is ahead in {counts['ahead']}, level in {counts['level']} and behind in "
        f"{counts['behind']}"
        for what, counts in (
            ("its untrained twin", summary["against_untrained"]),
            ("the best simple method of each row", summary["against_best_baseline"]),
        )
    ]
    missing = f" {summary['n_not_run']} questions were not run." if summary["n_not_run"] else ""
    return f"Of {summary['n_rows']} rows, {'; '.join(parts)} (by the 95 % intervals).{missing}"


def hardware(device: Any) -> dict[str, Any]:
    """Return the processor, its cores, the threads used, and the GPU where there is one."""
    import platform

    from geneformer_grn.training.record import device_name

    cpu = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {"cpu": cpu, "cores": n_cores(), "threads": _threads(), "device": device_name(device)}


def energy(hours: float, *, threads: int, gpu: bool = False) -> dict[str, Any]:
    """Return an estimate of the energy of a run: assumed power times hours."""
    watts = threads * WATTS_PER_THREAD + (GPU_WATTS if gpu else 0.0)
    return {
        "kwh": round(watts * hours / 1000, 5), "hours": round(hours, 4), "threads": threads,
        "assumed_watts_per_thread": WATTS_PER_THREAD, "assumed_gpu_watts": GPU_WATTS if gpu else 0.0,
    }  # fmt: skip


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _gain(gain: dict[str, Any]) -> str:
    if gain["mean"] is None:
        return "–"
    text = f"{gain['mean']:+.3f}"
    if gain["low"] is not None:
        text += f" ({gain['low']:+.3f} to {gain['high']:+.3f})"
    return f"{text} {verdict(gain)}"
