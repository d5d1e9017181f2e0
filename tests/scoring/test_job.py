"""The core of scoring, in this process: rows, parts, and that every video is scored exactly once."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfavivit import Recognizer
from sfavivit.datasets import VideoItem
from sfavivit.errors import EngineError, ScoringError, SfaVivitError, UsageError
from sfavivit.inference.options import ClassifyOptions, Views
from sfavivit.inference.results import LabelScore, Segment
from sfavivit.scoring.folder import JobFolder
from sfavivit.scoring.job import JobProgress, run_job
from sfavivit.scoring.job_options import Output, ScoreOptions, Shard
from sfavivit.scoring.parquet_parts import PartWriter, part_files, read_part
from sfavivit.scoring.record import record_of
from sfavivit.scoring.rows import SCHEMA, Row
from sfavivit.scoring.scorer import score_items
from sfavivit.types import Features, Frames, Logits
from sfavivit.video.source import VideoSegment
from tests.conftest import random_frames
from tests.scoring.support import BOTH, DEFAULT, rows_in
from tests.video_files import encode


def asking(options: ScoreOptions, **changes: Any) -> ScoreOptions:
    """Return ``options`` with other options of classification."""
    return replace(options, classify=replace(options.classify, **changes))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three videos of 0.64 s to 1.92 s, the longest more than a window of both heads."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        encode(folder / f"{k}.mp4", random_frames(16 * (k + 1), seed=k).repeat(4, 1).repeat(4, 2))
        for k in range(3)
    ]


@pytest.fixture(scope="module")
def items(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[VideoItem]:
    broken = tmp_path_factory.mktemp("broken") / "text.mp4"
    broken.write_text("this is no video")
    good = [VideoItem(f"v{k}", str(video), {"": k, "verb": "class 1"}) for k, video in enumerate(videos)]
    part = VideoItem("part", str(videos[2]), {}, 0.32, 0.96)
    late = VideoItem("late", str(videos[0]), {}, 100.0)
    return [*good, VideoItem("text", str(broken), {}), part, VideoItem("gone", "/nowhere.mp4", {}), late]


@dataclass(frozen=True)
class Job:
    """A job on ``folder``, by default with both heads; ``output``: other fields of ``Output``."""

    recognizer: Recognizer
    folder: Path

    def opened(self, options: ScoreOptions = BOTH, **output: Any) -> AbstractContextManager[JobFolder]:
        record = record_of(self.recognizer.model.catalog, options)
        return JobFolder.opened(record, Output(self.folder, **output))

    def score(self, items: Sequence[VideoItem], options: ScoreOptions = BOTH, **output: Any) -> JobProgress:
        with self.opened(options, **output) as folder:
            return run_job(folder, items, partial(score_items, self.recognizer, options=options))

    def rows(self) -> list[Row]:
        return rows_in(self.folder)


@pytest.fixture
def job(recognizer: Recognizer, tmp_path: Path) -> Job:
    return Job(recognizer, tmp_path)


def logits_in(folder: Path) -> dict[tuple[str, str, str], list[float]]:
    return {(row["id"], row["head"], row["output"]): row["logits"] for row in rows_in(folder)}


def videos_in(folder: Path) -> Counter[str]:
    """Return the number of parts that each video is in."""
    return Counter(
        video for part in part_files(folder) for video in set(read_part(part, ["id"])["id"].to_pylist())
    )


def test_rows_are_the_answers_of_classify(job: Job, items: list[VideoItem]) -> None:
    state = job.score(items)
    assert (state.videos, state.before, state.done, state.failed) == (7, 0, 7, 3)
    rows = {(row["id"], row["head"], row["output"]): row for row in job.rows()}
    outputs = [("default", ""), ("long", "verb"), ("long", "noun")]
    assert rows.keys() == {(item.id, *output) for item in items for output in outputs}
    for item in (items[0], items[2], items[4]):
        answer = job.recognizer.classify(
            VideoSegment(item.video, start_seconds=item.start_seconds, end_seconds=item.end_seconds)
        )
        for head, output in outputs:
            row, result = rows[item.id, head, output], answer.heads[head][output]
            assert np.array_equal(np.float32(row["logits"]), result.logits)
            assert tuple(map(LabelScore, row["labels"], row["confidences"])) == result.labels
            assert tuple(Segment(**segment) for segment in row["timeline"]) == result.timeline
            measured = (answer.frames_used, answer.duration_seconds)
            assert (row["frames_used"], row["duration_seconds"]) == measured
            assert row["total_seconds"] > 0 and row["spatial_seconds"] > 0 and row["error_kind"] is None
            assert row["device"] == answer.timings.device == "cpu"
            assert row["spatial_sha256"] == job.recognizer.manifest.spatial_sha256
    assert [rows["v1", *output]["truth"] for output in outputs] == ["1", "class 1", None]
    kinds = {"text": "not_a_video", "gone": "not_found", "late": "invalid_input"}
    for video, kind in kinds.items():
        row = rows[video, "long", "noun"]
        assert (row["error_kind"], row["total_seconds"]) == (kind, None)
        assert row["logits"] == row["timeline"] == []
        assert row["error_message"] and "\n" not in row["error_message"]
    digests = {row["head_sha256"] for row in rows.values()}
    assert len(digests) == 2 and None not in digests


def test_views_have_no_timeline(job: Job, items: list[VideoItem]) -> None:
    options = asking(DEFAULT, views=Views(2, 3))
    job.score(items[2:3], options)
    (row,) = job.rows()
    answer = job.recognizer.classify(items[2].video, ClassifyOptions(heads=("default",), views=Views(2, 3)))
    assert np.array_equal(np.float32(row["logits"]), answer.heads["default"][""].logits)
    assert row["timeline"] == []


def test_only_new_videos_are_scored(job: Job, items: list[VideoItem]) -> None:
    asked: list[str] = []

    def executor(pending: Sequence[VideoItem]) -> Generator[list[Row], None, None]:
        asked.extend(item.id for item in pending)
        yield from score_items(job.recognizer, pending, BOTH)

    for count in (2, 4, 7, 7):
        with job.opened() as folder:
            state = run_job(folder, items[:count], executor)
        assert state.done == count == len(asked)
    assert asked == [item.id for item in items]
    assert (state.before, state.failed) == (7, 3)
    assert len(part_files(job.folder)) == 3
    assert set(videos_in(job.folder).values()) == {1}


def test_rows_of_another_job_are_refused_by_name(job: Job, items: list[VideoItem]) -> None:
    job.score(items[:1], asking(BOTH, top_k=3))
    for options, difference in [
        (BOTH, r"top_k \(3 before, 5 now\)"),
        (asking(BOTH, top_k=3, views=Views(4, 3)), r"views \(none before, 4x3 now\)"),
        (asking(DEFAULT, top_k=3), r"heads.long "),
        (asking(BOTH, top_k=3, stride_seconds=0.32), r"stride_seconds \(none before, 0.32 now\)"),
    ]:
        with pytest.raises(UsageError, match=difference):
            job.score(items[:1], options)
    assert len(job.rows()[0]["labels"]) == 3
    job.score(items[:1], BOTH, restart=True)
    assert len(job.rows()[0]["labels"]) == 5


def test_a_record_without_rows_does_not_bind(job: Job, items: list[VideoItem]) -> None:
    job.score([], DEFAULT)
    job.score(items[:1], BOTH)
    assert json.loads((job.folder / "job.json").read_text())["heads"].keys() == {"default", "long"}


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '"job"'])
def test_a_damaged_record_is_an_error(job: Job, items: list[VideoItem], text: str) -> None:
    job.score(items[:1])
    (job.folder / "job.json").write_text(text)
    with pytest.raises(ScoringError, match=r"job.json is not the record of a job; restore it"):
        job.score(items[:1])
    (job.folder / "job.json").unlink()
    with pytest.raises(UsageError, match=r"has parts but no job.json"):
        job.score(items[:1])
    job.score(items[:1], restart=True)


def test_errors_are_tried_again_when_asked(job: Job, videos: list[Path], tmp_path: Path) -> None:
    late = tmp_path / "late.mp4"
    items = [VideoItem("a", str(videos[0]), {}), VideoItem("b", str(late), {}), VideoItem("c", "/no", {})]
    assert job.score(items, part_videos=2).failed == 2
    shutil.copy(videos[1], late)
    assert job.score(items).failed == 2
    state = job.score(items, retry_errors=True)
    assert (state.before, state.done, state.failed) == (1, 3, 1)
    assert videos_in(job.folder) == Counter("abc")


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextmanager
def dying_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[list[int]]:
    """Nothing reaches the disk any more from the ``step``-th change on. Yields how many there were."""
    taken = [0]

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if taken[0] >= step:
                raise Killed
            taken[0] += 1
            return change(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        try:
            yield taken
        except Killed:
            taken[0] = -1


@pytest.mark.parametrize("what", ["score", "restart", "retry_errors"])
def test_killed_at_every_step(
    recognizer: Recognizer, items: list[VideoItem], tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a job was about to do when it was killed: nothing is lost or twice, old and new never mix."""
    Job(recognizer, tmp_path / "reference").score(items)
    expected = logits_in(tmp_path / "reference")
    rows = list(score_items(recognizer, items, BOTH))

    def run(mark: str, **output: Any) -> None:
        def again(pending: Sequence[VideoItem]) -> Generator[list[Row], None, None]:
            wanted = {item.id for item in pending}
            for video in rows:
                if video[0]["id"] in wanted:
                    yield [row | {"warning": mark} for row in video]

        with Job(recognizer, out).opened(**output) as folder:
            run_job(folder, items, again)

    for step in range(1000):
        out = tmp_path / str(step)
        if what != "score":
            run("old", part_videos=3)
        with dying_at(monkeypatch, step) as taken:
            run("new", part_videos=2, **({} if what == "score" else {what: True}))
        assert set(videos_in(out).values()) <= {1}
        run("new")
        assert videos_in(out) == Counter(item.id for item in items)
        assert logits_in(out) == expected
        if what == "restart":
            assert len({row["warning"] for row in rows_in(out)}) == 1
        assert not list(out.glob(".*"))
        if taken[0] >= 0:
            break
    assert step > 10


