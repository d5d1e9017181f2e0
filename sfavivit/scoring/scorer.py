"""Videos -> rows in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from sfavivit.datasets import VideoItem
from sfavivit.datasets.fetch import open_video
from sfavivit.errors import InvalidInputError, VideoError
from sfavivit.features.reader import FeatureReader
from sfavivit.features.slicing import align_to_tubelets, tubelet_rate
from sfavivit.inference.recognizer import Recognizer
from sfavivit.scoring.options import ScoreOptions
from sfavivit.scoring.rows import Row, RowBuilder
from sfavivit.video.source import VideoSegment


class _Opening(NamedTuple):
    """A video on its way: fetched if need be, its hash and its first frames in the making."""

    item: VideoItem
    source: Future[FeatureReader]


def score_items(
    recognizer: Recognizer, items: Iterable[VideoItem], options: ScoreOptions
) -> Generator[list[Row], None, None]:
    """The rows of each video, in order. The next item is taken, and opened, before a video is answered.

    What is wrong with a video becomes its rows; everything else is raised.

    Raises:
        HeadNotFoundError, UsageError: options that cannot be.
        RepositoryError: it does not know its files' digests.
        FeatureStoreError: the store cannot be used.
        EngineError: the engine failed.
    """
    options.classify.resolve(recognizer.manifest)
    builder = RowBuilder(recognizer.model.catalog, options.classify.heads)
    store = options.open_store()

    manifest = recognizer.manifest
    rate = tubelet_rate(manifest.sampling, manifest.dimensions.tubelet_frames)

    def open_source(item: VideoItem) -> FeatureReader:
        part = align_to_tubelets(item, rate) if options.snap else item
        segment = VideoSegment(
            open_video(item.video, options.fetch_bytes), part.start_seconds, part.end_seconds
        )
        crops = options.classify.crops
        return FeatureReader(recognizer.model, segment, options.limits, crops=crops, store=store)

    def score(opening: _Opening) -> list[Row]:
        try:
            with opening.source.result() as source:
                answer = recognizer.recognize(source, options.classify)
        except (VideoError, InvalidInputError) as error:
            return builder.error(opening.item, error)
        return builder.answer(opening.item, answer)

    upcoming: _Opening | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="sfavivit-open") as opener:
        try:
            for item in items:
                present, upcoming = upcoming, _Opening(item, opener.submit(open_source, item))
                if present:
                    yield score(present)
            if upcoming:
                present, upcoming = upcoming, None
                yield score(present)
        finally:
            if upcoming and not upcoming.source.cancel() and not upcoming.source.exception():
                upcoming.source.result().close()
