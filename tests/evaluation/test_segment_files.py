"""Files of segments: every format, and files that are wrong in a place that the error names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfavivit.errors import AnnotationError, SfaVivitError, UsageError
from sfavivit.evaluation.localisation import LabelledSegment, VideoSegments, evaluate_localisation
from sfavivit.evaluation.segment_files import (
    OutputChoice,
    match_videos,
    read_predictions,
    read_truth,
    truth_json,
)
from sfavivit.reports.export import activitynet_json
from tests.reports.support import FAILED, report_of

ANY = OutputChoice()
RUN = LabelledSegment(1.0, 2.5, "run", 0.5)


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def line_of(video: str, timeline: object, heads: tuple[str, ...] = ("default",)) -> dict[str, Any]:
    return {
        "video": video,
        "duration_seconds": 9.0,
        "heads": {head: {"": {"labels": [], "timeline": timeline}} for head in heads},
    }


SEGMENT = {"start_seconds": 1.0, "end_seconds": 2.5, "label": "run", "confidence": 0.5}


def test_the_lines_of_classify(tmp_path: Path) -> None:
    failed = {"video": "b.mp4", "error": {"kind": "decode", "message": "broken"}}
    lines = [line_of("a.mp4", [SEGMENT]), failed]
    path = written(tmp_path, "answers.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    expected = {"a.mp4": VideoSegments((RUN,), 9.0), "b.mp4": VideoSegments(())}
    assert read_predictions(path, ANY) == expected
    one = written(tmp_path, "one.json", lines[0])
    assert read_predictions(one, ANY) == {"a.mp4": expected["a.mp4"]}


def test_the_export_of_classify(tmp_path: Path) -> None:
    """A file that ``classify --export`` wrote, of one output and of several."""
    path = written(tmp_path, "one.json", activitynet_json([report_of(["x", "y"]), FAILED]))
    segments = (LabelledSegment(0, 1.5, "x", 0.75), LabelledSegment(1.5, 3, "y", 0.75))
    assert read_predictions(path, ANY) == {"v.mp4": VideoSegments(segments)}
    several = written(tmp_path, "two.json", activitynet_json([report_of(["x"], outputs=("verb", "noun"))]))
    chosen = read_predictions(several, OutputChoice(output="noun"))
    assert chosen == {"v.mp4": VideoSegments((LabelledSegment(0, 1.5, "x", 0.75),))}
    with pytest.raises(UsageError, match="--output.*'verb'.*'noun'"):
        read_predictions(several, ANY)


def test_one_of_several_heads(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", line_of("a.mp4", [], heads=("one", "two")))
    assert read_predictions(path, OutputChoice("two")) == {"a.mp4": VideoSegments((), 9.0)}
    for choice in (ANY, OutputChoice("three")):
        with pytest.raises(UsageError, match="line 1: .*'one'.*'two'"):
            read_predictions(path, choice)


DATABASE = {
    "a": {"subset": "validation", "duration": 9, "annotations": [{"label": "run", "segment": [1, 2.5]}]},
    "b": {"subset": "training", "annotations": [{"label": "run", "label_id": 3, "segment": [0, 1]}]},
}


def test_a_database(tmp_path: Path) -> None:
    path = written(tmp_path, "truth.json", {"version": "VERSION 1.3", "database": DATABASE})
    validation = {"a": VideoSegments((RUN._replace(score=1.0),), 9.0)}
    assert read_truth(path, subset="validation") == validation
    assert list(read_truth(path)) == ["a", "b"]
    again = written(tmp_path, "again.json", truth_json(validation, "validation"))
    assert read_truth(again, subset="validation") == validation
    with pytest.raises(AnnotationError, match=r"'test'.*'training', 'validation'"):
        read_truth(path, subset="test")


def test_the_text_files_of_thumos(tmp_path: Path) -> None:
    written(tmp_path, "HighJump_test.txt", "video_test_1  1.0 2.5\n\nvideo_test_2 0 1\n")
    written(tmp_path, "LongJump_test.txt", "video_test_1 3 4\n")
    written(tmp_path, "LongJump_val.txt", "video_validation_1 3 4\n")
    written(tmp_path, "Ambiguous_test.txt", "video_test_1 5 6\n")
    high, long = LabelledSegment(1.0, 2.5, "HighJump"), LabelledSegment(3, 4, "LongJump")
    found = read_truth(tmp_path, subset="test")
    assert found["video_test_1"] == VideoSegments((high, long))
    assert sorted(found) == ["video_test_1", "video_test_2"]
    assert len(read_truth(tmp_path)) == 3
    with pytest.raises(AnnotationError, match=r"CLASS_train\.txt.*'test', 'val'"):
        read_truth(tmp_path, subset="train")


def test_a_list_with_a_row_for_each_segment(tmp_path: Path) -> None:
    """A row of a video alone is a video in which nothing happens."""
    rows = (
        "video,label,start_seconds,end_seconds,split\na.mp4,run,1,2.5,val\na.mp4,sit,2,4,val\nb.mp4,,,,val\n"
    )
    path = written(tmp_path, "list.csv", rows + "c.mp4,run,0,1,train\n")
    a, b = str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")
    expected = (LabelledSegment(1, 2.5, "run"), LabelledSegment(2, 4, "sit"))
    assert read_truth(path, subset="val") == {a: VideoSegments(expected), b: VideoSegments(())}
    verbs = "video,verb,noun,start_seconds,end_seconds\na.mp4,cut,bread,1,2\n"
    path = written(tmp_path, "verbs.csv", verbs)
    assert read_truth(path, output="noun")[a].segments[0].label == "bread"
    with pytest.raises(AnnotationError, match=r"'a\.mp4@1-2'.*--output"):
        read_truth(path)


def detection(**changed: object) -> dict[str, object]:
    return {"results": {"v": [{"label": "run", "score": 0.5, "segment": [0, 1]} | changed]}}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ('{"results": {"v": [], "v": []}}', "'v' twice"),
        ([], "must be an object"),
        ({"results": []}, "'results' must be an object"),
        ({"results": {"v": {}}}, "video 'v' must be an array"),
        ({"results": {"v": [3]}}, "entry 1 of video 'v' must be an object"),
        (detection(segment=[1]), r"entry 1 of video 'v': 'segment' must be \[start, end\]"),
        (detection(segment=[0, "1"]), "entry 1 of video 'v': the end must be a finite number, got '1'"),
        (detection(segment=[True, 1]), "the start must be a finite number, got True"),
        (detection(segment=[0, float("nan")]), "the end must be a finite number, got nan"),
        (detection(segment=[0, 10**400]), "the end must be a finite number"),
        (detection(segment=[2, 1]), r"\[2, 1\] ends before it starts"),
        (detection(score=None), "the score must be a finite number, got None"),
        (detection(label=3), "the label must be text, got 3"),
        (detection(head=["x"]) | {"video": 3}, "'video' must be text"),
        ({"video": "v", "heads": {"h": 3}}, "head 'h' must be an object"),
        (line_of("v", {}), "'timeline' must be an array"),
        (line_of("v", [SEGMENT, {}]), "segment 2: the start must be a finite number"),
    ],
)
def test_wrong_predictions(tmp_path: Path, document: object, message: str) -> None:
    path = written(tmp_path, "predictions.json", document)
    with pytest.raises(AnnotationError, match=message) as error:
        read_predictions(path, ANY)
    assert repr(str(path)) in str(error.value)
    assert "\n" not in str(error.value)


def entry(**changed: object) -> dict[str, object]:
    return {"database": {"v": {"subset": "test", "duration": 5, "annotations": []} | changed}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", {"database": {}}, "no videos"),
        ("t.json", {"database": {"v": 3}}, "video 'v' must be an object"),
        ("t.json", entry(annotations=None), "video 'v': 'annotations' must be an array"),
        ("t.json", entry(annotations=[{"label": "run"}]), "video 'v': annotation 1: 'segment'"),
        ("t.json", entry(duration=-1), "video 'v': the duration must be a number of seconds, got -1"),
        ("t.csv", "video,label,start_seconds\nv.mp4,run,1\n", "the end must be a finite number, got None"),
        ("t.csv", "video,start_seconds,end_seconds\nv.mp4,1,2\n", "give each segment one"),
        ("Run_test.txt", "v 1\n", r"Run_test\.txt' line 1 must be 'video start end'"),
        ("Run_test.txt", "v 1 \0", "line 1 has a null"),
        ("Run_test.txt", "v 1 2\nv 1 x\n", r"line 2: the end must be a finite number, got 'x'"),
    ],
)
def test_a_wrong_truth(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(AnnotationError, match=message) as error:
        read_truth(tmp_path if name.endswith(".txt") else path)
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every container in a document, with each of its keys."""
    if not isinstance(document, dict | list):
        return []
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    return [(document, key) for key in keys] + [place for key in keys for place in places(document[key])]


