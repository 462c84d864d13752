"""Reports: read by programs, by Jenkins, and by people in a real browser."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import examples
from thems_jobs import report
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.plan import Plan

pytestmark = pytest.mark.timeout(120)
CHROMIUM = "/usr/bin/chromium"
# What Jenkins sends with files of a build (hudson.model.DirectoryBrowserSupport.CSP): no style and no script at all.
JENKINS_CSP = "sandbox; default-src 'none'; img-src 'self'; style-src 'self';"
OUTCOMES = [examples.done, examples.refused, examples.halted, lambda: examples.done(40), examples.drift]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Return what opens an outcome's report, and fails afterwards if the page complained or asked for anything."""
    pages: list[Page] = []
    wrong: list[str] = []

    def open_report(outcome: Outcome, width: int = 1200, scheme: str = "light", csp: str = "") -> Page:
        report.write_report(outcome, tmp_path)
        html = (tmp_path / "report.html").read_text()
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text) if not csp else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if request.url != URL else None)
        headers = {"Content-Type": "text/html; charset=utf-8"} | ({"Content-Security-Policy": csp} if csp else {})
        page.route("**/*", lambda route: route.fulfill(status=200, headers=headers, body=html))
        page.goto(URL)
        return page

    yield open_report
    for page in pages:
        page.close()
    assert [text for text in wrong if not text.startswith("data:")] == []


URL = "http://report.invalid/report.html"


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("make", OUTCOMES)
def test_nothing_is_cut_off_or_overlaps(opened: Open, make: Callable[[], Outcome], width: int) -> None:
    page = opened(make(), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.eval_on_selector_all(
        "main > *", "parts => parts.map(p => p.getBoundingClientRect()).map(r => [r.top, r.bottom, r.left, r.right])"
    )
    assert len(boxes) >= 5
    for above, below in itertools.pairwise(boxes):
        assert above[1] <= below[0]
    assert all(left >= 0 and right <= width for _, _, left, right in boxes)
    outside = page.eval_on_selector_all(
        "th, td, h1, h3, dd, code, .number, .note", f"all => all.filter(e => e.getBoundingClientRect().right > {width})"
    )
    assert outside == []


def test_the_picture_shows_every_step_where_it_was(opened: Open) -> None:
    outcome = examples.done()
    page = opened(outcome)
    assert page.locator("rect.bar").count() == len(outcome.steps)
    assert page.locator("rect.outline[x]").count() >= len(outcome.plan.steps)
    names = page.locator(".lane .name").all_inner_texts()
    assert [name.split()[0] for name in names if name] == [
        "record", "shop-web-3", "shop-web-4", "shop-web-5", "shop-web-6",
    ]  # fmt: skip
    lane = page.locator(".lane", has_text="shop-web-3").locator("rect.bar")
    clone, boot = lane.nth(1).bounding_box(), lane.nth(4).bounding_box()
    assert clone
    assert boot
    runs = {run.key: run for run in outcome.steps}
    waits = [runs["await-clone shop-web-3"], runs["await-boot shop-web-3"]]
    seconds = [(run.ended_at or 0) - run.started_at for run in waits]
    assert clone["width"] / boot["width"] == pytest.approx(seconds[0] / seconds[1], rel=0.02)
    assert "await-boot shop-web-3" in lane.nth(4).locator("title").inner_html()


def test_the_outcome_comes_first_and_every_refusal_has_its_remedy(opened: Open) -> None:
    page = opened(examples.refused())
    assert page.locator("h1").inner_text() == examples.refused().message
    assert page.locator("header code").first.inner_text() == examples.COMMAND
    text = page.locator("main").inner_text()
    for refusal in examples.REFUSALS:
        for part in (refusal.subject, refusal.measured, refusal.required, refusal.remedy, refusal.reference):
            assert part in text
    assert page.locator(".gates .closed").count() == 2


def test_requests_served_and_failed_are_said(opened: Open) -> None:
    text = opened(examples.halted()).locator(".tile.bad").inner_text()
    assert "9,407" in text
    assert "3 failed" in text
    assert "not comparable" in opened(replace(examples.done(), served=None)).locator("main").inner_text()


def test_strange_text_stays_text(opened: Open) -> None:
    page = opened(examples.halted())
    assert page.locator(".gates .closed").count() == 0  # what failed was no gate
    assert "<script>alert(1)</script>" in page.locator("h1").inner_text()
    assert page.locator("script").count() == 0


def test_dark_mode_is_dark_and_readable(opened: Open) -> None:
    page = opened(examples.done(), scheme="dark")
    shades = page.evaluate(
        "['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k].match(/\\d+/g).map(Number))"
    )
    ink, paper = (sum(shade[:3]) / 3 for shade in shades)
    assert paper < 60
    assert ink > 180


def test_under_jenkins_own_policy_the_bars_are_still_there(opened: Open) -> None:
    page = opened(examples.done(), csp=JENKINS_CSP)
    bar = page.locator("rect.bar.k-configure").first
    box = bar.bounding_box()
    assert box
    assert box["width"] > 20
    assert bar.get_attribute("fill") == "#8f6fd8"


def test_it_fits_on_paper(opened: Open) -> None:
    page = opened(examples.done(12))
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 690, "height": 980})  # A4 less its margins, at 96 dots per inch
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert page.pdf()[:5] == b"%PDF-"


