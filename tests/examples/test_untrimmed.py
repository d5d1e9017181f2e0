"""Untrimmed videos of motions: their truth is what is rendered."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.motions.rendering import LABELS, States, render
from examples.motions.untrimmed import DEVELOPMENT_SEED, EVALUATION_SEED, KINDS, draw_untrimmed
from examples.motions.videos import FPS

SECONDS = 60.0


def moves(states: States) -> NDArray[np.bool_]:
    """Whether the object changes from each frame to the next: [F - 1]."""
    columns = [getattr(states, field.name) for field in fields(states)]
    table = np.column_stack([column.reshape(len(states.x), -1) for column in columns])
    return np.asarray((np.diff(table, axis=0) != 0).any(1))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("index", [0, 1])
def test_actions_are_as_long_as_their_kind_says(name: str, index: int) -> None:
    kind, video = KINDS[name], draw_untrimmed(name, EVALUATION_SEED, index, SECONDS)
    segments, duration = video.truth.segments, video.truth.duration_seconds
    assert segments
    assert {segment.label for segment in segments} <= set(LABELS)
    assert duration == len(video.states.x) / FPS <= SECONDS
    shortest, longest = kind.action_seconds
    for segment in segments:
        assert shortest - 0.04 <= segment.end_seconds - segment.start_seconds <= longest + 0.04
        assert 0 <= segment.start_seconds < segment.end_seconds <= duration
    gaps = [b.start_seconds - a.end_seconds for a, b in pairwise(segments)]
    if kind.rest_seconds and kind.objects == 1:
        assert kind.rest_seconds[0] - 0.04 <= min(gaps) <= max(gaps) <= kind.rest_seconds[1] + 0.04
    elif kind.objects > 1:
        assert min(gaps) < 0, "actions overlap"
    elif not kind.unseen:
        assert gaps == pytest.approx([0] * len(gaps))
        assert all(a.label != b.label for a, b in pairwise(segments))


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.rest_seconds])
def test_something_moves_in_actions_and_nothing_in_rests(name: str) -> None:
    video = draw_untrimmed(name, EVALUATION_SEED, 0, SECONDS)
    moving = moves(video.states)
    for _, states in video.also:
        moving |= moves(states)
    action = np.zeros(len(moving) + 1, np.bool_)
    for segment in video.truth.segments:
        first, stop = round(segment.start_seconds * FPS), round(segment.end_seconds * FPS)
        action[first:stop] = True
        assert moving[first : stop - 1].mean() > 0.05  # blinking changes twice a second
    still = ~action[:-1] & ~action[1:]
    assert still.any()
    assert not moving[still].any()


def test_an_unseen_class_is_background_that_moves() -> None:
    video = draw_untrimmed("3-8 s unseen class", EVALUATION_SEED, 0, SECONDS)
    assert moves(video.states).mean() > 0.6
    covered = sum(one.end_seconds - one.start_seconds for one in video.truth.segments)
    assert 0.3 < covered / (video.truth.duration_seconds or 0) < 0.7


def test_seeds_give_the_same_videos_again_and_sets_differ() -> None:
    truths = [
        draw_untrimmed("3-8 s", seed, index, SECONDS).truth
        for seed, index in (
            (EVALUATION_SEED, 0),
            (EVALUATION_SEED, 0),
            (EVALUATION_SEED, 1),
            (DEVELOPMENT_SEED, 0),
        )
    ]
    assert truths[0] == truths[1]
    assert len(set(truths)) == 3


def test_both_objects_are_drawn() -> None:
    video = draw_untrimmed("3-8 s two objects", EVALUATION_SEED, 0, SECONDS)
    ((shape, states),) = video.also
    moments = slice(0, 2)
    alone, both = (
        render(video.scene, video.states[moments], 60, 80, np.random.default_rng(0), also).astype(int)
        for also in ([], [(shape, states[moments])])
    )
    assert (np.abs(both - alone).max(-1) > 40).sum() > 20
