"""Untrimmed videos of motions and their true segments: back to back, with rests, or of two objects at once.

Seeds of all that is rendered: (``--seed``, 1 or 2) for training clips, where the committed model has
``--seed`` 0; ``HELD_OUT_SEED`` for held-out clips; and here ``DEVELOPMENT_SEED`` for videos on which anything
may be chosen, and ``EVALUATION_SEED`` for those that figures are reported on, on which nothing may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from examples.motions.encoding import write_video
from examples.motions.rendering import (
    MOTIONS,
    UNSEEN_MOTIONS,
    Frames,
    Item,
    Scene,
    States,
    render,
    sample_scene,
    trajectory,
)
from examples.motions.videos import FPS, HELD_OUT_CRF
from sfavivit.evaluation.localisation import LabelledSegment, VideoSegments

DEVELOPMENT_SEED, EVALUATION_SEED = 1_000_033, 1_000_037
HEIGHT, WIDTH = 120, 160
REST_SECONDS = (1.0, 8.0)
VIEW = 0.5  # the model sees the central square: so far, in frame heights, to each side of the middle

Schedule = list[tuple[str | None, int]]
"""(motion, or None for a rest; frames), one after the other."""


@dataclass(frozen=True)
class Kind:
    """Kind of untrimmed video.

    Attributes:
        action_seconds: shortest and longest action; lengths are log-uniform.
        rest_seconds: shortest and longest rest before each action; None for actions back to back.
        objects: objects that act, at times of their own, with different motions.
        unseen: whether every other action is one of ``UNSEEN_MOTIONS``, which the truth leaves out.
    """

    action_seconds: tuple[float, float]
    rest_seconds: tuple[float, float] | None = None
    objects: int = 1
    unseen: bool = False


_LENGTHS = {"8-14 s": (8.0, 14.0), "3-8 s": (3.0, 8.0), "1.5-4 s": (1.5, 4.0)}
KINDS: dict[str, Kind] = {
    **{name: Kind(seconds) for name, seconds in _LENGTHS.items()},
    **{f"{name} with rests": Kind(seconds, REST_SECONDS) for name, seconds in _LENGTHS.items()},
    "1-30 s with rests": Kind((1.0, 30.0), REST_SECONDS),
    "3-8 s two objects": Kind((3.0, 8.0), REST_SECONDS, objects=2),
    "3-8 s unseen class": Kind((3.0, 8.0), unseen=True),
}


@dataclass(frozen=True)
class UntrimmedVideo:
    """A video that can be rendered: the scene, the states of its objects, and the true segments.

    Attributes:
        seed: seed of noise and quality.
        scene: the scene; its item is the first object that acts.
        states: states of that object at each frame.
        also: shapes and states of other objects that act.
        truth: segments with labels, and the length.
    """

    seed: tuple[int, ...]
    scene: Scene
    states: States
    also: tuple[tuple[str, States], ...]
    truth: VideoSegments

    def write(self, path: Path) -> None:
        """Encode the video as MP4."""
        rng = np.random.default_rng(self.seed)
        crf = int(rng.integers(*HELD_OUT_CRF, endpoint=True))
        write_video(path, self._frames(rng), fps=FPS, crf=crf)

    def _frames(self, rng: np.random.Generator) -> Iterator[Frames]:
        for start in range(0, len(self.states.x), FPS):
            moments = slice(start, start + FPS)
            also = [(shape, states[moments]) for shape, states in self.also]
            yield render(self.scene, self.states[moments], HEIGHT, WIDTH, rng, also)


def draw_untrimmed(name: str, seed: int, index: int, seconds: float) -> UntrimmedVideo:
    """Draw video number ``index`` of the kind ``name`` of ``KINDS``, at most ``seconds`` long.

    An object at rest stays as its action left it, and the next action starts from there, or from the first
    place of the object where that is out of the model's view.
    """
    kind, seeds = KINDS[name], (seed, crc32(name.encode()), index)
    rng = np.random.default_rng(seeds)
    scene = sample_scene(rng, WIDTH / HEIGHT)
    while 1 + len(scene.others) < kind.objects:
        scene = sample_scene(rng, WIDTH / HEIGHT)
    items = [scene.item, *scene.others[: kind.objects - 1]]
    motions = rng.permutation(list(MOTIONS)).tolist()
    states: list[States] = []
    segments: list[LabelledSegment] = []
    for number, item in enumerate(items):
        schedule = _draw_schedule(kind, motions[number :: len(items)], round(seconds * FPS), rng)
        states.append(_perform(item, schedule, scene.world_width, rng))
        segments += _true_segments(schedule)
    return UntrimmedVideo(
        (*seeds, 1),
        replace(scene, others=scene.others[len(items) - 1 :]),
        states[0],
        tuple((item.shape, moving) for item, moving in zip(items[1:], states[1:], strict=True)),
        VideoSegments(tuple(sorted(segments)), len(states[0].x) / FPS),
    )


def _draw_schedule(kind: Kind, motions: Sequence[str], frames: int, rng: np.random.Generator) -> Schedule:
    """Draw rests and actions while they fit into ``frames``; no motion follows itself.

    With rests, one fills what is left.
    """

    def draw_frames(bounds: tuple[float, float]) -> int:
        return round(FPS * float(np.exp(rng.uniform(*np.log(bounds)))))

    schedule: Schedule = []
    left, previous = frames, ""
    while True:
        rest = draw_frames(kind.rest_seconds) if kind.rest_seconds else 0
        action = min(draw_frames(kind.action_seconds), frames)
        if rest + action > left:
            break
        unseen = kind.unseen and previous in MOTIONS
        previous = str(
            rng.choice([one for one in (UNSEEN_MOTIONS if unseen else motions) if one != previous])
        )
        schedule += [(None, rest), (previous, action)]
        left -= rest + action
    return [*schedule, (None, left if kind.rest_seconds else 0)]


def _perform(item: Item, schedule: Schedule, world_width: float, rng: np.random.Generator) -> States:
    """Return the states of ``item`` at each frame of its schedule."""
    home, parts = item, []
    for motion, frames in schedule:
        if not frames:
            continue
        if motion is None:
            parts.append(item.at_rest(frames))
            continue
        if abs(item.x - world_width / 2) > VIEW:
            item = replace(item, x=home.x)
        parts.append(trajectory(item, motion, np.arange(frames) / FPS, rng))
        item = _left_by(item, parts[-1], world_width)
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return States(*(np.concatenate(column) for column in columns))


def _left_by(item: Item, states: States, world_width: float) -> Item:
    """Return the object at rest in the last of its states."""
    x, y, angle, size = (float(values[-1]) for values in (states.x, states.y, states.angle, states.size))
    first = np.array_equal(states.colour[-1], item.colours[0])
    return replace(
        item, x=x % world_width, y=y % 1, angle=angle, size=size, colours=item.colours[:: 1 if first else -1]
    )


def _true_segments(schedule: Schedule) -> Iterator[LabelledSegment]:
    """Yield the segments of the motions of ``MOTIONS``."""
    start = 0
    for motion, frames in schedule:
        if motion in MOTIONS:
            yield LabelledSegment(start / FPS, (start + frames) / FPS, MOTIONS[motion])
        start += frames
