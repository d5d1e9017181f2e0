"""Whole runs by the command: files written, resumption after kills, two processes against one."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfavivit.datasets import read_items
from sfavivit.errors import AnnotationError, SfaVivitError, TrainingError, UsageError
from sfavivit.models.checkpoints import load_checkpoint
from tests.training.support import motion_list, recipe_file
from tests.web_files import served
from training.__main__ import app
from training.clips import read_clip
from training.config import load_recipe
from training.history import EpochRow, near_peak_epoch, write_broken, write_curves

# Everything that draws random numbers.
RANDOM = (
    "regularisation={ stochastic_depth = 0.3, label_smoothing = 0.1, mixup = 0.3 }",
    "augmentation={ colour_jitter = 0.8, colour_drop = 0.1 }",
)
# The same without what depends on the process: stochastic depth.
SHARED = ("regularisation={ label_smoothing = 0.1, mixup = 0.3 }",)

Files = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Recipe, training list with a video that is none, validation list of two."""
    folder = tmp_path_factory.mktemp("training")
    training, validation = motion_list(folder), folder / "validation.csv"
    lines = training.read_text().splitlines()
    validation.write_text("\n".join(lines[:3]) + "\n")
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    training.write_text("\n".join([*lines, "broken.mp4,left"]) + "\n")
    return recipe_file(folder), training, validation


def arguments(command: str, files: Files, out: Path, *more: str, settings: tuple[str, ...] = ()) -> list[str]:
    recipe, training, validation = map(str, files)
    lists = ("--train", training, "--validation", validation, "--out", str(out), "--device", "cpu")
    changes = [part for setting in settings for part in ("--set", setting)]
    return [command, recipe, *lists, "--checkpoint-steps", "1", *more, *changes]


def train(command: str, files: Files, out: Path, *more: str, settings: tuple[str, ...] = ()) -> None:
    """In this process, which reads videos itself unless ``more`` says otherwise."""
    app(arguments(command, files, out, "--workers", "0", *more, settings=settings), standalone_mode=False)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train("chain", files, out, settings=RANDOM)
    return out


FILES = (
    "broken_videos.csv",
    "curves.png",
    "labels.txt",
    "metrics.csv",
    "model.safetensors",
    "recipe.json",
    "steps.csv",
)


def test_a_chain_leaves_models_and_records(whole: Path) -> None:
    assert sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()) == [
        f"{stage}/{name}" for stage in ("stage1", "stage2") for name in FILES
    ]
    first, second = (load_checkpoint(whole / f"stage{k}" / "model.safetensors") for k in (1, 2))
    assert (first.dims.max_frames, first.dims.adapter) == (4, None)
    assert second.dims.max_frames == 16 and second.dims.adapter is not None
    ours, theirs = second.spatial.state_dict(), first.spatial.state_dict()
    assert all((ours[name] == theirs[name]).all() for name in theirs), "frozen"
    assert (whole / "stage2" / "labels.txt").read_text() == "left\nright\n"
    assert json.loads((whole / "stage2" / "recipe.json").read_text())["stages"][0]["frames"] == 16


def test_the_records_say_what_happened(whole: Path) -> None:
    steps, epochs = rows(whole / "stage2" / "steps.csv"), rows(whole / "stage2" / "metrics.csv")
    assert [row["step"] for row in steps] == [str(k) for k in range(4)]
    assert [(row["epoch"], row["steps"]) for row in epochs] == [("1", "2"), ("2", "4")]
    losses = [float(row["loss"]) for row in steps]
    assert [float(row["loss"]) for row in epochs] == pytest.approx([np.mean(losses[:2]), np.mean(losses[2:])])
    for row in epochs:
        assert float(row["seconds"]) > 0
        assert 50e6 < float(row["peak_memory_bytes"]) < 20e9
        assert row["peak_cuda_bytes"] == "0"
        assert row["top1"] in {"0.0", "0.5", "1.0"}
        assert row["broken_videos"] == "1"
    (broken,) = rows(whole / "stage2" / "broken_videos.csv")
    assert broken["id"] == "broken.mp4" and "not a known video container" in broken["reason"]
    with Image.open(whole / "stage2" / "curves.png") as picture:
        assert picture.size == (1440, 576)


