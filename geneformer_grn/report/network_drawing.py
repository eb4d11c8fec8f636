"""The marks of a drawn network: gene names, edges that end at them, and the legend that explains both.

Positions and sizes are in inches, since a name has the same size on any figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn.report.drawing import INK, MUTED, NEGATIVE, PAPER, POSITIVE, REGULATOR, UNSIGNED, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

HUB_TARGETS = 3  # a regulator with at least so many of the drawn targets is written larger
FRAMED_GENES = 60  # with more genes than this, targets have no frame: lines around lines are clutter
LEGEND_HEIGHT = 0.3
_ARROW, _BAR = "-|>,head_length=3.2,head_width=1.6", "|-|,widthA=0,widthB=2.6"


@dataclass(frozen=True)
class EdgeLook:
    """How an edge is drawn.

    Parameters
    ----------
    colour
        ``#rrggbb``.
    sign
        +1 ends in an arrow, -1 in a bar; 0, unknown, in an arrow.
    strength
        0 to 1: width and opacity.
    dashed
        Whether the line is dashed.
    """

    colour: str
    sign: int = 0
    strength: float = 0.5
    dashed: bool = False


SIGN_COLOURS = {1: POSITIVE, -1: NEGATIVE, 0: UNSIGNED}
SIGN_WORDS = {1: "activates", -1: "represses", 0: "effect unknown"}


@dataclass(frozen=True, eq=False)
class Nodes:
    """The genes of a picture: what is written, how large, and the room it takes.

    Parameters
    ----------
    texts
        Names as written.
    fonts
        ``(n,)`` sizes in points.
    regulator
        ``(n,)`` bool, whether the gene has targets in the picture.
    boxes
        ``(n, 2)`` widths and heights in inches, margins included.
    framed
        Whether targets have a frame.
    """

    texts: list[str]
    fonts: np.ndarray
    regulator: np.ndarray
    boxes: np.ndarray
    framed: bool


def measure_nodes(names: Sequence[str], n_targets: np.ndarray) -> Nodes:
    """Return how the genes are written; `n_targets` ``(n,)`` is how many targets each has in the picture."""
    many = len(names) > FRAMED_GENES
    texts = [shorten(name, 14) for name in names]
    fonts = np.where(n_targets == 0, 6.8 if many else 7.6, np.where(n_targets < HUB_TARGETS, 8.4, 9.6))
    margin = np.where((n_targets > 0)[:, None] | (not many), [[0.11, 0.07]], [[0.03, 0.03]])
    boxes = _text_sizes(texts, fonts, n_targets > 0) + margin
    return Nodes(texts, fonts, n_targets > 0, boxes, not many)


def _text_sizes(texts: list[str], fonts: np.ndarray, bold: np.ndarray) -> np.ndarray:
    """Return ``(n, 2)`` widths and heights of the texts in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    measure = TextToPath()
    sizes = []
    for text, font, heavy in zip(texts, fonts.tolist(), bold, strict=True):
        properties = FontProperties(size=font, weight="bold" if heavy else "normal")
        width, _, _ = measure.get_text_width_height_descent(text, properties, ismath=False)
        sizes.append((width / 72, font / 72))
    return np.array(sizes).reshape(-1, 2)


def sign_looks(edges: pd.DataFrame) -> list[EdgeLook]:
    """Return the look of each edge by its ``sign`` (0 where missing) and its share of the largest weight."""
    weights = edges["weight"].abs().to_numpy(dtype=np.float64)
    span = float(np.ptp(weights)) if len(weights) else 0.0
    strength = (weights - weights.min()) / span if span > 0 else np.full(len(weights), 0.5)
    signs = np.zeros(len(edges))
    if "sign" in edges:
        signs = np.nan_to_num(np.sign(edges["sign"].to_numpy(dtype=np.float64, na_value=np.nan)))
    return [
        EdgeLook(SIGN_COLOURS[int(sign)], int(sign), float(share))
        for sign, share in zip(signs, strength, strict=True)
    ]


def draw_edges(
    axes: Axes, pairs: np.ndarray, looks: Sequence[EdgeLook], centres: np.ndarray, boxes: np.ndarray
) -> None:
    """Draw edges from the border of one name to the border of another, the weakest first."""
    from matplotlib.patches import FancyArrowPatch

    thin, head = (0.75, 1.8) if len(pairs) > 150 else (1.0, 2.2) if len(pairs) < 60 else (0.9, 1.9)
    for index in np.argsort([look.strength for look in looks], kind="stable"):
        source, target = pairs[index]
        if source == target:
            continue  # a gene that regulates itself has no line to draw; the table lists it
        look = looks[index]
        start, end = centres[source], centres[target]
        axes.add_artist(
            FancyArrowPatch(
                _towards(start, end, boxes[source]),
                _towards(end, start, boxes[target] + 0.03),
                arrowstyle=_BAR if look.sign < 0 else _ARROW,
                connectionstyle="arc3,rad=0.06",  # bent, so that a pair of opposite edges is seen as two
                mutation_scale=head,
                shrinkA=0,
                shrinkB=0,
                linewidth=thin * (0.6 + 1.4 * look.strength),
                linestyle=(0, (4, 1.6)) if look.dashed else "solid",
                color=look.colour,
                alpha=0.45 + 0.45 * look.strength,
                zorder=1,
            )
        )


