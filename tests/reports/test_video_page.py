"""The report of classified videos, as a browser shows it."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from sfavivit import Recognizer
from sfavivit.engines.model import LoadedModel
from sfavivit.errors import NotAVideoError
from sfavivit.reports import page, video_page
from sfavivit.reports.curves import MAX_BINS, MAX_LANES, Lane, OutputCurves
from sfavivit.reports.video_page import write_report
from sfavivit.reports.video_report import VideoReport, recorder_for, video_report
from sfavivit.repository.manifest import Catalog
from sfavivit.video.limits import Limits
from tests.cli.support import run, run_process
from tests.conftest import random_frames
from tests.reports.browser import visit, wait_until
from tests.video_files import encode

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> & {{data}}"
AT_TIME = "Math.abs(document.getElementById('video').currentTime - {}) < 0.05"


@pytest.fixture(scope="module")
def hostile_recognizer(recognizer: Recognizer) -> Recognizer:
    """A recognizer whose labels are all hostile, and still differ."""
    labels = {
        head: {output: tuple(f"{label} {HOSTILE}" for label in names) for output, names in outputs.items()}
        for head, outputs in recognizer.model.labels.items()
    }
    return Recognizer(
        LoadedModel(Catalog(recognizer.manifest, labels), recognizer.model.engine, chunk_tubelets=3)
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 s whose labels change, under a name that must be quoted everywhere."""
    folder = tmp_path_factory.mktemp("video") / "a b"
    folder.mkdir()
    frames = random_frames(300, seed=19).repeat(4, 1).repeat(4, 2)
    return encode(folder / "100% #1? <b>&amp; 'x\".mp4", frames)


def classified(recognizer: Recognizer, video: Path) -> VideoReport:
    recorder = recorder_for(recognizer)
    return video_report(recognizer, recognizer.classify(video, on_scores=recorder), recorder)


@pytest.fixture(scope="module")
def report(recognizer: Recognizer, video: Path) -> VideoReport:
    return classified(recognizer, video)


@pytest.fixture
def written(recognizer: Recognizer, report: VideoReport, tmp_path: Path) -> Callable[..., Path]:
    """Writes the page of some reports (none: of ``report``); returns its file."""

    def write(*reports: VideoReport) -> Path:
        file = tmp_path / "report.html"
        write_report(file, reports or (report,), recognizer, Limits())
        return file

    return write


@pytest.fixture
def shown(browser: Browser, written: Callable[..., Path]) -> Iterator[Page]:
    """The page of ``report``."""
    with visit(browser, written()) as visited:
        yield visited.page


def label_at(report: VideoReport, seconds: float, output: int = 0) -> str:
    timeline = report.outputs[output].result.timeline
    return next(s.label for s in timeline if s.start_seconds <= seconds < s.end_seconds)


def click_at(page: Page, seconds: float, report: VideoReport) -> None:
    assert report.answer is not None
    box = page.locator("#surface").bounding_box()
    assert box is not None
    share = seconds / report.answer.duration_seconds
    page.locator("#surface").click(position={"x": share * box["width"], "y": box["height"] - 10})


def test_lanes_click_to_seek_and_the_current_label(shown: Page, report: VideoReport) -> None:
    curves = report.outputs[0].curves
    assert curves is not None
    names = shown.locator("#rows > .label:not(:empty)")
    expect(names).to_have_text([lane.label for lane in curves.lanes])
    expect(shown.locator(".lane")).to_have_count(len(curves.lanes))
    expect(shown.locator(".strip img")).to_have_count(24)
    wait_until(shown, "playable")
    segments = report.outputs[0].result.timeline
    assert len({segment.label for segment in segments}) >= 3
    for segment in segments:
        middle = (segment.start_seconds + segment.end_seconds) / 2
        click_at(shown, middle, report)
        wait_until(shown, AT_TIME.format(middle))
        expect(shown.locator("#current-label")).to_have_text(segment.label)
        expect(shown.locator("#rows > .label.on")).to_have_text(segment.label)
        expect(shown.locator("#segments tr.on td").nth(2)).to_have_text(segment.label)