# Where a run dies: with a state that is written but not yet in its place, and before a step.
IN_A_STATE = """
Fabric.save = lambda self, path, state, f=Fabric.save: (
    f(self, path, state), kill() if state["step"] == 2 else None)[0]
"""
BEFORE_A_STEP = """
Trainer._take_step = lambda self, batches, f=Trainer._take_step: (
    kill() if self.step == 3 else None, f(self, batches))[1]
"""


# The parent imports once; each run is a process of its own.
KILLED_RUNS = """
import json, os, signal, sys
from lightning_fabric import Fabric
from training.__main__ import app
from training.trainer import Trainer
def kill(): os.kill(os.getpid(), signal.SIGKILL)
for where, command in json.loads(sys.argv[1]):
    if not (run := os.fork()):
        exec(where)
        app(command)
    died = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
    assert died == -signal.SIGKILL, died
"""


def killed(log: Path, *runs: tuple[str, list[str]]) -> None:
    """Run commands, one after the other, in processes that kill themselves where each says."""
    command = [sys.executable, "-c", KILLED_RUNS, json.dumps(runs)]
    # No pipe: a loader that has lost its run would hold it until it notices, seconds later.
    with log.open("w") as errors:
        done = subprocess.run(command, stdout=errors, stderr=errors, check=False)
    assert done.returncode == 0, log.read_text()


