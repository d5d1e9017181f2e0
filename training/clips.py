"""Random and fixed clips of listed videos, and batches of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sfavivit.config import CENTER, Crop, Sampling
from sfavivit.datasets import VideoItem
from sfavivit.errors import InvalidInputError, VideoError
from sfavivit.scoring.job_options import DEFAULT_FETCH_BYTES
from sfavivit.video.reader import VideoReader
from sfavivit.video.source import VideoSegment
from training.augmentation import augment
from training.batches import PADDING, Place, TensorBatch
from training.classes import Example
from training.config import Recipe

CHUNK_FRAMES = 16
SUBSTITUTES = 16  # videos tried in place of a broken one


class Broken(NamedTuple):
    """A video that gave no clip, and the reason."""

    id: str
    reason: str


class Clip(NamedTuple):
    """Frames uint8 [F, S, S, 3] with class indices by output; ``share``: its own share in a mixup."""

    frames: Tensor
    labels: dict[str, int]
    share: float
    valid: bool
    broken: tuple[Broken, ...]


class ClipBatch(TensorBatch):
    """Clips: frames uint8 [B, F, S, S, 3], labels {output: int64 [B]}, shares float32 [B], valid bool [B]."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.frames = torch.stack([clip.frames for clip in clips])
        self.labels = {
            output: torch.tensor([clip.labels[output] for clip in clips]) for output in clips[0].labels
        }
        self.shares = torch.tensor([clip.share for clip in clips])
        self.valid = torch.tensor([clip.valid for clip in clips])
        self.broken = [broken for clip in clips for broken in clip.broken]


class TrainingClips(Dataset[Clip]):
    """Random clips of examples; everything random depends on (seed, epoch, example) alone.

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
        return _invalid_clip(self._examples, self._frames, self._recipe.sampling.crop_size, broken)

    def _random_clip(self, item: VideoItem, rng: np.random.Generator) -> Tensor:
        sampling, augmentation = self._recipe.sampling, self._recipe.augmentation
        along = rng.random() if rng.random() < augmentation.random_crop else 0.5
        # The largest square, out of which the augmentation takes its own.
        largest = Sampling(sampling.fps, sampling.shortest_side, sampling.shortest_side)
        frames = read_clip(item, largest, self._frames, at=rng.random(), crop=Crop(along=along))
        return augment(torch.from_numpy(frames), sampling.crop_size, augmentation, rng).contiguous()


class ValidationClips(Dataset[Clip]):
    """Middle clips of examples; the clip of a broken video, or of padding, is not valid."""

    def __init__(self, examples: Sequence[Example], sampling: Sampling, frames: int) -> None:
        self._examples, self._sampling, self._frames = examples, sampling, frames

    def __getitem__(self, place: Place) -> Clip:
        size = self._sampling.crop_size
        if place == PADDING:
            return _invalid_clip(self._examples, self._frames, size, [])
        example = self._examples[place.example]
        try:
            frames = read_clip(example.item, self._sampling, self._frames, at=0.5)
        except (VideoError, InvalidInputError) as error:
            return _invalid_clip(self._examples, self._frames, size, [Broken(example.item.id, str(error))])
        return Clip(torch.from_numpy(frames), example.labels, 1.0, valid=True, broken=())


def _invalid_clip(examples: Sequence[Example], frames: int, size: int, broken: Sequence[Broken]) -> Clip:
    black = torch.zeros(frames, size, size, 3, dtype=torch.uint8)
    return Clip(black, dict.fromkeys(examples[0].labels, 0), 1.0, valid=False, broken=tuple(broken))


def read_clip(
    item: VideoItem, sampling: Sampling, frames: int, *, at: float, crop: Crop = CENTER[0]
) -> NDArray[np.uint8]:
    """Read a clip uint8 [F, S, S, 3] that lies between the video's start (``at`` 0) and its end (1).

    A shorter video is repeated, as in the training of ViViT. A video of unknown length gives its first
    frames. A video at a URL is fetched again for each clip.

    Raises:
        VideoError, InvalidInputError: the video has no frames there.
    """
    wanted: deque[NDArray[np.uint8]] = deque(maxlen=frames)
    stop: int | None = None
    read = 0
    source = item.open(DEFAULT_FETCH_BYTES)
    segment = VideoSegment(source, item.start_seconds, item.end_seconds)
    with VideoReader(segment, sampling, chunk_frames=CHUNK_FRAMES, crops=(crop,)) as reader:
        for chunk in reader:
            if stop is None:
                stop = _stop_frame(item, reader, sampling.fps, frames, at)
            wanted.extend(chunk[: stop - read])
            read += len(chunk)
            if read >= stop:
                break
    return np.stack([wanted[k % len(wanted)] for k in range(frames)])


def _stop_frame(item: VideoItem, reader: VideoReader, fps: float, frames: int, at: float) -> int:
    """Return the frame after the clip's last one; a video may end before it."""
    end = item.end_seconds
    duration = reader.container_duration_seconds if end is None else end
    total = int(((duration or 0.0) - item.start_seconds) * fps)
    return frames + round(at * max(0, total - frames))