def test_a_report_without_any_step_can_be_read(opened: Open) -> None:
    empty = replace(
        examples.done(), plan=Plan(), steps=(), before=(), after=(), served=None, message="Nothing to do.", measured={}
    )
    page = opened(empty)
    assert "There was nothing to do." in page.locator("main").inner_text()
    assert page.locator(".timeline").count() == 0


# For programs


def test_json_holds_the_run_for_programs() -> None:
    outcome = examples.halted()
    data = json.loads(json.dumps(report.as_json(outcome)))
    assert (data["outcome"], data["exit"], data["next"]) == ("halted", 6, examples.COMMAND)
    assert data["plan"]["digest"] == outcome.plan.digest
    assert len(data["plan"]["steps"]) == len(outcome.plan.steps)
    assert data["served"] == {"requests": 9410, "failed": 3}
    failed = [step for step in data["steps"] if step["outcome"] == "failed"]
    assert [step["target"] for step in failed] == ["shop-web-5"]
    assert failed[0]["seconds"] > 0
    assert data["started_at"] == "2026-11-30T00:53:20.000Z"
    assert [row["name"] for row in data["after"]][-1] == "shop-web-6"


@pytest.mark.parametrize("exit_code", list(Exit))
def test_every_exit_has_a_word(exit_code: Exit) -> None:
    outcome = replace(examples.done(), exit=exit_code)
    assert report.as_json(outcome)["outcome"] in report.as_html(outcome)


def test_junit_has_every_gate_closed_ones_as_failures() -> None:
    suite = Xml.fromstring(report.as_junit(examples.refused()))  # noqa: S314 - our own text
    cases = {case.get("name"): case for case in suite}
    failed = [name for name, case in cases.items() if case.find("failure") is not None]
    skipped = [name for name, case in cases.items() if case.find("skipped") is not None]
    assert sorted(map(str, failed)) == ["storage-full", "vrrp-holder"]
    assert skipped == ["below-minimum", "image-missing"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(cases)), "2", "2")
    text = cases["storage-full"].find("failure")
    assert text is not None
    assert "Free space or enlarge the storage." in (text.text or "")


def test_junit_can_be_read_whatever_an_error_says() -> None:
    suite = Xml.fromstring(report.as_junit(examples.halted()))  # noqa: S314 - our own text
    case = next(case for case in suite if case.get("name") == "await-boot-deadline")
    assert case.get("classname") == "effects"
    assert "<script>" in (case.find("failure").text or "")  # type: ignore[union-attr]


def test_files_are_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report.write_atomically(path, "old")
    before = path.stat().st_ino
    with path.open() as reader:
        report.write_atomically(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UnicodeEncodeError):
        report.write_atomically(path, "\ud800")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "new"


@pytest.mark.parametrize("make", OUTCOMES)
def test_what_a_pipeline_reads_is_plain_text(make: Callable[[], Outcome], tmp_path: Path) -> None:
    """A pipeline in Jenkins' sandbox has no JSON to read: it reads these three."""
    outcome = make()
    report.write_report(outcome, tmp_path)
    plan, message, digest = (
        (tmp_path / f"{name}.txt").read_text(encoding="utf-8") for name in ("plan", "message", "digest")
    )
    assert digest == outcome.plan.digest + "\n"
    assert message.count("\n") == 1
    lines = plan.splitlines()
    assert all(line.isprintable() for line in lines)
    for change in outcome.plan.changes:
        assert any(line.startswith(f"{change.machine}: {change.kind}") for line in lines)
    assert sum(line.startswith("Closed: ") for line in lines) == len(outcome.refusals)
    assert not outcome.plan.steps or lines[-1].endswith(f"Plan {outcome.plan.digest}")


def test_drift_of_jobs_is_shown_as_a_difference_and_without_machines(opened: Open) -> None:
    text = opened(examples.drift()).locator("main").inner_text()
    assert "+<script>alert(1)</script>" in text
    assert "Jenkins https://jenkins.example.com/" in text
    assert "every job in Jenkins can be read" in text
    assert not [word for word in ("Node", "Machine", "Proxmox", "Requests served") if word in text]
    suite = Xml.fromstring(report.as_junit(examples.drift()))  # noqa: S314 - our own text
    assert [(case.get("classname"), case.get("name")) for case in suite if case.find("failure") is not None] == [
        ("gates", "definition-broken")
    ]
    assert suite.get("tests") == "4"
