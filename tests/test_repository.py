"""Rules of the layout: names that shadow no library, nothing private committed, what a wheel holds."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import pytest

from geneformer_grn._runtime import sha256_file
from geneformer_grn.genes.vocabulary import GeneVocabulary

PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org", "download.pytorch.org", "localhost", "127.0.0.1"}


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    """The files that are committed; skipped where the source is no checkout."""
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout: what is committed cannot be listed")
    listed = subprocess.run(
        ["git", "-C", str(repository), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    paths = [repository / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.fixture(scope="module")
def texts(tracked: list[Path]) -> dict[Path, str]:
    found = {}
    for path in tracked:
        try:
            found[path] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def run_python(code: str, *, folder: Path, **environment: str) -> list[str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=kept | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def test_vocabularies_do_not_shadow_the_tokenizers_package(repository):
    assert list((repository / "tokenizers").rglob("*.py")) == []
    lines = run_python(
        "import tokenizers, transformers; print(tokenizers.Tokenizer.__name__);"
        "print(tokenizers.__file__); transformers.AutoTokenizer; print(transformers.__version__)",
        folder=repository,
    )
    assert lines[0] == "Tokenizer"
    assert repository / "tokenizers" not in Path(lines[1]).resolve().parents
    assert "site-packages" in lines[1]


@pytest.mark.parametrize("folder", ["pretrain", "finetune", "scripts", "benchmarks"])
def test_no_script_shadows_a_library(repository, folder):
    """A script's own folder is the first place its imports are looked for."""
    names = {path.stem for path in (repository / folder).glob("*.py")}
    assert not names & {"datasets", "accelerate", "tokenizers", "transformers", "torch", "random", "types"}


def test_the_vocabulary_is_the_shipped_checkpoints(repository):
    checkpoint = repository / "geneformer_grn" / "_checkpoints" / "mini"
    if not checkpoint.is_dir():
        pytest.skip("no shipped checkpoint here")
    ours = GeneVocabulary.load(repository / "tokenizers" / "human")
    theirs = GeneVocabulary.load(checkpoint)
    assert ours.fingerprint == theirs.fingerprint
    stated = json.loads((checkpoint / "vocabulary.json").read_text())["fingerprint"]
    assert ours.fingerprint == stated


def test_no_machine_is_named(texts, repository):
    """Neither folders of the machine this was written on, nor of the one that runs this."""
    # Put together here, so that this file does not name what it forbids.
    patterns = [rf"(?<![\w.]){re.escape('/' + name)}/\w" for name in ("work", "home", "root", "Users")]
    patterns += [
        rf"{re.escape(str(folder))}\b" for folder in {repository, Path.home()} if len(str(folder)) > 5
    ]
    found = [
        (path.relative_to(repository).as_posix(), match.group())
        for path, text in texts.items()
        for pattern in patterns
        if (match := re.search(pattern, text))
    ]
    assert found == []


def test_no_package_index_is_named(texts, repository):
    """Which index this machine installs from is its own business."""
    telling = re.compile(r"INDEX|PROXY|REGISTRY|MIRROR", re.IGNORECASE)
    settings = [value for name, value in os.environ.items() if telling.search(name)]
    for place in (
        "/etc/pip.conf",
        "~/.pip/pip.conf",
        "~/.config/pip/pip.conf",
        "/etc/uv/uv.toml",
        "~/.npmrc",
    ):
        path = Path(place).expanduser()
        settings += [path.read_text()] if path.is_file() else []
    addresses = re.findall(r"https?://[^\s\"'<>]+", " ".join(settings))
    hosts = {urlparse(address).hostname for address in addresses} - PUBLIC_HOSTS - {None}
    for path, text in texts.items():
        assert not [host for host in hosts if host in text], path
        assert not re.search(r"index-url[ =]+['\"]?https?://", text), path


@pytest.mark.shared
def test_no_shared_file_is_committed(tracked, shared_dir):
    """Told by content; files that are empty or a line long coincide by chance."""
    theirs = {
        sha256_file(path): path.name
        for path in shared_dir.rglob("*")
        if path.is_file() and path.stat().st_size > 200
    }
    assert theirs
    assert [(path.name, theirs[digest]) for path in tracked if (digest := sha256_file(path)) in theirs] == []