def test_a_run_that_is_killed_twice_goes_on_step_for_step(files: Files, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wider = files[0], files[2].with_name("wider.csv"), files[2]
    wider[1].write_text(files[1].read_text() + "absent.mp4,left\n")
    command = arguments("stage1", files, out, "--workers", "1", settings=RANDOM)
    killed(tmp_path / "log", (IN_A_STATE, command), (BEFORE_A_STEP, [*command, "--resume"]))
    with pytest.raises(UsageError, match="exists already; go on with --resume"):
        train("stage1", files, out, settings=RANDOM)
    with pytest.raises(UsageError, match=r"state of another run \(optimiser differ\)"):
        train("stage1", files, out, "--resume", settings=(*RANDOM, "optimiser.momentum=0.8"))
    with pytest.raises(UsageError, match=r"state of another run \(model, training list differ\)"):
        train("stage1", wider, out, "--resume", settings=(*RANDOM, "model.hidden_size=64"))
    assert not (out / "stage1/model.safetensors").exists()
    train("stage1", files, out, "--resume", settings=RANDOM)
    for name in ("stage1/steps.csv", "stage1/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    without_cost = [
        [{**row, "seconds": "", "peak_memory_bytes": ""} for row in rows(run / "stage1" / "metrics.csv")]
        for run in (out, whole)
    ]
    assert without_cost[0] == without_cost[1]
    assert not list(out.rglob(".*")), "nothing half-written is left"


def test_a_finished_stage_is_not_trained_again(files: Files, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    train("chain", files, whole, "--resume", settings=RANDOM)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before


def test_stage_two_alone_takes_what_stage_one_left(files: Files, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train("stage2", files, out, "--initial", str(whole / "stage1/model.safetensors"), settings=RANDOM)
    assert (out / "stage2/model.safetensors").read_bytes() == (
        whole / "stage2/model.safetensors"
    ).read_bytes()


def split_list(files: Files, address: str, path: Path) -> Path:
    """The videos of ``files`` as one list of URLs with splits, and a test video that there is not."""
    training, validation = (rows(path) for path in files[1:])
    for video in validation:  # under another name, since no video may be in two splits
        copy = files[1].with_name(f"validation-{video['video']}")
        copy.write_bytes(files[1].with_name(video["video"]).read_bytes())
        video["video"] = copy.name
    lines = [
        f"{address}/{row['video']},{row['label']},{split}"
        for split, videos in (("train", training), ("validation", validation))
        for row in videos
    ]
    path.write_text("\n".join(["video,label,split", *lines, f"{address}/absent.mp4,?,test"]))
    return path


def test_two_processes_give_the_losses_of_one(files: Files, tmp_path: Path) -> None:
    """The real command, whose videos are one list of URLs; processes of their own fetch them."""
    one, two = tmp_path / "one", tmp_path / "two"
    train("stage1", files, one, "--accumulate", "2", settings=SHARED)
    with served(files[1].parent) as address:
        split = split_list(files, address, tmp_path / "list.csv")
        words = ["stage1", str(files[0]), "--train", str(split), "--out", str(two), "--device", "cpu"]
        words += ["--devices", "2", "--workers", "1", "--set", SHARED[0]]
        done = subprocess.run(
            [sys.executable, "-m", "training", *words], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    losses = [[float(row["loss"]) for row in rows(out / "stage1" / "steps.csv")] for out in (one, two)]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    measured = [
        [(row["top1"], row["broken_videos"]) for row in rows(out / "stage1" / "metrics.csv")]
        for out in (one, two)
    ]
    assert measured[0] == measured[1]
    models = [load_checkpoint(out / "stage1/model.safetensors").state_dict() for out in (one, two)]
    assert all(np.allclose(models[0][name], models[1][name], atol=1e-5) for name in models[0])


def test_a_list_without_a_readable_video_ends_the_run_in_one_line(files: Files, tmp_path: Path) -> None:
    videos = tmp_path / "list.csv"
    videos.write_text("video,label\n" + "".join(f"absent{k}.mp4,{'ab'[k % 2]}\n" for k in range(4)))
    with pytest.raises(TrainingError, match=r"no video can be read; the last one: .*absent") as caught:
        train("stage1", (files[0], videos, videos), tmp_path / "out")
    assert "\n" not in str(caught.value)


ACTIONS = ("model.outputs={ verb = 2, noun = 2 }",)


def test_verbs_nouns_and_actions_are_measured(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each as the finished model says; in what is recorded and shown, and by a run that was interrupted."""
    actions = files[1].with_name("actions.csv")
    lines = [f"{k}.mp4,{'right' if k % 2 else 'left'},{k // 2 % 2}" for k in range(8)]
    actions.write_text("\n".join(["video,verb,noun", *lines]))
    lists = (files[0], actions, actions)

    def interrupt(*_: object) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="interrupted"):
        patch.setattr("training.stage_run.write_epochs", interrupt)
        train("stage1", lists, tmp_path, settings=ACTIONS)
    capsys.readouterr()
    train("stage1", lists, tmp_path, "--resume", settings=ACTIONS)
    shown = capsys.readouterr().err

    model = load_checkpoint(tmp_path / "stage1/model.safetensors").eval()
    right: dict[str, list[bool]] = {"verb": [], "noun": []}
    for item in read_items(str(actions)):
        clip = read_clip(item, load_recipe(str(files[0])).sampling, 4, at=0.5)
        answers = model(torch.from_numpy(clip)[None])
        right["verb"].append(
            bool(answers["verb"].argmax() == ("left", "right").index(str(item.labels["verb"])))
        )
        right["noun"].append(bool(answers["noun"].argmax() == int(item.labels["noun"])))
    both = np.mean(np.logical_and(right["verb"], right["noun"]))
    verb, noun = np.mean(right["verb"]), np.mean(right["noun"])
    first, last = rows(tmp_path / "stage1" / "metrics.csv")
    assert [float(last[name]) for name in ("top1", "top1_verb", "top1_noun")] == [both, verb, noun]
    assert first.keys() == last.keys() and first["epoch"] == "1"
    assert f"epoch 2 of 2: action top-1 {both:.1%} (verb {verb:.1%}, noun {noun:.1%}), loss" in shown
    assert f"best action top-1 {max(float(first['top1']), both):.1%}, near-peak epoch" in shown


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (
            "video,label\na.mp4,left\nb.mp4,right\n",
            UsageError,
            "nothing says what to measure on: give --validation, or",
        ),
        (
            "video,split\na.mp4,left\nb.mp4,right\n",
            AnnotationError,
            "is of split 'left'; write train, validation or test",
        ),
        (
            "video,label,split\ngopher://a.mp4,left,train\ngopher://b.mp4,right,val\n",
            UsageError,
            "gopher://b.mp4' cannot be fetched: Protocol not known",
        ),
    ],
)
def test_a_list_that_cannot_be_trained_on(
    files: Files, tmp_path: Path, lines: str, error: type[SfaVivitError], message: str
) -> None:
    one = tmp_path / "list.csv"
    one.write_text(lines)
    with pytest.raises(error, match=message) as caught:
        app(["stage1", str(files[0]), "--train", str(one), "--out", str(tmp_path)], standalone_mode=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (("--set", "optimiser.batch_size=100"), UsageError, "9 training videos are less than"),
        (("--set", "stages.0.spatial=image"), UsageError, "give --image-checkpoint"),
        (("--set", "model.outputs={ a = 2 }"), AnnotationError, "has no label of 'a'"),
        (("--labels", "verb=x.txt"), UsageError, r"outputs \[''\] of the recipe, got \['verb'\]"),
        (("--labels", "absent.txt"), UsageError, "absent.txt: No such file"),
        (("--accumulate", "3"), UsageError, "batch size 4 cannot be shared"),
        (
            ("--accumulate", "4", "--set", "regularisation.mixup=0.2"),
            UsageError,
            "mixup mixes pairs: 1 clips",
        ),
    ],
)
def test_what_cannot_work_is_one_line(
    files: Files, tmp_path: Path, more: tuple[str, ...], error: type[SfaVivitError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        train("stage1", files, tmp_path / "out", *more)
    assert "\n" not in str(caught.value)


def test_stage_two_without_stage_one_is_refused(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give its checkpoint with --initial"):
        train("stage2", files, tmp_path / "out")
    with pytest.raises(UsageError, match="has one stage only"):
        train("stage2", files, tmp_path / "out", "--set", 'stages=[{ name = "a", frames = 4 }]')


def row(epoch: int, top1: float) -> EpochRow:
    return EpochRow(epoch, epoch * 3, 0.1, 1.0, 0.5, 1.1, top1, 2.0, 1, 0, 0)


def test_a_broken_video_is_no_formula(tmp_path: Path) -> None:
    write_broken(tmp_path / "broken.csv", {"b.mp4": "no such file", "=1+2.mp4": "cut off"})
    assert (tmp_path / "broken.csv").read_text() == "id,reason\n'=1+2.mp4,cut off\nb.mp4,no such file\n"


def test_near_peak_is_the_first_epoch_within_a_point_of_the_best() -> None:
    accuracies = [0.2, 0.69, 0.785, 0.795, 0.70]
    history = [row(k + 1, top1) for k, top1 in enumerate(accuracies)]
    assert near_peak_epoch(history) == 3
    assert near_peak_epoch(history[:2]) == 2
    assert near_peak_epoch([]) is None


def test_near_peak_is_that_of_the_action() -> None:
    history = [
        row(k + 1, top1)._replace(output_top1={"verb": verb, "noun": 0.5})
        for k, (top1, verb) in enumerate([(0.1, 0.9), (0.3, 0.5)])
    ]
    assert near_peak_epoch(history) == 2


def test_curves_of_several_runs_are_one_picture(tmp_path: Path) -> None:
    def colours(runs: dict[str, list[EpochRow]]) -> int:
        write_curves(tmp_path / "curves.png", runs)
        with Image.open(tmp_path / "curves.png") as picture:
            return len(picture.convert("RGB").getcolors(1 << 24) or [])

    history = [row(k + 1, k / 5) for k in range(5)]
    assert colours({"one": history, "two": history[:3]}) > colours({"one": history[:3]})


def test_curves_have_a_line_for_every_output(tmp_path: Path) -> None:
    def ink(outputs: dict[str, float]) -> int:
        history = [row(k + 1, k / 9)._replace(output_top1=outputs) for k in range(5)]
        write_curves(tmp_path / "curves.png", {"one": history})
        with Image.open(tmp_path / "curves.png") as picture:
            return int((np.asarray(picture.convert("L")) < 200).sum())

    assert ink({"verb": 0.9, "noun": 0.2}) > ink({"verb": 0.9}) > ink({})