def test_shards_share_the_list(job: Job, items: list[VideoItem]) -> None:
    for index in (1, 2, 3):
        job.score(items, shard=Shard(index, 3))
    assert videos_in(job.folder) == Counter(item.id for item in items)
    assert job.score(items).before == len(items)


@given(st.text(), st.integers(1, 50))
def test_every_video_is_in_one_shard(video: str, count: int) -> None:
    assert sum(Shard(index, count).holds(video) for index in range(1, count + 1)) == 1


def test_shards_are_even() -> None:
    sizes = Counter(k for n in range(4000) for k in (1, 2, 3, 4) if Shard(k, 4).holds(f"video {n}"))
    assert all(900 < size < 1100 for size in sizes.values())


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "a/b", "1/4/2", "-1/4", "1/9999999", "١/٤x"])
def test_wrong_shards(text: str) -> None:
    with pytest.raises(UsageError, match="must be I/N"):
        Shard.parse(text)
    assert str(Shard.parse("2/4")) == "2of4"


def test_who_may_write(job: Job) -> None:
    with job.opened(shard=Shard(1, 4)):
        with job.opened(shard=Shard(2, 4)):
            pass
        cases: list[tuple[type[SfaVivitError], str, dict[str, Any]]] = [
            (ScoringError, "another job is running on shard 1of4", {"shard": Shard(1, 4)}),
            (ScoringError, "end it before rows", {"shard": Shard(2, 4), "restart": True}),
            (ScoringError, "end it before rows", {"shard": Shard(2, 4), "retry_errors": True}),
            (UsageError, "split the list into 4 shards, not 3", {"shard": Shard(2, 3)}),
            (UsageError, "split the list into 4 shards, not 1", {}),
            (UsageError, "another job: heads.long", {"shard": Shard(2, 4), "options": DEFAULT}),
        ]
        for error, message, output in cases:
            with pytest.raises(error, match=message), job.opened(**output):
                pass
    with job.opened(shard=Shard(2, 3)):
        pass