def test_what_is_large_is_meant_to_be(tracked, repository):
    large = {path.relative_to(repository).as_posix() for path in tracked if path.stat().st_size > 1_500_000}
    assert large <= {
        "geneformer_grn/_checkpoints/mini/model.safetensors",
        "geneformer_grn/_demo/cells.h5ad",
        "geneformer_grn/genes/data/genes.tsv.gz",
        "geneformer_grn/genes/data/identifiers.tsv.gz",
    }
    assert not [path for path in tracked if path.suffix in {".pkl", ".pickle", ".pt", ".bin"}]


def test_cards_are_what_their_results_say(repository):
    from geneformer_grn.workflows.card import render_card

    cards = sorted((repository / "model_cards").glob("*.md"))
    if not cards:
        pytest.skip("no model card here")
    for card in cards:
        if card.name == "README.md" or card.stem.endswith("-data"):
            continue
        results = json.loads(card.with_suffix(".json").read_text())
        assert card.read_text() == render_card(results), f"write {card.name} again by the verb card"
        folder = repository / "geneformer_grn" / "_checkpoints" / card.stem
        assert results["checkpoint"]["weights_sha256"] == sha256_file(folder / "model.safetensors")
        assert results["training"] == json.loads((folder / "training.json").read_text())


def test_a_data_card_is_that_of_its_model(repository):
    from geneformer_grn.workflows.corpus_card_text import card_text

    for card in sorted((repository / "model_cards").glob("*-data.md")):
        facts = json.loads(card.with_suffix(".json").read_text())
        assert card.read_text() == card_text(facts)
        assert facts["may_be_shipped"]
        folder = repository / "geneformer_grn" / "_checkpoints" / card.stem.removesuffix("-data")
        training = json.loads((folder / "training.json").read_text())
        assert facts["vocabulary"]["fingerprint"] == GeneVocabulary.load(folder).fingerprint
        for part, of_run in (("train", "corpus"), ("heldout", "held_out")):
            assert facts["parts"][part]["n_cells"] == training[of_run]["n_cells"]
            assert facts["parts"][part]["n_tokens"] == training[of_run]["n_tokens"]


def _imported_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


TOOLS = {"test", "lint", "dev"}
"""Extras of those who work on the package; what its code imports stands in another one."""


def test_every_library_that_is_imported_is_declared(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in set(extras) - TOOLS for line in extras[name])]
    declared = {re.split(r"[<>=\[ ]", line)[0] for line in lines}
    # Imports that are called otherwise, and libraries that a declared one cannot be without.
    of = {"sklearn": "scikit-learn", "scvi": "scvi-tools", "scib_metrics": "scib-metrics",
          "huggingface_hub": "transformers",
          "tokenizers": "transformers", "umap": "scanpy", "yaml": "transformers"}  # fmt: skip
    imported = {
        name: path.name
        for path in (repository / "geneformer_grn").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported_by(node)
        if name not in sys.stdlib_module_names and name != "geneformer_grn"
    }
    assert {name: place for name, place in imported.items() if of.get(name, name) not in declared} == {}


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    pytest.importorskip(
        "hatchling", reason="hatchling is not installed here, so no wheel can be built offline"
    )
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=repository, check=True, capture_output=True, text=True,
    )  # fmt: skip
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"geneformer_grn"}
    for needed in (
        "py.typed", "_vocabularies/human/genes.tsv", "_vocabularies/human/vocabulary.json",
        "_checkpoints/mini/model.safetensors", "_checkpoints/mini/tokenizer.json",
        "_checkpoints/mini/rank_position.npz", "_checkpoints/mini/training.json", "_demo/cells.h5ad",
        "_demo/LICENSE.celltypist", "genes/data/genes.tsv.gz", "genes/data/identifiers.tsv.gz",
        "report/templates/report.html.j2", "report/templates/report.css", "report/templates/report.js",
        "workflows/templates/card.md.j2", "workflows/markers.tsv",
    ):  # fmt: skip
        assert f"geneformer_grn/{needed}" in names, needed
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    lines = run_python(
        "import geneformer_grn, tokenizers\n"
        "from geneformer_grn.genes.vocabulary import GeneVocabulary, resolve_vocabulary\n"
        "from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint\n"
        "print(geneformer_grn.__file__)\n"
        "print(tokenizers.Tokenizer.__module__)\n"
        "print(read_vocabulary(resolve_checkpoint('mini')).fingerprint)\n"
        "print(GeneVocabulary.load(resolve_vocabulary('human')).fingerprint)\n",
        folder=tmp_path, PYTHONPATH=str(tmp_path / "site"),
    )  # fmt: skip
    assert Path(lines[0]).is_relative_to(tmp_path)
    assert lines[1] == "tokenizers"
    assert lines[2] == lines[3]
