"""The report in a real browser: nothing complains, nothing leaves the file, all can be seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import CHROMIUM, STICKING_OUT, Browser, browser, pale
from test_render import study, svgs  # noqa: F401 - the fixtures

from nutgraf.report.formatting import MAX_CHARACTERS
from nutgraf.report.render import Study, render

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed: apt-get install chromium"
)

WIDTHS = (375, 1280)
SCHEMES = ("light", "dark")
HOSTILE = (
    "</p></article><script>document.title = 'broken in'; console.error('broken in')</script>"
    "<img src=https://example.org/x.png onerror=\"document.title = 'broken in'\">"
    "<style>body { display: none }</style><link rel=stylesheet href=//example.org/x.css>"
    "<iframe src='javascript:parent.document.title = `broken in`'></iframe>"
    "<svg onload=\"document.title = 'broken in'\"><details open ontoggle=alert(1)>"
)
CONTRASTS = pale("p, h1, h2, td, th, summary, a, .soft, .caution, .shout, mark, pre, svg")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(study: Study, tmp_path: Path) -> Path:  # noqa: F811
    """A report on articles full of markup, scripts and words without an end."""
    word = "x" * 400
    summaries = dict.fromkeys(study.examples[0]["summaries"], HOSTILE)
    texts = {"article": f"{HOSTILE} {word} {study.examples[0]['article']}", "reference": HOSTILE}
    shown = {**texts, "summaries": summaries, "id": HOSTILE + word}
    examples = [{**row, **shown} for row in study.examples]
    faults = [{**row, **texts, "summary": HOSTILE + word} for row in study.error_examples]
    hostile = dataclasses.replace(
        study, examples=examples, error_examples=faults, configuration=f"{HOSTILE}\n{word}"
    )
    file = tmp_path / "report.html"
    file.write_text(render(hostile)[0], encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_can_be_read(chromium: Browser, page: Path, width: int, scheme: str) -> None:
    chromium.open(page, width, scheme)
    chromium.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert chromium.run("innerWidth") == width
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run(STICKING_OUT) == []
    assert chromium.run(CONTRASTS) == []
    hidden = chromium.run("(s => s.scrollWidth - s.clientWidth)(document.querySelector('.scroll'))")
    assert hidden <= 0 or width < 1000  # every column of the results
    ground = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    # Whole figures, not only boxes for them: each has marks that take up room.
    figures = chromium.run(
        "[...document.querySelectorAll('figure > svg')].map(svg => [svg.clientWidth, "
        "svg.clientHeight, svg.querySelector('path, text').getBoundingClientRect().height])"
    )
    assert len(figures) == page.read_text().count("<svg ")
    assert all(w > 0.7 * min(width, 560) and h > 100 and mark > 0 for w, h, mark in figures)


def test_nothing_complains_and_nothing_leaves_the_file(chromium: Browser, page: Path) -> None:
    chromium.open(page, WIDTHS[0], SCHEMES[0])
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert chromium.told(*complaints) == []
    asked = [event["request"]["url"] for event in chromium.told("Network.requestWillBeSent")]
    assert asked == [page.as_uri()]


def test_markup_in_articles_is_text(chromium: Browser, page: Path) -> None:
    chromium.open(page, WIDTHS[1], SCHEMES[0])
    assert chromium.run("document.title") == "nutgraf: runs/pocket"
    assert chromium.run("document.querySelectorAll('script, img, link, iframe').length") == 0
    shown = chromium.run("document.querySelector('.example .article').textContent")
    assert shown.startswith(HOSTILE)
    assert len(shown) <= MAX_CHARACTERS


def test_the_browser_does_complain_where_there_is_reason_to(
    chromium: Browser, tmp_path: Path
) -> None:
    """A page that fails each of the checks, so that they cannot pass for want of looking."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><body style='color: #aaa; background: #fff'><p>Pale.</p>"
        "<div style='width: 2000px'>Wide.</div><img src='missing.png'>"
        "<script>console.error('no'); throw new Error('no')</script>"
    )
    chromium.open(bad, 375, "light")
    assert len(chromium.told("Runtime.exceptionThrown")) == 1
    assert len(chromium.told("Runtime.consoleAPICalled")) == 1
    assert len(chromium.told("Network.requestWillBeSent")) == 2
    assert chromium.run("document.documentElement.scrollWidth") > 375
    assert chromium.run(STICKING_OUT)
    assert chromium.run(CONTRASTS)
