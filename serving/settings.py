"""Configuration of the video service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sfavivit.engines import TRITON_SCHEME
from sfavivit.engines.device import Device
from sfavivit.errors import UsageError
from sfavivit.utils.network import is_loopback
from sfavivit.video.limits import Limits

MAXIMA = {"port": 65_535, "metrics_port": 65_535, "chunk_tubelets": 1024}
ZERO_ALLOWED = ("port", "metrics_port", "max_waiting", "drain_seconds")


@dataclass(frozen=True)
class Security:
    """Encryption and authentication of clients.

    ``client_ca``: mutual TLS. ``token_file``: bearer tokens, one a line. ``insecure``: plaintext anywhere.
    """

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None
    insecure: bool = False

    def check(self, host: str) -> None:
        """Check the options against each other and the interface ``host``.

        Raises:
            UsageError: files that need each other, or plaintext beyond this machine.
        """
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key belong together; give both or neither")
        if self.client_ca and not self.tls_certificate:
            raise UsageError("--tls-client-ca needs --tls-cert and --tls-key")
        if not (self.tls_certificate or self.insecure or is_loopback(host)):
            raise UsageError(
                f"plaintext on {host} could be read by others; give --tls-cert and --tls-key, "
                "or --insecure if something before this service encrypts"
            )


@dataclass(frozen=True)
class Settings:
    """Settings of one service.

    ``location``, ``engine``, ``threads``, ``device``: as for ``sfavivit.engines.open_models``. ``port``,
    ``metrics_port``: 0 picks a free one; no metrics when ``metrics_port`` is None.
    ``max_streams``, ``max_waiting``: running and waiting requests; more are refused.
    ``idle_seconds``, ``min_bytes_per_second``: patience with a client that sends (see ``RequestStream``); the
    former, too, with one that does not read its answers.
    ``drain_seconds``: longest wait for running requests at the shutdown.
    ``health_seconds``: interval between checks of the models.
    ``engine_slots``: concurrent engine calls (None: ``slots_in_process``, or ``max_streams`` for Triton,
    which batches them). ``chunk_tubelets``: tubelets per engine call (None: as suits the model's size).
    ``engine_timeout_seconds``: deadline of a request to Triton. ``engine_silent_seconds``: time without a
    reply to a check after which Triton is taken to hang.
    ``spool``: folder for uploads (None: the system's). ``otlp_endpoint``: OpenTelemetry collector.

    Raises:
        UsageError: a value out of range, or ``Security.check``.
    """

    location: str
    engine: str | None = None
    threads: int | None = None
    device: Device = "auto"
    host: str = "127.0.0.1"
    port: int = 50051
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = 9464
    security: Security = field(default_factory=Security)
    limits: Limits = field(default_factory=Limits)
    max_upload_bytes: int = 2 << 30
    max_streams: int = 16
    max_waiting: int = 32
    idle_seconds: float = 30.0
    min_bytes_per_second: float = 1024.0
    drain_seconds: float = 30.0
    health_seconds: float = 1.0
    engine_slots: int | None = None
    chunk_tubelets: int | None = None
    engine_timeout_seconds: float = 300.0
    engine_silent_seconds: float = 30.0
    spool: Path | None = None
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int | float):
                continue
            if name in ZERO_ALLOWED and not value >= 0:
                raise UsageError(f"{name} must be at least 0, got {value}")
            if name not in ZERO_ALLOWED and not value > 0:
                raise UsageError(f"{name} must be more than 0, got {value}")
            if name in MAXIMA and value > MAXIMA[name]:
                raise UsageError(f"{name} must be at most {MAXIMA[name]}, got {value}")
        self.security.check(self.host)

    @property
    def remote(self) -> bool:
        """True if a Triton server runs the models."""
        return self.location.startswith(TRITON_SCHEME)
