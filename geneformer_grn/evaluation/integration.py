"""What an embedding keeps of cell labels and of batches, by scib-metrics, with intervals over cells.

Kept labels and mixed batches pull against each other: an embedding of noise mixes perfectly. So both are
reported, and the total weighs them 0.6 to 0.4, as Luecken et al. (2022), Nature Methods 19, do. Resampling
cells with replacement would put copies next to each other and spoil every neighbourhood; intervals come from
random halves instead.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import t as student

BIO = ("isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi")
BATCH = ("bras", "ilisi", "graph_connectivity", "pcr_comparison")
SUMMARIES = ("bio", "batch", "total")
LEFT_OUT = ("kbet_per_label", "nmi_ari_cluster_labels_leiden")
"""Measures of scib-metrics that are not taken, for their running time."""
MIN_CELLS = 60
_FEWEST = 4
_NEIGHBOURS, _NEAREST = 90, 15  # as scib-metrics takes them: LISI, graph connectivity


@dataclass(frozen=True)
class IntegrationData:
    """Cells whose embeddings are scored.

    Parameters
    ----------
    labels, batches
        ``(n,)`` str.
    before
        ``(n, k)`` components before any correction, which ``pcr_comparison`` compares with.
    """

    labels: np.ndarray
    batches: np.ndarray
    before: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.labels)
        if len(self.batches) != n or len(self.before) != n:
            raise ValueError(
                f"{n:,} labels were given with {len(self.batches):,} batches and {len(self.before):,} cells"
            )

    def take(self, rows: np.ndarray) -> IntegrationData:
        """Return the cells of some rows."""
        return IntegrationData(self.labels[rows], self.batches[rows], self.before[rows])


def require_scorable(labels: np.ndarray, batches: np.ndarray) -> None:
    """Raise ValueError where cells are too few, or a batch effect cannot be told from a label."""
    if len(labels) < MIN_CELLS:
        raise ValueError(
            f"{len(labels):,} cells are too few to score neighbourhoods in; give at least {MIN_CELLS}"
        )
    for what, names in (("label", labels), ("batch", batches)):
        if len(np.unique(names)) < 2:
            raise ValueError(f"all cells have the same {what} ({names[0]}); integration needs two or more")
    pairs = Counter(zip(labels.tolist(), batches.tolist(), strict=True))
    # A pair of four cells still has two in every half.
    spread = Counter(label for (label, _), size in pairs.items() if size >= _FEWEST)
    if not spread or max(spread.values()) < 2:
        raise ValueError(
            f"no label has {_FEWEST} cells in each of two batches, so a batch effect cannot be told from a "
            "label; name another batch column"
        )


def require_integration() -> None:
    """Import scib-metrics and harmonypy.

    Raises
    ------
    ModuleNotFoundError
        The extra is not installed.
    """
    try:
        with _quiet():
            import harmonypy  # noqa: F401
            import scib_metrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"integration is scored with {error.name}, which is not installed; pip install "
            f'"geneformer-grn[integration]"'
        ) from error


def integration_measures(
    embedding: np.ndarray, data: IntegrationData, *, n_neighbours: int = _NEIGHBOURS
) -> dict[str, float]:
    """Return every measure of one embedding, larger is better, mostly 0 to 1.

    Parameters
    ----------
    embedding
        ``(n, d)``, finite.
    data
        Labels and batches of the same cells.
    n_neighbours
        Cells in a neighbourhood of LISI, the cell itself among them; fewer where there are fewer cells.

    Returns
    -------
    dict
        `BIO`: silhouette of the rarest-spread labels (``isolated_labels``); agreement of labels with k-means
        clusters (``kmeans_nmi``, ``kmeans_ari``); ``silhouette_label``, as (s + 1) / 2; ``clisi``, how pure
        neighbourhoods are. `BATCH`: ``bras``, batch silhouette within labels; ``ilisi``, how mixed
        neighbourhoods are; ``graph_connectivity`` of each label; ``pcr_comparison``, variance by batch that
        was taken away from the components before. `SUMMARIES`: their means, and 0.6 bio + 0.4 batch.
    """
    require_integration()
    with _quiet():
        import scib_metrics as scib

        values = np.ascontiguousarray(embedding, dtype=np.float32)
        labels, batches = (np.unique(x, return_inverse=True)[1] for x in (data.labels, data.batches))
        near = _neighbours(values, min(n_neighbours, len(values) - 1))
        clusters = scib.nmi_ari_cluster_labels_kmeans(values, labels)
        found = {
            "isolated_labels": scib.isolated_labels(values, labels, batches),
            "kmeans_nmi": clusters["nmi"],
            "kmeans_ari": clusters["ari"],
            "silhouette_label": scib.silhouette_label(values, labels),
            "clisi": scib.clisi_knn(near, labels),
            "bras": scib.bras(values, labels, batches),
            "ilisi": scib.ilisi_knn(near, batches),
            "graph_connectivity": scib.graph_connectivity(
                near.subset_neighbors(min(_NEAREST, near.n_neighbors)), labels
            ),
            "pcr_comparison": scib.pcr_comparison(data.before, values, batches, categorical=True),
        }
    scores = {name: float(value) for name, value in found.items()}
    scores["bio"] = float(np.mean([scores[name] for name in BIO]))
    scores["batch"] = float(np.mean([scores[name] for name in BATCH]))
    scores["total"] = 0.6 * scores["bio"] + 0.4 * scores["batch"]
    return scores


def score_integration(
    embeddings: Mapping[str, np.ndarray],
    data: IntegrationData,
    *,
    reference: str | None = None,
    n_halves: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Score embeddings of the same cells, with intervals and paired differences.

    Parameters
    ----------
    embeddings
        Name -> ``(n, d)``.
    data
        Labels and batches.
    reference
        Name of the embedding that the others are compared with; None: the first.
    n_halves
        Random halves of the cells, stratified by label and batch, the same for all embeddings; below 2: no
        intervals.
    seed
        Of the halves.

    Returns
    -------
    dict
        ``scores``: name -> measure -> value; ``intervals``: name -> measure -> [low, high];
        ``differences``: name -> measure -> ``difference`` (`reference` less this one), ``low``, ``high``.
        Intervals are 95 %, the value on all cells ± t × the deviation over halves: leaving out half of the
        cells gives the deviation of all of them (delete-d jackknife, Shao and Wu 1989, Annals of Statistics
        17). They are over cells of these batches, with embeddings held fixed, not over other batches.

    Raises
    ------
    ValueError
        An embedding has other cells than `data`, or values that are not finite; or labels and batches
        cannot be scored: too few cells, one label, one batch, no label in two batches.

    Examples
    --------
    >>> found = score_integration({"model": a, "pca": b}, data)  # doctest: +SKIP
    >>> found["differences"]["pca"]["total"]  # doctest: +SKIP
    {'difference': -0.04, 'low': -0.06, 'high': -0.02}
    """
    for name, values in embeddings.items():
        if len(values) != len(data.labels):
            raise ValueError(f"{name} embeds {len(values):,} cells, {len(data.labels):,} have labels")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite; leave those cells out")
    require_scorable(data.labels, data.batches)
    reference = reference or next(iter(embeddings))
    # One size of neighbourhood for all cells and for halves of them, else the two would not be comparable.
    width = min(_NEIGHBOURS, len(data.labels) // 2 - 2)
    names = (*BIO, *BATCH, *SUMMARIES)
    rng = np.random.default_rng(seed)
    halves = [_half(data, rng) for _ in range(n_halves if n_halves > 1 else 0)]
    points, drawn = {}, {}
    for name, values in embeddings.items():
        points[name] = integration_measures(values, data, n_neighbours=width)
        rows = [integration_measures(values[half], data.take(half), n_neighbours=width) for half in halves]
        drawn[name] = np.array([[row[measure] for measure in names] for row in rows])
    scores: dict[str, Any] = {"scores": points, "intervals": {}, "differences": {}}
    for name in embeddings:
        gaps = {m: points[reference][m] - points[name][m] for m in names}
        if halves:
            spread = _margin(drawn[name])
            scores["intervals"][name] = {
                m: [points[name][m] - spread[i], points[name][m] + spread[i]] for i, m in enumerate(names)
            }
        if name == reference:
            continue
        scores["differences"][name] = {m: {"difference": gap} for m, gap in gaps.items()}
        if halves:
            spread = _margin(drawn[reference] - drawn[name])
            for i, m in enumerate(names):
                scores["differences"][name][m] |= {"low": gaps[m] - spread[i], "high": gaps[m] + spread[i]}
    return scores


def variable_components(log: sparse.csr_matrix, *, n: int = 50, seed: int = 0) -> np.ndarray:
    """Return ``(n, k)`` components of the 2,000 most variable genes of log-normalised cells, standardised."""
    from geneformer_grn.evaluation.label_features import expression_components

    return expression_components(log, np.arange(log.shape[0]), n=n, seed=seed)


def harmonised(embedding: np.ndarray, batches: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return an embedding corrected for batches by Harmony at its defaults, ``(n, d)`` float32.

    Korsunsky et al. (2019), Nature Methods 16.
    """
    require_integration()
    import harmonypy
    import pandas as pd

    with _quiet():
        run = harmonypy.run_harmony(
            np.asarray(embedding, dtype=np.float64), pd.DataFrame({"batch": batches}), "batch",
            verbose=False, random_state=seed, ncores=1,
        )  # fmt: skip
    corrected = np.asarray(run.Z_corr, dtype=np.float32)
    # (d, n) before harmonypy 2
    return corrected if corrected.shape == embedding.shape else np.ascontiguousarray(corrected.T)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries warn of, and undo what they do to logging.

    They warn of optional parts that nothing here uses, of number types they narrow, and of scores set to
    zero; scib-metrics logs through the root logger, which then prints every message of ours a second time.
    """
    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers


def _neighbours(values: np.ndarray, k: int) -> Any:
    """Return each cell's `k` nearest, itself first; exact, so that two runs agree."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(values).kneighbors(values)
    return NeighborsResults(indices=indices, distances=distances.astype(np.float32))


def _half(data: IntegrationData, rng: np.random.Generator) -> np.ndarray:
    """Return half of the cells, ascending, of every label in every batch half, give or take one."""
    shuffled = rng.permutation(len(data.labels))
    _, label = np.unique(data.labels[shuffled], return_inverse=True)
    _, batch = np.unique(data.batches[shuffled], return_inverse=True)
    # Every second cell of those sorted by label and batch: each stratum is halved, and so is each label.
    ordered = shuffled[np.lexsort((batch, label))]
    return np.sort(ordered[rng.integers(2) :: 2][: len(ordered) // 2])


def _margin(drawn: np.ndarray) -> np.ndarray:
    """Return half the width of a 95 % interval for each column of values over halves."""
    return np.asarray(student.ppf(0.975, len(drawn) - 1) * drawn.std(axis=0, ddof=1))
