"""Augmentation against independent definitions: PIL, colorsys, and pixels that say their place."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from training import randaugment
from training.augmentation import augment, change_colours, crop, hsv_to_rgb, resize, rgb_to_hsv
from training.config import AugmentationConfig, RandAugmentConfig
from training.randaugment import OPERATIONS, rand_augment

Pil = Callable[[Image.Image], Image.Image]


def clip(seed: int = 0, frames: int = 3, side: int = 20) -> Tensor:
    """Smooth colours of a narrow range, so that stretching and flattening histograms has something to do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (frames * side // 4, side // 4, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((side, frames * side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(picture).copy()).view(frames, side, side, 3)


def by_pil(frames: Tensor, operation: Pil) -> NDArray[np.int64]:
    """PIL's answer for the clip as one tall picture."""
    tall = Image.fromarray(frames.reshape(-1, *frames.shape[2:]).numpy())
    return np.asarray(operation(tall)).reshape(frames.shape).astype(np.int64)


def test_histogram_operations_are_those_of_pil() -> None:
    frames = clip()
    pairs: list[tuple[Tensor, Pil]] = [
        (randaugment.autocontrast(frames), ImageOps.autocontrast),
        (randaugment.equalize(frames), ImageOps.equalize),
        (randaugment.invert(frames), ImageOps.invert),
    ]
    for ours, theirs in pairs:
        expected = by_pil(frames, theirs)
        assert np.abs(ours.numpy() - expected).max() <= 1  # PIL's tables are in double precision
        assert np.abs(frames.numpy() - expected).max() > 20, "there was something to change"
    assert torch.equal(randaugment.equalize(frames[:, :1, :1]), frames[:, :1, :1]), (
        "too few pixels to flatten"
    )
    even = torch.full((2, 4, 4, 3), 9, dtype=torch.uint8)
    assert torch.equal(randaugment.autocontrast(even), even)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_keeps_the_upper_bits(bits: int) -> None:
    np.testing.assert_array_equal(
        randaugment.posterize(clip(), bits), by_pil(clip(), lambda picture: ImageOps.posterize(picture, bits))
    )


@pytest.mark.parametrize("threshold", [0, 77, 128, 256, 384])
def test_solarize_inverts_what_is_bright(threshold: int) -> None:
    expected = by_pil(clip(), lambda picture: ImageOps.solarize(picture, threshold))
    np.testing.assert_array_equal(randaugment.solarize(clip(), threshold), expected)


def test_solarize_add_brightens_what_is_dark() -> None:
    frames = torch.tensor([0, 100, 127, 128, 200], dtype=torch.uint8)
    assert randaugment.solarize_add(frames, 110).tolist() == [110, 210, 237, 128, 200]
    assert randaugment.solarize_add(frames, 220).tolist() == [220, 255, 255, 128, 200]


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0, 1.9, 2.8, 3.7])
def test_enhancements_are_those_of_pil(factor: float) -> None:
    operations = {
        randaugment.colour: ImageEnhance.Color,
        randaugment.contrast: ImageEnhance.Contrast,
        randaugment.brightness: ImageEnhance.Brightness,
    }
    for ours, theirs in operations.items():
        expected = by_pil(clip(), lambda picture, kind=theirs: kind(picture).enhance(factor))  # type: ignore[misc]
        assert np.abs(ours(clip(), factor).numpy() - expected).max() <= 1


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.9, 2.8])
def test_sharpness_is_that_of_pil_in_every_frame(factor: float) -> None:
    frames = clip()
    ours = randaugment.sharpness(frames, factor)
    for mine, frame in zip(ours, frames, strict=True):
        expected = by_pil(frame[None], lambda picture: ImageEnhance.Sharpness(picture).enhance(factor))
        assert np.abs(mine.numpy() - expected[0]).max() <= max(1, factor)  # a rounding, times the factor


def test_cutout_is_one_square_at_the_same_place() -> None:
    frames = torch.zeros(4, 50, 60, 3, dtype=torch.uint8)
    for seed in range(20):
        holed = randaugment.cutout(frames, 8, np.random.default_rng(seed))
        assert (holed == holed[0]).all()
        rows, columns = (holed[0, ..., 0] == 128).nonzero(as_tuple=True)
        height, width = int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)
        assert len(rows) == height * width
        assert 8 <= height <= 16 and 8 <= width <= 16
    assert frames.max() == 0, "the clip itself is left alone"


def test_rand_augment_draws_every_operation_and_none_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def recorder(number: int) -> randaugment.Operation:
        def record(frames: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
            drawn.append(number)
            return frames

        return record

    monkeypatch.setattr(randaugment, "OPERATIONS", [recorder(k) for k in range(len(OPERATIONS))])
    rng = np.random.default_rng(0)
    for _ in range(2400):
        rand_augment(clip(), 2, 15, rng)
    counts = Counter(drawn)
    assert len(OPERATIONS) == 11
    # 4800 draws of 12 equally likely choices: 400 each, and 5 standard deviations are 96.
    assert all(304 < counts[k] < 496 for k in range(11))
    assert 304 < 4800 - len(drawn) < 496, "the twelfth choice changes nothing"


@pytest.mark.parametrize("magnitude", [0, 9, 15, 20])
def test_every_operation_gives_a_clip_at_every_magnitude(magnitude: float) -> None:
    for operation in OPERATIONS:
        frames = operation(clip(), magnitude / 10, np.random.default_rng(0))
        assert frames.shape == clip().shape and frames.dtype == torch.uint8


def test_hsv_is_that_of_colorsys() -> None:
    rgb = torch.from_numpy(np.random.default_rng(0).random((3, 500)))
    rgb[:, :4] = torch.tensor([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0]]).T
    ours = torch.stack(rgb_to_hsv(rgb))
    theirs = [colorsys.rgb_to_hsv(*colour) for colour in rgb.T.tolist()]
    torch.testing.assert_close(ours.T, torch.tensor(theirs, dtype=torch.float64))
    torch.testing.assert_close(hsv_to_rgb(*ours), rgb)


