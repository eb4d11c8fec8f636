"""The page of the scaling study: table, figure and verdict from its JSON, between two marks of a page.

What stands around the marks is written by hand and left as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scaling_fit import Law, effective_tokens

from geneformer_grn._runtime import atomic_path

BEGIN, END = "<!-- written by benchmarks/scaling_page.py: begin -->", "<!-- end -->"
MEASURE = "non_embedding_parameters"
COLOURS = ["#332288", "#117733", "#DDCC77", "#CC6677", "#88CCEE", "#AA4499"]


def write_page(result: dict[str, Any], page: Path) -> None:
    """Replace what stands between the marks of `page`, and draw ``images/scaling.png`` beside it.

    Raises
    ------
    ValueError
        The page lacks the marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page.name} lacks the lines '{BEGIN}' and '{END}' that the figures go between")
    draw(result, page.parent / "images" / "scaling.png")
    body = "\n".join(page_lines(result))
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")


def page_lines(result: dict[str, Any]) -> list[str]:
    """Return table, figure and verdict as Markdown."""
    kinds, conditions = list(result["held_out"]), result["conditions"]
    lines = [
        f"{conditions['corpus_cells']:,} training cells, {conditions['corpus_tokens'] / 1e6:.1f} M tokens; "
        f"{result['cpu_seconds'] / 3600:.2f} CPU hours on {result['device']['cpu']}. Loss in nats per hidden "
        "gene.",
        "",
        "| size | seed | parameters (without embeddings) | tokens | epochs | "
        + " | ".join(kinds) + " | CPU s |",
        "|---|---|---|---|---|" + "---|" * len(kinds) + "---|",
    ]  # fmt: skip
    for row in sorted(result["rows"], key=lambda row: (row["parameters"], row["seed"], row["budget"])):
        losses = " | ".join(f"{row['held_out'][kind]['loss']:.3f}" for kind in kinds)
        size = f"{row['parameters']:,} ({row[MEASURE]:,})"
        lines.append(
            f"| {row['name']} | {row['seed']} | {size} | {row['tokens']:,} | "
            f"{row['tokens'] / conditions['corpus_tokens']:.2f} | {losses} | {row['cpu_seconds']:,.0f} |"
        )
    guesses = " | ".join(f"{result['held_out'][kind]['rank_position_loss']:.3f}" for kind in kinds)
    lines += [f"| guess from rank positions | | | | | {guesses} | |", ""]
    lines += ["CPU seconds of a run that is not the longest of its size are those of its decline alone.", ""]
    lines += ["![Held-out loss against tokens](images/scaling.png)", ""]
    for kind in kinds:
        lines += verdict_lines(kind, result["fit"]["kinds"][kind])
    return [*lines, f"The rule, set before the runs: {result['fit']['rule']}."]


def verdict_lines(kind: str, fits: dict[str, Any]) -> list[str]:
    """Return what the fit says of one kind of held-out cells."""
    lines = [f"**{kind}.**"]
    for measure, fit in fits.items():
        name = "without embeddings" if measure == MEASURE else "all"
        verdict = "identified" if fit["identified"] else f"**not identified**: {'; '.join(fit['reasons'])}"
        if "constants" in fit:
            shown = ", ".join(
                f"{key} = {each['value']:.3g} ({each['low']:.3g} to {each['high']:.3g})"
                for key, each in fit["constants"].items()
                if key in {"E", "a", "b"}
            )
            verdict = f"{shown}; residual {fit['rms_nats']:.3f} nats; {verdict}"
        if without := fit.get("without_shortest"):
            verdict += f". Without the shortest runs a = {without['a']:.3g}, b = {without['b']:.3g}"
        lines.append(f"- Parameters {name}: {verdict}.")
    fit = fits[MEASURE]
    for each in fit.get("predictions", ()):
        asked = f"{each['shape']} after one pass over {each['cells'] / 1e6:.0f} M new cells"
        span = f"{each['low']:.2f} to {each['high']:.2f} nats"
        far = f"{each['times_largest_size']:,.0f} times the largest model, "
        far += f"{each['times_most_tokens']:,.0f} times the tokens"
        said = f"{each['loss']:.2f} nats ({span})" if each["identified"] else f"no prediction ({span})"
        lines.append(f"- {asked}: {said}; {far}.")
    return [*lines, ""]


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw loss against tokens, a panel for each kind of held-out cells and a colour for each size."""
    from matplotlib.figure import Figure

    kinds, rows = list(result["held_out"]), result["rows"]
    figure = Figure(figsize=(4.6 * len(kinds), 3.8), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    sizes = {row["name"]: row["parameters"] for row in rows}
    names = sorted(sizes, key=sizes.__getitem__)
    for panel, kind in zip(panels, kinds, strict=True):
        law = _law(result["fit"]["kinds"][kind][MEASURE])
        for name, colour in zip(names, COLOURS * len(names), strict=False):
            own = [row for row in rows if row["name"] == name]
            tokens = np.array([row["tokens"] for row in own])
            panel.plot(tokens, [row["held_out"][kind]["loss"] for row in own], "o", color=colour, label=name)
            if law is not None:
                at = np.geomspace(tokens.min(), tokens.max(), 50)
                worth = effective_tokens(at, result["conditions"]["corpus_tokens"])
                panel.plot(at, law.loss(own[0][MEASURE], worth), color=colour, linewidth=1)
        panel.set(xscale="log", xlabel="tokens", ylabel="nats per hidden gene", title=kind)
    panels[0].legend(title="layers x width", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _law(fit: dict[str, Any]) -> Law | None:
    if "constants" not in fit:
        return None
    value = {key: each["value"] for key, each in fit["constants"].items()}
    logs = [np.log(max(value[key], 1e-300)) for key in ("A", "B", "E")]
    return Law(np.array([*logs, value["a"], value["b"]]), (1.0, 1.0), 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write table and figure of a finished study into a page.")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--page", type=Path, default=Path("docs/scaling.md"))
    options = parser.parse_args(arguments)
    write_page(json.loads(options.results.read_text(encoding="utf-8")), options.page)


if __name__ == "__main__":
    main()
