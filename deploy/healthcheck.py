"""Health probe of a gRPC service over TLS: exit 0 when it serves, 1 with a line that says why it does not.

Kubernetes' own gRPC probe speaks plaintext only. The certificate is the service's own, so it is trusted
whoever signed it.

    python healthcheck.py ADDRESS [--certificate FILE --name NAME] [--service NAME] [--alive]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 4.0
DIRECT = ("grpc.enable_http_proxy", 0)  # a proxy's health says nothing about the service's


def main(arguments: list[str] | None = None) -> int:
    """Run the probe and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument(
        "--certificate", type=Path, help="PEM certificate of the service (default: plaintext)"
    )
    parser.add_argument("--name", default="localhost", help="DNS name in the certificate")
    parser.add_argument("--service", default="", help="name of the service to check (default: the server)")
    parser.add_argument("--alive", action="store_true", help="accept any answer, also NOT_SERVING")
    options = parser.parse_args(arguments)
    try:
        with _channel(options.address, options.certificate, options.name) as channel:
            request = health_pb2.HealthCheckRequest(service=options.service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        return _fail(f"{options.address} does not answer: {error.code().name}: {error.details()}")
    except OSError as error:
        return _fail(f"certificate {options.certificate} cannot be read: {error.strerror}")
    if options.alive or answer.status == health_pb2.HealthCheckResponse.SERVING:
        return 0
    return _fail(f"{options.address} is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")


def _channel(address: str, certificate: Path | None, name: str) -> grpc.Channel:
    if certificate is None:
        return grpc.insecure_channel(address, [DIRECT])
    credentials = grpc.ssl_channel_credentials(root_certificates=certificate.read_bytes())
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name), DIRECT])


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
