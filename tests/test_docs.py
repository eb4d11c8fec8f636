"""The documentation is run: README and tutorial block by block, verbs and options of all pages, the site."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

EXECUTED = ["README.md", "docs/tutorial.md"]
"""Pages whose blocks are run, from top to bottom, in one folder and one Python session each."""
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (not run|slow): (.+?) -->\n*$")
SHELL = {"bash", "sh"}
CALL = re.compile(r"(?<!install )(?<![\w/-])(?:\S*/)?geneformer-grn ((?!\[)[^\n`'\"#;|&]*)")
NOT_PLAIN = set("$`|&;<>*?(){}~\"'")
MOST_NOT_RUN = 6


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `mark` is what the comment above it says of it."""

    page: str
    line: int
    language: str
    code: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path, page: str) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page, line, fence[2].strip(), fence[3], mark[1] if mark else ""))
    return found


def lines_of(code: str) -> list[str]:
    """Return the commands of a shell block: continued lines joined, comments and empty lines left out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def is_call(line: str) -> bool:
    return line.startswith("geneformer-grn ") and not NOT_PLAIN & set(line.split(" # ")[0])


def run_shell(block: Block, folder: Path) -> None:
    """Run a shell block by bash; plain calls of ours in this process, which has torch in memory already.

    What trains a model (marked slow) goes by bash, too: a compiler's warnings are not ours to mend.
    """
    from geneformer_grn.cli import main

    lines = lines_of(block.code)
    if block.mark != "slow" and all(is_call(line) for line in lines):
        for line in lines:
            with pytest.raises(SystemExit) as left:
                main(shlex.split(line, comments=True)[1:])
            assert not left.value.code, f"{block}: {line}: exit code {left.value.code}"
        return
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    answer = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, f"{block}: {answer.stderr[-2000:]}"


def run_page(blocks: list[Block], folder: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        if block.language == "python":
            exec(compile(block.code, str(block), "exec"), names)  # noqa: S102 - our own pages
        else:
            assert block.language in SHELL, f"{block}: neither bash nor python; mark it or name its language"
            run_shell(block, folder)


@pytest.fixture(scope="module")
def cells_of_a_reader(repository, tmp_path_factory) -> Path:
    """A folder of what a reader brings: files of 50 shipped cells and 100 genes, a type and a donor each."""
    import anndata

    adata = anndata.read_h5ad(repository / "geneformer_grn" / "_demo" / "cells.h5ad")
    symbols = adata.var["gene_symbol"].astype(str).to_numpy()
    detected = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    named = np.isin(symbols, ["SPI1", "CEBPB", "FOS", "JUN", "JUNB", "KLF2", "GATA3", "LYZ"])
    genes = np.sort(np.lexsort((-detected, ~named))[:100])
    by_lyz = np.argsort(adata.X[:, np.flatnonzero(symbols == "LYZ")[0]].toarray().ravel(), kind="stable")
    folder = tmp_path_factory.mktemp("reader")
    for name, start in (("cells.h5ad", 0), ("held_out.h5ad", 25), ("labelled.h5ad", 50)):
        end = len(by_lyz) - start
        rows = by_lyz[np.r_[start : start + 25, end - 25 : end]]
        part = adata[rows, genes].copy()
        part.obs["cell_type"] = np.repeat(["T cell", "Monocyte"], 25)
        part.obs["donor"] = np.resize(["d1", "d2", "d3", "d4", "d5"], 50)
        part.write_h5ad(folder / name)
    return folder


@pytest.fixture
def desk(repository, cells_of_a_reader, tmp_path, monkeypatch) -> Iterator[Path]:
    """A reader's folder: the recipes of a checkout, and cells of their own under the names the pages use."""
    import matplotlib.pyplot as plt

    for room in ("pretrain", "finetune"):
        shutil.copytree(repository / room / "configs", tmp_path / room / "configs")
    for path in cells_of_a_reader.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plt.close("all")


@pytest.mark.parametrize("page", EXECUTED)
def test_the_blocks_of_a_page_run(repository, desk, page):
    run_page([block for block in blocks_of(repository / page, page) if not block.mark], desk)


@pytest.mark.slow
def test_the_slow_blocks_run(repository, desk):
    """They begin with the reader's files alone."""
    blocks = [
        block for page in EXECUTED for block in blocks_of(repository / page, page) if block.mark == "slow"
    ]
    assert blocks
    run_page(blocks, desk)


