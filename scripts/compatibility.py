"""Try the package with the lowest and the highest version of each library that it says it runs with.

Usage::

    python scripts/compatibility.py measure docs/compatibility.json [--python 3.13=PATH] [--only CASE]
    python scripts/compatibility.py table docs/compatibility.json docs/compatibility.md

Each case is an environment of its own, in which the wheel is installed and a small set of tests and one verb
run; the main job in a new environment is the business of ``scripts/release_check.py``. torch is taken only
where a build for the CPU is to be had (its usual build brings gigabytes of CUDA); an interpreter without one
runs what needs no torch. Cases that are in the JSON already are not run again, unless named by ``--only``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARIES = (
    "torch", "transformers", "accelerate", "anndata", "scanpy", "numpy", "pandas", "zarr", "numba",
)  # fmt: skip
NEEDS_TORCH = ("torch", "accelerate")
TOOLS = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "datasets>=4,<6")
TESTS = (
    "tests/test_pp.py", "tests/tl/test_embed.py", "tests/cells/formats/test_every_format.py",
    "tests/cells/test_ranking.py", "tests/model/test_checkpoint.py", "tests/training/test_loop.py",
    "tests/report/test_figures.py",
)  # fmt: skip
TESTS_WITHOUT_TORCH = (
    "tests/test_pp.py", "tests/test_metrics.py", "tests/cells/formats", "tests/cells/test_ranking.py",
    "tests/cells/test_matching.py", "tests/genes/test_vocabulary.py", "tests/network/test_edges.py",
    "tests/network/test_linear.py", "tests/report/test_figures.py",
)  # fmt: skip
CLI = ("-c", "from geneformer_grn.cli import main; main()")
DEMO = "geneformer_grn/_demo/cells.h5ad"
NO_CPU_BUILD = "no build for the CPU at hand"
VERSIONS = (
    "import importlib.metadata as m, json, platform, sys; found = {'python': platform.python_version()}\n"
    "for name in sys.argv[1:]:\n"
    "    try: found[name] = m.version(name)\n"
    "    except m.PackageNotFoundError: pass\n"
    "print(json.dumps(found))"
)


def stated_ranges() -> dict[str, str]:
    """Return the range of versions that pyproject.toml states for Python and each library."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    ranges = {"python": project["requires-python"]}
    for line in project["dependencies"]:
        name, rest = re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", line).groups()
        if name in LIBRARIES:
            ranges[name] = rest
    return ranges


def published(name: str, python: str) -> list[str]:
    """Return the versions of a library that can be had for a Python (as "3.11"), oldest first."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", name, "--python-version", python,
         "--only-binary=:all:"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed = re.search(r"Available versions: (.*)", answer.stdout)
    return listed.group(1).split(", ")[::-1] if listed else []


def bounds(ranges: dict[str, str], python: str) -> dict[str, dict[str, str]]:
    """Return the lowest and the highest version of each range that can be had for a Python."""
    from packaging.specifiers import SpecifierSet

    found = {}
    for name in LIBRARIES:
        fitting = [one for one in published(name, python) if one in SpecifierSet(ranges[name])]
        found[name] = {"lowest": fitting[0], "highest": fitting[-1]}
    return found


def run(command: list[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command without raising; its output is kept."""
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)


