"""Connections to the servers of links: no longer than a deadline, and to public addresses only."""

import ipaddress
import os
import socket
import threading
import time

import httpcore2
import httpx2

ALLOW_PRIVATE = "BLINDSPOTS_ALLOW_PRIVATE_LINKS"  # environment variable: links may lead to this machine and its network
AGENT = "blindspots-lib/0.1 (research; counts concepts in public images)"
clock = threading.local()  # `deadline`: when the download that this thread is at must have ended, by time.monotonic


class PrivateAddress(Exception):
    """A link or a redirect leads to this machine or its own network."""


def link_client(n_connections: int, timeout: float) -> httpx2.Client:
    """Return a client for links that strangers wrote. A proxy of the environment decides by itself where it connects to."""
    client = httpx2.Client(timeout=timeout, follow_redirects=True, max_redirects=5, headers={"User-Agent": AGENT})
    client._transport._pool = httpcore2.ConnectionPool(
        ssl_context=httpx2.create_ssl_context(), max_connections=n_connections, keepalive_expiry=5.0, network_backend=Guarded()
    )
    return client


def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast


def left(timeout: float | None) -> float:
    """Return the seconds that one step may take: `timeout`, at most what is left until the deadline."""
    seconds = getattr(clock, "deadline", float("inf")) - time.monotonic()
    return max(1e-3, min(seconds, 60.0 if timeout is None else timeout))


class Guarded(httpcore2.SyncBackend):
    """Connects to the public ones among the addresses of a host; what was checked is what is connected to."""

    def connect_tcp(self, host, port, timeout=None, **options):
        try:
            addresses = list(dict.fromkeys(found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from None
        if not os.environ.get(ALLOW_PRIVATE) and not (addresses := [found for found in addresses if is_public(found)]):
            raise PrivateAddress(host)
        for address in addresses[:-1]:
            try:
                return Timed(super().connect_tcp(address, port, left(timeout), **options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return Timed(super().connect_tcp(addresses[-1], port, left(timeout), **options))


class Timed(httpcore2.NetworkStream):
    """A stream whose every step ends at the deadline, so that a server that sends byte by byte is not read for ever."""

    def __init__(self, stream):
        self.stream = stream

    def read(self, max_bytes, timeout=None):
        if time.monotonic() > getattr(clock, "deadline", float("inf")):
            raise httpcore2.ReadTimeout("deadline")
        return self.stream.read(max_bytes, left(timeout))

    def write(self, buffer, timeout=None):
        self.stream.write(buffer, left(timeout))

    def close(self):
        self.stream.close()

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return Timed(self.stream.start_tls(ssl_context, server_hostname, left(timeout)))

    def get_extra_info(self, info):
        return self.stream.get_extra_info(info)
