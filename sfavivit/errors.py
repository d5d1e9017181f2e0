"""Every error this project raises on purpose, and what each becomes outside Python.

    SfaVivitError
    ├── UsageError                  an option or argument that cannot work
    ├── InvalidInputError           an array of the wrong shape, dtype or value
    ├── HeadNotFoundError           a head the repository does not have
    ├── AnnotationError             a list of videos that cannot be read
    ├── CheckpointError             a weight file that cannot be read
    ├── RepositoryError             a model repository that cannot be used
    │   ├── RepositoryVersionError  ... written in a newer format than this code reads
    │   └── DigestMismatchError     ... whose files are not the ones its manifest names
    ├── FeatureStoreError           a feature store that cannot be used or written
    ├── ScoringError                a scoring job whose folder or processes fail
    │   └── WorkerDiedError         ... because one video ends whatever process tries it
    ├── TrainingError               a training that cannot go on
    ├── ExportError                 an export that cannot be done as asked
    │   └── ParityError             ... because an engine does not reproduce the PyTorch model
    ├── EngineError                 an engine that cannot start or failed in a run
    │   ├── EngineUnavailableError  ... whose server is away; it may come back
    │   ├── EngineTimeoutError      ... whose server did not answer in time
    │   └── EngineOutdatedError     ... whose server serves other models by now
    ├── ServiceError                a video service that cannot be reached or will not answer
    │   ├── ServiceBusyError        ... since as many requests as it takes are running and waiting
    │   ├── UnauthenticatedError    ... without a token, or with one it does not know
    │   ├── DeadlineError           ... in the time that was given
    │   └── CancelledRequestError   ... since the request was withdrawn
    └── VideoError                  a video that gives no frames
        ├── VideoNotFoundError      no such file
        ├── VideoPermissionError    not readable by this user
        ├── NotAFileError           a directory, device or socket
        ├── EmptyVideoError         zero bytes
        ├── NotAVideoError          no known video container
        ├── ForbiddenFormatError    a container that would make the decoder open something else
        ├── NoVideoStreamError      audio or subtitles only
        ├── NotStreamableError      a file that can only be read when all of it is there
        ├── TruncatedVideoError     cut off before the first decodable frame
        ├── DecodeError             the decoder failed for any other reason
        └── VideoLimitError         beyond a limit on pixels, duration, memory or stall time

A message is one line: what was wrong, where, the offending value, and what to do. The class says what
happened, so callers branch on the class (or its ``kind``), never on the text.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class SfaVivitError(Exception):
    """Root of the tree. ``kind`` is the stable name used in JSON output, reports and metrics."""

    kind: ClassVar[str] = "internal"


class UsageError(SfaVivitError):
    kind = "usage"


class InvalidInputError(SfaVivitError):
    kind = "invalid_input"


class HeadNotFoundError(SfaVivitError):
    kind = "head_not_found"


class AnnotationError(SfaVivitError):
    kind = "annotation"


class CheckpointError(SfaVivitError):
    kind = "checkpoint"


class RepositoryError(SfaVivitError):
    kind = "repository"


class RepositoryVersionError(RepositoryError):
    kind = "repository_version"


class DigestMismatchError(RepositoryError):
    kind = "digest_mismatch"


class FeatureStoreError(SfaVivitError):
    kind = "feature_store"


class ScoringError(SfaVivitError):
    kind = "scoring"


class WorkerDiedError(ScoringError):
    kind = "worker_died"


class TrainingError(SfaVivitError):
    kind = "training"


class ExportError(SfaVivitError):
    kind = "export"


class ParityError(ExportError):
    kind = "parity"


class EngineError(SfaVivitError):
    kind = "engine"


class EngineUnavailableError(EngineError):
    kind = "engine_unavailable"


class EngineTimeoutError(EngineError):
    kind = "engine_timeout"


class EngineOutdatedError(EngineError):
    kind = "engine_outdated"


class ServiceError(SfaVivitError):
    kind = "service"


class ServiceBusyError(ServiceError):
    kind = "busy"


class UnauthenticatedError(ServiceError):
    kind = "unauthenticated"


class DeadlineError(ServiceError):
    kind = "deadline"


class CancelledRequestError(ServiceError):
    kind = "cancelled"


class VideoError(SfaVivitError):
    kind = "video"


class VideoNotFoundError(VideoError):
    kind = "not_found"


class VideoPermissionError(VideoError):
    kind = "permission"


class NotAFileError(VideoError):
    kind = "not_a_file"


class EmptyVideoError(VideoError):
    kind = "empty"


class NotAVideoError(VideoError):
    kind = "not_a_video"


class ForbiddenFormatError(VideoError):
    kind = "forbidden_format"


class NoVideoStreamError(VideoError):
    kind = "no_video_stream"


class NotStreamableError(VideoError):
    kind = "not_streamable"


class TruncatedVideoError(VideoError):
    kind = "truncated"


class DecodeError(VideoError):
    kind = "decode"


class VideoLimitError(VideoError):
    kind = "limit"


class Codes(NamedTuple):
    """What an error becomes at the process and at the wire boundary.

    ``exit_code``: 1 the work failed, 2 wrong use. ``grpc_code``: name of a ``grpc.StatusCode`` member (a
    name, so that importing the library does not import grpc).
    """

    exit_code: int
    grpc_code: str


ERROR_CODES: dict[type[SfaVivitError], Codes] = {
    SfaVivitError: Codes(1, "INTERNAL"),
    UsageError: Codes(2, "INVALID_ARGUMENT"),
    InvalidInputError: Codes(1, "INVALID_ARGUMENT"),
    HeadNotFoundError: Codes(2, "NOT_FOUND"),
    AnnotationError: Codes(2, "INVALID_ARGUMENT"),
    CheckpointError: Codes(1, "FAILED_PRECONDITION"),
    RepositoryError: Codes(2, "FAILED_PRECONDITION"),
    FeatureStoreError: Codes(1, "FAILED_PRECONDITION"),
    ScoringError: Codes(1, "FAILED_PRECONDITION"),
    TrainingError: Codes(1, "FAILED_PRECONDITION"),
    ExportError: Codes(1, "FAILED_PRECONDITION"),
    EngineError: Codes(1, "INTERNAL"),
    EngineUnavailableError: Codes(1, "UNAVAILABLE"),
    EngineTimeoutError: Codes(1, "DEADLINE_EXCEEDED"),
    EngineOutdatedError: Codes(1, "UNAVAILABLE"),
    ServiceError: Codes(1, "UNAVAILABLE"),
    ServiceBusyError: Codes(1, "RESOURCE_EXHAUSTED"),
    UnauthenticatedError: Codes(1, "UNAUTHENTICATED"),
    DeadlineError: Codes(1, "DEADLINE_EXCEEDED"),
    CancelledRequestError: Codes(1, "CANCELLED"),
    VideoError: Codes(1, "INVALID_ARGUMENT"),
    VideoNotFoundError: Codes(1, "NOT_FOUND"),
    VideoPermissionError: Codes(1, "PERMISSION_DENIED"),
    VideoLimitError: Codes(1, "RESOURCE_EXHAUSTED"),
}


def codes_of(error: SfaVivitError) -> Codes:
    """The codes of the nearest class in the tree that the table names."""
    return next(ERROR_CODES[cls] for cls in type(error).__mro__ if cls in ERROR_CODES)
