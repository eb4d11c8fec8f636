"""The page in a real browser: shows its pictures, asks for nothing, reports no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from geneformer_grn.report.page import ReportContent, write_report

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (420, "light")])
def test_page_shows_its_pictures_and_asks_for_nothing(
    browser_page, content_factory, tmp_path: Path, width: int, scheme: str
) -> None:
    path = tmp_path / "report.html"
    write_report(content_factory(["T", "B", "NK"], n_cells=6000), path)
    page, requests, problems = browser_page(path, width, scheme)
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert requests == [path.as_uri()]
    assert problems == []
    boxes = page.eval_on_selector_all(
        "svg[role=img]", "all => all.map(x => [x.getBoundingClientRect().width, x.getBBox().height])"
    )
    assert len(boxes) == 1 + 3 + 3 + 1
    assert all(box_width > 150 and height > 20 for box_width, height in boxes)
    image = page.locator("svg[role=img] image").first
    assert (
        image.evaluate(
            "x => { const i = new Image(); i.src = x.getAttribute('xlink:href');"
            " return i.decode().then(() => i.naturalWidth); }"
        )
        > 100
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"


def test_tables_sort_and_filter(browser_page, content: ReportContent, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(content, path)
    page, _, problems = browser_page(path, 1280)
    page.get_by_role("button", name="Weight").click()
    weights = page.eval_on_selector_all(
        "#edges tbody td.number:nth-child(5)", "all => all.map(x => +x.dataset.key)"
    )
    assert weights == sorted(weights)
    page.locator("input[data-filters=edges]").fill("spi1 lyz")
    shown = page.locator("#edges tbody tr:visible").all_inner_texts()
    assert shown
    assert all("SPI1" in row and "LYZ" in row for row in shown)
    assert problems == []


def test_page_is_complete_without_scripts(browser_page, content: ReportContent, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(content, path)
    page, _, _ = browser_page(path, 1280, script=False)
    assert page.locator("#edges tbody tr").count() > 200
    assert not page.locator("input[data-filters=edges]").is_visible()
