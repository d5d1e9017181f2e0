"""Parts of a video whose features are a slice of the whole video's.

A dataset names many segments of one long video, which overlap and lie late in it. A part that begins and
ends where tubelets of the whole video do consists of just these tubelets. So once the whole video is in the
feature store, no such part needs anything decoded; without it, each part decodes all that lies before it.
"""

from __future__ import annotations

from fractions import Fraction

from sfavivit.feature_entry import StoredFeatures
from sfavivit.ffmpeg_program import exact_rate
from sfavivit.time_grid import MICROSECONDS, periods_in, to_microseconds
from sfavivit.video import LATEST_SECONDS, Sampling


def tubelet_rate(sampling: Sampling, tubelet_frames: int) -> Fraction:
    """Tubelets a second."""
    return exact_rate(sampling.fps) / tubelet_frames


def tubelets_of(start_seconds: float, end_seconds: float | None, rate: Fraction) -> slice | None:
    """The whole video's tubelets that a part consists of; None if it begins or ends within one.

    ``rate``: tubelets a second.
    """
    bounds = []
    for seconds in (start_seconds, end_seconds):
        whole, rest = (None, 0) if seconds is None else periods_in(to_microseconds(seconds), rate)
        if rest:
            return None
        bounds.append(whole)
    return slice(*bounds)


def part_of(whole: StoredFeatures, tubelets: slice, tubelet_frames: int) -> StoredFeatures | None:
    """What decoding the part would give, bit for bit; None where decoding it would have more to say.

    That is of a video that was damaged, somewhere, and of a part behind its end.
    """
    features = whole.features[tubelets]
    if whole.warning or not len(features):
        return None
    frames = min(len(features) * tubelet_frames, whole.frames_used - tubelets.start * tubelet_frames)
    return StoredFeatures(features, whole.timestamps[tubelets], frames)


def nearest_tubelets(
    start_seconds: float, end_seconds: float | None, rate: Fraction
) -> tuple[float, float | None]:
    """The part with each end moved to the nearest tubelet's, by half a tubelet at most; at least one long.

    ``rate``: tubelets a second.
    """
    last = int(LATEST_SECONDS * rate) - 1
    start = min(round(Fraction(start_seconds) * rate), last)
    if end_seconds is None:
        return _seconds(start, rate), None
    end = min(max(start + 1, round(Fraction(end_seconds) * rate)), last + 1)
    return _seconds(start, rate), _seconds(end, rate)


def _seconds(tubelets: int, rate: Fraction) -> float:
    return round(tubelets / rate * MICROSECONDS) / MICROSECONDS
