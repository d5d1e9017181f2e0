"""Accuracies against the plainest possible definitions, and the files of a confusion matrix."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfavivit.errors import InvalidInputError, UsageError
from sfavivit.evaluation.accuracy import MAX_UNKNOWN_NAMES, Evaluation
from sfavivit.evaluation.confusion import MAX_NAMED_CLASSES, confusion_picture
from sfavivit.inference.results import softmax, top_labels

Logits = NDArray[np.float32]
LETTERS = "abcdefghijk"

# Few different values, so that ties are common; their sums are exact.
SCORES = st.integers(-4, 4).map(lambda quarter: quarter / 4)


def one_video(labels: Sequence[str] = "ab", truth: int = 0) -> Evaluation:
    """An evaluation of one output that counted one video, which was recognised."""
    evaluation = Evaluation({"": labels})
    evaluation.add({"": truth}, {"": one_hot(len(labels), truth)})
    return evaluation


class Video(NamedTuple):
    truth: int | None
    logits: Logits


def one_hot(classes: int, *best: int) -> Logits:
    """Logits whose order is ``best``, then the others."""
    logits = np.zeros(classes, np.float32)
    logits[list(best)] = np.arange(len(best), 0, -1)
    return logits


def logits_of(classes: int) -> st.SearchStrategy[Logits]:
    return st.lists(SCORES, min_size=classes, max_size=classes).map(lambda s: np.array(s, np.float32))


@st.composite
def corpora(draw: st.DrawFn) -> tuple[int, list[Video]]:
    classes = draw(st.integers(1, 9))
    video = st.builds(Video, st.none() | st.integers(0, classes - 1), logits_of(classes))
    return classes, draw(st.lists(video, max_size=12))


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@given(corpora())
def test_accuracies_are_their_definitions(corpus: tuple[int, list[Video]]) -> None:
    classes, videos = corpus
    labels = LETTERS[:classes]
    evaluation = Evaluation({"": labels})
    for truth, logits in videos:
        evaluation.add({} if truth is None else {"": labels[truth]}, {"": logits})
    summary = evaluation.summary()
    found = summary["outputs"][""]

    labelled = [
        (video.truth, [score.label for score in top_labels(softmax(video.logits), labels, 5)])
        for video in videos
        if video.truth is not None
    ]
    right = [(truth, labels[truth] == top[0]) for truth, top in labelled]
    per_class = {label: [hit for truth, hit in right if labels[truth] == label] for label in labels}
    assert summary["videos"] == len(videos)
    assert found["evaluated"] == len(labelled)
    assert found["unlabelled"] == len(videos) - len(labelled)
    assert found["top1"] == mean([hit for _, hit in right])
    assert found["top5"] == mean([labels[truth] in top for truth, top in labelled])
    assert found["per_class"] == {k: {"count": len(v), "top1": mean(v)} for k, v in per_class.items()}
    means = [share for hits in per_class.values() if (share := mean(hits)) is not None]
    assert found["mean_per_class"] == (pytest.approx(mean(means)) if means else None)
    assert "action" not in summary


@given(st.data(), st.integers(1, 7), st.integers(1, 7))
def test_actions_against_all_pairs(data: st.DataObject, verbs: int, nouns: int) -> None:
    labels = {"verb": LETTERS[:verbs], "noun": LETTERS[:nouns]}
    evaluation = Evaluation(labels)
    hits: list[tuple[bool, bool]] = []
    for _ in range(data.draw(st.integers(1, 4))):
        verb, noun = data.draw(st.integers(0, verbs - 1)), data.draw(st.integers(0, nouns - 1))
        logits = {"verb": data.draw(logits_of(verbs)), "noun": data.draw(logits_of(nouns))}
        evaluation.add({"verb": verb, "noun": str(noun)}, logits)
        pairs = itertools.product(range(verbs), range(nouns))
        best = sorted(pairs, key=lambda pair: -float(logits["verb"][pair[0]] + logits["noun"][pair[1]]))
        both = int(logits["verb"].argmax()) == verb and int(logits["noun"].argmax()) == noun
        assert both == (best[0] == (verb, noun))
        hits.append((both, (verb, noun) in best[:5]))
    action = evaluation.summary()["action"]
    assert action == {
        "evaluated": len(hits),
        "top1": mean([h[0] for h in hits]),
        "top5": mean([h[1] for h in hits]),
    }


def test_an_action_needs_both_truths() -> None:
    evaluation = Evaluation({"verb": "ab", "noun": "abc"})
    logits = {"verb": one_hot(2, 0), "noun": one_hot(3, 1)}
    for truth in ({"verb": "a"}, {"noun": "b"}, {"verb": "a", "noun": "other"}, {"verb": "a", "noun": "c"}):
        evaluation.add(truth, logits)
    summary = evaluation.summary()
    assert summary["action"] == {"evaluated": 1, "top1": 0.0, "top5": 1.0}
    assert [summary["outputs"]["verb"][key] for key in ("evaluated", "unlabelled", "top1")] == [3, 1, 1.0]
    assert [summary["outputs"]["noun"][key] for key in ("evaluated", "unlabelled", "unknown")] == [2, 1, 1]


@pytest.mark.parametrize(
    ("truth", "index"),
    [
        ("Air Drumming", 1),
        ("air_drumming", 1),
        ("  AIR  drumming ", 1),
        (1, 1),
        ("1", 1),
        (" 01 ", 1),
        ("7", 0),  # a name comes before an index
        (7, None),
        ("Same", 2),
        ("same", 3),
        ("SAME", None),  # of two alike, neither is meant
        ("twice", 4),
        (-1, None),
        ("-1", None),
        ("6", None),
        ("²", None),
        ("", None),
        ("other", None),
    ],
)
def test_what_a_truth_means(truth: str | int, index: int | None) -> None:
    labels = ["7", "Air Drumming", "Same", "same", "twice", "twice"]
    evaluation = Evaluation({"": labels})
    evaluation.add({"": truth}, {"": one_hot(6, index or 0)})
    found = evaluation.summary()["outputs"][""]
    assert (found["evaluated"], found["unknown"]) == ((0, 1) if index is None else (1, 0))
    assert found["top1"] == (None if index is None else 1.0)
    assert found["unknown_labels"] == ({str(truth): 1} if index is None else {})
    assert list(found["per_class"])[4:] == ["twice (class 4)", "twice (class 5)"]


def test_unknown_truths_are_all_counted_and_the_first_named() -> None:
    evaluation = Evaluation({"": "ab"})
    for number in range(MAX_UNKNOWN_NAMES + 5):
        evaluation.add({"": f"label {number}"}, {"": one_hot(2)})
        evaluation.add({"": "label 3"}, {"": one_hot(2)})
    found = evaluation.summary()["outputs"][""]
    assert found["unknown"] == 2 * (MAX_UNKNOWN_NAMES + 5)
    assert len(found["unknown_labels"]) == MAX_UNKNOWN_NAMES
    assert next(iter(found["unknown_labels"].items())) == ("label 3", MAX_UNKNOWN_NAMES + 6)


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        ({"verb": one_hot(2)}, "'noun' are missing"),
        ({"verb": one_hot(2), "noun": one_hot(2)}, r"'noun' have shape \(2,\), the head has 3"),
        ({"verb": np.array([0, math.nan], np.float32), "noun": one_hot(3)}, "'verb' are not all finite"),
    ],
)
def test_wrong_logits_are_refused_and_not_counted(logits: dict[str, Logits], words: str) -> None:
    evaluation = Evaluation({"verb": "ab", "noun": "abc"})
    before = evaluation.summary()
    with pytest.raises(InvalidInputError, match=words):
        evaluation.add({"verb": 0, "noun": 0}, logits)
    assert evaluation.summary() == before


def test_summary_is_json_without_nan() -> None:
    evaluation = Evaluation({"verb": "ab", "noun": "abc"})
    assert json.loads(json.dumps(evaluation.summary(), allow_nan=False)) == evaluation.summary()
    evaluation.add({"verb": 0, "noun": 2}, {"verb": one_hot(2), "noun": one_hot(3)})
    assert json.loads(json.dumps(evaluation.summary(), allow_nan=False)) == evaluation.summary()


# Files ------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_files_say_what_was_counted(tmp_path: Path) -> None:
    evaluation = Evaluation({"verb": ["cut, slowly", "open"], "noun": ["pan", "tap", "lid"]})
    for verb, noun, best_verb, best_noun in [(0, 1, 0, 2), (0, 1, 1, 1), (1, 1, 1, 0)]:
        logits = {"verb": one_hot(2, best_verb), "noun": one_hot(3, best_noun)}
        evaluation.add({"verb": verb, "noun": noun}, logits)
    files = evaluation.write(tmp_path, "long")
    kinds = ["confusion_long_{}.csv", "per_class_long_{}.csv", "confusion_long_{}.png"]
    assert files == [tmp_path / kind.format(output) for output in ("verb", "noun") for kind in kinds]
    assert sorted(tmp_path.iterdir()) == sorted(files), "nothing else is left there"
    assert read_csv(files[0]) == [
        ["truth \\ prediction", "cut, slowly", "open"],
        ["cut, slowly", "1", "1"],
        ["open", "0", "1"],
    ]
    assert [row[1:] for row in read_csv(files[3])[1:]] == [["0", "0", "0"], ["1", "1", "1"], ["0", "0", "0"]]
    assert read_csv(files[4]) == [
        ["label", "count", "correct", "top1"],
        ["pan", "0", "0", ""],
        ["tap", "3", "1", "0.333333"],
        ["lid", "0", "0", ""],
    ]
    assert evaluation.write(tmp_path, "long") == files, "written again over what is there"


def test_no_field_of_a_table_is_a_formula(tmp_path: Path) -> None:
    """Label files come from anywhere, and tables are opened in spreadsheets."""
    evaluation = one_video(["=1+2", "@SUM(A1)", "-open", "plain - text"], truth=2)
    confusion, per_class = map(read_csv, evaluation.write(tmp_path, "x")[:2])
    shown = ["'=1+2", "'@SUM(A1)", "'-open", "plain - text"]
    assert confusion[0][1:] == [row[0] for row in confusion[1:]] == [row[0] for row in per_class[1:]] == shown


def test_nothing_evaluated_nothing_written(tmp_path: Path) -> None:
    evaluation = Evaluation({"": "ab"})
    evaluation.add({}, {"": one_hot(2)})
    assert evaluation.write(tmp_path, "x") == []
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="confusion_x.csv' cannot be written: No such file"):
        one_video().write(tmp_path / "none", "x")


def picture_of(tmp_path: Path, confusion: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.float32]:
    file = tmp_path / "picture.png"
    file.write_bytes(confusion_picture(confusion, labels, "a $title$\n"))
    return np.asarray(matplotlib.image.imread(file)[..., :3], np.float32)


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        (1, "one".format),
        (5, "$x_{{{}$ \x1b[1m 空手".format),
        (MAX_NAMED_CLASSES, "class number {} and so on until it is long".format),
        (400, "{}".format),
    ],
)
def test_pictures_of_any_size_show_the_diagonal(
    tmp_path: Path, classes: int, label: Callable[[int], str]
) -> None:
    picture = picture_of(tmp_path, np.eye(classes, dtype=np.int64) * 7, [label(i) for i in range(classes)])
    height, width, _ = picture.shape
    assert 300 < height < 2500
    assert 0.7 < width / height < 1.5
    # "Blues" ends in a dark blue: as much of the picture has it as the diagonal has cells of the matrix.
    dark = (picture[..., 2] > picture[..., 0] + 0.2) & (picture[..., 0] < 0.2)
    rows, columns = np.nonzero(dark[:, : int(width * 0.85)])  # without the colour bar
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    assert side > 0.3 * width
    assert len(rows) == pytest.approx(side * side / classes, rel=0.35)
    if classes > 1:
        assert np.corrcoef(rows, columns)[0, 1] > 0.9


def test_the_picture_has_only_classes_that_occur(tmp_path: Path) -> None:
    confusion = np.zeros((400, 400), np.int64)
    confusion[3, 200] = confusion[200, 200] = confusion[7, 7] = 1
    small = confusion[np.ix_([3, 7, 200], [3, 7, 200])]
    labels = [f"class {i}" for i in range(400)]
    of_all = picture_of(tmp_path, confusion, labels)
    of_three = picture_of(tmp_path, small, [labels[i] for i in (3, 7, 200)])
    assert of_all.shape == of_three.shape
    lower = of_all.shape[0] // 10  # below the title, which counts the classes
    assert np.array_equal(of_all[lower:], of_three[lower:])


def test_without_matplotlib_the_tables_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="matplotlib"):
        one_video().write(tmp_path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion_x.csv", "per_class_x.csv"]


def test_memory_does_not_grow_with_the_videos() -> None:
    def size(value: Any) -> int:
        if isinstance(value, np.ndarray):
            return int(value.nbytes)
        if isinstance(value, dict):
            return sum(map(size, value.values()))
        if hasattr(value, "__dict__"):
            return size(vars(value))
        return 1

    evaluation = Evaluation({"": LETTERS})
    before = size(evaluation)
    for number in range(500):
        evaluation.add({"": number % 11}, {"": one_hot(11, number % 7)})
    assert size(evaluation) == before
