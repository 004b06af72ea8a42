"""report.html: well-formed, complete, and without anything to load."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from symbert_jax.compare.guesses import FilledText
from symbert_jax.compare.page import format_page
from symbert_jax.compare.reference import Reference
from symbert_jax.compare.runs import RunCurve
from symbert_jax.compare.table import table_cells
from tests.compare.conftest import CONFIG, configure_attention

HOSTILE = "</title><script>alert('$x')</script><img src=\"http://x\">&amp;|"
METRICS = {
    name: {10: 2.0, 20: 1.0}
    for name in ("validation/loss", "train/loss", "train/learning_rate", "train/grad_norm", "speed/tokens_per_second")
}
METRICS |= {name: {10: 1.0, 20: 0.5} for name in ("validation/ema_loss", "attention/entropy/layer_0")}
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """The content of a page; raises `AssertionError` if its elements are not closed in the right order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}  # the texts in elements, by the name of the innermost
        self.feed(text)
        self.close()
        assert not self.open and not self.rawdata

    def handle_starttag(self, tag, attrs) -> None:
        self.handle_startendtag(tag, attrs)
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if data.strip():
            self.texts.setdefault(self.open[-1] if self.open else "", []).append(data.strip())


@pytest.fixture(scope="module")
def text() -> str:
    """A page about two runs, whose names and texts contain HTML."""
    runs = [
        RunCurve(HOSTILE, configure_attention("pairwise"), METRICS),
        RunCurve("plain", dataclasses.replace(CONFIG, seed=7), METRICS),
    ]
    reference = Reference(HOSTILE, HOSTILE, {"standard": {10: 3.0, 20: 2.0}, HOSTILE: {10: 3.0}}, 32)
    filled = FilledText(f"{HOSTILE} [MASK] [MASK]", [["<b> 9%", "a 8%"], ["c 7%", "d 6%"]])
    return format_page(runs, table_cells(runs), [filled], reference)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_page_is_well_formed_and_loads_nothing(text: str, page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert {"svg", "table", "figcaption"} <= tags and not {"script", "img", "link", "iframe", "object", "b"} & tags
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcset", "action", "data"), (tag, name)
            assert "href" not in name or value.startswith("#"), (tag, value)
    assert "@import" not in text and all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", text))


def test_ids_of_page_are_unique_and_complete(text: str, page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    targets = set(re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", text))
    assert len(ids) == len(set(ids)) and {first or second for first, second in targets} <= set(ids)


def test_page_shows_names_texts_and_differences(page: Page) -> None:
    assert page.texts["title"] == page.texts["h1"] == ["Comparison of 2 runs"]
    cells = page.texts["td"]
    assert HOSTILE in cells and "plain" in cells
    assert page.texts["blockquote"] == [f"{HOSTILE} [MASK] [MASK]"] and {"<b> 9%", "d 6%"} <= set(cells)
    labels = [
        HOSTILE,
        f"{HOSTILE} (average)",
        "plain",
        "plain (average)",
        f"standard ({HOSTILE})",
        f"{HOSTILE} ({HOSTILE})",
    ]
    assert page.texts["li"] == labels
    seed = cells.index("seed")
    assert cells[seed : seed + 3] == ["seed", "0", "7"] and "model.attention" in cells and "model.dim" in cells
    assert page.texts["h2"] == ["Loss", "Optimization and speed", "Attention", "Predictions", "Configs"]
    assert len(page.texts["figcaption"]) == 8


def test_page_of_one_run_leaves_out_what_it_lacks() -> None:
    runs = [RunCurve(HOSTILE, CONFIG, {"validation/loss": {10: 2.0}})]
    page = Page(format_page(runs, table_cells(runs), [], None))
    assert page.texts["h1"] == [f"Run {HOSTILE}"]
    assert page.texts["h2"] == ["Loss", "Configs"]
    assert page.texts["h3"] == ["Fields that differ from the paper's recipe for BERT-base"]
    assert len(page.texts["figcaption"]) == 2
