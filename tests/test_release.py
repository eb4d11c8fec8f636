"""A version says the same everywhere, and the pages about it are what commands wrote."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess

import pytest

from geneformer_grn import __version__


@pytest.fixture(scope="module")
def compatibility(repository):
    path = repository / "scripts" / "compatibility.py"
    spec = importlib.util.spec_from_file_location("compatibility", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(repository):
    return json.loads((repository / "docs" / "compatibility.json").read_text())


def test_the_version_is_in_changelog_and_citation(repository):
    headings = re.findall(r"^## (.+)$", (repository / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].split()[0] == __version__
    assert f"\nversion: {__version__}\n" in (repository / "CITATION.cff").read_text()


def test_the_page_of_versions_is_what_was_measured(repository, compatibility, measured):
    page = (repository / "docs" / "compatibility.md").read_text()
    assert page == compatibility.render(measured), "write it again: scripts/compatibility.py table"


def test_the_ranges_are_those_that_were_measured(compatibility, measured):
    """A range that moves has to be measured again, or its row is about another promise."""
    assert measured["ranges"] == compatibility.stated_ranges()


def test_the_ranges_hold(measured):
    outcome = {row["case"]: row["outcome"] for row in measured["cases"]}
    assert outcome["highest"] == "passed"
    assert [case for case, found in outcome.items() if case.startswith("lowest") and found == "failed"] == []


def test_setup_explains_itself_and_refuses_what_it_does_not_know(repository):
    def setup(*words, **environment):
        return subprocess.run(
            ["bash", str(repository / "scripts" / "setup.sh"), *words],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"} | environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    told = setup("--help")
    assert told.returncode == 0
    assert "TORCH_INDEX_URL" in told.stdout
    assert "set -euo" not in told.stdout
    assert setup(PYTHON="no-such-python").returncode == 2
