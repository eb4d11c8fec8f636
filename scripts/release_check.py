"""What has to be true before a version is published.

The sdist and the wheel build, the sdist alone builds the same wheel, both hold what they should and no more,
and the wheel, installed into an empty environment as ``scripts/setup.sh`` installs it, does the main job from
a folder outside the repository without a network.

Usage: ``python scripts/release_check.py [--out dist]``, with hatchling installed (``scripts/setup.sh test``).
What the archives hold in detail is in ``tests/test_repository.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LARGEST_WHEEL = 40_000_000
LEFTOVERS = re.compile(
    r"(^|/)(\.git|\.venv|\.\w+_cache|__pycache__|out|runs|scratch|dist|build|demo_out)/|\.(pyc|nb[ci]|whl|log)$"
)
IN_THE_SDIST = ("tests/conftest.py", "docs/input.md", "tokenizers/human/genes.tsv", "README.md", "LICENSE",
                "CHANGELOG.md", "pretrain/README.md", "scripts/setup.sh", "Makefile")  # fmt: skip
# Runs in the empty environment: finds what the package carries through the package's own functions.
LOOK = """
import json, sys, importlib.metadata, tokenizers, anndata
from pathlib import Path
import geneformer_grn
from geneformer_grn.genes.vocabulary import GeneVocabulary, resolve_vocabulary
from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint
home = Path(geneformer_grn.__file__).parent
vocabulary = GeneVocabulary.load(resolve_vocabulary("human"))
out = Path(sys.argv[1])
print(json.dumps({
    "home": str(home), "tokenizers": tokenizers.Tokenizer.__module__,
    "version": importlib.metadata.version("geneformer-grn"), "own_version": geneformer_grn.__version__,
    "same_vocabulary": read_vocabulary(resolve_checkpoint("mini")).fingerprint == vocabulary.fingerprint,
    "data": {name: (home / name).stat().st_size for name in (
        "_demo/cells.h5ad", "workflows/markers.tsv", "workflows/templates/card.md.j2",
        "report/templates/report.html.j2", "genes/data/genes.tsv.gz")},
    "cells": list(anndata.read_h5ad(out / "cells.h5ad").obsm["X_geneformer"].shape),
}))
"""
OUTPUTS = ("report.html", "cells.h5ad", "edges.tsv", "effects.tsv", "propagated.tsv", "run.json")


def say(text: str) -> None:
    """Print a line at once."""
    print(f"release: {text}", flush=True)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Say what is being done, and how long it took: on a busy machine the processors' time tells more."""
    say(name)
    start, before = time.perf_counter(), _processor_seconds()
    yield
    say(f"... {time.perf_counter() - start:.0f} seconds, {_processor_seconds() - before:.0f} of processors")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def demand(what: str, *, fulfilled: bool) -> None:
    """End the check with a line where something is not as it has to be."""
    if not fulfilled:
        sys.exit(f"release: NOT fit to publish: {what}")


def build(source: Path, out: Path, *targets: str) -> None:
    """Build archives with hatchling, which needs no network."""
    wanted = [word for target in targets for word in ("-t", target)]
    answer = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *wanted, "-d", out],
        cwd=source, check=False, capture_output=True, text=True,
    )  # fmt: skip
    demand(f"the build failed:\n{answer.stdout}{answer.stderr}", fulfilled=answer.returncode == 0)


def the_one(folder: Path, pattern: str) -> Path:
    """Return the only file of that pattern."""
    (path,) = folder.glob(pattern)
    return path


def contents(wheel: Path) -> dict[str, int]:
    """Return the files of a wheel with their checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def check_sdist(path: Path, folder: Path) -> None:
    """Unpack the sdist into `folder`; it holds sources, tests and docs, and only what is committed."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    names = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    missing = [name for name in IN_THE_SDIST if name not in names]
    demand(f"the sdist has no {', '.join(missing)}", fulfilled=not missing)
    left = sorted(name for name in names if LEFTOVERS.search(name))
    demand(f"the sdist holds leftovers: {', '.join(left[:5])}", fulfilled=not left)
    if (REPOSITORY / ".git").exists():
        listed = subprocess.run(
            ["git", "-C", REPOSITORY, "ls-files", "-z"], check=True, capture_output=True, text=True
        )
        strange = sorted(names - set(listed.stdout.split("\0")) - {"PKG-INFO"})
        demand(f"the sdist holds what is not committed: {', '.join(strange[:5])}", fulfilled=not strange)


