"""Tree of the errors that this project raises on purpose, and their exit and gRPC codes.

    SfaVivitError
    ├── UsageError                  invalid option or argument
    ├── InvalidInputError           array of the wrong shape, dtype or value
    ├── HeadNotFoundError           the repository has no such head
    ├── AnnotationError             unreadable list of videos
    ├── CheckpointError             unreadable weight file, or weights of another model
    ├── RepositoryError             unusable model repository
    │   ├── RepositoryVersionError  written in a newer format than this code reads
    │   └── DigestMismatchError     a file differs from the digest in the manifest
    ├── FeatureStoreError           feature store that cannot be used or written
    ├── ScoringError                scoring job whose folder or processes failed
    │   └── WorkerDiedError         a video ended every worker process that tried it
    ├── TrainingError               training that cannot go on
    ├── ExportError                 export that cannot be done as asked
    │   └── ParityError             an engine does not reproduce the PyTorch model
    ├── EngineError                 engine that cannot start or failed in a run
    │   ├── EngineUnavailableError  its server is unreachable, perhaps for a moment
    │   ├── EngineTimeoutError      its server did not answer in time
    │   └── EngineOutdatedError     its server has loaded other models since
    ├── ServiceError                video service that is unreachable or refused the request
    │   ├── ServiceBusyError        its queue is full
    │   ├── UnauthenticatedError    missing or unknown token
    │   ├── DeadlineError           no answer before the deadline
    │   └── CancelledRequestError   the request was cancelled
    └── VideoError                  video without frames
        ├── VideoNotFoundError      no such file
        ├── VideoPermissionError    not readable by this user
        ├── VideoUnavailableError   its server is unreachable or busy, perhaps for a moment
        ├── NotAFileError           a directory, device or socket
        ├── EmptyVideoError         zero bytes
        ├── NotAVideoError          no known video container
        ├── ForbiddenFormatError    a container that refers to other files or addresses
        ├── NoVideoStreamError      audio or subtitles only
        ├── NotStreamableError      a file that can only be read when it is complete
        ├── TruncatedVideoError     cut off before the first decodable frame
        ├── DecodeError             the decoder failed for another reason
        └── VideoLimitError         beyond a limit on pixels, duration, memory or stall time

A message is one line: the fault, its place, the offending value and the remedy. Callers branch on the class
or its ``kind``, never on the text.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class SfaVivitError(Exception):
    """Root of the tree. ``kind``: stable name of the class in JSON output, reports and metrics."""

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


class VideoUnavailableError(VideoError):
    kind = "unavailable"


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
    """Codes of an error outside Python.

    ``exit_code`` of the process: 1 for failed work, 2 for wrong use. ``grpc_code``: name of a member of
    ``grpc.StatusCode`` (a name, so that importing the library does not import grpc).
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
    VideoUnavailableError: Codes(1, "UNAVAILABLE"),
    VideoLimitError: Codes(1, "RESOURCE_EXHAUSTED"),
}


def codes_of(error: SfaVivitError) -> Codes:
    """Return the codes of the nearest class of the tree that is in the table."""
    return next(ERROR_CODES[cls] for cls in type(error).__mro__ if cls in ERROR_CODES)
