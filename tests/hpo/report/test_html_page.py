"""The page in a real browser: offline, in both schemes, on a phone, and in the MLflow UI's kind of frame."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from hpo.compare import Scoring, compare
from hpo.core.arm import FIXED
from hpo.report import ReportData, write_report
from hpo.report.figures import FIGURES, TUNED_ONLY
from hpo.tracking.backend import embedded_uri
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.server import healthy, serve
from tests.helpers.chromium import chromium
from tests.helpers.report_builder import Builder
from tests.helpers.runs import place_database, wait_until

pytestmark = pytest.mark.slow
SAID = re.compile("Copied|Press")
HEADLINES = {
    "better": "beats",
    "equivalent": "matches",
    "worse": "loses",
    "inconclusive": "Inconclusive",
    "none": "No verdict",
}
CUT = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth + 1)"
SHADOW = "(s => getComputedStyle(s.parentElement, '::after').opacity)"
# Figures whose legend reaches into the plot, or beyond the figure on any side.
MISPLACED = """[...document.querySelectorAll('.plot')].filter((plot) => {
  const legend = plot.querySelector('.legend .bg'), whole = plot.getBoundingClientRect();
  const texts = [...plot.querySelectorAll('.legendtext')].map((text) => text.getBoundingClientRect());
  if (!legend) return false;
  const { top, bottom } = legend.getBoundingClientRect();
  const above = top >= whole.top && bottom <= whole.top + plot._fullLayout._size.t;
  return !above || texts.some((text) => text.right > whole.right || text.left < whole.left);
}).map((plot) => plot.id)"""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


class Seen:
    """A page with what it asked for and what it complained about."""

    def __init__(self, browser: Browser, url: str, width: int = 1280, scheme: str = "light") -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(120_000)  # a busy machine draws slowly
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self._console(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def drawn(self) -> Page:
        self.page.wait_for_selector("body[data-drawn]")
        return self.page


Report = Callable[..., tuple[ReportData, Path]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The data of `Builder` and their page, written once for all tests that ask for the same."""

    @cache
    def made(T: int = 3, **how: Any) -> tuple[ReportData, Path]:
        data = Builder(T=T, **how).data()
        return data, write_report(data, tmp_path_factory.mktemp("report"))["html"]

    return lambda T=3, **how: made(T, **how)


@pytest.fixture(scope="module")
def look(browser: Browser, report: Report) -> Callable[..., Seen]:
    """A page of `report`, drawn once for tests that leave it as it is but for the pointer: that takes seconds."""

    @cache
    def drawn(url: str) -> Seen:
        seen = Seen(browser, url)
        seen.drawn()
        return seen

    return lambda T=3, **how: drawn(report(T, **how)[1].as_uri())


@pytest.fixture
def opened(look: Callable[..., Seen]) -> Page:
    """The default page, nothing of it under the pointer."""
    page = look().page
    page.mouse.move(2, 2)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_selector("tr.linked", state="detached")
    return page


@pytest.mark.parametrize("T", [2, 3, 5])
def test_every_figure_is_drawn_offline_and_without_complaint(look, report, T):
    how = {"tuned": True} if T == 5 else {}
    seen, url = look(T, **how), report(T, **how)[1].as_uri()
    page = seen.page
    sizes = page.evaluate(
        "[...document.querySelectorAll('.plot')].map(p => {"
        " const b = p.querySelector('svg.main-svg').getBoundingClientRect();"
        " return [p.id, b.width, b.height, p.querySelectorAll('.point, path.js-line').length]; })"
    )
    assert [name for name, *_ in sizes] == [f"figure-{name}" for name in FIGURES if how or name not in TUNED_ONLY]
    assert all(width > 300 and height > 200 and marks > 0 for _, width, height, marks in sizes)
    assert [asked for asked in seen.requests if asked != url and not asked.startswith("data:")] == []
    assert seen.complaints == []