def test_heights_are_confidences(shown: Page, report: VideoReport) -> None:
    """The drawn outline of every lane, read back from its path."""
    curves = report.outputs[0].curves
    assert curves is not None
    paths = shown.eval_on_selector_all(".lane path.all", "all => all.map(path => path.getAttribute('d'))")
    for lane, path in zip(curves.lanes, paths, strict=True):
        points = re.findall(r"L(\d+\.5) ([\d.]+)", path)
        assert [float(x) for x, _ in points] == [k + 0.5 for k in range(len(lane.confidences))]
        drawn = [(1 - float(y)) / 0.96 for _, y in points]
        np.testing.assert_allclose(drawn, lane.confidences, atol=0.5 / 255 + 1e-3)


def test_keys_playback_and_hover(shown: Page, report: VideoReport) -> None:
    wait_until(shown, "playable")
    keys = {"ArrowRight": 1, "Shift+ArrowRight": 11, "ArrowLeft": 10}
    for key, seconds in keys.items():
        shown.keyboard.press(key)
        wait_until(shown, AT_TIME.format(seconds))
    for _ in range(3):
        shown.keyboard.press("Shift+ArrowLeft")
    expect(shown.locator("#clock")).to_have_text("0:00.0")
    second = report.outputs[0].result.timeline[1].start_seconds
    shown.evaluate("player.playbackRate = 4")
    shown.keyboard.press("Space")
    wait_until(shown, f"player.currentTime > {second}", 60_000)
    shown.keyboard.press("Space")
    wait_until(shown, "player.paused")
    label = label_at(report, shown.evaluate("player.currentTime"))
    assert label != label_at(report, 0)
    wait_until(shown, f"document.getElementById('current-label').textContent === {json.dumps(label)}")
    shown.locator("#surface").hover(position={"x": 5, "y": 30})
    expect(shown.locator("#tip")).to_contain_text(f"· {label_at(report, 0)} ·")


def test_hostile_labels_and_names_are_text(
    browser: Browser, written: Callable[..., Path], hostile_recognizer: Recognizer, video: Path
) -> None:
    report = classified(hostile_recognizer, video)
    failed = VideoReport(f"{HOSTILE}.mp4", error=NotAVideoError(HOSTILE))
    with visit(browser, written(report, failed)) as visited:
        shown = visited.page
        expect(shown.locator("h1")).to_have_text(str(video))
        assert shown.locator("#current-label").inner_text() == label_at(report, 0)
        assert HOSTILE in label_at(report, 0)
        shown.locator("#videos button").nth(1).click()
        expect(shown.locator("#error")).to_have_text(f"not_a_video: {HOSTILE}")
        expect(shown.locator("#answer")).to_be_hidden()
        assert shown.locator('img[src="x"]').count() == 0
        assert shown.title() == "2 videos – SFA-ViViT"


def test_outputs_are_tabs_and_videos_a_list(
    browser: Browser,
    written: Callable[..., Path],
    report: VideoReport,
    recognizer: Recognizer,
    tmp_path: Path,
) -> None:
    frames = random_frames(50, seed=9).repeat(4, 1).repeat(4, 2)
    other = classified(recognizer, encode(tmp_path / "other.mp4", frames))
    with visit(browser, written(report, other)) as visited:
        shown = visited.page
        outputs = shown.locator("#outputs button")
        expect(outputs).to_have_text(["default", "long / verb", "long / noun"])
        outputs.nth(2).click()
        expect(outputs.nth(2)).to_have_attribute("aria-pressed", "true")
        expect(shown.locator("#current-label")).to_have_text(label_at(report, 0, output=2))
        shown.locator("#videos button").nth(1).click()
        expect(shown.locator("h1")).to_have_text(str(tmp_path / "other.mp4"))
        expect(shown.locator("#current-label")).to_have_text(label_at(other, 0))
        wait_until(shown, "playable && player.duration < 3")


def test_a_large_video_is_linked_by_a_quoted_relative_path(
    browser: Browser,
    written: Callable[..., Path],
    report: VideoReport,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video_page, "EMBED_BYTES", 0)
    file = written()
    assert file.stat().st_size < 200_000
    with visit(browser, file) as visited:
        wait_until(visited.page, "playable")
        click_at(visited.page, 7, report)
        wait_until(visited.page, AT_TIME.format(7))
        assert video.as_uri() in visited.requests
        assert not visited.page.evaluate("report.link").startswith("/")


