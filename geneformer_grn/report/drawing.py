"""How figures look and how they are turned into bytes: one style, one palette, reproducible SVG.

Figures are made with matplotlib's object interface, under a style of our own, so that what a notebook has set
globally neither changes them nor is changed by them.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure

# Colours with a meaning. On the page each is a CSS variable (see `inline_svg`), to be seen on dark ground.
INK, MUTED, RULE, PAPER = "#1b2330", "#5d6878", "#d9dee6", "#fffffe"
# Activation and repression, up and down: blue and vermilion of Okabe & Ito (2008), told apart in the common
# forms of colour blindness. Shape or text always says the same thing.
POSITIVE, NEGATIVE, UNSIGNED, REGULATOR = "#0072b2", "#d55e00", "#8a94a3", "#5b3a8c"
CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    POSITIVE: "--positive",
    NEGATIVE: "--negative",
    UNSIGNED: "--unsigned",
    REGULATOR: "--regulator",
}

# Groups: Okabe & Ito without black, yellow darkened to be seen on white, a step away from the colours above.
# From the ninth group on they return darker and lighter, and the figure numbers the groups, since no 30
# colours can be told apart.
PALETTE = ("#0173b3", "#e69f00", "#029e73", "#cc79a7", "#56b4e9", "#d65f01", "#8c6bb1", "#b8a900")
SHADES = (0.0, -0.38, 0.45, -0.6)

STYLE: dict[str, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so sizes are the same everywhere
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a group called "$x^$" is a name, not a formula
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: selectable, searchable, small
    "svg.hashsalt": "geneformer-grn",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw under this package's style, whatever the session's matplotlib settings; they are restored."""
    from matplotlib import style

    with style.context(["default", STYLE]), warnings.catch_warnings():
        # A label in a script that DejaVu lacks: the page holds it as text, and the browser has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` × `height` inches that pyplot knows nothing of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def group_colours(groups: Sequence[str] | np.ndarray) -> dict[str, str]:
    """Return a colour for each group, the largest group first.

    Parameters
    ----------
    groups
        ``(n,)`` str; the group of each cell.

    Returns
    -------
    dict
        Group -> ``#rrggbb``, ordered by descending size, ties by name. The first eight are safe for
        colour-blind readers; further ones are darker and lighter versions of these.
    """
    from matplotlib.colors import to_hex, to_rgb

    names, sizes = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    colours = {}
    for rank, index in enumerate(np.argsort(-sizes, kind="stable")):
        shade = SHADES[rank // len(PALETTE) % len(SHADES)]
        colour = np.array(to_rgb(PALETTE[rank % len(PALETTE)]))
        towards = np.ones(3) if shade > 0 else np.zeros(3)
        colours[str(names[index])] = to_hex(colour + abs(shade) * (towards - colour))
    return colours


def shorten(text: str, length: int = 28) -> str:
    """Return `text` cut to `length` characters, with an ellipsis where something was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def label_genes(table: pd.DataFrame, column: str) -> pd.Series:
    """Return the symbols that stand for a column of genes: ``<column>_symbol``, else the identifiers."""
    symbols = f"{column}_symbol"
    names = table[column].astype(str)
    if symbols not in table:
        return names
    given = table[symbols].astype("string")
    return given.where(given.notna() & (given != ""), names).astype(str)


def require_columns(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise unless `table` has all `columns`.

    Raises
    ------
    ValueError
        Names the missing columns and those found.
    """
    missing = [column for column in columns if column not in table]
    if missing:
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"{what} needs the columns {', '.join(missing)}; the table has: {found or 'none'}")


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG document; the same figure gives the same bytes (no date, fixed ids)."""
    buffer = io.StringIO()
    with figure_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: Figure, *, dots_per_inch: int = 200) -> bytes:
    """Return the figure as PNG bytes on a white ground, the same bytes each time."""
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(
            buffer, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element for an HTML page.

    What differs from `to_svg`: no prologue and no addresses (namespaces are implied in HTML); ids carry
    `name`, since many figures share a page; colours with a meaning are CSS variables, so that the picture
    follows the page into dark mode; the font is the page's; the size is left to the style sheet, up to the
    figure's own.

    Parameters
    ----------
    figure
        The figure to draw.
    name
        Unique on the page; letters, digits and hyphens.
    description
        Alternative text, read out to those who do not see the picture. Escaped here.
    """
    text = to_svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    if view_box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([\w.-]+)', body))

    def rewrite(tag: re.Match[str]) -> str:
        text = tag[0]
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
        text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
        text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans)", text)
        # Hundredths of a point are finer than any screen; six digits double the size of a scatter.
        text = re.sub(r"(\.\d\d)\d+", r"\1", text)
        for colour, variable in CSS_VARIABLES.items():
            text = text.replace(colour, f"var({variable})")
        return text

    body = re.sub(r"<[^>]*>", rewrite, body)  # tags only: what a label says is not ours to change
    width = figure.get_figwidth() * 96  # CSS pixels an inch
    return (
        f'<svg {view_box[0]} role="img" aria-label="{escape(description)}" '
        f'style="max-width:{width:.0f}px">{body.strip()}'
    )


def distinct_names(names: Sequence[str], length: int) -> list[str]:
    """Return names cut to `length`, in the middle where cut at the end they would be alike."""
    cut = [shorten(name, length) for name in names]
    front = (length - 1) // 2
    return [
        f"{name[:front].rstrip()}…{name[front + 1 - length :].lstrip()}" if cut.count(short) > 1 else short
        for name, short in zip(names, cut, strict=True)
    ]
