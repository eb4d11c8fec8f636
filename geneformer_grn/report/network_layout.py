"""Where to draw the nodes of a small network whose nodes are labels.

Stress majorisation puts nodes at distances that follow the network's path lengths (a regulator with its own
targets becomes a wheel); then labels that overlap are pushed apart. For tens of nodes this is fast. It has no
random start, as force-directed layouts have, so that the same network is always drawn the same way.
"""

from __future__ import annotations

import numpy as np

ITERATIONS = 300
SETTLED = 1e-5
GAP = 0.05
EDGE_GAP = 0.24  # between the labels of an edge, so that its line and its head are seen


def path_lengths(n_nodes: int, pairs: np.ndarray) -> np.ndarray:
    """Return the number of undirected steps between all nodes.

    Nodes of different components get a distance at which the components lie beside each other, each needing
    room that grows with the square root of its size.

    Parameters
    ----------
    n_nodes
        Number of nodes.
    pairs
        ``(n_edges, 2)`` int; node numbers.

    Returns
    -------
    ndarray
        ``(n_nodes, n_nodes)`` float64.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, shortest_path

    graph = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)
    lengths = shortest_path(graph, directed=False, unweighted=True)
    room = np.sqrt(np.bincount(component))[component]
    apart = 0.6 + 0.42 * (room[:, None] + room[None, :])
    return np.where(np.isfinite(lengths), lengths, apart)


def stress_layout(lengths: np.ndarray) -> np.ndarray:
    """Return positions whose distances follow `lengths`, weighted by the inverse square of the length.

    Stress majorisation (Gansner, Koren & North, *Graph drawing by stress majorization*, 2005), started on a
    circle; each step minimises a quadratic bound of the stress exactly.

    Parameters
    ----------
    lengths
        ``(n, n)`` float64; the distances wanted, positive off the diagonal.

    Returns
    -------
    ndarray
        ``(n, 2)`` float64.
    """
    from scipy.spatial.distance import cdist

    n = len(lengths)
    angle = 2 * np.pi * np.arange(n) / max(n, 1)
    positions = np.column_stack([np.cos(angle), 0.9 * np.sin(angle)]) * max(lengths.max(initial=1.0), 1.0) / 2
    if n < 3:
        return positions
    weights = np.zeros_like(lengths)
    off = ~np.eye(n, dtype=bool)
    weights[off] = lengths[off] ** -2.0
    laplacian = np.diag(weights.sum(axis=1)) - weights
    inverse = np.linalg.pinv(laplacian)
    for _ in range(ITERATIONS):
        distance = cdist(positions, positions)
        ratio = np.zeros_like(lengths)
        ratio[off] = weights[off] * lengths[off] / np.maximum(distance[off], 1e-9)
        before = positions
        positions = inverse @ ((np.diag(ratio.sum(axis=1)) - ratio) @ positions)
        if np.abs(positions - before).max() < SETTLED * lengths.max():
            break
    return positions


def separate(
    positions: np.ndarray, sizes: np.ndarray, area: tuple[float, float], *, gap: float | np.ndarray = GAP
) -> np.ndarray:
    """Return the positions of labels pushed apart until none overlap, or room runs out.

    Parameters
    ----------
    positions
        ``(n, 2)`` float64; centres of the labels.
    sizes
        ``(n, 2)`` float64; widths and heights, in the unit of `positions`.
    area
        Width and height of the area, with its corner at the origin; labels are kept inside.
    gap
        Free space between labels; ``(n, n)`` where it differs between pairs.
    """
    centres = positions.copy()
    half = sizes / 2
    border = half + GAP / 2
    upper = np.maximum(np.asarray(area) - border, border)
    n = len(centres)
    if n == 0:
        return centres
    between = np.broadcast_to(np.asarray(gap, dtype=np.float64), (n, n))[..., None]
    room = half[:, None] + half[None, :] + between
    for step in range(2 * ITERATIONS):
        delta = centres[:, None] - centres[None, :]
        overlap = room - np.abs(delta)
        both = (overlap > 1e-6).all(axis=2) & ~np.eye(n, dtype=bool)
        if not both.any():
            break
        # Move along the shorter way; later only up and down, for labels squeezed from both sides.
        vertical = (overlap[..., 1] <= overlap[..., 0]) | (step > ITERATIONS)
        side = np.sign(delta)
        order = np.sign(np.arange(n)[:, None] - np.arange(n)[None, :])
        side = np.where(side == 0, order[..., None], side)
        push = np.where(both[..., None], overlap * side, 0.0) / 2
        push[..., 0][vertical] = 0.0
        push[..., 1][~vertical] = 0.0
        damping = 0.8 if step < ITERATIONS else 0.4
        centres = np.clip(centres + damping * push.sum(axis=1), border, upper)
    return centres


def place_labels(pairs: np.ndarray, sizes: np.ndarray, area: tuple[float, float]) -> np.ndarray:
    """Return the centres of the labelled nodes of a network, inside `area`.

    Parameters
    ----------
    pairs
        ``(n_edges, 2)`` int; node numbers.
    sizes
        ``(n_nodes, 2)`` float64; label widths and heights.
    area
        Width and height to fill, in inches, as `sizes`.
    """
    if len(sizes) == 0:
        return np.zeros((0, 2))
    layout = stress_layout(path_lengths(len(sizes), pairs))
    # The longer axis of the picture goes along the width, where labels need it.
    axes = np.linalg.svd(layout - layout.mean(axis=0), full_matrices=False)[2]
    axes *= np.where(axes.sum(axis=1) < 0, -1.0, 1.0)[:, None]  # the sign of a singular vector is arbitrary
    layout = (layout - layout.mean(axis=0)) @ axes.T
    extent = np.ptp(layout, axis=0)
    room = np.asarray(area) - sizes.max(axis=0)
    scale = np.where(extent > 1e-9, room / np.maximum(extent, 1e-9), 0.0)
    centred = (layout - (layout.min(axis=0) + layout.max(axis=0)) / 2) * scale + np.asarray(area) / 2
    gap = np.full((len(sizes), len(sizes)), GAP)
    gap[pairs[:, 0], pairs[:, 1]] = gap[pairs[:, 1], pairs[:, 0]] = EDGE_GAP
    spread = separate(centred, sizes, area, gap=gap)
    return separate(spread, sizes, area)  # where there is no room for the lines, names still stay apart
