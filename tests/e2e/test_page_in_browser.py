"""``report.html`` in a real browser: on a desk and a phone, by day and by night, printed, and with hostile content."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import EXECUTABLE, Chromium
from tests.report import page_of, page_with

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXECUTABLE, reason="there is no chromium to render the page with"),
]

SCREENS = pytest.mark.parametrize("width", [1280, 360])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
# A word that no line can break, and one that a scroller must hold.
LONG = "a" * 3000 + " " + "<script>window.hostile = 1</script><img src=http://localhost/x onerror='window.hostile = 1'>"
UNFOLD = "document.querySelectorAll('details').forEach(details => { details.open = true })"
CONTRASTS = """(() => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = value => value <= 0.04045 * 255 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = parts(getComputedStyle(element).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
    };
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement, style = getComputedStyle(element);
        if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
        const colour = parts(element instanceof SVGElement ? style.fill : style.color);
        const [low, high] = [luminance(colour), luminance(ground(element))].sort((a, b) => a - b);
        found.push([(high + 0.05) / (low + 0.05), walker.currentNode.data.trim()]);
    }
    return found;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page_of(), "utf-8")
    return path


def complaints(browser: Chromium) -> list[str]:
    """What the browser found wrong, or asked for besides the page itself."""
    told = [str(params) for method, params in browser.events if method in ("Log.entryAdded", "Runtime.exceptionThrown")]
    requests = [params["request"]["url"] for method, params in browser.events if method == "Network.requestWillBeSent"]
    return told + requests[1:]


def overflow(browser: Chromium) -> int:
    """Pixels by which the page is wider than the screen."""
    browser.evaluate(UNFOLD)
    return int(browser.evaluate("document.documentElement.scrollWidth - innerWidth"))


@SCREENS
@SCHEMES
def test_the_page_fits_the_screen_and_asks_for_nothing(browser, report, tmp_path, width, scheme):
    browser.open(report, width, scheme)
    browser.screenshot(tmp_path / "report.png")

    assert complaints(browser) == []
    assert overflow(browser) == 0
    assert browser.evaluate("document.compatMode") == "CSS1Compat"
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


@SCREENS
def test_curves_fill_their_place_and_numbers_keep_their_size(browser, report, width):
    browser.open(report, width)

    plots = browser.evaluate("""[...document.querySelectorAll('.plot')].map(plot => ({
        plot: plot.querySelector('svg').getBoundingClientRect().width,
        lines: [...plot.querySelectorAll('polyline, .bar')].map(line => line.getBoundingClientRect().width),
        text: getComputedStyle(plot.querySelector('text')).fontSize,
    }))""")
    assert len(plots) == 5
    for drawn in plots:
        assert drawn["plot"] > 200
        assert sum(drawn["lines"]) > 0.9 * drawn["plot"]
        assert drawn["text"] in ("11px", "12px")


def test_every_section_can_be_reached_and_seen(browser, report):
    browser.open(report)

    sections = browser.evaluate("""[...document.querySelectorAll('nav a')].map(link => {
        const section = document.querySelector(link.getAttribute('href'));
        return [section.querySelector('h2').innerText == link.innerText, section.getBoundingClientRect().height];
    })""")
    assert len(sections) == 8
    assert all(named and height > 100 for named, height in sections)


@SCHEMES
def test_all_text_stands_out_from_its_ground(browser, report, scheme):
    """WCAG 2.2, 1.4.3: a contrast of 4.5."""
    browser.open(report, 1280, scheme)
    browser.evaluate(UNFOLD)

    found = browser.evaluate(CONTRASTS)
    assert len(found) > 300
    assert [text for contrast, text in found if contrast < 4.5] == []


@SCREENS
def test_content_from_outside_neither_runs_nor_breaks_the_page(browser, tmp_path, width):
    path = tmp_path / "hostile.html"
    path.write_text(page_with(LONG), "utf-8")
    browser.open(path, width)

    assert complaints(browser) == []
    assert overflow(browser) == 0
    assert browser.evaluate("window.hostile === undefined")
    assert browser.evaluate("document.querySelectorAll('script, img').length") == 0


def test_a_script_that_got_in_would_not_run(browser, report):
    """The policy stands behind the escaping."""
    page = report.read_text("utf-8")
    report.write_text(page.replace("<main>", "<main><script>window.hostile = 1</script>"), "utf-8")
    browser.open(report)

    assert browser.evaluate("window.hostile === undefined")
    assert any("Content Security Policy" in complaint for complaint in complaints(browser))


def test_the_page_can_be_printed_with_what_is_folded_away(browser, report):
    browser.open(report)
    seen = "document.querySelector('#settings details td').checkVisibility()"
    assert not browser.evaluate(seen)

    browser.send("Emulation.setEmulatedMedia", media="print")

    assert browser.evaluate(seen)
