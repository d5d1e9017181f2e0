"""The table of training variants at a very small scale: its rows, never its times."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import training_table as module
from benchmarks.figures import Figure, read_result
from benchmarks.sign_videos import (
    HELD_OUT_PICTURES,
    MIN_DIFFERENCE,
    ORDERS,
    PICTURE_SIGNS,
    SIGNS,
    SIZE,
    dots_of,
    draw_pictures,
    draw_video,
    make_clips,
    picture_sets,
    random_signs,
    write_example,
)
from benchmarks.training_table import TrainingTable, claims, table_rows
from benchmarks.training_variants import (
    LONG_FULL,
    WITHOUT_IMAGES,
    ClipTraining,
    Scale,
    recipe_of,
    stage_training,
    train_image_model,
    variants,
    write_image_checkpoint,
)
from sfavivit.datasets import VideoItem
from sfavivit.errors import UsageError
from sfavivit.models.checkpoints import initialise_spatial, load_checkpoint
from sfavivit.models.vivit import SfaVivit
from tests.benchmarks.support import invoke
from tests.training.support import one_thread
from training.batches import Share, training_micro_batches
from training.classes import Example
from training.clips import TrainingClips
from training.stages import stage_model

__all__ = ["one_thread"]  # for every test here

SMALL = Scale(training=8, held_out=6, epochs=1, short_epochs=1, pictures=64, image_epochs=1)
STAGES = {"short", "full", "frozen", "short+anew", "brief", "brief+long", "short+long", "brief+middle"}
STAGES |= {"brief+middle+long", "random", "random+long"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of ``SMALL``, which are made once."""
    folder = tmp_path_factory.mktemp("work")
    TrainingTable(folder, SMALL).clips()
    return folder


def assert_same_spatial_half(one: SfaVivit, other: SfaVivit) -> None:
    expected = other.spatial.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in one.spatial.state_dict().items())


def trained(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("seed-0/*/epochs.json")}