def _towards(start: np.ndarray, end: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    """Return where the line from `start` to `end` leaves the box of (width, height) around `start`."""
    delta = end - start
    reach = np.maximum(np.abs(delta) / (box / 2), 1e-9).max()
    point = start + delta / max(reach, 1.0)
    return float(point[0]), float(point[1])


def draw_nodes(axes: Axes, nodes: Nodes, centres: np.ndarray, present: np.ndarray | None = None) -> None:
    """Write each gene's name; regulators on a filled ground, genes that are not `present` faintly."""
    for index, text in enumerate(nodes.texts):
        here = present is None or bool(present[index])
        filled = bool(nodes.regulator[index]) and here
        _draw_box(axes, centres[index], nodes.boxes[index], filled=filled, framed=nodes.framed and here)
        axes.text(
            centres[index, 0],
            centres[index, 1],
            text,
            ha="center",
            va="center_baseline",
            fontsize=nodes.fonts[index],
            fontweight="bold" if nodes.regulator[index] else "normal",
            color="white" if filled else INK if here else UNSIGNED,
            zorder=3,
        )


def _draw_box(axes: Axes, centre: np.ndarray, box: np.ndarray, *, filled: bool, framed: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = box
    axes.add_artist(
        FancyBboxPatch(
            (centre[0] - width / 2, centre[1] - height / 2),
            width,
            height,
            boxstyle=f"round,pad=0,rounding_size={height / 2.4}",
            facecolor=REGULATOR if filled else PAPER,
            edgecolor=REGULATOR if filled else MUTED if framed else "none",
            linewidth=0.8,
            alpha=None if filled or framed else 0.8,
            zorder=2,
        )
    )


def sign_legend(looks: Sequence[EdgeLook]) -> list[tuple[EdgeLook, str]]:
    """Return what the signs among `looks` mean, activation first."""
    found = {look.sign for look in looks}
    return [
        (EdgeLook(SIGN_COLOURS[sign], sign, 0.6), SIGN_WORDS[sign]) for sign in (1, -1, 0) if sign in found
    ]


def draw_legend(axes: Axes, entries: Sequence[tuple[EdgeLook, str]], width: float) -> None:
    """Explain edges and names along the lower border, in as many rows as the width asks for.

    Parameters
    ----------
    axes
        In inches, from 0 to `width`; the legend takes `legend_height` at the bottom.
    entries
        Looks and what they mean.
    width
        In inches.
    """
    rows = _legend_rows(entries, width)
    for number, row in enumerate(rows):
        y = LEGEND_HEIGHT * (len(rows) - 1 - number) + LEGEND_HEIGHT / 2
        x = 0.1
        for look, word in row:
            if look is None:
                centre = np.array([x + 0.2, y])
                _draw_box(axes, centre, np.array([0.4, 0.15]), filled=True, framed=True)
            else:
                ends = np.array([[x, y], [x + 0.4, y]])
                draw_edges(axes, np.array([[0, 1]]), [look], ends, np.full((2, 2), 1e-6))
            axes.text(x + 0.47, y, word, ha="left", va="center_baseline", fontsize=7.6, color=MUTED)
            x += _entry_width(word)


def legend_height(entries: Sequence[tuple[EdgeLook, str]], width: float) -> float:
    """Return the height that `draw_legend` needs, in inches."""
    return LEGEND_HEIGHT * len(_legend_rows(entries, width))


def _legend_rows(
    entries: Sequence[tuple[EdgeLook, str]], width: float
) -> list[list[tuple[EdgeLook | None, str]]]:
    rows: list[list[tuple[EdgeLook | None, str]]] = [[]]
    taken = 0.1
    for entry in [*entries, (None, "regulator")]:
        if rows[-1] and taken + _entry_width(entry[1]) > width:
            rows.append([])
            taken = 0.1
        rows[-1].append(entry)
        taken += _entry_width(entry[1])
    return rows


def _entry_width(word: str) -> float:
    return 0.47 + 0.068 * len(word) + 0.18
