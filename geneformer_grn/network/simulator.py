"""Stochastic gene regulation with a known network: expression of cells at steady state.

The equations are those of SERGIO (Dibaeinia & Sinha 2020, Cell Systems 11:252). A gene is produced at a basal
rate plus one Hill function for each regulator, half of it at the regulator's mean level over the cell types,
and decays. Production and decay each bring chemical Langevin noise; two independent normal terms are one of
the added variance. Each cell runs on its own, from the noise-free steady state of its condition until that is
forgotten, so that cells are independent draws of the stationary state: dearer than taking many cells from one
long run, and free of its autocorrelation.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from geneformer_grn._runtime import n_cores
from geneformer_grn.network.simulator_network import Conditions, RegulatoryNetwork, steady_state

_TASK = 256  # cells a thread takes at a time


@dataclass(frozen=True, kw_only=True)
class LangevinSettings:
    """How cells run.

    Parameters
    ----------
    noise
        Amplitude of the Langevin noise (SERGIO's q): 0 is none, at 1 an unregulated gene has variance = mean.
    step
        Length of a step in units of the shortest mean lifetime (1 / decay).
    duration
        How long each cell runs, in units of the longest mean lifetime.
    threads
        Threads; None: all cores. Results do not depend on them.
    """

    noise: float = 1.0
    step: float = 0.1
    duration: float = 10.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"the amplitude of noise is 0 or more, got {self.noise}")
        if not (0 < self.step <= 1 and self.step <= self.duration < np.inf):
            raise ValueError(
                f"a step is above 0, up to 1 mean lifetime, and no longer than the run; got {self.step} of "
                f"{self.duration}"
            )
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"at least 1 thread is needed, got {self.threads}")


def simulate_cells(
    network: RegulatoryNetwork,
    conditions: Conditions,
    condition_of: np.ndarray,
    streams: np.ndarray,
    *,
    seed: int = 0,
    settings: LangevinSettings | None = None,
) -> np.ndarray:
    """Run cells to the stationary state of the chemical Langevin equation.

    ``dx = (P(x) - λx) dt + q (√P dW₁ + √(λx) dW₂)``, by Euler-Maruyama steps in which the decay is integrated
    exactly (production and the variance of the noise are held for the step). Mean and variance of an
    unregulated gene are then exact at any length of step. Levels below 0 are set to 0, as SERGIO does.

    Parameters
    ----------
    network, conditions
        What the cells are subject to.
    condition_of
        ``(n,)`` int; row of `conditions` for each cell.
    streams
        ``(n,)`` int; number of each cell's random stream. Cells of one number have the same noise: with
        another condition they differ by what this changes and nothing else.
    seed
        Seed that the streams belong to.
    settings
        Noise and time.

    Returns
    -------
    ndarray
        ``(n, G)`` float32 levels.

    Examples
    --------
    >>> one = RegulatoryNetwork(genes=np.array(["A"]), source=np.zeros(0, int), target=np.zeros(0, int),
    ...                         weight=np.zeros(0), basal=np.array([[8.0]]))
    >>> alone = Conditions(basal=one.basal, factor=np.ones((1, 1)))
    >>> simulate_cells(one, alone, np.zeros(3, int), np.arange(3)).shape
    (3, 1)
    """
    from geneformer_grn.network.simulator_kernels import Motion, Rates, simulate

    settings = settings or LangevinSettings()
    decay = np.asarray(network.decay)
    step = settings.step / decay.max()
    keep = np.exp(-decay * step)
    motion = Motion(
        keep=keep,
        gain=(1.0 - keep) / decay,
        spread=settings.noise * np.sqrt((1.0 - keep**2) / (2.0 * decay)),
        decay=decay,
    )
    rates = Rates(
        constant=conditions.basal + network.repressed,
        factor=np.ascontiguousarray(conditions.factor),
        start=steady_state(network, conditions),
    )
    n_steps = int(np.ceil(settings.duration / decay.min() / step))
    numbers = _stream_states(seed, np.asarray(streams))
    condition_of = np.asarray(condition_of, dtype=np.int64)
    wiring = _wiring(network)
    levels = np.empty((len(numbers), network.n_genes), dtype=np.float32)

    def run(first: int) -> None:
        rows = slice(first, first + _TASK)
        simulate(wiring, rates, motion, condition_of[rows], numbers[rows], n_steps, levels[rows])

    with ThreadPoolExecutor(settings.threads or n_cores()) as threads:
        list(threads.map(run, range(0, len(numbers), _TASK)))
    return levels


def _wiring(network: RegulatoryNetwork):  # type: ignore[no-untyped-def]  # noqa: ANN202 - see the kernels
    from geneformer_grn.network.simulator_kernels import Wiring

    inputs = network.inputs.sorted_indices()
    return Wiring(
        starts=inputs.indptr.astype(np.int64),
        sources=inputs.indices.astype(np.int64),
        weights=inputs.data,
        regulators=network.regulators.astype(np.int64),
        thresholds=network.half[network.regulators] ** network.hill,
        hill=float(network.hill),
    )


def _stream_states(seed: int, streams: np.ndarray) -> np.ndarray:
    """Return the ``(n,)`` uint64 states that streams start from; one seed's are those of no other."""
    from geneformer_grn.network.simulator_kernels import mixed

    root = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return mixed(mixed(streams.astype(np.uint64)) ^ root)