def test_a_killed_run_keeps_what_was_finished_and_the_table_is_complete(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, epoch, calls = TrainingTable(work, SMALL), ClipTraining.epoch, []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 5:  # the first is the image model's
            raise KeyboardInterrupt
        return epoch(*arguments)

    monkeypatch.setattr(ClipTraining, "epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        table.train(0)
    before = trained(work)
    assert set(before) == {"short", "full", "frozen"}
    image = work / "seed-0" / "image" / "model.safetensors"
    written = image.stat().st_mtime_ns
    assert not table_rows(table)[4].figures, "nothing of it is known yet"

    TrainingTable(work, SMALL).train(0)
    after = trained(work)
    assert set(after) == STAGES
    assert {name: after[name] for name in before} == before
    assert image.stat().st_mtime_ns == written
    frozen = load_checkpoint(work / "seed-0" / "frozen" / "model.safetensors")
    start = copy.deepcopy(frozen)
    initialise_spatial(start, image)
    assert_same_spatial_half(frozen, start)
    long = load_checkpoint(work / "seed-0" / "short+long" / "model.safetensors")
    short = load_checkpoint(work / "seed-0" / "short" / "model.safetensors")
    assert_same_spatial_half(short, long)
    assert long.dims.adapter and long.dims.max_frames == 128

    monkeypatch.setattr(module, "COSTS", "invented.json")
    kinds = {"8 frames", "128 frames", "128 frames, frozen", "32 frames, frozen, adapter"}
    costs = {name: {"seconds": [2.0, 3.0], "memory_bytes": [1 << 20] * 2} for name in kinds}
    costs["128 frames, frozen, adapter"] = {"seconds": [5.0, 7.0], "memory_bytes": [4 << 20] * 2}
    (work / "invented.json").write_text(json.dumps(costs))
    rows = table_rows(table)
    assert [row.case.get("variant") for row in rows[1:9]] == list(variants(SMALL))
    assert 0 <= rows[0].figures["top-1"].median <= 100, "the image model's"
    figures = rows[7].figures  # 8 frames, 32 frames, 128 frames: an epoch of each
    assert figures["cost"].samples == (9, 13)
    assert figures["epoch"].samples == (5, 7)
    assert figures["peak memory"].samples == (4, 4)
    assert figures["cost to near-peak"].samples == (11,)
    assert 0 <= figures["top-1"].median <= 100
    assert len(rows) == 9 + 3 * 4 + 2


def test_costs_of_a_kind_of_stage_are_measured_once_for_all_variants(work: Path, tmp_path: Path) -> None:
    table = TrainingTable(Path(shutil.copytree(work, tmp_path / "work")), SMALL)
    assert table.costs() == {}
    chains = variants(SMALL)
    table.variants = {name: chains[name][:1] for name in ("SFA B", "SFA C", "SFA D")}
    table.measure_costs(1)
    (costs,) = table.costs().values()
    assert list(table.costs()) == ["8 frames"]
    assert len(costs.seconds) == len(costs.memory_bytes) == 1
    assert costs.seconds[0] > 0 and costs.memory_bytes[0] > 0


def test_a_folder_of_another_scale_is_refused(work: Path) -> None:
    with pytest.raises(UsageError, match="holds runs with .*'epochs': 1.*: name another --work"):
        TrainingTable(work, replace(SMALL, epochs=2))


def test_settings_are_chosen_with_other_videos_and_seeds_than_are_reported(tmp_path: Path) -> None:
    scale = replace(SMALL, held_out=1)
    reported = TrainingTable(tmp_path / "reported", scale)
    chosen = TrainingTable(tmp_path / "chosen", replace(scale, validation=True))
    (training, held_out), (same, validation) = reported.clips(), chosen.clips()
    assert np.array_equal(training.frames, same.frames)
    videos = [clips.frames.tobytes() for clips in (training, held_out, validation)]
    assert len(set(videos)) == 3
    assert not set(reported.seeds(100)) & set(chosen.seeds(100))


def test_the_command_writes_a_result_that_can_be_read(work: Path, tmp_path: Path) -> None:
    values = ("training=8", "held_out=6", "epochs=1", "short_epochs=1", "pictures=64", "image_epochs=1")
    scale = [word for value in values for word in ("--set", value)]
    done = invoke("training-table", "--work", work, "--seeds", "0", "--out", tmp_path, *scale)
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "training_table.json")
    assert len(result.rows) >= 9
    once = f"python -m benchmarks training-table {' '.join(scale)}"
    assert result.command == f"{once} && {once} --costs", "what makes it, in two passes"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=1", "unknown setting 'epoch'"),
        ("epochs=0", "epochs"),
        ("epochs", "epochs"),
        ("full_rate=x", "full_rate"),
    ],
)
def test_a_setting_that_is_invalid(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        module.parse_scale([setting])
    assert "\n" not in str(caught.value)


def test_frames_are_those_that_the_trainer_takes_from_the_files(work: Path, tmp_path: Path) -> None:
    recipe, stage = recipe_of(SMALL, 3), variants(SMALL)[WITHOUT_IMAGES][0]
    clips, _ = TrainingTable(work, SMALL).clips()
    examples = []
    for number in range(8):
        path = tmp_path / f"{number}.mp4"
        write_example(path, number, module.TRAINING_SEED)
        examples.append(Example(VideoItem(path.stem, str(path), {}), {"": number % len(ORDERS)}))
    files = TrainingClips(examples, recipe, stage.frames)
    model = stage_model(recipe, stage, None, None)
    (batch,) = stage_training(recipe, stage, model, clips).batches(epoch=5)
    (places,) = training_micro_batches(8, Share(8), seed=3, epoch=5)
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


def test_pictures_show_none_of_the_videos_signs_but_many_others() -> None:
    signs = [*random_signs(), *(dots_of(sign) for sign in SIGNS)]
    assert len(signs) == PICTURE_SIGNS + 3
    for one, other in combinations(signs, 2):
        assert (one != other).sum() >= MIN_DIFFERENCE
    pictures = draw_pictures(2 * PICTURE_SIGNS, np.random.default_rng(0))
    assert pictures.frames.shape == (2 * PICTURE_SIGNS, 1, SIZE, SIZE, 3)
    for picture, label in zip(pictures.frames[:, 0], pictures.labels, strict=True):
        assert sign_seen(picture, signs) == label


def test_an_image_model_is_not_judged_by_pictures_it_learned_from() -> None:
    training, held_out = picture_sets(seed=0, count=HELD_OUT_PICTURES)
    seen = {picture.tobytes() for picture in training.frames}
    assert len(seen) == HELD_OUT_PICTURES
    assert not any(picture.tobytes() in seen for picture in held_out.frames)


def sign_seen(picture: Any, signs: list[Any]) -> int:
    """Which of ``signs`` correlates best with the picture, wherever the lamp is."""
    places = [(8 * row, 8 * column) for row in range(3) for column in range(3)]
    lamps = [picture[top : top + 16, left : left + 16].mean(2) for top, left in places]
    cells = [lamp.reshape(4, 4, 4, 4).mean((1, 3)) for lamp in lamps]
    scores = [max(np.corrcoef(cell.flat, sign.flat)[0, 1] for cell in cells) for sign in signs]
    return int(np.argmax(scores))


def test_the_image_model_learns_signs_and_is_what_a_spatial_half_starts_as(tmp_path: Path) -> None:
    model, top1 = train_image_model(seed=1, pictures=1024, epochs=4)
    assert top1 > 2 / PICTURE_SIGNS, "twice as often right as by chance"
    write_image_checkpoint(model, tmp_path / "image.safetensors")
    recipe, stage = recipe_of(SMALL, 0), variants(SMALL)[LONG_FULL][0]
    start = stage_model(recipe, stage, None, tmp_path / "image.safetensors")
    pictures = torch.from_numpy(draw_pictures(4, np.random.default_rng(2)).frames)
    clip = pictures[:, 0].repeat_interleave(2, dim=0)[None]  # each for two frames, a tubelet
    with torch.inference_mode():
        torch.testing.assert_close(start.spatial(clip)[0], model.spatial(pictures)[:, 0])


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
