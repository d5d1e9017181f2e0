"""JSON logs on stderr, one object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

logger = logging.getLogger("sfavivit.serving")

_FIELDS = "fields"


def log(message: str, *, level: int = logging.INFO, error: bool = False, **fields: object) -> None:
    """Log ``message`` with ``fields`` beside it. ``error``: add the traceback of the current exception."""
    logger.log(level, message, extra={_FIELDS: fields}, exc_info=error)


def configure() -> None:
    """Send the log of the service and of the library to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    top = logging.getLogger("sfavivit")  # the parent of ``logger``
    top.handlers[:] = [handler]
    top.propagate = False
    logger.setLevel(logging.INFO)


class JsonFormatter(logging.Formatter):
    """Formats a record as time (RFC 3339), level, message, the fields, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)
