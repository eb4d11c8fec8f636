"""What every room needs and none owns: logging, seeds, devices, progress, safe writing, fingerprints.

Imports nothing of ours, and nothing heavy at module level: ``geneformer-grn --help`` passes through here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator

    import torch

logger = logging.getLogger("geneformer_grn")

Precision = Literal["fp32", "bf16"]
_SECONDS_IN_A_FILE = 30.0  # between two states of a progress bar


def package_version() -> str:
    """Return the version of this package (also where it runs from a checkout and is not installed)."""
    from geneformer_grn import __version__

    return __version__


def library_versions() -> dict[str, str]:
    """Return the versions a result depends on (package, Python, libraries) without importing them."""
    names = ("torch", "transformers", "accelerate", "anndata", "scanpy", "numpy", "numba", "pandas")
    found = {"geneformer-grn": package_version(), "python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def is_main_process() -> bool:
    """Return whether this is rank 0 (or the only process)."""
    return int(os.environ.get("RANK", "0")) == 0


def progress(items: Iterable[Any] | None = None, **kwargs: Any) -> Any:
    """Return a tqdm bar over `items`: on rank 0 only, and silent when logging is quiet.

    In a file, as a scheduler keeps it, every state of a bar is a line: there it says where it is each half
    minute, or as the environment variable ``TQDM_MININTERVAL`` asks.
    """
    from tqdm.auto import tqdm

    quiet = not is_main_process() or logger.getEffectiveLevel() > logging.INFO
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules or "TQDM_MININTERVAL" in os.environ):
        kwargs = {"mininterval": _SECONDS_IN_A_FILE, "maxinterval": _SECONDS_IN_A_FILE, **kwargs}
    return tqdm(items, disable=quiet, **kwargs)


def choose_device(name: str = "auto") -> torch.device:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises
    ------
    ValueError
        The device is unknown, or this machine does not have it.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name not in {"cpu", "cuda", "mps"}:
        raise ValueError(f"device {name!r} is unknown; use auto, cpu, cuda or mps")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch sees no CUDA GPU; use --device auto or cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but torch sees none here; use --device auto or cpu")
    return torch.device(name)


def n_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(items: Iterable[Any]) -> Iterator[Any]:
    """Yield `items`, the next one always being made in a thread: for what mostly waits for files."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, end)
        while (item := upcoming.result()) is not end:
            upcoming = thread.submit(next, iterator, end)
            yield item


def raised_on_purpose(error: BaseException) -> bool:
    """Return whether a ``raise`` statement of this package is where `error` comes from.

    That the innermost Python frame is ours does not say so: functions written in C have no frame, and what
    they raise when we call them wrongly is a fault of ours. Where the source is not at hand (a zipped
    installation), the frame alone decides.
    """
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).resolve().parent
    if not frames or not Path(frames[-1].filename).resolve().is_relative_to(package):
        return False
    line = frames[-1].line
    return not line or line.lstrip().startswith("raise")


def sha256_file(path: Path, *, stop: threading.Event | None = None) -> str:
    """Return the hexadecimal sha256 of a file, read in blocks.

    Raises
    ------
    InterruptedError
        `stop` was set meanwhile.
    """
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            if stop is not None and stop.is_set():
                raise InterruptedError(f"hashing {path.name} was stopped")
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of `target` that is renamed onto it on success and removed on failure.

    The sibling keeps the target's suffixes, since writers choose formats by them. Works for files and for
    folders (an existing folder is replaced only when the new one is complete).

    Raises
    ------
    PermissionError, NotADirectoryError
        The target's folder cannot be created or written.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"cannot write {target.name}: the folder {target.parent} is not writable")
    holder = Path(tempfile.mkdtemp(prefix=".geneformer-grn-", dir=target.parent))
    temporary = holder / target.name
    try:
        yield temporary
        if temporary.is_dir() and target.is_dir():
            old = holder / "replaced"
            target.rename(old)
        temporary.replace(target)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def staged_folder(target: Path | str) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved into the folder `target` on success, all or none.

    Made at once, so that a target that cannot be written is refused before the work and not after it. Files
    that `target` already holds stay, unless a new one has their name.

    Raises
    ------
    NotADirectoryError
        The target, or what should hold it, is a file.
    IsADirectoryError
        The target holds a folder of the name of a new file.
    PermissionError
        The target cannot be written.
    """
    target = Path(target)
    holder = target
    while not holder.exists() and holder != holder.parent:
        holder = holder.parent
    if not holder.is_dir():
        raise NotADirectoryError(
            f"cannot write to {target}: {holder} is a file, not a folder; choose another"
        )
    try:
        staging = Path(tempfile.mkdtemp(prefix=".geneformer-grn-", dir=holder))
    except OSError as error:
        raise PermissionError(
            f"cannot write to {target}: {error.strerror or error}; choose another"
        ) from error
    try:
        yield staging
        target.mkdir(parents=True, exist_ok=True)
        made = sorted(staging.iterdir())
        for path in made:
            if (target / path.name).is_dir():
                raise IsADirectoryError(f"cannot write {target / path.name}: it is a folder")
        for path in made:
            path.replace(target / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON, atomically; NaN is written as null."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(plain_json(content), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


def plain_json(value: Any) -> Any:
    """Return `value` in plain JSON types: arrays as lists, paths as file names, NaN as None."""
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, Path):
        return value.name  # outputs record file names, never directories
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    elif hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):
        return None
    return value
