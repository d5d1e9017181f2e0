"""The table of training variants at a very small scale: which parts it has, never how long anything took."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import training_table as module
from benchmarks.__main__ import app
from benchmarks.figures import Figure, read_result
from benchmarks.long_order import ORDERS, draw_video, make_clips, write_example
from benchmarks.long_order_training import LONG_FULL, Scale, StageTraining, recipe_of, variants
from benchmarks.training_claims import claims, table_rows
from benchmarks.training_table import TrainingTable
from sfavivit.annotations import VideoItem
from sfavivit.checkpoints import load_checkpoint
from sfavivit.errors import UsageError
from tests.training_files import one_thread
from training.batches import Share, training_parts
from training.classes import Example
from training.clips import TrainingClips

__all__ = ["one_thread"]  # for every test here

SMALL = Scale(training=8, held_out=6, epochs=1, short_epochs=1)
STAGES = {"short", "full", "frozen", "short+anew", "brief", "brief+long", "short+long", "brief+middle"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of ``SMALL``, which are made once."""
    folder = tmp_path_factory.mktemp("work")
    TrainingTable(folder, SMALL).clips()
    return folder


def ignore(line: str) -> None:
    """No progress."""


def trained(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("seed-0/*/epochs.json")}


def test_a_killed_run_keeps_what_was_finished_and_the_table_is_complete(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, epoch, calls = TrainingTable(work, SMALL), StageTraining.epoch, []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return epoch(*arguments)

    monkeypatch.setattr(StageTraining, "epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        table.train(0, ignore)
    before = trained(work)
    assert set(before) == {"short", "full", "frozen"}
    assert not table_rows(table)[3].figures, "nothing of it is known yet"

    TrainingTable(work, SMALL).train(0, ignore)
    after = trained(work)
    assert set(after) == STAGES | {"brief+middle+long"}
    assert {name: after[name] for name in before} == before
    long = load_checkpoint(work / "seed-0" / "short+long" / "model.safetensors")
    short = load_checkpoint(work / "seed-0" / "short" / "model.safetensors")
    for name, value in short.spatial.state_dict().items():
        assert torch.equal(value, long.spatial.state_dict()[name]), "it was frozen"
    assert long.dims.adapter and long.dims.max_frames == 128

    monkeypatch.setattr(module, "COSTS", "invented.json")
    kinds = {"8 frames", "128 frames", "128 frames, frozen", "32 frames, frozen, adapter"}
    costs = {name: {"seconds": [2.0, 3.0], "memory_bytes": [1 << 20] * 2} for name in kinds}
    costs["128 frames, frozen, adapter"] = {"seconds": [5.0, 7.0], "memory_bytes": [4 << 20] * 2}
    (work / "invented.json").write_text(json.dumps(costs))
    rows = table_rows(table)
    assert [row.case.get("variant") for row in rows[:7]] == list(variants(SMALL))
    figures = rows[6].figures  # 8 frames, 32 frames, 128 frames: an epoch of each
    assert figures["cost"].samples == (9, 13)
    assert figures["epoch"].samples == (5, 7)
    assert figures["peak memory"].samples == (4, 4)
    assert figures["cost to near-peak"].samples == (11,)
    assert 0 <= figures["top-1"].median <= 100
    assert len(rows) == 7 + 3 * 4 + 2


def test_costs_of_a_kind_of_stage_are_measured_once_for_all_variants(work: Path, tmp_path: Path) -> None:
    table = TrainingTable(Path(shutil.copytree(work, tmp_path / "work")), SMALL)
    assert table.costs() == {}
    chains = variants(SMALL)
    table.variants = {name: chains[name][:1] for name in ("SFA B", "SFA C", "SFA D")}
    table.measure_costs(1, ignore)
    (costs,) = table.costs().values()
    assert list(table.costs()) == ["8 frames"]
    assert len(costs.seconds) == len(costs.memory_bytes) == 1
    assert costs.seconds[0] > 0 and costs.memory_bytes[0] > 0


def test_a_folder_of_another_scale_is_refused(work: Path) -> None:
    with pytest.raises(UsageError, match="holds runs with .*'epochs': 1.*: name another --work"):
        TrainingTable(work, Scale(training=8, held_out=6, epochs=2, short_epochs=1))


def test_the_command_writes_a_result_that_can_be_read(work: Path, tmp_path: Path) -> None:
    scale = ["--training", "8", "--held-out", "6", "--epochs", "1", "--short-epochs", "1"]
    options = ["--work", str(work), "--seeds", "0", "--out", str(tmp_path), *scale]
    done = CliRunner().invoke(app, ["training-table", *options])
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "training_table.json")
    assert len(result.rows) >= 7
    once = f"python -m benchmarks training-table {' '.join(scale)}"
    assert result.command == f"{once} && {once} --costs", "what makes it, in two passes"


def test_frames_are_those_that_the_trainer_takes_from_the_files(work: Path, tmp_path: Path) -> None:
    recipe, stage = recipe_of(SMALL, 3), variants(SMALL)["SFA D"][0]
    clips, _ = TrainingTable(work, SMALL).clips()
    examples = []
    for number in range(8):
        path = tmp_path / f"{number}.mp4"
        write_example(path, number, module.TRAINING_SEED)
        examples.append(Example(VideoItem(path.stem, str(path), {}), {"": number % len(ORDERS)}))
    files = TrainingClips(examples, recipe, stage.frames)
    (batch,) = StageTraining(recipe, stage, None, clips).batches(epoch=5)
    (places,) = training_parts(8, Share(8), seed=3, epoch=5)
    for place, frames, label in zip(places, batch.frames, batch.labels[""], strict=True):
        expected = files[place]
        assert torch.equal(frames, expected.frames)
        assert label == expected.labels[""]


def test_eight_frames_say_nothing_about_the_order() -> None:
    """Both orders of two signs show the same pictures, at other times: 6 s apart."""
    pair, opposite = ORDERS.index((0, 1)), ORDERS.index((1, 0))
    one = draw_video(pair, np.random.default_rng(4)).astype(int)
    other = draw_video(opposite, np.random.default_rng(4)).astype(int)
    early, late = 30, 30 + 75  # both while a sign is shown
    noise = 4 * 4 * 2**0.5
    assert abs(one[early] - other[late]).mean() < noise < abs(one[early] - other[early]).max()
    assert abs(one[late] - other[early]).mean() < noise


def test_claims_are_computed_from_the_figures() -> None:
    def figures(top1: float, peak: float, cost: float, memory: float) -> dict[str, Figure]:
        values = {"top-1": top1, "near-peak epoch": peak, "cost": cost, "peak memory": memory}
        return {name: Figure("", "neither", (value,)) for name, value in values.items()}

    table = dict.fromkeys(variants(SMALL), figures(90, 3, 40, 50))
    table[LONG_FULL] = figures(92, 8, 100, 200)
    table["SFA B"] = figures(91.5, 4, 51, 250)
    table["SFA C"] = figures(96, 5, 50, 200)
    held = {claim.text: claim.holds for claim in claims(table)}
    assert [held[text] for text in held if text.startswith("SFA B")] == [False, False, True, True]
    assert [held[text] for text in held if text.startswith("SFA C")] == [True, False, False, True]
    assert [held[text] for text in held if text.startswith("SFA D")] == [True, True, True, False]
    assert list(held.values())[-2:] == [True, True]
    assert next(claims(table)).measured == pytest.approx(0.51)

    table["SFA B"]["top-1"] = Figure("%", "higher", (91.5, 92))
    fewer = [claim.text for claim in claims(table)]
    assert len(fewer) == len(held) - 2, "one seed is not compared with two"
    assert [text for text in fewer if text.startswith("SFA B")] == list(held)[:2]


def test_clips_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "clips.npy"
    first = make_clips(path, 2, 0)
    made = path.stat().st_mtime_ns
    again = make_clips(path, 2, 0)
    assert path.stat().st_mtime_ns == made
    assert first.frames.shape == (2, 128, 32, 32, 3)
    assert np.array_equal(first.frames, again.frames)
    assert abs(first.frames[0].astype(int) - draw_video(0, np.random.default_rng((0, 0)))).mean() < 8