@pytest.mark.parametrize("verdict", ["better", "equivalent", "worse", "inconclusive", "none"])
def test_the_page_opens_with_the_verdict(look, verdict):
    how = {"phases": ("references", "static")} if verdict == "none" else {}
    seen = look() if verdict == Builder.verdict else look(verdict=verdict, **how)
    page = seen.page
    assert HEADLINES[verdict] in page.inner_text("h1")
    assert page.locator("h1").bounding_box()["y"] < 200
    assert seen.complaints == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("winner", ["", "uncertainty"])
def test_the_first_screen_answers_what_people_ask(browser, report, width, height, winner):
    page = Seen(browser, report(verdict="worse", winner=winner)[1].as_uri(), width=width).drawn()
    asked = page.locator(".answer")
    assert asked.count() == 3 + bool(winner)
    box = asked.last.bounding_box()
    assert box["y"] + box["height"] <= height
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".answer pre").inner_text().startswith('{"income": ')
    if winner:
        assert asked.nth(1).locator("code").inner_text() == "balancers.Uncertainty(tasks)"
        assert page.locator("tr .badge", has_text="best on validation").count() == 1


def test_a_winner_that_a_file_can_hold_has_no_line_of_its_own(opened):
    assert opened.locator(".answer code").count() == 0


def test_weights_can_be_copied(opened, report):
    data, page = report()[0], opened
    shown = json.loads(page.inner_text("#weights"))
    assert list(shown) == list(data.comparison.tasks)
    assert sum(shown.values()) == pytest.approx(3, rel=1e-5)
    page.click("#copy")
    page.locator("#copy", has_text=SAID).wait_for()


@pytest.mark.parametrize("T", [3, 7])
def test_a_phone_scrolls_down_only_and_wide_tables_show_that_they_go_on(browser, report, T):
    page = Seen(browser, report(T)[1].as_uri(), width=390).drawn()
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("[...document.querySelectorAll('.plot svg.main-svg')].every(s => s.clientWidth <= 390)")
    wait_until(lambda: page.evaluate(f"{CUT}.length > 3 && {CUT}.every(s => {SHADOW}(s) === '1')"))
    page.evaluate("document.querySelectorAll('.scroll').forEach(s => s.scrollTo(9999, 0))")
    wait_until(lambda: page.evaluate(f"{CUT}.every(s => {SHADOW}(s) === '0')"))


def test_on_a_phone_legends_stay_beside_their_plots_also_after_printing(browser, report):
    page = Seen(browser, report(3)[1].as_uri(), width=390).drawn()
    assert page.evaluate(MISPLACED) == []
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wait_until(lambda: len(page.evaluate(MISPLACED)) > 0)  # as wide as the paper
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    wait_until(lambda: page.evaluate(MISPLACED) == [])


def test_a_desktop_shows_the_tables_of_three_tasks_whole(opened):
    assert opened.evaluate(f"{CUT}.filter(s => !s.closest('details')).map(s => s.closest('section').id)") == []


def test_terms_lead_to_the_glossary(opened):
    term = opened.locator("#arms a.term", has_text="Pareto front").first
    assert "dominated" in term.get_attribute("title")
    assert not opened.locator("#term-pareto").is_visible()
    term.click()
    opened.locator("#term-pareto").wait_for()


def test_parts_without_content_are_one_line_each(browser, report):
    page = Seen(browser, report(phases=("references", "static"), verdict="none")[1].as_uri()).drawn()
    shown = page.locator(".part").evaluate_all("parts => parts.map(part => part.id)")
    assert shown == ["static_points", "budget", "cost"]
    assert page.locator(".left-out li").count() == len(set(FIGURES) - set(TUNED_ONLY)) - len(shown)