def test_colours_change_one_by_one_as_defined() -> None:
    frames = clip()
    values = frames.double() / 255
    assert torch.equal(change_colours(frames, 0, 1, 1, 0), frames)
    brighter = change_colours(frames, 0.1, 1, 1, 0)
    assert (brighter.double() / 255 - (values + 0.1)).abs().max() < 1 / 255
    mean = values.mean((1, 2), keepdim=True)
    flatter = change_colours(frames, 0, 1, 0.6, 0)
    assert (flatter.double() / 255 - (mean + 0.6 * (values - mean))).abs().max() < 1 / 255
    for saturation, hue in ((0.6, 0.0), (1.4, 0.0), (1.0, 0.2), (1.0, -0.2)):
        changed = change_colours(frames, 0, saturation, 1, hue).reshape(-1, 3).double() / 255
        for colour, answer in zip(values.reshape(-1, 3)[::97].tolist(), changed[::97], strict=True):
            h, s, v = colorsys.rgb_to_hsv(*colour)
            expected = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), v)
            assert np.abs(np.array(expected) - answer.numpy()).max() < 1.01 / 255


def places(side: int = 40) -> Tensor:
    """Red says how far right a pixel is, green how far down; blue which frame it is of."""
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    frame = torch.stack([across * 6, down * 6, torch.zeros_like(down)], dim=-1)
    return torch.stack([frame + torch.tensor([0, 0, k]) for k in range(3)]).to(torch.uint8)


def test_resizing_and_cropping_take_what_they_say() -> None:
    frames = places()
    assert crop(frames, 10, 0, 1)[0, 0, 0].tolist() == [180, 0, 0]
    assert crop(frames, 10, 1, 0)[2, -1, -1].tolist() == [54, 234, 2]
    resized = resize(frames, 0.9, 1.33)
    assert resized.shape == (3, 36, 53, 3)
    middle = torch.tensor([117, 117, 1])
    assert (resized[1, 17:19, 26].float().mean(0) - middle).abs().max() < 2


def test_crops_lie_everywhere_and_half_are_mirrored() -> None:
    config = AugmentationConfig(scale_jitter=0.0)
    lefts, tops, mirrored = Counter[int](), Counter[int](), 0
    for seed in range(600):
        view = augment(places(), 30, config, np.random.default_rng(seed)).int()
        assert view.shape == (3, 30, 30, 3)
        assert (view[..., :2] == view[:1, ..., :2]).all(), "the same for every frame"
        assert view[:, 0, 0, 2].tolist() == [0, 1, 2]
        mirrored += bool(view[0, 0, 0, 0] > view[0, 0, -1, 0])
        lefts[int(view[0, 0, :, 0].min()) // 6] += 1
        tops[int(view[0, :, 0, 1].min()) // 6] += 1
    assert set(lefts) == set(tops) == set(range(11))
    assert min(*(lefts[k] for k in range(1, 10)), *(tops[k] for k in range(1, 10))) > 30  # 60 expected
    assert 240 < mirrored < 360


def test_scale_jitter_draws_height_and_width_apart() -> None:
    config = AugmentationConfig(flip=0.0, random_crop=0.0)
    steps = []
    for seed in range(300):
        view = augment(places(), 30, config, np.random.default_rng(seed)).float()
        steps.append(
            [6 / (view[0, 15, 1:, 0] - view[0, 15, :-1, 0]).mean(), 6 / view[0, :, 15, 1].diff().mean()]
        )
    across, down = np.array(steps).T
    for scales in (across, down):
        assert 0.85 < scales.min() < 0.95 and 1.27 < scales.max() < 1.37
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.2


def test_colour_augmentation_happens_as_often_as_asked() -> None:
    config = AugmentationConfig(
        scale_jitter=0.0, flip=0.0, random_crop=0.0, colour_jitter=0.8, colour_drop=0.1
    )
    frames = clip(side=20)
    changed = grey = 0
    for seed in range(400):
        view = augment(frames, 20, config, np.random.default_rng(seed))
        grey += bool((view == view[..., :1]).all())
        changed += not torch.equal(view, frames)
    assert 0.75 < changed / 400 < 0.89  # 1 - 0.2 * 0.9 = 0.82
    assert 0.05 < grey / 400 < 0.15


def test_rand_augment_takes_the_place_of_colour_jitter() -> None:
    config = AugmentationConfig(
        scale_jitter=0, flip=0, random_crop=0, randaugment=RandAugmentConfig(layers=2, magnitude=15)
    )
    views = [augment(clip(), 20, config, np.random.default_rng(seed)) for seed in range(40)]
    assert sum(not torch.equal(view, clip()) for view in views) > 25
    assert torch.equal(views[3], augment(clip(), 20, config, np.random.default_rng(3)))