def test_names_that_are_not_utf8(job: Job, videos: list[Path]) -> None:
    name = os.fsdecode(b"\xff\xfe.mp4")
    item = VideoItem(name, str(job.folder / name), {})
    shutil.copy(videos[0], item.video)
    for before in (0, 1):
        state = job.score([item])
        assert (state.before, state.done, state.failed) == (before, 1, 0)
    assert {row["id"] for row in job.rows()} == {"\\udcff\\udcfe.mp4"}


def test_an_engine_that_fails_ends_the_job_and_keeps_what_is_done(
    repository: Path, items: list[VideoItem], tmp_path: Path
) -> None:
    recognizer = Recognizer.load(repository, chunk_tubelets=3)
    job = Job(recognizer, tmp_path)
    inner = recognizer.model.engine

    class Failing:
        calls = 0
        device = inner.device

        def spatial(self, frames: Frames) -> Features:
            self.calls += 1
            if self.calls > 4:
                raise EngineError("the server is away")
            return inner.spatial(frames)

        def temporal(self, head: str, features: Features) -> Logits:
            return inner.temporal(head, features)

    recognizer.model.engine = Failing()
    with pytest.raises(EngineError, match="the server is away"):
        job.score(items)
    kept = videos_in(tmp_path)
    assert 0 < len(kept) < len(items)
    recognizer.model.engine = inner
    assert job.score(items).before == len(kept)
    assert videos_in(tmp_path) == Counter(item.id for item in items)