def check_wheel(wheel: Path, rebuilt: Path) -> None:
    """Demand that the wheel is small, holds one package, and is what the sdist builds."""
    ours, theirs = contents(wheel), contents(rebuilt)
    tops = {name.split("/")[0] for name in ours if ".dist-info/" not in name}
    demand(f"the wheel holds {', '.join(sorted(tops))}", fulfilled=tops == {"geneformer_grn"})
    left = sorted(name for name in ours if LEFTOVERS.search(name))
    demand(f"the wheel holds leftovers: {', '.join(left[:5])}", fulfilled=not left)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    demand(f"the sdist builds another wheel: {', '.join(differing[:5])}", fulfilled=not differing)
    size = wheel.stat().st_size
    demand(f"the wheel has {size:,} bytes, {LARGEST_WHEEL:,} are allowed", fulfilled=size <= LARGEST_WHEEL)
    say(f"{wheel.name}: {size / 1e6:.1f} MB, {len(ours):,} files")


def alone(work: Path) -> dict[str, str]:
    """Return an environment with neither caches nor a way out: what is needed has to be carried along."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hub"), "NUMBA_CACHE_DIR": str(work / "kernels"),
        "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
    }  # fmt: skip


def install(wheel: Path, work: Path) -> None:
    """Install the wheel into an empty environment."""
    environment = work / "environment"
    wanted = {"SETUP_VENV": str(environment), "SETUP_WHEEL": str(wheel), "PYTHON": sys.executable}
    subprocess.run(["bash", "scripts/setup.sh"], cwd=REPOSITORY, check=True, env=os.environ | wanted)
    subprocess.run([environment / "bin" / "python", "-m", "pip", "check", "--quiet"], check=True)


def run_demo(work: Path) -> None:
    """Run the demo in an empty folder, without a network."""
    empty = work / "empty"
    empty.mkdir()
    demo = [work / "environment" / "bin" / "geneformer-grn", "demo", "--quiet"]
    subprocess.run(demo, cwd=empty, env=alone(work), check=True)


def check_demo(work: Path) -> None:
    """Look at what the demo wrote, and at what the installed package carries."""
    environment, empty = work / "environment", work / "empty"
    out = empty / "demo_out"
    short = [name for name in OUTPUTS if not (out / name).is_file() or (out / name).stat().st_size < 200]
    demand(f"the demo did not write {', '.join(short)}", fulfilled=not short)
    folders = [str(folder).encode() for folder in (REPOSITORY, work)]
    told = [name for name in OUTPUTS if any(folder in (out / name).read_bytes() for folder in folders)]
    demand(f"a folder of this machine is in {', '.join(told)}", fulfilled=not told)
    looked = subprocess.run(
        [environment / "bin" / "python", "-c", LOOK, out],
        cwd=empty, env=alone(work), check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(looked.stdout)
    demand(f"the package ran from {found['home']}", fulfilled=Path(found["home"]).is_relative_to(environment))
    demand("tokenizers is shadowed", fulfilled=found["tokenizers"] == "tokenizers")
    demand(
        f"the wheel is version {found['version']}, the package says {found['own_version']}",
        fulfilled=found["version"] == found["own_version"],
    )
    demand("the vocabulary is not the shipped checkpoint's", fulfilled=found["same_vocabulary"])
    demand(f"package data are empty: {found['data']}", fulfilled=min(found["data"].values()) > 0)
    demand(f"the demo embedded {found['cells']} cells", fulfilled=found["cells"][0] >= 150)


def main() -> None:
    """Build, look, install, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist", help="folder for sdist and wheel")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("geneformer_grn-*.whl"), *out.glob("geneformer_grn-*.tar.gz")):
        old.unlink()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        with stage("building the sdist and the wheel, and the wheel from the sdist"):
            build(REPOSITORY, out, "sdist", "wheel")
            sdist, wheel = the_one(out, "geneformer_grn-*.tar.gz"), the_one(out, "geneformer_grn-*.whl")
            check_sdist(sdist, work / "sdist")
            build(next((work / "sdist").iterdir()), work / "rebuilt", "wheel")
            check_wheel(wheel, the_one(work / "rebuilt", "*.whl"))
        with stage("installing the wheel into an empty environment"):
            install(wheel, work)
        with stage("running the demo there"):
            run_demo(work)
        with stage("looking at what it wrote"):
            check_demo(work)
    say(f"fit to publish: {sdist.name}, {wheel.name}")


if __name__ == "__main__":
    main()