def test_few_blocks_are_not_run(repository):
    blocks = [block for page in EXECUTED for block in blocks_of(repository / page, page)]
    left_out = [str(block) for block in blocks if block.mark == "not run"]
    assert len(left_out) <= MOST_NOT_RUN, left_out
    assert len(blocks) > 3 * len(left_out)


def pages_of(repository: Path) -> list[str]:
    folders = ["docs", "model_cards"]
    found = [path for folder in folders for path in sorted((repository / folder).rglob("*.md"))]
    found += [repository / folder / "README.md" for folder in ("", "pretrain", "finetune", "benchmarks")]
    return [path.relative_to(repository).as_posix() for path in found if path.is_file()]


@pytest.fixture(scope="module")
def verbs() -> dict[tuple[str, ...], set[str]]:
    """Every verb as words, ``("corpus", "split")``, and its options; groups of verbs have an entry, too."""
    import typer

    from geneformer_grn.cli import build_app

    found: dict[tuple[str, ...], set[str]] = {}

    def walk(command, words: tuple[str, ...]) -> None:
        options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        found[words] = {name for name in options if name.startswith("-")} | {"--help"}
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))

    walk(typer.main.get_command(build_app()), ())
    return found


def calls_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Give every call of ours in a text: the words after ``geneformer-grn``, up to the end of the command."""
    for line in text.replace("\\\n", " ").splitlines():
        for call in re.findall(
            r"(?<!install )(?<![\w/-])(?:\S*/)?geneformer-grn ((?!\[)[^\n`'\"#;|&]*)", line
        ):
            yield call, call.replace("[", " ").replace("]", " ").split()


def complaint(words: list[str], verbs: dict[tuple[str, ...], set[str]]) -> str | None:
    """Return what is wrong with a call, or None."""
    verb: tuple[str, ...] = ()
    while words and (*verb, words[0]) in verbs:
        verb, words = (*verb, words[0]), words[1:]
    if not verb and not (words and (words[0].startswith("-") or words[0].isupper() or words[0] == "...")):
        return "no such verb"
    if any(len(other) > len(verb) and other[: len(verb)] == verb for other in verbs) and verb:
        inner = words[0] if words else ""
        if not (inner.startswith("-") or inner in {"", "..."}):
            return f"{' '.join(verb)} has no verb {inner}"
    given = {word.split("=")[0].rstrip(",.:)") for word in words if re.match(r"--?[a-z]", word)}
    unknown = sorted(given - verbs[verb])
    return f"no option {', '.join(unknown)}" if unknown else None


def test_verbs_and_options_of_all_pages_exist(repository, verbs):
    """In code blocks, whatever their language, and in code set in the text."""
    calls, wrong = 0, []
    for page in pages_of(repository):
        text = (repository / page).read_text(encoding="utf-8")
        spans = [block.code for block in blocks_of(repository / page, page)]
        spans += re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))
        for call, words in (found for span in spans for found in calls_in(span)):
            calls += 1
            if what := complaint(words, verbs):
                wrong.append(f"{page}: geneformer-grn {call.strip()}: {what}")
    assert calls > 60
    assert wrong == []


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("network cells.h5ad --out edges.tsv", None),
        ("corpus split CORPUS --by donor", None),
        ("networks cells.h5ad", "no such verb"),
        ("network cells.h5ad --method ridge", "no option --method"),
        ("corpus join A B", "corpus has no verb join"),
    ],
)
def test_a_call_that_is_wrong_is_told(verbs, call, what):
    assert complaint(call.split(), verbs) == what


def test_a_mark_is_read_from_the_line_above(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: a reason -->\n```bash\nfalse\n```\ntext\n\n```python\n1\n```\n")
    assert [(block.mark, block.language, block.line) for block in blocks_of(page, "page.md")] == [
        ("not run", "bash", 2),
        ("", "python", 7),
    ]


def test_a_block_that_fails_is_told(tmp_path):
    with pytest.raises(AssertionError, match="page:1"):
        run_page([Block("page", 1, "bash", "true\nfalse\n")], tmp_path)
    with pytest.raises(ZeroDivisionError):
        run_page([Block("page", 1, "python", "1 / 0\n")], tmp_path)
    with pytest.raises(AssertionError, match="name its language"):
        run_page([Block("page", 1, "", "make\n")], tmp_path)


def figures_of(repository: Path):
    spec = importlib.util.spec_from_file_location("docs_figures", repository / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_those_of_the_results(repository):
    figures = figures_of(repository)
    pages = figures.pages()
    assert {"finetuning.md", "reading-the-numbers.md", "simple-methods.md"} <= {page.name for page in pages}
    old = [
        page.name
        for page in pages
        if figures.with_figures(page.read_text("utf-8")) != page.read_text("utf-8")
    ]
    assert old == [], "write them again: python docs/figures.py; then read what is said of them"


def test_a_figure_keeps_its_decimals(repository, tmp_path, monkeypatch):
    figures = figures_of(repository)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.json").write_text('{"x | y": [0.1234, 5678.9]}')
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    text = "9.99<!-- =a/b:x*/0 -->, +1.0<!-- =a/b:x*/0 --> % and 0<!-- =a/b:x | y/1 -->"
    assert figures.with_figures(text) == (
        "0.12<!-- =a/b:x*/0 -->, +12.3<!-- =a/b:x*/0 --> % and 5,679<!-- =a/b:x | y/1 -->"
    )
    with pytest.raises(KeyError, match="fits nothing"):
        figures.with_figures("1<!-- =a/b:z -->")


def test_a_table_is_that_of_its_results(repository):
    figures = figures_of(repository)
    stored = json.loads((repository / "finetune" / "results" / "stimulation.json").read_text("utf-8"))
    ours = stored["tasks"]["condition"]["methods"]["finetuned"]
    begin, end = "<!-- tables =finetune/results/stimulation -->\n", "<!-- end -->"
    page = figures.with_figures(f"Before.\n\n{begin}old\n{end}\n\nAfter.\n")
    assert page.startswith(f"Before.\n\n{begin}\n**condition, all labels**\n\n| method | AUROC |")
    assert page.endswith(f"\n\n{end}\n\nAfter.\n")
    row = next(line for line in page.splitlines() if line.startswith("| Fine-tuned"))
    low, high = ours["intervals"]["auroc"]
    assert f"| {ours['auroc']:.3f} | {low:.3f} to {high:.3f} |  | {ours['macro_f1']:.3f} |" in row
    assert "\n- Goal " in page


def test_the_scale_plan_is_what_the_dry_run_says(repository, capsys, monkeypatch):
    """The hours of docs/scale.md at the assumed 40 % of the peak; other shares follow from them."""
    from geneformer_grn.cli import main

    monkeypatch.chdir(repository)
    rows = re.findall(
        r"^\| `([\w-]+\.toml)` \|(.+)\|$", (repository / "docs" / "scale.md").read_text("utf-8"), re.M
    )
    assert len(rows) == 3
    for config, cells in rows:
        call = (
            f"pretrain pretrain/configs/{config} --dry-run --cells 100000000 --mean-length 1500 --setting v2"
        )
        with pytest.raises(SystemExit):
            main([*call.split(), "--processes", "8", "--json"])
        plan = json.loads(capsys.readouterr().out.splitlines()[-1])
        found = [float(cell.replace(",", "")) for cell in cells.split("|")]
        hours = plan["hours_1_h100"]
        stated = [
            plan["parameters"] / 1e6,
            plan["mflop_per_token"],
            plan["memory_gb"]["total"],
            hours,
            hours / 8,
            hours / 64,
        ]
        assert found == pytest.approx(stated, rel=0.02), config


def test_links_between_pages_lead_somewhere(repository):
    """Files and headings; addresses on the web are not looked at."""
    lost = []
    for page in [*pages_of(repository), "CHANGELOG.md", "CONTRIBUTING.md"]:
        text = FENCE.sub("", (repository / page).read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = target.partition("#")
            if "://" in target:
                continue
            path = (repository / page).parent / file if file else repository / page
            if not path.exists():
                lost.append(f"{page}: {target}")
            elif anchor and anchor not in headings_of(path):
                lost.append(f"{page}: {target} (no such heading)")
    assert lost == []


def headings_of(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(repository, tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is not installed (extra: docs)")
    pytest.importorskip("furo", reason="furo is not installed (extra: docs)")
    options = ["-q", "-W", "--keep-going", "-c", "docs", "-d", str(tmp_path / "trees")]
    answer = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(tmp_path / "site")],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "docs/index.html", "docs/tutorial.html", "docs/api/tools.html"} <= pages
    # No page asks another host for anything that is drawn or run.
    for page in pages:
        text = (tmp_path / "site" / page).read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"https?://", text), page
