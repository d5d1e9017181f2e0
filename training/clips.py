"""Clips of listed videos, read as they are read for recognition, and batches of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.datasets import VideoItem
from sfavivit.datasets.fetch import open_video
from sfavivit.errors import InvalidInputError, VideoError
from sfavivit.scoring.job_options import DEFAULT_FETCH_BYTES
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import VideoSegment
from training.augmentation import augment
from training.batches import NOTHING, Place
from training.classes import Example
from training.config import Recipe

CHUNK_FRAMES = 16
SUBSTITUTES = 16  # videos tried in place of a broken one


class Broken(NamedTuple):
    """A video that gave no clip, and why."""

    id: str
    reason: str


class Clip(NamedTuple):
    """An example: uint8 [F, S, S, 3] and the classes of its outputs. ``share``: its own in a mixture."""

    frames: Tensor
    labels: dict[str, int]
    share: float
    valid: bool
    broken: tuple[Broken, ...]


class ClipBatch:
    """Clips of a batch: frames uint8 [B, F, S, S, 3], labels {output: int64 [B]}, shares float32 [B], valid
    bool [B].

    No tuple on purpose: the numbers in a container would be rounded by mixed precision.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.frames = torch.stack([clip.frames for clip in clips])
        self.labels = {
            output: torch.tensor([clip.labels[output] for clip in clips]) for output in clips[0].labels
        }
        self.shares = torch.tensor([clip.share for clip in clips])
        self.valid = torch.tensor([clip.valid for clip in clips])
        self.broken = [broken for clip in clips for broken in clip.broken]

    def to(self, device: torch.device) -> Self:
        """The same object, its tensors on ``device``."""
        self.frames = self.frames.to(device, non_blocking=True)
        self.labels = {output: labels.to(device) for output, labels in self.labels.items()}
        self.shares, self.valid = self.shares.to(device), self.valid.to(device)
        return self


class TrainingClips(Dataset[Clip]):
    """A random clip of the example at each place; everything random depends on (seed, epoch, example) alone.

    A broken video gives its place to the next of the list, so that batches stay full. When ``SUBSTITUTES``
    in a row are broken, the clip is not valid.
    """

    def __init__(self, examples: Sequence[Example], recipe: Recipe, frames: int) -> None:
        self._examples, self._recipe, self._frames = examples, recipe, frames

    def __getitem__(self, place: Place) -> Clip:
        broken: list[Broken] = []
        for number in range(place.example, place.example + min(SUBSTITUTES, len(self._examples))):
            index = number % len(self._examples)
            rng = np.random.default_rng((self._recipe.seed, 1, place.epoch, index))
            example = self._examples[index]
            try:
                frames = self._random_clip(example.item, rng)
            except (VideoError, InvalidInputError) as error:
                broken.append(Broken(example.item.id, str(error)))
                continue
            alpha = self._recipe.regularisation.mixup
            share = rng.beta(alpha, alpha) if alpha else 1.0
            return Clip(frames, example.labels, share, valid=True, broken=tuple(broken))
        return _no_clip(self._examples, self._frames, self._recipe.sampling.crop_size, broken)

    def _random_clip(self, item: VideoItem, rng: np.random.Generator) -> Tensor:
        sampling, augmentation = self._recipe.sampling, self._recipe.augmentation
        along = rng.random() if rng.random() < augmentation.random_crop else 0.5
        frames = read_clip(item, _whole(sampling), self._frames, at=rng.random(), crop=Crop(along=along))
        return augment(torch.from_numpy(frames), sampling.crop_size, augmentation, rng).contiguous()


class ValidationClips(Dataset[Clip]):
    """The middle clip of the example at each place. A broken video, or no place, gives a clip that is not
    valid.
    """

    def __init__(self, examples: Sequence[Example], sampling: Sampling, frames: int) -> None:
        self._examples, self._sampling, self._frames = examples, sampling, frames

    def __getitem__(self, place: Place) -> Clip:
        size = self._sampling.crop_size
        if place == NOTHING:
            return _no_clip(self._examples, self._frames, size, [])
        example = self._examples[place.example]
        try:
            frames = read_clip(example.item, self._sampling, self._frames, at=0.5)
        except (VideoError, InvalidInputError) as error:
            return _no_clip(self._examples, self._frames, size, [Broken(example.item.id, str(error))])
        return Clip(torch.from_numpy(frames), example.labels, 1.0, valid=True, broken=())


def _no_clip(examples: Sequence[Example], frames: int, size: int, broken: Sequence[Broken]) -> Clip:
    """Black, of no class, and not to be counted."""
    black = torch.zeros(frames, size, size, 3, dtype=torch.uint8)
    return Clip(black, dict.fromkeys(examples[0].labels, 0), 1.0, valid=False, broken=tuple(broken))


def read_clip(
    item: VideoItem, sampling: Sampling, frames: int, *, at: float, crop: Crop = CENTER[0]
) -> NDArray[np.uint8]:
    """``frames`` frames of a video, uint8 [F, S, S, 3], from its start (``at`` 0) to its end (1).

    A shorter video is repeated, as in the training of ViViT. One that does not say how long it is gives its
    first frames. One at a URL is fetched again for each clip.

    Raises:
        VideoError, InvalidInputError: it has no frames there.
    """
    wanted: deque[NDArray[np.uint8]] = deque(maxlen=frames)
    stop: int | None = None
    read = 0
    with VideoReader(
        VideoSegment(open_video(item.video, DEFAULT_FETCH_BYTES), item.start_seconds, item.end_seconds),
        sampling,
        chunk_frames=CHUNK_FRAMES,
        crops=(crop,),
    ) as reader:
        for chunk in reader:
            if stop is None:
                stop = _stop(item, reader, sampling.fps, frames, at)
            for frame in chunk[: stop - read]:
                wanted.append(frame)
            read += len(chunk)
            if read >= stop:
                break
    return np.stack([wanted[k % len(wanted)] for k in range(frames)])


def _stop(item: VideoItem, reader: VideoReader, fps: float, frames: int, at: float) -> int:
    """The frame after the clip's last one; a video may end before it."""
    end = item.end_seconds
    duration = reader.container_duration_seconds if end is None else end
    total = int(((duration or 0.0) - item.start_seconds) * fps)
    return frames + round(at * max(0, total - frames))


def _whole(sampling: Sampling) -> Sampling:
    """The largest square, out of which augmentation takes its own."""
    return Sampling(fps=sampling.fps, shortest_side=sampling.shortest_side, crop_size=sampling.shortest_side)
