"""The interactive page in a real browser: what is asked for is what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.network_page import write_network_page

pytestmark = pytest.mark.browser

WICKED = "<img src=x onerror=alert(1)>"
N_EDGES = 400
WHERE_THE_FIRST_GENE_IS = """() => {
  const node = drawn.nodes[0], canvas = document.getElementById("canvas");
  const box = canvas.getBoundingClientRect();
  const middle = (values) => (Math.min(...values) + Math.max(...values)) / 2;
  const [x, y] = ["x", "y"].map((axis) => node[axis] - middle(drawn.nodes.map((other) => other[axis])));
  const zoom = Number(canvas.dataset.zoom);
  return [box.left + box.width / 2 + x * zoom, box.top + box.height / 2 + y * zoom, node.label];
}"""


def edges_of(seed: int, group: str) -> pd.DataFrame:
    """400 edges of 12 regulators; H00 has the most targets, W stands in no strong edge."""
    rng = np.random.default_rng(seed)
    source = np.minimum(rng.geometric(0.25, N_EDGES * 3) - 1, 11)
    target = rng.integers(0, 160, len(source))
    table = pd.DataFrame({"source": source, "target": target}).drop_duplicates().head(N_EDGES)
    table["source"] = [f"H{number:02d}" for number in table["source"]]
    table["target"] = [f"T{number:03d}" for number in table["target"]]
    table["weight"] = np.linspace(1.0, 0.01, N_EDGES)
    table["sign"] = rng.choice([1, -1], N_EDGES)
    table.iloc[-1, :2] = [WICKED, "W"]
    return table.assign(group=group, method="ridge", support=20)


EDGES = pd.concat([edges_of(0, "B"), edges_of(1, "NK <i>cells</i>")])


class Drawn:
    """The page, and what its canvas says and shows."""

    def __init__(self, page) -> None:
        self.page = page

    def settled(self) -> dict[str, str]:
        self.page.wait_for_selector("canvas[data-layout=settled]", timeout=60_000)
        return self.page.evaluate("({...document.getElementById('canvas').dataset})")

    def picture(self) -> str:
        return self.page.evaluate("document.getElementById('canvas').toDataURL()")

    def slide(self, share: int) -> dict[str, str]:
        self.page.locator("#threshold").fill(str(share))
        return self.settled()

    def rows(self) -> list[list[str]]:
        return self.page.eval_on_selector_all(
            "#table tbody tr", "all => all.map(row => [...row.cells].map(cell => cell.textContent))"
        )


@pytest.fixture
def opened(browser_page, tmp_path: Path):
    path = tmp_path / "network.html"
    write_network_page(EDGES, path, title=f"Network {WICKED}", shown=100)
    page, requests, problems = browser_page(path, 1280)
    drawn = Drawn(page)
    drawn.settled()
    yield drawn
    assert requests == [path.as_uri()]
    assert problems == []


def test_the_slider_changes_what_is_drawn(opened: Drawn) -> None:
    first = opened.settled()
    assert 100 <= int(first["edges"]) <= 102
    before = opened.picture()
    fewer = opened.slide(200)  # a fifth of the way: a twenty-fifth of the edges
    assert fewer["edges"] == "16"
    strongest = EDGES[EDGES["group"] == "B"].head(16)
    assert int(fewer["genes"]) == len(set(strongest["source"]) | set(strongest["target"]))
    assert opened.picture() != before
    assert [row[:2] for row in opened.rows()] == strongest[["source", "target"]].to_numpy().tolist()
    assert opened.page.inner_text("#cut").startswith("16 of 400, |weight| ≥ 0.96")
    assert opened.slide(1000)["edges"] == "400"
    assert len(opened.rows()) == 300
    assert "The first 300 of 400" in opened.page.inner_text("#more")


def test_zoom_and_pan_by_mouse_buttons_and_keys(opened: Drawn) -> None:
    page = opened.page
    start, seen = float(opened.settled()["zoom"]), {opened.picture()}
    page.locator("#canvas").hover()
    page.mouse.wheel(0, -600)
    page.wait_for_function(f"+document.getElementById('canvas').dataset.zoom > {1.5 * start}")
    seen.add(opened.picture())
    page.locator("#canvas").focus()
    for key in ("-", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        seen.add(opened.picture())
    page.get_by_role("button", name="Zoom in").click()
    seen.add(opened.picture())
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60)
    page.mouse.up()
    seen.add(opened.picture())
    assert len(seen) == 7
    page.keyboard.press("0")
    page.locator("#canvas").focus()
    page.keyboard.press("0")
    assert float(opened.settled()["zoom"]) == pytest.approx(start, rel=0.01)


def test_search_shows_a_gene_with_its_weak_edges(opened: Drawn) -> None:
    page = opened.page
    before = opened.picture()
    assert not page.get_by_role("button", name="Show all").is_visible()
    page.locator("#search").fill("h03")
    page.keyboard.press("Enter")
    assert opened.settled()["selected"] == "H03"
    assert opened.picture() != before
    edges = EDGES[EDGES["group"] == "B"]
    targets = edges[edges["source"] == "H03"]["target"]
    rows = opened.rows()
    assert sorted(row[1] for row in rows) == sorted(targets)
    assert f"H03: {len(targets)} targets and 0 regulators" in page.inner_text("#status")
    page.get_by_role("button", name="Show all").click()
    assert opened.settled()["selected"] == ""
    page.locator("#search").fill("nothing")
    page.keyboard.press("Enter")
    assert page.inner_text("#status") == "No edge of nothing in this group and method."


def test_clicking_a_gene_shows_its_neighbourhood_and_escape_all(opened: Drawn) -> None:
    page = opened.page
    opened.slide(100)  # the four strongest edges: names stand apart
    page.locator("#fit").click()
    place = page.evaluate(WHERE_THE_FIRST_GENE_IS)
    page.mouse.click(*place[:2])
    assert opened.settled()["selected"] == place[2]
    assert all(place[2] in row[:2] for row in opened.rows())
    page.locator("#canvas").focus()
    page.keyboard.press("Escape")
    assert opened.settled()["selected"] == ""
    page.locator("#table tbody button").nth(1).press("Enter")  # a target, from the table, by keyboard
    assert opened.settled()["selected"].startswith("T")


def test_groups_are_chosen_and_compared(opened: Drawn) -> None:
    page = opened.page
    page.select_option("#group", label="NK <i>cells</i>")
    opened.settled()
    strongest = EDGES[EDGES["group"] != "B"].head(5)
    assert [row[:2] for row in opened.rows()[:5]] == strongest[["source", "target"]].to_numpy().tolist()
    page.select_option("#compare", label="B")
    opened.slide(1000)
    pairs = {
        name: set(zip(rows["source"], rows["target"], strict=True)) for name, rows in EDGES.groupby("group")
    }
    both = len(pairs["B"] & pairs["NK <i>cells</i>"])
    assert both > 20
    assert int(opened.settled()["edges"]) == 800 - both
    status = page.inner_text("#status")
    assert f"{400 - both} only in NK <i>cells</i>, {400 - both} only in B, {both} in both lists" in status
    assert "only in B" in page.inner_text("#key")


def test_signs_are_filtered_and_names_stay_text(opened: Drawn) -> None:
    page = opened.page
    opened.slide(1000)
    page.get_by_label("represses").uncheck()
    assert int(opened.settled()["edges"]) == (EDGES[EDGES["group"] == "B"]["sign"] > 0).sum()
    assert {row[2] for row in opened.rows()} == {"activates"}
    page.get_by_label("represses").check()
    page.locator("#search").fill("w")
    page.keyboard.press("Enter")
    assert opened.rows() == [[WICKED, "W", opened.rows()[0][2], "0.01", "20"]]
    assert page.inner_text("h1") == f"Network {WICKED}"
    assert page.locator("img, i").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(420, "light"), (1280, "dark")])
def test_the_page_fits_narrow_and_dark_screens(browser_page, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "network.html"
    write_network_page(EDGES, path)
    page, requests, problems = browser_page(path, width, scheme)
    Drawn(page).settled()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (requests, problems) == ([path.as_uri()], [])


def test_five_thousand_edges_begin_with_few(browser_page, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"source": rng.integers(0, 150, 9_000), "target": rng.integers(150, 2_000, 9_000)})
    table = table.drop_duplicates().head(5_000).astype(str).assign(weight=rng.random(5_000))
    path = tmp_path / "network.html"
    write_network_page(table, path)
    page, _, problems = browser_page(path, 1280)
    drawn = Drawn(page)
    assert 150 <= int(drawn.settled()["edges"]) <= 155
    page.locator("#threshold").fill("1000")  # all at once: the page answers while the layout still runs
    assert page.locator("#canvas").get_attribute("data-edges") == "5000"
    page.get_by_role("button", name="Zoom in").click()
    page.locator("#threshold").fill("300")
    assert drawn.settled()["edges"] == "450"
    assert problems == []
