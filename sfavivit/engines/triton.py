"""Engine for the models of a Triton server, over gRPC (the KServe v2 protocol).

``triton://HOST:PORT`` is all a client needs: the manifest travels in the model configs
(``model_parameters``). Requests name the version that the catalog was read for, so that the labels always
belong to the logits; a version that is no longer served raises ``EngineOutdatedError``. Frames go inside the
gRPC message; docs/design/serving.md says why shared memory is not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from threading import BoundedSemaphore, Event
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
from numpy.typing import NDArray
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from sfavivit.errors import (
    CancelledRequestError,
    EngineError,
    EngineOutdatedError,
    EngineTimeoutError,
    EngineUnavailableError,
    UsageError,
)
from sfavivit.repository.manifest import (
    FEATURES,
    FRAMES,
    SPATIAL_MODEL,
    Catalog,
    logits_tensor,
    temporal_model,
)
from sfavivit.repository.triton_parameters import PARAMETER, parse_catalog
from sfavivit.types import Features, Frames, Logits
from sfavivit.utils.network import direct_options, proxy_note
from sfavivit.utils.text import one_line

# Untyped: the stubs are made at run time. They are used directly, because Triton's client class is for one
# thread, and a gRPC channel is for all.
kserve: Any = service_pb2
model_config: Any = model_config_pb2.ModelInstanceGroup  # type: ignore[attr-defined]
kserve_stub: Any = service_pb2_grpc.GRPCInferenceServiceStub

DEFAULT_PORT = 8001
START_SECONDS = 30.0  # timeout of each request for the catalog when an engine is made
CHECK_SECONDS = 3.0
TEMPORAL_PREFIX = temporal_model("")
DEVICES = {model_config.KIND_CPU: "triton:cpu", model_config.KIND_GPU: "triton:cuda"}
DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}

# Reconnect within a second of the server's return; gRPC's default is up to two minutes. No keepalive pings:
# Triton refuses more than one in five minutes, and each request has its deadline.
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TritonOptions:
    """Options of the requests.

    ``timeout_seconds``: deadline of a request, its wait for a slot and its retries included. Far above normal
    times, since a batch on CPUs takes large models most of a minute; a caller that gives up earlier cancels
    (``TritonEngine.scoped``).
    ``retry_seconds``: time in which a request is retried while the server is unavailable.
    ``in_flight``: maximum number of requests at the server at once; further callers wait.
    ``outdated_advice``: what a caller should do when the server has loaded other models.
    ``metadata``: returns gRPC metadata for a request, called in the caller's thread (a trace context).
    """

    timeout_seconds: float = 300.0
    retry_seconds: float = 3.0
    in_flight: int = 32
    outdated_advice: str = "load the recognizer again"
    metadata: Callable[[], Metadata] = tuple


class TritonEngine:
    """Engine that runs on the Triton server at ``triton://HOST:PORT``. See ``engines.base.Engine``.

    Raises:
        UsageError: another form of address.
        EngineUnavailableError: the server does not answer, or the models are not ready.
        RepositoryError: its models carry no manifest, or an invalid one.
    """

    def __init__(self, address: str, options: TritonOptions | None = None) -> None:
        self.options = options or TritonOptions()
        self.server = server_of(address)
        self._where = f"Triton at {self.server}{proxy_note(self.server)}"
        channel_options = (*CHANNEL_OPTIONS, *direct_options(self.server))
        self._channel = grpc.insecure_channel(self.server, options=channel_options)
        self._stub = kserve_stub(self._channel)
        self._slots = BoundedSemaphore(self.options.in_flight)
        self._calls = _Calls()
        try:
            limits = (START_SECONDS, self.options.retry_seconds)
            self.catalog = self._read_catalog(*limits)
            groups = self._config(SPATIAL_MODEL, *limits).instance_group
        except BaseException:
            self.close()
            raise
        self.device = DEVICES.get(groups[0].kind, "triton") if groups else "triton"

    def spatial(self, frames: Frames) -> Features:
        version = self.catalog.manifest.spatial.version
        features: Features = self._infer(SPATIAL_MODEL, version, FRAMES, frames)[FEATURES]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        entry = self.catalog.manifest.head(head)
        logits = self._infer(temporal_model(head), entry.version, FEATURES, features)
        return {output: logits[logits_tensor(output)] for output in entry.outputs}

    def check(self) -> None:
        """Check, without retries, that the server is ready to run these models.

        Raises:
            EngineUnavailableError: the server is away, or a model is not ready.
            EngineTimeoutError: it does not answer within 3 s.
            EngineOutdatedError: it serves other models than when this engine was made.
        """
        if self._read_catalog(CHECK_SECONDS, retry_seconds=0) != self.catalog:
            raise EngineOutdatedError(
                f"Triton at {self.server} serves other models now; {self.options.outdated_advice}"
            )

    def scoped(self) -> TritonEngine:
        """Return an engine on the same connection whose ``cancel`` ends its own requests only."""
        engine = copy(self)
        engine._calls = _Calls()
        return engine

    def cancel(self) -> None:
        """End the requests in flight at once and refuse further ones, with ``CancelledRequestError``."""
        self._calls.cancel()

    def close(self) -> None:
        """Close the connection; requests in flight fail."""
        self._channel.close()

    def _read_catalog(self, timeout_seconds: float, retry_seconds: float) -> Catalog:
        limits = (timeout_seconds, retry_seconds)
        index = self._call(self._stub.RepositoryIndex, kserve.RepositoryIndexRequest(ready=True), *limits)
        ready = sorted({model.name for model in index.models})
        temporal = [name for name in ready if name.startswith(TEMPORAL_PREFIX)]
        if SPATIAL_MODEL not in ready or not temporal:
            raise EngineUnavailableError(
                f"Triton at {self.server} has no {SPATIAL_MODEL} and {TEMPORAL_PREFIX}... ready "
                f"(ready: {', '.join(ready) or 'none'}); start it on a repository "
                "that `python -m export` wrote, from a checkout"
            )
        heads = {name.removeprefix(TEMPORAL_PREFIX): self._parameter(name, *limits) for name in temporal}
        return parse_catalog(self._parameter(SPATIAL_MODEL, *limits), heads, f"Triton at {self.server}")

    def _parameter(self, model: str, *limits: float) -> str:
        return str(self._config(model, *limits).parameters[PARAMETER].string_value)

    def _config(self, model: str, *limits: float) -> Any:
        return self._call(self._stub.ModelConfig, kserve.ModelConfigRequest(name=model), *limits).config

    def _infer(self, model: str, version: int, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run a model on one input tensor and return all its output tensors, float32."""
        tensor = kserve.ModelInferRequest.InferInputTensor(
            name=name, datatype=DATATYPES[array.dtype], shape=array.shape
        )
        request = kserve.ModelInferRequest(
            model_name=model,
            model_version=str(version),
            inputs=[tensor],
            raw_input_contents=[array.tobytes()],
        )
        try:
            answer = self._call_in_slot(self._stub.ModelInfer, request)
        except EngineUnavailableError:
            self.check()  # an unloaded version is "unavailable", too: raises EngineOutdatedError then
            raise
        return {
            output.name: np.frombuffer(content, np.float32).reshape(output.shape)
            for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }

    def _call_in_slot(self, method: Any, request: Any) -> Any:
        """Make one of at most ``in_flight`` RPCs; the wait for a slot counts towards the deadline."""
        limit, start = self.options.timeout_seconds, time.monotonic()
        if not self._slots.acquire(timeout=limit):
            raise EngineTimeoutError(
                f"Triton at {self.server}: no slot within {limit:g} s "
                f"({self.options.in_flight} requests in flight); lower the load"
            )
        try:
            waited = time.monotonic() - start
            return self._call(method, request, limit, self.options.retry_seconds, waited=waited)
        finally:
            self._slots.release()

    def _call(
        self,
        method: Any,
        request: Any,
        timeout_seconds: float,
        retry_seconds: float,
        *,
        waited: float = 0.0,
    ) -> Any:
        """Make an RPC within its deadline, retrying while the server is unavailable."""
        deadline = time.monotonic() + timeout_seconds - waited
        retrying = Retrying(
            retry=retry_if_exception(_is_unavailable),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            stop=stop_after_delay(retry_seconds),
            sleep=self._calls.sleep,
            reraise=True,
        )
        metadata = tuple(self.options.metadata())

        def once() -> Any:
            left = max(0.0, deadline - time.monotonic())
            return self._calls.result(lambda: method.future(request, timeout=left, metadata=metadata))

        try:
            return retrying(once)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed
            raise self._engine_error(error, timeout_seconds) from error

    def _engine_error(self, error: Exception, limit: float) -> EngineError:
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.CANCELLED
        details = one_line(error.details() if isinstance(error, grpc.Call) else error)
        where = self._where
        if code is grpc.StatusCode.UNAVAILABLE:
            return EngineUnavailableError(f"{where} is unavailable: {details}; is it running?")
        if code is grpc.StatusCode.CANCELLED:  # by ``close`` or the server; the caller's is raised before
            return EngineUnavailableError(f"{where} failed: {details}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return EngineTimeoutError(f"{where} did not answer within {limit:g} s; it hangs or is overloaded")
        if code is grpc.StatusCode.NOT_FOUND:
            return EngineOutdatedError(
                f"{where} serves other models now ({details}); {self.options.outdated_advice}"
            )
        return EngineError(f"{where} failed: {details} ({code.name})")


class _Calls:
    """RPCs in flight, which any thread may cancel."""

    def __init__(self) -> None:
        self._cancelled = Event()
        self._futures: set[grpc.Future] = set()

    def result(self, start: Callable[[], grpc.Future]) -> Any:
        """Return the response of the RPC that ``start`` begins, or raise its error.

        Raises:
            CancelledRequestError: ``cancel`` was called.
        """
        if not self._cancelled.is_set():
            future = start()
            self._futures.add(future)
            if self._cancelled.is_set():  # since the check above
                future.cancel()
            try:
                return future.result()
            except grpc.FutureCancelledError:
                pass
            finally:
                self._futures.discard(future)
        raise CancelledRequestError("the request was cancelled")

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` or until ``cancel`` is called."""
        self._cancelled.wait(seconds)

    def cancel(self) -> None:
        """Cancel the RPCs in flight; no more begin."""
        self._cancelled.set()
        for future in tuple(self._futures):
            future.cancel()


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE


def server_of(address: str) -> str:
    """Return ``HOST:PORT`` of ``triton://HOST[:PORT]``.

    Raises:
        UsageError: another form of address.
    """
    hint = f"triton address {address!r} must be triton://HOST[:PORT]"
    try:
        parts = urlsplit(address)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise UsageError(f"{hint}: {error}") from error
    rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme != "triton" or not parts.hostname or rest:
        raise UsageError(hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"
