"""Parts of a video whose features are a slice of the whole video's.

A dataset names many segments of one long video, which overlap and lie late in it. A part that begins and
ends where tubelets of the whole video do consists of just these tubelets. So once the whole video is in the
feature store, no such part needs anything decoded; without it, each part decodes all that lies before it.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from sfavivit.config import Sampling
from sfavivit.datasets.item import VideoItem
from sfavivit.features.entry import FeatureKey, StoredFeatures
from sfavivit.video.ffmpeg import exact_rate
from sfavivit.video.source import MAX_SECONDS
from sfavivit.video.timebase import MICROSECONDS, periods_in, to_microseconds


def tubelet_rate(sampling: Sampling, tubelet_frames: int) -> Fraction:
    """Tubelets a second."""
    return exact_rate(sampling.fps) / tubelet_frames


def slice_of(key: FeatureKey, rate: Fraction) -> slice | None:
    """The steps of ``rate`` (a second) of the whole video that a part consists of; None if it cuts one."""
    bounds = []
    for seconds in (key.start_seconds, key.end_seconds):
        whole, rest = (None, 0) if seconds is None else periods_in(to_microseconds(seconds), rate)
        if rest:
            return None
        bounds.append(whole)
    return slice(*bounds)


def part_of(whole: StoredFeatures, key: FeatureKey) -> StoredFeatures | None:
    """What decoding the part ``key`` would give, bit for bit; None where a slice of ``whole`` is not that.

    That is of a part that begins or ends within a tubelet, of one behind the video's end, and of a video that
    was damaged, somewhere.
    """
    if whole.warning or len(whole.timestamps) < 2:
        return None
    tubelet_seconds = whole.timestamps[1] - whole.timestamps[0]
    tubelet_frames = max(1, round(tubelet_seconds * key.sampling.fps))
    tubelets = slice_of(key, tubelet_rate(key.sampling, tubelet_frames))
    if tubelets is None or not len(features := whole.features[tubelets]):
        return None
    frames = min(len(features) * tubelet_frames, whole.frames_used - tubelets.start * tubelet_frames)
    return StoredFeatures(features.copy(), whole.timestamps[tubelets].copy(), frames)


def snapped(item: VideoItem, rate: Fraction) -> VideoItem:
    """The part as all tubelets that it touches: each end moves outwards by less than a tubelet.

    ``rate``: tubelets a second.
    """
    last = int(MAX_SECONDS * rate)
    start = min(periods_in(to_microseconds(item.start_seconds), rate).whole, last - 1)
    end = None
    if item.end_seconds is not None:
        whole, rest = periods_in(to_microseconds(item.end_seconds), rate)
        end = _seconds(min(max(whole + (rest > 0), start + 1), last), rate)
    return replace(item, start_seconds=_seconds(start, rate), end_seconds=end)


def _seconds(tubelets: int, rate: Fraction) -> float:
    return round(tubelets / rate * MICROSECONDS) / MICROSECONDS