def test_dark_follows_the_reader_and_changes_with_them(browser, report):
    page = Seen(browser, report()[1].as_uri(), scheme="dark").drawn()

    def brightness(selector: str, style: str) -> float:
        color = page.evaluate(f"getComputedStyle(document.querySelector('{selector}'))['{style}']")
        return sum(int(part) for part in color.strip("rgba()").split(",")[:3]) / 765

    assert brightness("body", "backgroundColor") < 0.2
    assert brightness("#figure-alpha .xtick text", "fill") > 0.5
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("body[data-drawn=light]")
    assert brightness("body", "backgroundColor") > 0.8
    assert brightness("#figure-alpha .xtick text", "fill") < 0.5
    page.click("#theme")
    page.wait_for_selector("body[data-drawn=dark]")
    assert brightness("body", "backgroundColor") < 0.2
    assert page.inner_text("#theme") == "Light"


def test_hover_shows_weights_and_run_and_marks_the_point_everywhere(opened, report):
    data, page = report()[0], opened
    search = data.comparison.search.set_index("arm")
    point = page.locator("#figure-static_points .scatterlayer .trace .points path.point")
    point.first.scroll_into_view_if_needed()
    rings = (
        "[...document.querySelectorAll('#figure-{} path.point')].filter(p => p.style.stroke === 'rgb(224, 161, 0)')"
    )
    assert page.evaluate(rings.format("distance")) == []
    for place in range(point.count()):  # points lie over each other, and E_t[w] over them
        box = point.nth(place).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.locator("#figure-static_points .hoverlayer .hovertext").first.wait_for()
        told = page.locator("#figure-static_points .hoverlayer").text_content()
        if found := re.match(r"static point (\d\d)score", told):
            break
    arm = f"static/{found[1]}"
    assert told.endswith(f"trial {search.loc[arm, 'identity']}")
    assert f"w age {search.loc[arm, 'geometric/age']:.3g}" in told
    page.wait_for_selector(f"tr.linked[data-arm='{arm}']", state="attached")
    assert len(page.evaluate(rings.format("distance") + ".map(() => 1)")) == 2 * 2  # a recipe, a kind of distance
    page.mouse.move(2, 2)
    page.wait_for_selector("tr.linked", state="detached")
    assert page.evaluate(rings.format("distance")) == []


def test_hovering_a_row_marks_the_arm_in_the_figures(opened, report):
    data, page = report()[0], opened
    rings = (
        "[...document.querySelectorAll('#figure-arms path.point')].some(p => p.style.stroke === 'rgb(224, 161, 0)')"
    )
    assert not page.evaluate(rings)
    page.locator(f"tr[data-arm='{data.comparison.recommended}']").first.hover()
    page.wait_for_function(rings)


def test_a_figure_can_be_saved_as_svg(opened):
    page = opened
    page.locator("#figure-alpha").hover()
    with page.expect_download() as download:
        page.locator("#figure-alpha .modebar-btn").click()
    assert download.value.suggested_filename == "census-quick-alpha.svg"
    assert download.value.path().read_text().startswith("<svg")


def test_it_prints(browser, report):
    """On white whatever the theme, without what is only for the screen, and as more than one page."""
    page = Seen(browser, report()[1].as_uri(), scheme="dark").drawn()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".statistics").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.pdf(format="A4").count(b"/Type /Page\n") >= 4


def test_it_works_in_a_sandboxed_frame_from_a_blob(browser, report, tmp_path):
    """As the MLflow UI shows an HTML artifact."""
    shutil.copy(report()[1], tmp_path)
    (tmp_path / "ui.html").write_text(
        "<iframe sandbox='allow-scripts' width=1200 height=800></iframe><script>fetch('report.html')"
        ".then(r => r.blob()).then(b => { document.querySelector('iframe').src = URL.createObjectURL(b); })</script>"
    )
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        seen = Seen(browser, f"{address}/ui.html")
        frame = seen.page.frame_locator("iframe")
        frame.locator("body[data-drawn]").wait_for()
        assert frame.locator(".plot svg.main-svg").count() >= len(set(FIGURES) - set(TUNED_ONLY))
        frame.locator("#copy").click()
        frame.locator("#copy", has_text=SAID).wait_for()
        asked = {url for url in seen.requests if not url.startswith(("blob:", "data:"))}
        assert asked <= {f"{address}/{name}" for name in ("ui.html", "report.html", "favicon.ico")}
    finally:
        server.shutdown()
        server.server_close()


