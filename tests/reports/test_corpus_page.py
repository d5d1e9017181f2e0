"""The page of a scored corpus: what it counts, and that it is searched, sorted and paged in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from sfavivit.errors import UsageError
from sfavivit.reports import corpus_page
from sfavivit.reports.corpus_page import STRIP_SLOTS, write_scores_report
from sfavivit.scoring.parquet_parts import write_part
from sfavivit.scoring.rows import SCHEMA, Row
from tests.cli.support import run_process
from tests.reports.browser import visit

LABELS = {"verb": ["Cut", "wash <b>up", "=take"], "noun": ["cup", "pan"]}
PAGE_ROWS = 25
WRONG_EVERY, BROKEN_EVERY, DAMAGED_EVERY, VIDEOS = 5, 7, 9, 60


def timeline(*stretches: tuple[float, str]) -> list[dict[str, object]]:
    """Stretches one after the other, by their length."""
    segments, at = [], 0.0
    for seconds, label in stretches:
        end = at + seconds
        segments.append({"start_seconds": at, "end_seconds": end, "label": label, "confidence": 0.5})
        at = end
    return segments


def rows_of(number: int) -> list[Row]:
    """Every 7th video is broken, every 9th damaged, every 5th has another verb than is expected."""
    rows: list[Row] = []
    for output, labels in LABELS.items():
        row: Row = {"id": f"day/v{number:03d}.mp4", "video": "x", "head": "h", "output": output}
        if number % BROKEN_EVERY == 0:
            nothing: Row = {"labels": [], "confidences": [], "logits": [], "timeline": []}
            rows.append(row | nothing | {"error_kind": "decode", "error_message": "</script><i>broken"})
            continue
        best, other = labels[number % 2], labels[1 - number % 2]
        row |= {"labels": [best, other], "confidences": [0.3 + number / 100, 0.1], "logits": [1.0]}
        row |= {"timeline": timeline((3, best), (1, other)), "duration_seconds": float(number)}
        if output == "verb":
            row["truth"] = other if number % WRONG_EVERY == 0 else best.upper().replace(" ", "_")
        row["warning"] = "broken near second 1" if number % DAMAGED_EVERY == 0 else None
        rows.append(row)
    return rows


def write_job(folder: Path, videos: Sequence[int], metrics: dict[str, Any] | None = None) -> Path:
    heads = {"h": {"version": 2, "sha256": "ab" * 32, "labels": LABELS}}
    sampling = {"fps": 12.5, "shortest_side": 64, "crop_size": 64}
    record = {"model": "m", "spatial_sha256": None, "sampling": sampling, "views": None, "heads": heads}
    (folder / "job.json").write_text(json.dumps(record))
    for part, first in enumerate(range(0, len(videos), 16), 1):
        rows = [row for number in videos[first : first + 16] for row in rows_of(number)]
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        write_part(folder / "rows" / f"part-1of1-{part:06d}.parquet", pa.Table.from_pylist(rows, SCHEMA))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps({"h": metrics}))
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metrics = {
        "videos": 1051,
        "outputs": {
            "verb": {
                "top1": 1.0,
                "top5": None,
                "per_class": {"Cut": {"top1": 0.2}},
                "unknown_labels": {"x": 1},
            }
        },
        "action": {"top1": 0.755},
    }
    folder = write_job(tmp_path_factory.mktemp("job"), range(VIDEOS), metrics)
    Image.new("RGB", (8, 8)).save(folder / "confusion_h_verb.png")
    write_scores_report(folder / "report.html", folder)
    return folder


@pytest.fixture
def shown(browser: Browser, job: Path) -> Iterator[Page]:
    with visit(browser, job / "report.html") as visited:
        yield visited.page


def numbers(fits: str) -> list[int]:
    """Numbers of the videos for which an expression of ``n`` holds."""
    return [n for n in range(VIDEOS) if eval(fits, {}, {"n": n})]


def test_counts_metrics_and_the_confusion_matrix(shown: Page) -> None:
    broken, damaged = len(numbers("n % 7 == 0")), len(numbers("n % 7 and n % 9 == 0"))
    hours = sum(numbers("n % 7")) / 3600
    expect(shown.locator("#tiles strong")).to_have_text(
        [str(VIDEOS), str(VIDEOS - broken), str(broken), str(damaged), f"{hours:.2f}"]
    )
    expect(shown.locator("#errors li")).to_have_text([f"decode{broken}"])
    odd = len(numbers("n % 7 and n % 2"))
    counts = {"wash <b>up": odd, "Cut": VIDEOS - broken - odd}
    most = sorted(counts, key=lambda label: -counts[label])
    expect(shown.locator("#common li")).to_have_text([f"{label}{counts[label]}" for label in most])
    expect(shown.locator("#metrics div")).to_have_text(
        ["h videos1,051", "h verb top1100.0%", "h action top175.5%"]
    )
    shown.locator("#picture-details summary").click()
    assert shown.evaluate("document.getElementById('picture').naturalWidth") == 8
    shown.locator("#output").select_option(label="h / noun")
    expect(shown.locator("#picture-details")).to_be_hidden()


def test_filter_search_sort_and_pages(shown: Page) -> None:
    names = shown.locator("#table tbody td:first-child")

    def expect_rows(found: list[int]) -> None:
        expect(shown.locator("#found")).to_have_text(f"{len(found)} of {VIDEOS}")
        expect(names).to_contain_text([f"v{number:03d}.mp4" for number in found[:PAGE_ROWS]])
        expect(names).to_have_count(min(PAGE_ROWS, len(found)))

    expect_rows(numbers("True"))
    shown.locator("#next").click()
    shown.locator("#next").click()
    expect(shown.locator("#page")).to_have_text("51 to 60 of 60")
    expect(shown.locator("#next")).to_be_disabled()
    for value, fits in {
        "wrong": "n % 7 and n % 5 == 0",
        "failed": "n % 7 == 0",
        "damaged": "n % 7 and n % 9 == 0",
    }.items():
        shown.locator("#filter").select_option(value)
        expect_rows(numbers(fits))
    expect(names.first).to_contain_text("broken near second 1")
    shown.locator("#filter").select_option("all")
    shown.locator("#search").fill("</SCRIPT> day/v01")
    expect_rows([14])
    shown.locator("#search").fill("wash")
    expect_rows(numbers("n % 7 and (n % 2 or n % 5 == 0)"))
    shown.locator("#search").fill("")
    shown.get_by_role("button", name="Confidence").click()
    expect_rows(numbers("n % 7")[::-1] + numbers("n % 7 == 0"))
    expect(shown.locator('th[data-key="percent"]')).to_have_attribute("aria-sort", "descending")
    assert shown.locator("tbody i, tbody b").count() == 0, "labels and errors are text"


def test_strips_show_the_timeline(shown: Page) -> None:
    strip = shown.locator("#table tbody tr").nth(1).locator("svg")
    expect(strip).to_have_attribute("aria-label", "wash <b>up, then Cut")
    widths = strip.locator("rect").evaluate_all("all => all.map(rect => rect.width.baseVal.value)")
    colours = strip.locator("rect").evaluate_all("all => all.map(rect => getComputedStyle(rect).fill)")
    bars = shown.locator("#common li").evaluate_all(
        "all => all.map(li => getComputedStyle(li.querySelector('i')).backgroundColor)"
    )
    names = shown.locator("#common li span:first-child").all_inner_texts()
    legend = dict(zip(names, bars, strict=True))
    assert colours == [legend["wash <b>up"], legend["Cut"]] and colours[0] != colours[1]
    assert widths == [STRIP_SLOTS * 3 / 4, STRIP_SLOTS / 4]


def test_nothing_is_wider_than_a_phone(browser: Browser, job: Path) -> None:
    with visit(browser, job / "report.html", width=340) as visited:
        assert visited.page.evaluate("document.scrollingElement.scrollWidth") <= 340


def test_a_table_with_a_bound_says_so(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_page, "MAX_VIDEOS", 20)
    write_scores_report(tmp_path / "r.html", write_job(tmp_path, range(VIDEOS)))
    with visit(browser, tmp_path / "r.html") as visited:
        expect(visited.page.locator("#found")).to_contain_text(f"20 of 20 (the first of {VIDEOS} videos")
        expect(visited.page.locator("#tiles strong").first).to_have_text(str(VIDEOS))
        expect(visited.page.locator("#metrics-card")).to_be_hidden()


def test_a_folder_without_a_job(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no job\.json"):
        write_scores_report(tmp_path / "r.html", tmp_path)


def test_a_job_without_rows(browser: Browser, tmp_path: Path) -> None:
    write_scores_report(tmp_path / "r.html", write_job(tmp_path, []))
    with visit(browser, tmp_path / "r.html") as visited:
        expect(visited.page.locator("#page")).to_have_text("none")


def test_score_writes_the_page(
    browser: Browser, repository: Path, parity_video: Path, tmp_path: Path
) -> None:
    """The command, with a video whose label is known, one that is broken, and the page beside the rows."""
    (tmp_path / "broken.mp4").write_text("no video")
    (tmp_path / "list.csv").write_text(f"video,label\n{parity_video},class 99\nbroken.mp4,class 1\n")
    out = tmp_path / "out"
    arguments = (tmp_path / "list.csv", "--out", out, "--repository", repository, "--heads", "default")
    wrong = run_process("score", *arguments, "--report", tmp_path / "no/r.html")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1) and not out.exists()
    done = run_process("score", *arguments, "--report", out / "r.html")
    assert done.returncode == 1, done.stderr
    with visit(browser, out / "r.html") as visited:
        expect(visited.page.locator("#tiles strong").first).to_have_text("2")
        expect(visited.page.locator("#table tbody tr")).to_have_count(2)
        expect(visited.page.locator("#table tbody td.wrong")).to_have_count(1)
        expect(visited.page.locator("#table tbody td.failed")).to_have_text("not_a_video")