@given(st.sampled_from([detection(), line_of("v", [SEGMENT]), {"database": DATABASE}]), st.integers(0), JSON)
def test_whatever_stands_in_a_file_is_read_or_refused(document: object, number: int, value: object) -> None:
    """Any one value is replaced by another; the answer is segments that are possible, or an error of ours."""
    changed = copy.deepcopy(document)
    found = places(changed)
    container, key = found[number % len(found)]
    container[key] = value
    with TemporaryDirectory() as folder:
        path = written(Path(folder), "file.json", changed)
        for read in (read_truth, lambda path: read_predictions(path, ANY)):
            try:
                videos = read(path)
                evaluate_localisation(videos, videos)
            except SfaVivitError as error:
                assert "\n" not in str(error)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_truth, lambda path: read_predictions(path, ANY)):
        with pytest.raises(AnnotationError, match=r"none\.json' cannot be read"):
            read(tmp_path / "none.json")


def test_a_video_twice(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", 2 * (json.dumps(line_of("a.mp4", [])) + "\n"))
    with pytest.raises(AnnotationError, match=r"line 2 is the second of video 'a\.mp4'"):
        read_predictions(path, ANY)


def test_videos_go_together_by_name_or_by_file() -> None:
    nothing, some = VideoSegments(()), VideoSegments((RUN,))
    predictions = {"x/a.mp4": some, "v_b.mkv": nothing, "c": nothing, "other.mp4": nothing}
    truth = dict.fromkeys(["/data/a.webm", "b", "c", "d"], nothing)
    found = match_videos(predictions, truth)
    assert found.predictions == {"/data/a.webm": some, "b": nothing, "c": nothing}
    assert (found.only_predicted, found.only_true) == (("other.mp4",), ("d",))
    with pytest.raises(AnnotationError, match="'x/a.mp4' and 'y/a.mp4'"):
        match_videos({"x/a.mp4": some, "y/a.mp4": some}, {"a": nothing})
    with pytest.raises(AnnotationError, match="none of the 1 videos.* 1 of the truth: 'a' there, 'b' here"):
        match_videos({"a": some}, {"b": some})
