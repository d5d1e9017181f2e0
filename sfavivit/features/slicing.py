"""Segments whose features are a slice of the whole video's features.

A dataset names many segments of one long video, which overlap and lie late in it. A segment that begins and
ends where tubelets of the whole video do consists of just these tubelets. So once the whole video is in the
feature store, no such segment needs anything decoded; without it, each decodes all that lies before it.
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
    """Return the number of tubelets per second of video."""
    return exact_rate(sampling.fps) / tubelet_frames


def segment_slice(key: FeatureKey, rate: Fraction) -> slice | None:
    """Return the steps of ``rate`` (per second) that a segment consists of; None if it cuts one."""
    bounds = []
    for seconds in (key.start_seconds, key.end_seconds):
        whole, rest = (None, 0) if seconds is None else periods_in(to_microseconds(seconds), rate)
        if rest:
            return None
        bounds.append(whole)
    return slice(*bounds)


def slice_features(whole: StoredFeatures, key: FeatureKey) -> StoredFeatures | None:
    """Return the features of the segment ``key`` as a slice of ``whole``, bit for bit as decoding it gives.

    None where no slice is that: the segment begins or ends within a tubelet, lies behind the video's end, or
    the video is irregular somewhere.
    """
    if whole.warning or len(whole.timestamps) < 2:
        return None
    tubelet_seconds = whole.timestamps[1] - whole.timestamps[0]
    tubelet_frames = max(1, round(tubelet_seconds * key.sampling.fps))
    tubelets = segment_slice(key, tubelet_rate(key.sampling, tubelet_frames))
    if tubelets is None or not len(features := whole.features[tubelets]):
        return None
    frames = min(len(features) * tubelet_frames, whole.frames_used - tubelets.start * tubelet_frames)
    return StoredFeatures(features.copy(), whole.timestamps[tubelets].copy(), frames)


def align_to_tubelets(item: VideoItem, rate: Fraction) -> VideoItem:
    """Widen an item's segment to all tubelets that it touches: each end moves by less than a tubelet.

    ``rate``: tubelets per second.
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