def test_the_mlflow_ui_shows_it(browser, report, tmp_path):
    """A real server's own page for the artifact; the report is drawn in it and its links work."""
    page = report()[1]
    store = StudyExperiment(place_database(tmp_path), "census-quick", tmp_path)
    run = store.start_launch("name: census-quick\n")
    store.log_report(run, sorted(page.parent.iterdir()), "a note", {})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        server = serve(embedded_uri(tmp_path), "127.0.0.1", port, log)
        try:
            address = f"http://127.0.0.1:{port}"
            assert healthy(address, server)
            path = f"/#/experiments/{store.experiment_id}/runs/{run}/artifacts/report/report.html"
            frame = Seen(browser, address + path).page.frame_locator("iframe")
            frame.locator("body[data-drawn]").wait_for()
            assert "matches" in frame.locator("h1").inner_text()
            frame.locator("#theme").click()
            frame.locator("body[data-drawn=dark]").wait_for()
        finally:
            server.terminate()
            server.wait()


def test_names_are_text_and_never_markup(browser, tmp_path):
    evil = "<script>document.title='caught'</script>"
    image = "<img src=x onerror=document.title='caught'>"
    data = Builder(tasks=(evil, image, "</pre>")).data()
    alarms = (evil, image)
    links = dict.fromkeys(data.run_links, f"javascript:{evil}")
    comparison = replace(data.comparison, alarms=alarms)
    facts = {**data.provenance, "study file": f"</pre>{evil}", image: evil}
    data = replace(data, study=evil, comparison=comparison, provenance=facts, run_links=links)
    seen = Seen(browser, write_report(data, tmp_path)["html"].as_uri())
    page = seen.drawn()
    assert "caught" not in page.title().replace("'caught'", "")
    assert page.locator("img").count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    assert evil in page.inner_text(".alarms")
    assert evil in page.locator("#figure-trajectories .legendtext").all_text_contents()
    assert seen.complaints == []


def explored(page: Page, group: str = "arms") -> str:
    """The arm that the sliders choose."""
    return str(page.get_attribute(f"#choice-{group}", "data-arm"))


def move(page: Page, place: int, value: float) -> None:
    """Move a slider as a reader's script or pointer would."""
    page.locator(f"#priority-{place}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )


def test_sliders_choose_what_python_chooses_with_the_same_priorities(browser, report):
    builder = Builder()
    page = Seen(browser, report()[1].as_uri(), width=390, scheme="dark").page
    trials, start = builder.trials(), report()[0].comparison.recommended
    assert explored(page) == start
    chosen = set()
    for priorities in ((0.0, 0.0, 3.0), (3.0, 0.0, 0.0), (0.5, 3.0, 0.05)):
        for place, value in enumerate(priorities):
            move(page, place, value)
        given = zip(builder.scoring.items(), priorities, strict=True)
        scoring = Scoring({task: replace(how, priority=priority) for (task, how), priority in given})
        found = compare(trials, scoring, builder.margin)
        fixed = found.search[found.search["kind"].isin(FIXED)]
        assert (explored(page), explored(page, "points")) == (found.recommended, fixed["arm"].iloc[0])
        told = page.locator("#order-arms li").first.inner_text()
        score = found.arms.loc[found.arms["recommended"], "score_val"].item()
        assert f"score {score:+.2f}".replace("-", "\u2212") in told
        chosen.add(explored(page, "points"))
    assert len(chosen) > 1
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#priority-0").focus()
    page.keyboard.press("End")
    assert page.locator("#priority-0 + output").inner_text() == "3"
    for place in range(3):
        move(page, place, 0)
    assert page.locator("#choice-arms").inner_text() == "none"
    page.click("#priorities-reset")
    assert explored(page) == start


def test_without_javascript_there_are_no_sliders(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report()[1].as_uri())
    assert not page.locator("#priorities").is_visible()
    context.close()
