"""The compiled heart of the simulator: the chemical Langevin equation of many cells, step by step.

Cells go through in blocks of `LANES`, side by side in memory, so that each arithmetic step is one vector
instruction over cells. Every cell has a random stream of its own and takes one normal number for each gene
and step, whatever its state: the result depends neither on threads nor on blocks, and two cells with the
same stream differ only where their rates make them.
"""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

LANES = 8

# Splitmix64 (Steele, Lea & Flood 2014): the state walks by an odd constant, the output is mixed from it.
_WALK = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S12 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)
_UNIT = 2.0**-52

# The inverse of the normal distribution as ratios of polynomials (Acklam 2003; relative error 1.2e-9): the
# middle without a branch or a logarithm, so that lanes stay together, and the two tails one by one.
_TAIL = 0.02425
_A = (-3.969683028665376e01, 2.209460984245205e02, -2.759285104469687e02,
      1.383577518672690e02, -3.066479806614716e01, 2.506628277459239e00)  # fmt: skip
_B = (-5.447609879822406e01, 1.615858368580409e02, -1.556989798598866e02,
      6.680131188771972e01, -1.328068155288572e01)  # fmt: skip
_C = (-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e00,
      -2.549732539343734e00, 4.374664141464968e00, 2.938163982698783e00)  # fmt: skip
_D = (7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e00, 3.754408661907416e00)


def _compiled(function):  # type: ignore[no-untyped-def]
    """Compile with division as NumPy does it: a check for zero would keep lanes from going side by side."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # numba: no folder to keep it in
        return numba.njit(function, nogil=True, error_model="numpy")


def mixed(states: np.ndarray) -> np.ndarray:
    """Return uint64 numbers mixed as the streams are: other inputs, unrelated outputs."""
    z = states + _WALK
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


class Wiring(NamedTuple):
    """The network: edges by target, ``starts (G + 1,)``; ``weights`` are rates, negative ones repress.

    `regulators` (R,) are the genes with targets, `thresholds` (R,) their half response to the power `hill`.
    """

    starts: np.ndarray
    sources: np.ndarray
    weights: np.ndarray
    regulators: np.ndarray
    thresholds: np.ndarray
    hill: float


class Rates(NamedTuple):
    """``(C, G)`` of each condition: production without any activator, its factor, and where cells begin."""

    constant: np.ndarray
    factor: np.ndarray
    start: np.ndarray


class Motion(NamedTuple):
    """``(G,)`` of one step: what stays, what a rate of production adds, spread of noise; the decay rate."""

    keep: np.ndarray
    gain: np.ndarray
    spread: np.ndarray
    decay: np.ndarray


def _in_tail(chance):  # type: ignore[no-untyped-def]
    """Return the normal number below which a `chance` near 0 or 1 lies."""
    q = np.sqrt(-2.0 * np.log(min(chance, 1.0 - chance)))
    above = ((((_C[0] * q + _C[1]) * q + _C[2]) * q + _C[3]) * q + _C[4]) * q + _C[5]
    below = (((_D[0] * q + _D[1]) * q + _D[2]) * q + _D[3]) * q + 1.0
    return np.copysign(above / below, chance - 0.5)


in_tail = _compiled(_in_tail)


def _draw_normals(states, chance, noise):  # type: ignore[no-untyped-def]
    """Fill `noise` with the next standard normal number of each lane's stream; `chance` is room to work."""
    for lane in range(LANES):
        states[lane] += _WALK
        z = states[lane]
        z = (z ^ (z >> _S30)) * _MIX_1
        z = (z ^ (z >> _S27)) * _MIX_2
        chance[lane] = (np.float64(np.int64((z ^ (z >> _S31)) >> _S12)) + 0.5) * _UNIT
    farthest = 0.0
    for lane in range(LANES):
        q = chance[lane] - 0.5
        r = q * q
        above = ((((_A[0] * r + _A[1]) * r + _A[2]) * r + _A[3]) * r + _A[4]) * r + _A[5]
        below = ((((_B[0] * r + _B[1]) * r + _B[2]) * r + _B[3]) * r + _B[4]) * r + 1.0
        noise[lane] = above * q / below
        farthest = max(farthest, abs(q))
    if farthest > 0.5 - _TAIL:
        for lane in range(LANES):
            if abs(chance[lane] - 0.5) > 0.5 - _TAIL:
                noise[lane] = in_tail(chance[lane])


draw_normals = _compiled(_draw_normals)


def _move(wiring, motion, constant, factor, active, x, states, room):  # type: ignore[no-untyped-def]
    """Move a block of cells by one step, given how active each regulator is."""
    rate, noise, chance = room
    for gene in range(x.shape[0]):
        for lane in range(LANES):
            rate[lane] = constant[gene, lane]
        for edge in range(wiring.starts[gene], wiring.starts[gene + 1]):
            weight, source = wiring.weights[edge], wiring.sources[edge]
            for lane in range(LANES):
                rate[lane] += weight * active[source, lane]
        draw_normals(states, chance, noise)
        keep, gain, spread = motion.keep[gene], motion.gain[gene], motion.spread[gene]
        decay = motion.decay[gene]
        for lane in range(LANES):
            produced = max(rate[lane] * factor[gene, lane], 0.0)
            now = x[gene, lane]
            jump = spread * np.sqrt(produced + decay * now) * noise[lane]
            x[gene, lane] = max(keep * now + gain * produced + jump, 0.0)


move = _compiled(_move)


def _simulate(wiring, rates, motion, conditions, streams, n_steps, out):  # type: ignore[no-untyped-def]
    """Write the ``(n, G)`` levels of cells after `n_steps`; a cell has a condition and a 64-bit stream."""
    n_cells, n_genes = out.shape
    x = np.empty((n_genes, LANES))
    active = np.zeros((n_genes, LANES))
    constant, factor = np.empty((n_genes, LANES)), np.empty((n_genes, LANES))
    states = np.empty(LANES, dtype=np.uint64)
    room = (np.empty(LANES), np.empty(LANES), np.empty(LANES))
    for first in range(0, n_cells, LANES):
        for lane in range(LANES):
            cell = min(first + lane, n_cells - 1)  # the last block is filled up with its last cell
            condition = conditions[cell]
            states[lane] = streams[cell]
            for gene in range(n_genes):
                constant[gene, lane] = rates.constant[condition, gene]
                factor[gene, lane] = rates.factor[condition, gene]
                x[gene, lane] = rates.start[condition, gene]
        for _ in range(n_steps):
            for place in range(len(wiring.regulators)):
                gene, threshold = wiring.regulators[place], wiring.thresholds[place]
                if wiring.hill == 2.0:
                    for lane in range(LANES):
                        power = x[gene, lane] * x[gene, lane]
                        active[gene, lane] = power / (threshold + power)
                else:
                    for lane in range(LANES):
                        power = x[gene, lane] ** wiring.hill
                        active[gene, lane] = power / (threshold + power)
            move(wiring, motion, constant, factor, active, x, states, room)
        for lane in range(min(LANES, n_cells - first)):
            for gene in range(n_genes):
                out[first + lane, gene] = x[gene, lane]


simulate = _compiled(_simulate)
