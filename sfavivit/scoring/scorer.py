"""Scoring of videos in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

from sfavivit.datasets import VideoItem
from sfavivit.errors import InvalidInputError, VideoError
from sfavivit.features.reader import FeatureReader
from sfavivit.features.slicing import align_to_tubelets, tubelet_rate
from sfavivit.inference.recognizer import Recognizer
from sfavivit.scoring.job_options import ScoreOptions
from sfavivit.scoring.rows import Row, RowBuilder
from sfavivit.video.source import VideoSegment


def score_items(
    recognizer: Recognizer, items: Iterable[VideoItem], options: ScoreOptions
) -> Generator[list[Row], None, None]:
    """Yield the rows of each video, in order.

    The next item is taken, and its decoding begun, before a video is scored, so the two overlap. An error of
    a video becomes its rows; every other error is raised.

    Raises:
        HeadNotFoundError, UsageError: the repository lacks a head; an option is invalid.
        RepositoryError: the manifest lacks digests of the engines' files.
        FeatureStoreError: the store cannot be used.
        EngineError: the engine failed.
    """
    manifest = recognizer.manifest
    options.classify.resolve(manifest)
    builder = RowBuilder(recognizer.model.catalog, options.classify.heads)
    store = options.open_store()
    rate = tubelet_rate(manifest.sampling, manifest.dimensions.tubelet_frames)

    def open_source(item: VideoItem) -> FeatureReader:  # downloads if need be, hashes, and begins to decode
        aligned = align_to_tubelets(item, rate) if options.align_to_tubelets else item
        video = item.open(options.fetch_bytes, options.limits.stall_seconds)
        segment = VideoSegment(video, aligned.start_seconds, aligned.end_seconds, options.video_track)
        crops = options.classify.crops
        return FeatureReader(recognizer.model, segment, options.limits, crops=crops, store=store)

    def score(item: VideoItem, opened: Future[FeatureReader]) -> list[Row]:
        try:
            with opened.result() as source:
                answer = recognizer.recognize(source, options.classify)
        except (VideoError, InvalidInputError) as error:
            return builder.error(item, error)
        return builder.answer(item, answer)

    upcoming: tuple[VideoItem, Future[FeatureReader]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="sfavivit-open") as opener:
        try:
            for item in chain(items, [None]):
                present, upcoming = upcoming, (item, opener.submit(open_source, item)) if item else None
                if present:
                    yield score(*present)
        finally:
            if upcoming and not upcoming[1].cancel() and not upcoming[1].exception():
                upcoming[1].result().close()
