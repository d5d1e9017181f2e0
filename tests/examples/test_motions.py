"""The demo model and its training: rendered motions, batches, and both stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.motions.__main__ import app
from examples.motions.clips import (
    LONG_FRAMES,
    SAMPLING,
    LongClips,
    ShortClipBatches,
    display_times,
    draw_windows,
    state_targets,
)
from examples.motions.encoding import write_video
from examples.motions.rendering import (
    LABELS,
    MOTIONS,
    SHAPES,
    SIZES,
    Floats,
    Scene,
    render,
    sample_scene,
    trajectory,
)
from examples.motions.train import (
    DemoConfig,
    DemoStage,
    long_clip_features,
    stage_two_model,
    train_stage_one,
    train_stage_two,
)
from examples.motions.videos import Confusion, write_held_out
from sfavivit.config import AdapterDimensions
from sfavivit.errors import UsageError
from sfavivit.inference.recognizer import Recognizer
from sfavivit.models.checkpoints import load_checkpoint
from sfavivit.models.vivit import SfaVivit
from sfavivit.video.reader import VideoReader

SMALL = DemoConfig(
    hidden_size=32,
    spatial_layers=1,
    temporal_layers=1,
    stage_one=DemoStage(24, 8, 5e-3),
    stage_two=DemoStage(24, 8, 2e-3),
    stage_two_clips=12,
    workers=0,
)
MOMENTS = np.arange(0, 3, 1 / 12.5)


def plain_scene(shape: str = "flag") -> Scene:
    """One object, away from the edges, before an even background without noise."""
    scene = sample_scene(np.random.default_rng(5))
    item = replace(scene.item, shape=shape, x=0.5, y=0.5, size=0.15, angle=0.3)
    return replace(scene, item=item, others=(), noise=0.0, waves=np.zeros_like(scene.waves))


def coverage(motion: str, shape: str = "flag", seed: int = 0) -> NDArray[np.bool_]:
    """Return masks [F, 128, 128] of the rendered object at MOMENTS, found in the pixels alone."""
    scene, rng = plain_scene(shape), np.random.default_rng(seed)
    frames = render(scene, trajectory(scene.item, motion, MOMENTS, rng), 128, 128, rng)
    covered: NDArray[np.bool_] = np.abs(frames - scene.background * 255).max(axis=-1) > 40
    return covered


def centroids(covered: NDArray[np.bool_]) -> Floats:
    """[F, 2] x and y in [0, 1); a circular mean, since the world wraps around."""
    angles = 2 * np.pi * (np.arange(128) + 0.5) / 128
    means = [(covered.sum(axis=axis) * np.exp(1j * angles)).sum(axis=1) for axis in (1, 2)]
    return np.stack([np.angle(mean) / (2 * np.pi) % 1 for mean in means], axis=1)


def displacements(covered: NDArray[np.bool_]) -> Floats:
    """[F - 1, 2] of the centroid, the short way around the world."""
    return (np.diff(centroids(covered), axis=0) + 0.5) % 1 - 0.5


@pytest.mark.parametrize(
    ("motion", "direction"),
    [("move_left", (-1, 0)), ("move_right", (1, 0)), ("move_up", (0, -1)), ("move_down", (0, 1))],
)
def test_translation_goes_where_its_name_says(motion: str, direction: tuple[int, int]) -> None:
    along = displacements(coverage(motion)) @ np.array(direction)
    across = displacements(coverage(motion)) @ np.array(direction[::-1])
    assert (along > 0.02).all()
    assert (np.abs(across) < 0.005).all()


@pytest.mark.parametrize("shape", ["flag", "dart"])
@pytest.mark.parametrize(("motion", "sign"), [("rotate_clockwise", 1), ("rotate_counterclockwise", -1)])
def test_rotation_turns_the_main_axis_on_the_spot(motion: str, sign: int, shape: str) -> None:
    ys, xs = np.mgrid[:128, :128]
    axes = []
    for covered in coverage(motion, shape):
        x, y = xs[covered] - xs[covered].mean(), ys[covered] - ys[covered].mean()
        axes.append(np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean()) / 2)
    turns = (np.diff(axes) + np.pi / 2) % np.pi - np.pi / 2  # an axis is the same after half a turn
    assert (sign * turns > 0.05).all()


@pytest.mark.parametrize(("motion", "sign"), [("circle_clockwise", 1), ("circle_counterclockwise", -1)])
def test_circling_turns_the_direction_of_travel(motion: str, sign: int) -> None:
    steps = displacements(coverage(motion))
    turns = (
        steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
    )  # y points down: clockwise is positive
    assert (sign * turns > 0).all()


@pytest.mark.parametrize(("motion", "sign"), [("grow", 1), ("shrink", -1)])
def test_growth_changes_the_area_and_starts_again(motion: str, sign: int) -> None:
    growth = sign * np.diff(coverage(motion).sum(axis=(1, 2)))
    assert (growth > 0).mean() > 0.85
    assert (growth < 0).any()


def test_a_bounce_is_thrown_up_and_falls_back() -> None:
    steps = displacements(coverage("bounce"))
    assert (np.abs(steps[:, 0]) < 0.005).all()
    acceleration = np.diff(steps[:, 1])
    assert (acceleration > 0).mean() > 0.7, "between two contacts gravity pulls down, towards larger y"
    assert acceleration.min() < -3 * acceleration.max(), "contact is a sudden turn upwards"


def test_blinking_changes_colour_and_nothing_else() -> None:
    scene, rng = plain_scene(), np.random.default_rng(0)
    frames = render(scene, trajectory(scene.item, "blink", MOMENTS, rng), 64, 64, rng)
    distinct, counts = np.unique(frames.reshape(len(frames), -1), axis=0, return_counts=True)
    assert len(distinct) == 2
    assert counts.min() > 0.3 * len(frames)


def test_one_moment_has_the_same_distribution_in_every_motion() -> None:
    """Two-sample Kolmogorov-Smirnov statistics between each motion and all of them."""
    moments: dict[str, Floats] = {motion: single_moments(motion, 500) for motion in MOTIONS}
    pooled = np.concatenate(list(moments.values()))
    for motion, values in moments.items():
        for column in range(values.shape[1]):
            both = np.sort(np.concatenate([values[:, column], pooled[:, column]]))
            ours = np.searchsorted(np.sort(values[:, column]), both, side="right") / len(values)
            theirs = np.searchsorted(np.sort(pooled[:, column]), both, side="right") / len(pooled)
            # 2.2 / sqrt(n) is exceeded by chance once in 8000 times (Kolmogorov's distribution).
            assert np.abs(ours - theirs).max() < 2.2 / np.sqrt(len(values)), (motion, column)


def single_moments(motion: str, count: int) -> Floats:
    """Position, angle, size and colour of random scenes, at one random moment each: [count, 7]."""
    rows = []
    for index in range(count):
        rng = np.random.default_rng((index, list(MOTIONS).index(motion)))
        scene = sample_scene(rng)
        state = trajectory(scene.item, motion, np.array([rng.uniform(0, 10)]), rng)
        place = (state.x[0] % 1, state.y[0] % 1, state.angle[0] % (2 * np.pi), state.size[0])
        rows.append([*place, *state.colour[0]])
    return np.array(rows)


def test_the_same_seed_draws_the_same_clips() -> None:
    first, again, other = (LongClips(seed, 3)[2] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    batches = [ShortClipBatches(1, steps=9, batch_size=4)[4] for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*batches, strict=True))


def test_a_square_frame_is_the_middle_of_a_wide_world() -> None:
    scene = replace(sample_scene(np.random.default_rng(3), 4 / 3), noise=0.0)
    states = trajectory(scene.item, "move_left", MOMENTS, np.random.default_rng(0))
    wide, square = (render(scene, states, 60, width, np.random.default_rng(0)) for width in (80, 60))
    assert (wide[:, :, 10:70] == square).all()
    assert wide.std(axis=0).max() > 0, "something moved"


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_looks_the_same_after_part_of_a_turn(shape: str) -> None:
    scene = plain_scene(shape)
    pictures = []
    for angle in np.arange(0, 2 * np.pi, np.pi / 12):
        item = replace(scene.item, angle=float(angle), size=SIZES[1])
        pictures.append(render(scene, item.at_rest(), 64, 64, np.random.default_rng(0))[0].astype(int))
    background = (scene.background * 255).astype(int)
    area = (np.abs(pictures[0] - background).max(axis=-1) > 40).sum()
    for turned in pictures[1:]:
        assert (np.abs(turned - pictures[0]).max(axis=-1) > 40).sum() > 0.1 * area


def test_display_times_are_those_of_pictures_of_a_common_rate() -> None:
    times = display_times(128, np.random.default_rng(0))
    late = np.arange(128) / SAMPLING.fps - times
    assert (late >= -1e-5).all()
    assert (late < 1 / 24 + 1e-5).all()


def test_state_targets_are_the_states_of_each_tubelet() -> None:
    item = plain_scene().item
    states = trajectory(item, "move_right", np.arange(8) / 12.5, np.random.default_rng(0))
    targets = state_targets(states)
    assert targets.shape == (4, 12)
    np.testing.assert_allclose(targets[:, 5] / 25, np.diff(states.x)[0], rtol=1e-5)
    np.testing.assert_array_equal(targets[:, 6:9], 0)
    np.testing.assert_allclose(targets[0, 9:], 2 * item.colours[0] - 1, rtol=1e-5)


def test_a_video_round_trip_keeps_the_frames(tmp_path: Path) -> None:
    scene, rng = plain_scene(), np.random.default_rng(0)
    frames = render(scene, trajectory(scene.item, "move_left", np.arange(32) / 12.5, rng), 64, 64, rng)
    video = tmp_path / "round.mp4"
    write_video(video, [frames[:20], frames[20:]], fps=12.5, crf=10)
    with VideoReader(video, SAMPLING, chunk_frames=16) as reader:
        decoded = np.concatenate(list(reader))
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["round.mp4"]


def test_a_failed_encoding_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"odd\.mp4"):
        write_video(tmp_path / "odd.mp4", [np.zeros((2, 33, 33, 3), np.uint8)], fps=25)
    assert not list(tmp_path.iterdir())


def test_window_targets_are_the_shares_of_the_motions_shown() -> None:
    # Features that say their own label: their mean over a window is what the target must be.
    labels = torch.arange(40) % len(LABELS)
    features = torch.eye(len(LABELS))[labels][:, None].expand(-1, 64, -1)
    rng = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(30):
        windows = draw_windows(features, labels, 64, 0.4, rng)
        torch.testing.assert_close(windows.targets, windows.features.mean(dim=1))
        lengths.add(windows.features.shape[1])
    assert max(lengths) == 64
    assert len(lengths) > 8


def test_looped_windows_repeat_a_part_of_one_clip() -> None:
    features = torch.arange(64.0)[None, :, None].expand(5, -1, 1)
    rng = torch.Generator().manual_seed(0)
    seen_loop = False
    for _ in range(20):
        for row in draw_windows(features, torch.zeros(5, dtype=torch.int64), 64, 0.0, rng).features[..., 0]:
            steps = row.diff()
            seen_loop |= bool((steps < 0).any())
            backwards = steps[steps < 0]
            assert (steps[steps > 0] == 1).all()
            assert (backwards == row[0] - row.max()).all()
    assert seen_loop


def test_stage_two_starts_from_the_function_of_stage_one() -> None:
    torch.manual_seed(0)
    model = SfaVivit(SMALL.dimensions)
    extended = stage_two_model(model, SMALL.dimensions.max_frames, AdapterDimensions(width=16))
    frames = torch.randint(0, 256, (2, 8, 64, 64, 3), dtype=torch.uint8)
    torch.testing.assert_close(extended(frames)[""], model(frames)[""])
    assert stage_two_model(model, LONG_FRAMES, AdapterDimensions(width=16)).dims.max_tubelets == 64
    again = stage_two_model(extended, 8, AdapterDimensions(width=16))
    assert torch.equal(again(frames)[""], extended(frames)[""]), "a further stage keeps the adapter"


def recorder(losses: list[float]) -> Callable[..., None]:
    def progress(done: int, loss: float | None = None, accuracy: float | None = None) -> None:
        if loss is not None:
            losses.append(loss)

    return progress


def test_both_stages_learn_and_the_second_leaves_the_spatial_half_alone() -> None:
    losses: list[float] = []
    model = train_stage_one(SMALL, recorder(losses))
    assert len(losses) == SMALL.stage_one.steps
    assert losses[-1] < 0.98 * losses[0]

    spatial: dict[str, Tensor] = {name: value.clone() for name, value in model.spatial.state_dict().items()}
    temporal = {name: value.clone() for name, value in model.temporal.state_dict().items()}
    losses.clear()
    features, labels = long_clip_features(model, SMALL, recorder([]))
    assert features.shape == (12, 64, 32)
    final = train_stage_two(model, features, labels, SMALL, recorder(losses))
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, spatial[name]) for name, value in final.spatial.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in final.spatial.parameters())
    assert any(not torch.equal(final.temporal.state_dict()[name], value) for name, value in temporal.items())
    assert final.state_dict()["temporal.adapter.fc2.weight"].abs().max() > 0, "the adapter learned"


def test_confusion_names_the_mistakes() -> None:
    counts = np.diag(np.full(len(LABELS), 3))
    counts[0, 2] = 1
    confusion = Confusion(counts)
    assert confusion.accuracy == pytest.approx(36 / 37)
    assert confusion.mistakes() == [("moving left", "moving up", 1)]


def test_the_command_trains_exports_and_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which draws the clips itself."""
    monkeypatch.setattr("examples.motions.train.DemoConfig", partial(DemoConfig, workers=0))
    arguments = ["train", "--out", str(tmp_path), "--scale", "0.001", "--held-out", "1"]
    app(arguments, standalone_mode=False)
    assert "held-out top-1" in capsys.readouterr().err
    model = load_checkpoint(tmp_path / "demo.safetensors")
    assert model.dims.max_frames == LONG_FRAMES
    assert model.dims.adapter is not None
    assert (tmp_path / "labels.txt").read_text().splitlines() == list(LABELS)

    label = write_held_out(tmp_path / "clip.mp4", 7)
    assert label == LABELS[7]
    answer = Recognizer.load(tmp_path / "model_repository").classify(tmp_path / "clip.mp4")
    assert answer.frames_used == LONG_FRAMES

    with pytest.raises(UsageError, match="exists already"):
        app(arguments, standalone_mode=False)