def test_a_video_that_no_browser_plays_still_has_a_timeline(
    browser: Browser, written: Callable[..., Path], recognizer: Recognizer, tmp_path: Path
) -> None:
    frames = random_frames(150, seed=3).repeat(4, 1).repeat(4, 2)
    report = classified(recognizer, encode(tmp_path / "a.avi", frames, options=("-c:v", "mpeg4")))
    with visit(browser, written(report)) as visited:
        shown = visited.page
        expect(shown.locator("#unplayable")).to_contain_text("cannot play")
        expect(shown.locator("#still")).to_be_visible()
        click_at(shown, 5, report)
        expect(shown.locator("#current-label")).to_have_text(label_at(report, 5))


def test_the_page_may_not_use_the_network(browser: Browser, written: Callable[..., Path]) -> None:
    """A script that is not its own does not run, should one get in."""
    with socket.create_server(("127.0.0.1", 0)) as server, visit(browser, written()) as visited:
        denied = visited.page.evaluate(
            """async (address) => {
                const fetched = await fetch(address).catch(error => error.name);
                const script = document.createElement("script");
                script.textContent = "window.owned = true";
                document.body.append(script);
                const image = new Image();
                const failed = new Promise(resolve => { image.onerror = () => resolve("no image"); });
                image.src = address;
                return [fetched, window.owned ?? "not run", await failed];
            }""",
            f"http://127.0.0.1:{server.getsockname()[1]}/",
        )
        assert denied == ["TypeError", "not run", "no image"]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
        visited.problems.clear()
        visited.requests.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 700, 1600])
def test_nothing_is_wider_than_the_window(
    browser: Browser, written: Callable[..., Path], width: int, scheme: str
) -> None:
    with visit(browser, written(), width=width) as visited:
        shown = visited.page
        shown.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert shown.evaluate("document.scrollingElement.scrollWidth") <= width
        shown.locator("#zoom-in").click()
        assert shown.evaluate("document.scrollingElement.scrollWidth") <= width
        assert shown.evaluate("scroller.scrollWidth > scroller.clientWidth")
        ground, ink = shown.evaluate(
            "(({backgroundColor: b, color: c}) => [b, c].map(x => Number(x.match(/\\d+/)[0])))"
            "(getComputedStyle(document.body))"
        )
        assert (ground < ink) == (scheme == "dark")


def test_size_has_a_bound(report: VideoReport, written: Callable[..., Path]) -> None:
    """A day of video with as many lanes and segments as there can be."""
    rng = np.random.default_rng(0)
    lanes = tuple(Lane(f"label {k}", rng.random(MAX_BINS)) for k in range(MAX_LANES))
    output = report.outputs[0]
    segments = tuple(replace(output.result.timeline[0], start_seconds=float(k)) for k in range(100_000))
    full = replace(
        output,
        result=replace(output.result, timeline=segments),
        curves=OutputCurves(0, 42.2, lanes, rng.integers(0, MAX_LANES, MAX_BINS), 0),
    )
    small = written().stat().st_size
    assert written(replace(report, outputs=(full,))).stat().st_size - small < 250_000


def test_json_in_a_script_is_json_again() -> None:
    data = {"a": f"{HOSTILE} \u2028 <!-- \udcff", "b": [1.5, None]}
    text = page.script_json(data)
    assert "<" not in text and ">" not in text and text.isascii()
    assert json.loads(text) == data


def test_the_command_writes_all_of_it(repository: Path, video: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    names = ("r.html", "p.png", "s.csv", "s.json")
    kinds = ("report", "plot", "export", "export")
    options = [f"--{kind}={tmp_path / name}" for kind, name in zip(kinds, names, strict=True)]
    options += [f"--repository={repository}", f"--features={tmp_path / 'store'}"]
    for _ in range(2):
        done = run_process("classify", video, broken, *options)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        document = json.loads((tmp_path / "s.json").read_text())
        assert list(document["results"]) == [str(video)]
        text = (tmp_path / "r.html").read_text()
        assert base64.b64encode(video.read_bytes()).decode() in text
        assert "not_a_video" in text
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert '["decode",0.0],["spatial",0.0]' in text, "the second time from the store"


def test_wrong_targets_end_before_any_work(
    repository: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for option, message in {
        f"--report={tmp_path}/no/r.html": "No such file or directory",
        "--report=r.txt": "ends in .html",
        "--plot=p.gif": "ends in .png",
        "--export=x.srt": "subtitles are of one video, got 2",
    }.items():
        done = run("classify", video, video, option, f"--repository={repository}")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