def requirements(case: dict[str, Any]) -> list[str]:
    """Return what pip is asked for in a case, beside the wheel."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"]
    if case["without_torch"]:
        lines = [line for line in lines if not line.startswith(NEEDS_TORCH)]
    return [*lines, *TOOLS, *(f"{name}=={version}" for name, version in case["pins"].items())]


def make_environment(case: dict[str, Any], python: str, wheel: Path, folder: Path, base: Path | None) -> str:
    """Make the environment of a case; return why it could not be made, or nothing.

    A copy of `base` by hard links saves the minutes of installing what stays the same.
    """
    if base is None:
        subprocess.run([python, "-m", "venv", folder], check=True)
    else:
        shutil.copytree(base, folder, symlinks=True, copy_function=os.link)
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
           "--only-binary=:all:"]  # fmt: skip
    for step in ([*requirements(case)], ["--no-deps", wheel]):
        answer = run([*pip, *step])
        if answer.returncode:
            lines = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")]
            return "cannot be installed: " + (lines or answer.stderr.splitlines() or ["pip failed"])[0][:300]
    return ""


def smoke(case: dict[str, Any], python: Path, source: Path, caches: Path) -> dict[str, Any]:
    """Run the tests and a verb in an environment; return outcome, reason and versions."""
    versions = json.loads(run([python, "-c", VERSIONS, *LIBRARIES]).stdout)
    # Compiled kernels are kept for the versions they were compiled with.
    cache = caches / "-".join(versions.get(name, "") for name in ("python", "numba", "numpy"))
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment = usual | {
        "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "NUMBA_CACHE_DIR": str(cache), "MPLBACKEND": "agg",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    # Old and new libraries warn of each other; a warning is no failure here.
    tests = TESTS_WITHOUT_TORCH if case["without_torch"] else TESTS
    commands = [
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", *tests]
    ]
    with tempfile.TemporaryDirectory() as out:
        verb = ("tokenize", f"{out}/corpus") if case["without_torch"] else ("embed", f"{out}/cells.h5ad")
        commands.append([python, *CLI, verb[0], source / DEMO, "--out", verb[1], "--quiet"])
        passed = 0
        for command in commands:
            answer = run(command, cwd=source, env=environment)
            if found := re.search(r"(\d+) passed", answer.stdout):
                passed = int(found.group(1))
            if answer.returncode:
                lines = (answer.stdout if "pytest" in command else answer.stderr).strip().splitlines()
                failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))] or lines[-1:]
                reason = " | ".join(failed[:3]).replace(str(source), "").replace(str(python.parents[1]), "")
                return {"outcome": "failed", "reason": reason[:400], "versions": versions, "tests": passed}
    return {"outcome": "passed", "reason": "", "versions": versions, "tests": passed}


def all_cases(found: dict[str, dict[str, str]], pythons: dict[str, str]) -> list[dict[str, Any]]:
    """Return the cases: everything at its highest, all at their lowest, pandas of its own, further Pythons.

    Each library at its lowest by itself is a case too, run by its name only: it says which one a failure of
    all is about.
    """
    own, *further = pythons
    blank = {"python": own, "pins": {}, "without_torch": False, "on_request": False}
    lowest = {name: found[name]["lowest"] for name in LIBRARIES if name != "torch"}
    cases = [blank | {"case": "highest"}, blank | {"case": "lowest", "pins": lowest}]
    # anndata's newest refuses it, older ones do not: its major version is worth a case.
    cases.append(blank | {"case": "highest pandas", "pins": {"pandas": found["pandas"]["highest"]}})
    cases += [blank | {"case": f"Python {one}", "python": one, "without_torch": True} for one in further]
    return cases + [
        blank | {"case": f"lowest {name}", "pins": {name: version}, "on_request": True}
        for name, version in lowest.items()
    ]


def measure(out: Path, pythons: dict[str, str], only: list[str], work: Path) -> None:
    """Run every case that is not in `out` yet, and write it after each."""
    ranges = stated_ranges()
    before = json.loads(out.read_text()) if out.is_file() else {"cases": []}
    rows = {row["case"]: row for row in before["cases"]}
    found = {python: bounds(ranges, python) for python in pythons}
    own = next(iter(pythons))
    cpu_builds = [one for one in published("torch", own) if one.endswith("+cpu")]
    source = work / "source"
    if not source.is_dir():
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, source], check=True)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", work], cwd=source, check=True
        )
    (wheel,) = work.glob("*.whl")
    for case in all_cases(found[own], pythons):
        name, on_request = case["case"], case.pop("on_request")
        if name not in only if only else name in rows or on_request:
            continue
        print(name, flush=True)
        start = time.perf_counter()
        folder = work / name.replace(" ", "-")
        if not case["without_torch"]:
            case["pins"] = {"torch": cpu_builds[-1]} | case["pins"]
        refusal = ""
        if name != "highest" or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            base = work / "highest"
            if name == "highest" or case["without_torch"] or not base.is_dir():
                base = None
            refusal = make_environment(case, pythons[case["python"]], wheel, folder, base)
        result = {"outcome": "untested", "reason": refusal, "versions": case["pins"], "tests": 0}
        if not refusal:
            result = smoke(case, folder / "bin/python", source, work / "kernels")
        if name != "highest":
            shutil.rmtree(folder)
        rows[name] = case | result | {"seconds": round(time.perf_counter() - start)}
        print(" ", result["outcome"], result["reason"], flush=True)
        content = {
            "date": time.strftime("%Y-%m-%d"), "ranges": ranges, "bounds": found, "tests": TESTS,
            "tests_without_torch": TESTS_WITHOUT_TORCH, "cases": list(rows.values()),
        }  # fmt: skip
        out.write_text(json.dumps(content, indent=1) + "\n")


def outcome_text(row: dict[str, Any] | None, name: str, bound: str) -> str:
    """Return a cell of the table: the version and what came out."""
    if row is None:
        return f"{bound}: untested (not run yet)"
    version = row["versions"].get(name, row["pins"].get(name))
    if version is None:
        return "untested"
    return f"{version}: {row['outcome']}" + (f" ({row['reason']})" if row["outcome"] == "untested" else "")


def render(content: dict[str, Any]) -> str:
    """Return the page from what `measure` wrote."""
    rows = {row["case"]: row for row in content["cases"]}
    full = rows["highest"]
    usual, (own, *further) = full["versions"], content["bounds"]
    heads = ["library", "stated", f"lowest (Python {own})", f"highest (Python {own})"]
    heads += [f"highest (Python {one}, without torch)" for one in further]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in LIBRARIES:
        bound, last = content["bounds"][own][name], f"{usual[name]}: {full['outcome']}"
        if name == "torch":
            first = f"{bound['lowest']}: untested ({NO_CPU_BUILD})"
        else:
            first = outcome_text(rows.get(f"lowest {name}", rows.get("lowest")), name, bound["lowest"])
        if usual[name].removesuffix("+cpu") != bound["highest"].removesuffix("+cpu"):
            alone = rows.get(f"highest {name}")
            other = f"untested ({NO_CPU_BUILD if name == 'torch' else 'the newest of the others refuse it'})"
            last += f"; {bound['highest']}: {alone['outcome'] if alone else other}"
        newest = [
            outcome_text(rows.get(f"Python {one}"), name, content["bounds"][one][name]["highest"])
            for one in further
        ]
        cells = [name, f"`{content['ranges'][name]}`", first, last, *newest]
        lines.append("| " + " | ".join(cells) + " |")
    pythons = [f"{usual['python']}: {full['outcome']}"]
    for one in further:
        row = rows.get(f"Python {one}", {"versions": {}, "outcome": "not run yet"})
        found = row["versions"].get("python", one)
        pythons.append(f"{found}: {row['outcome']} without torch, untested with it ({NO_CPU_BUILD})")
    notes = [
        f"- {row['case']}: {row['outcome']}"
        + (f" ({row['reason']})" if row["reason"] else f", {row['tests']} tests")
        + f". {', '.join(f'{name} {version}' for name, version in sorted(row['versions'].items()))}."
        for row in rows.values()
    ]
    return (REPOSITORY / "scripts" / "compatibility.md.in").read_text().format(
        date=content["date"], n_tests=full["tests"], stated=content["ranges"]["python"], usual=own,
        table="\n".join(lines), notes="\n".join(notes), pythons="; ".join(pythons),
        tests=", ".join(f"`{one}`" for one in content["tests"]),
        tests_without_torch=", ".join(f"`{one}`" for one in content["tests_without_torch"]),
    )  # fmt: skip


def main() -> None:
    """Read the call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    measuring = verbs.add_parser("measure", help="run the cases that the file does not hold yet")
    measuring.add_argument("results", type=Path, metavar="RESULTS.json")
    measuring.add_argument(
        "--python", action="append", default=[], metavar="3.13=PATH", help="a further Python"
    )
    measuring.add_argument(
        "--only", action="append", default=[], metavar="CASE", help="run this case (again)"
    )
    measuring.add_argument("--work", type=Path, metavar="DIR", help="keep the environments here")
    drawing = verbs.add_parser("table", help="write the page")
    drawing.add_argument("results", type=Path, metavar="RESULTS.json")
    drawing.add_argument("page", type=Path, metavar="PAGE.md")
    call = parser.parse_args()
    if call.verb == "table":
        call.page.write_text(render(json.loads(call.results.read_text())))
        return
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    pythons = {own: sys.executable} | dict(one.split("=", 1) for one in call.python)
    with tempfile.TemporaryDirectory() as temporary:
        work = call.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        measure(call.results, pythons, call.only, work.resolve())


if __name__ == "__main__":
    main()
