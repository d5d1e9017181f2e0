"""Addresses of this machine, the HTTP proxy that gRPC takes to any other, and URLs without their secrets.

gRPC takes the HTTP proxy that ``grpc_proxy``, ``https_proxy`` or ``http_proxy`` names (the first that is set;
empty means none) to every host, also ``localhost``, that neither ``no_grpc_proxy`` nor ``no_proxy`` names.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

_TARGET = re.compile(r"(?:(?:dns|ipv4|ipv6):(?://[^/]*/)?)?(?:\[([^]]*)\]|([^:]*))(?::\d+)?")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"]+")
_USERINFO = re.compile(r"://[^/?#]*@")
_QUERY_VALUE = re.compile(r"([^&;=]*=)?[^&;]+")


def masked_url(url: str) -> str:
    """Return ``url`` with ``***`` for its user, its password and the values of its query (tokens).

    A path is returned as it is.
    """
    if "://" not in url:
        return url
    address, mark, query = url.partition("?")
    values = _QUERY_VALUE.sub(lambda field: f"{field[1] or ''}***", query)
    return _USERINFO.sub("://***@", address) + mark + values


def masked_text(text: str) -> str:
    """Return a text, such as an error of another library, with each URL in it as by ``masked_url``."""
    return _URL.sub(lambda url: masked_url(url[0]), text)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def direct_options(address: str) -> tuple[tuple[str, int], ...]:
    """Return the options of a gRPC channel that keep it off any proxy if ``address`` is this machine's."""
    host = _host_of(address)
    here = is_loopback(host.lower()) or host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    return (("grpc.enable_http_proxy", 0),) if here else ()


def proxy_note(address: str) -> str:
    """Return words for an error that name the proxy gRPC takes to ``address``, without its credentials."""
    variable = next(
        (name for name in ("grpc_proxy", "https_proxy", "http_proxy") if name in os.environ), None
    )
    if variable is None or direct_options(address) or _is_excluded(_host_of(address)):
        return ""
    try:
        proxy = urlsplit(os.environ[variable])
    except ValueError:
        return ""  # gRPC ignores it, too
    if proxy.scheme != "http" or not proxy.hostname or address.startswith("unix"):
        return ""
    return f" (through the proxy {proxy.netloc.rpartition('@')[2]} of {variable}; no_proxy names exceptions)"


def _is_excluded(host: str) -> bool:
    environ = os.environ
    entries = environ.get("no_grpc_proxy", environ.get("no_proxy", "")).split(",")
    return any(
        host.lower().endswith(entry.strip().lower()) or _in_network(host, entry) for entry in entries if entry
    )


def _in_network(host: str, entry: str) -> bool:
    try:
        return "/" in entry and ip_address(host) in ip_network(entry.strip(), strict=False)
    except ValueError:
        return False


def _host_of(address: str) -> str:
    """Return the host of a gRPC target such as ``HOST:PORT``, ``[::1]:PORT`` or ``dns:///HOST:PORT``."""
    match = _TARGET.fullmatch(address)
    return (match[1] or match[2]) if match else address
