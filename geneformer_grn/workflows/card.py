"""Model cards: Markdown whose every figure comes from results that a command wrote."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geneformer_grn._runtime import atomic_path, logger
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.workflows.evaluate import results_table
from geneformer_grn.workflows.finetune_card import render_finetuned_card

_TEMPLATE = "card.md.j2"


def write_card(results_path: Path | str, out: Path | str) -> None:
    """Write a model card.

    Parameters
    ----------
    results_path
        JSON file that ``evaluate model`` or ``finetune`` wrote.
    out
        Markdown file.

    Raises
    ------
    FileNotFoundError
        There are no results.
    ValueError
        The file holds no such results.
    """
    from jinja2 import UndefinedError

    results_path, out = Path(results_path), Path(out)
    if not results_path.is_file():
        raise FileNotFoundError(
            f"no results at {results_path}; write them by evaluate model or finetune ... --out"
        )
    try:
        results = json.loads(results_path.read_text(encoding="utf-8"))
        text = _RENDER.get(results["kind"], render_card)(results)
    except (AttributeError, KeyError, TypeError, ValueError, UndefinedError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{results_path.name} holds no results of evaluate model or finetune: {why}"
        ) from error
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logger.info("wrote %s", out)


def render_card(results: dict[str, Any]) -> str:
    """Return the card of a checkpoint as Markdown (Hugging Face front matter first).

    Parameters
    ----------
    results
        What `geneformer_grn.workflows.evaluate.evaluate_model` returned.

    Raises
    ------
    KeyError, TypeError, ValueError, jinja2.UndefinedError
        They are not such results.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from geneformer_grn.training.record import training_stages

    if results["kind"] != "model":
        raise ValueError(f"their kind is {results['kind']!r}, a card needs 'model'")
    environment = Environment(
        loader=PackageLoader("geneformer_grn.workflows", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, not HTML
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    held_out = [row["file"] for row in results["masked_genes"]["files"]]
    stages = training_stages(results["training"])
    return environment.get_template(_TEMPLATE).render(
        {"suite": None} | results,
        table=results_table(results),
        **_suite(results, stages),
        verdict=_verdict(results),
        held_out_files=held_out,
        read_options=_read_options(results["conditions"]["read"]),
        data=_data(results, stages),
        held_out_parts=_held_out(results["training"]),
        earlier=_earlier(stages),
    )


def _suite(results: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the suite's table and verdict, and what was spent; nothing where the suite was not run."""
    from geneformer_grn.workflows.suite import suite_table, suite_verdict

    if "suite" not in results:
        return {}
    suite = results["suite"]
    return {
        "suite_table": suite_table(suite),
        "suite_verdict": suite_verdict(suite),
        "training_cost": _training_cost(stages),
    }


def _training_cost(stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return hours, devices and estimated energy of all trainings of a model, from their records."""
    from geneformer_grn.workflows.suite import energy

    if not stages:
        return None
    spent = []
    for training in stages:
        stated = re.search(r"(\d+) threads", training["device"])
        threads = int(stated.group(1)) if stated else training["config"].get("run.threads") or 1
        spent.append(energy(training["hours"], threads=threads, gpu=stated is None))
    return {
        "hours": sum(training["hours"] for training in stages),
        "devices": ", ".join(dict.fromkeys(training["device"] for training in stages)),
        "kwh": sum(cost["kwh"] for cost in spent),
        "assumed_gpu_watts": max(cost["assumed_gpu_watts"] for cost in spent),
    }


def _earlier(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the trainings whose weights this one began with, the last first, each with its name."""
    return [
        {"name": later["started_from"]["name"], "training": stage}
        for later, stage in itertools.pairwise(stages)
    ]


_RENDER = {"model": render_card, "finetune": render_finetuned_card}


def _read_options(read: dict[str, Any]) -> str:
    """Return the options of the command line that say how the counts were read."""
    words: list[str] = []
    usual = asdict(ReadSettings())
    for name, value in read.items():
        if value == usual.get(name):
            continue
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, shlex.quote(str(value))] if value else []
    return "".join(f" {word}" for word in words)


def _data(results: dict[str, Any], stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return name, cells used and left out, and licence of the training files, those of its start behind.

    Licences stand with the vocabulary's sources.

    Without a record of the training the vocabulary's sources are all that is known.
    """
    sources = results["checkpoint"]["sources"]
    license_of = {source.get("sha256"): source.get("license") for source in sources}
    files = [entry for stage in stages for entry in stage["corpus"]["files"]] if stages else sources
    once: dict[Any, dict[str, Any]] = {}
    for place, entry in enumerate(files):  # of a file that several trainings read, the largest part
        held = once.setdefault(entry.get("sha256") or place, entry)
        if (entry.get("n_cells") or 0) > (held.get("n_cells") or 0):
            once[entry.get("sha256") or place] = entry
    return [
        {
            "name": entry["name"],
            "n_cells": entry.get("n_cells"),
            "left_out": _left_out(entry.get("left_out")),
            "license": license_of.get(entry.get("sha256")) or "not stated",
        }
        for entry in once.values()
    ]


def _left_out(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "not stated"
    return ", ".join(f"{n:,} {why}" for why, n in counts.items()) or "none"


def _held_out(training: dict[str, Any] | None) -> str:
    """Return which cells were held out, file by file: whole, or a part of a file that is trained on."""
    if training is None or training["held_out"] is None:
        return "none"
    trained = {entry["name"] for entry in training["corpus"]["files"]}
    return ", ".join(
        f"{entry['n_cells']:,} of {entry['name']} "
        f"({'a part' if entry['name'] in trained else 'the whole file'})"
        for entry in training["held_out"]["files"]
    )


def _verdict(results: dict[str, Any]) -> str:
    """Return in words whether the model is ahead of what it has to beat, by the intervals."""
    sentences = []
    names = {"rank_position": "the rank-position baseline", "untrained": "its untrained copy"}
    for key, gain in results["masked_genes"]["all"]["ahead_of"].items():
        loss, accuracy = gain["loss"], gain["accuracy"]
        sentences.append(
            f"Against {names[key]} the model is {_word(loss)} in loss and {_word(accuracy)} in accuracy."
        )
    return " ".join(sentences)


def _word(gain: dict[str, float]) -> str:
    if gain["low"] > 0:
        return "ahead"
    return "behind" if gain["high"] < 0 else "not distinguishable"