def some_rows(count: int) -> list[list[Row]]:
    return [
        [{"id": f"v{k}", "video": "v", "head": "h", "output": "", "logits": np.array([k, -k], np.float32)}]
        for k in range(count)
    ]


def test_parts_are_written_after_so_many_videos_or_seconds(tmp_path: Path) -> None:
    now = [0.0]
    (tmp_path / "rows").mkdir()
    with PartWriter(tmp_path, "1of1", 7, videos=3, seconds=10, clock=lambda: now[0]) as writer:
        for rows in some_rows(4):
            writer.add(rows)
        assert videos_in(tmp_path) == Counter(["v0", "v1", "v2"])
        now[0] = 9.9
        writer.add([])
        assert len(part_files(tmp_path)) == 1
        now[0] = 10
        writer.add([])
        assert len(part_files(tmp_path)) == 2
        writer.add(some_rows(5)[4])
    assert videos_in(tmp_path) == Counter(f"v{k}" for k in range(5))
    assert [part.name for part in part_files(tmp_path)] == [f"part-1of1-00000{k}.parquet" for k in (7, 8, 9)]
    assert read_part(part_files(tmp_path)[0]).schema.equals(SCHEMA)


def test_a_part_that_cannot_be_written_is_not_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "rows").mkdir()
    with PartWriter(tmp_path, "1of1", 1, videos=2, seconds=10) as writer:
        writer.add(some_rows(1)[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ScoringError, match="cannot be written: No space left on device; what was"):
                writer.add(some_rows(2)[1])
    assert list((tmp_path / "rows").iterdir()) == []


def test_the_same_video_in_two_parts_is_found(job: Job, items: list[VideoItem]) -> None:
    job.score(items[:1])
    shutil.copy(part_files(job.folder)[0], job.folder / "rows" / "part-1of2-000001.parquet")
    with pytest.raises(ScoringError, match="'v0' is in an earlier part too"):
        job.score(items[:1])


@settings(max_examples=150)
@given(st.data())
def test_damage_is_found_or_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("part")
    (folder / "rows").mkdir()
    with PartWriter(folder, "1of1", 1, videos=100, seconds=10) as writer:
        for rows in some_rows(20):
            writer.add(rows)
    (part,) = part_files(folder)
    content, expected = bytearray(part.read_bytes()), read_part(part)
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    part.write_bytes(content)
    try:
        found = read_part(part)
    except ScoringError as error:
        assert "\n" not in str(error) and str(part) in str(error)
    else:
        assert found.equals(expected)
