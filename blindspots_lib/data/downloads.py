"""Download images from links: several at a time, under limits of time, size and content, in the order of the links.

A server that answers `noai` is left alone, a busy one is given time, and none is asked more than three times. Failures are
counted by cause; the run stops only if nothing at all answers.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from blindspots_lib.core.config import LinkedPairs
from blindspots_lib.core.errors import StudyError

OPTED_OUT = {"noai", "noimageai", "noindex", "noimageindex", "none"}  # words of the X-Robots-Tag header
N_TRIES = 3
LONGEST_WAIT = 10.0  # seconds that a server may ask us to wait
UNREACHABLE = "no connection"
UNREACHABLE_LIMIT = 100  # links in a row: after so many the network is down, not the links
AHEAD = 4  # submitted links per connection


class Fetched(NamedTuple):
    content: bytes  # of the file, empty if lost
    lost: str  # cause, or ""


class Refused(Exception):
    """Why a link gives no image, and the seconds until another try; None if another try will not help."""

    def __init__(self, cause: str, pause: float | None = None):
        self.cause, self.pause = cause, pause


def download_in_order(rows: Iterable[Any], link_of: Callable[[Any], str], config: LinkedPairs) -> Iterator[tuple[Any, Fetched]]:
    """Yield each row with what its link gave, in the order of the rows; `config.n_connections` downloads at a time.

    Raises StudyError if `UNREACHABLE_LIMIT` links in a row cannot be reached.
    """
    from blindspots_lib.data.connections import link_client

    rows, waiting, unreachable = iter(rows), deque(), 0
    client = link_client(config.n_connections, config.timeout)
    pool = ThreadPoolExecutor(config.n_connections)
    try:
        while True:
            while len(waiting) < AHEAD * config.n_connections and (row := next(rows, None)) is not None:
                waiting.append((row, pool.submit(fetch_image, client, link_of(row), config)))
            if not waiting:
                return
            row, future = waiting.popleft()
            try:  # `connections` ends every download at its deadline, except while a host's name is looked up
                found = future.result(timeout=2 * config.timeout)
            except TimeoutError:
                found = Fetched(b"", "timeout")
            unreachable = unreachable + 1 if found.lost == UNREACHABLE else 0
            if unreachable == UNREACHABLE_LIMIT:
                reason = f"{unreachable} links in a row could not be reached, so the network seems to be down"
                raise StudyError(f"pairs: {reason}; finished pairs are kept, run again")
            yield row, found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        client.close()


def fetch_image(client, link: Any, config: LinkedPairs, wait: Callable[[float], None] = time.sleep) -> Fetched:
    """Return what a link gives: the bytes of a file that claims to be an image, or the cause of its loss."""
    import httpx2

    from blindspots_lib.data import connections

    deadline = connections.clock.deadline = time.monotonic() + config.timeout
    for attempt in range(N_TRIES):
        try:
            return Fetched(read_image(client, link, config, deadline), "")
        except Refused as refused:
            cause, pause = refused.cause, refused.pause
        except connections.PrivateAddress:
            cause, pause = "private address", None
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout):
            cause, pause = UNREACHABLE, None
        except httpx2.TimeoutException:
            cause, pause = "timeout", None
        except httpx2.TooManyRedirects:
            cause, pause = "too many redirects", None
        except httpx2.ConnectError:
            cause, pause = UNREACHABLE, 0.0 if attempt == 0 else None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, UnicodeError, ValueError) as error:
            cut = isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)
            cause, pause = ("connection cut", 0.0) if cut else ("not a link", None)
        if pause is None or attempt + 1 == N_TRIES or time.monotonic() + pause > deadline:
            break
        wait(pause)
    return Fetched(b"", cause)


def read_image(client, link: Any, config: LinkedPairs, deadline: float) -> bytes:
    """Send one request and read the answer under the limits. Raises `Refused` if it gives no image."""
    if not isinstance(link, str) or not link.startswith(("http://", "https://")):
        raise Refused("not a link")
    limit = int(config.max_megabytes * 1e6)
    with client.stream("GET", link) as response:
        if (status := response.status_code) != 200:
            asked = response.headers.get("Retry-After", "")
            pause = min(LONGEST_WAIT, float(asked) if asked.isdigit() else 1.0) if status in (429, 503) else None
            raise Refused(f"status {status}", pause)
        if OPTED_OUT & {word.strip(" :").lower() for word in response.headers.get("X-Robots-Tag", "").split(",")}:
            raise Refused("opted out")
        kind = response.headers.get("Content-Type", "image/unknown").lower()
        if not kind.startswith(("image/", "application/octet-stream", "binary/octet-stream")):
            raise Refused("not an image")
        if int(response.headers.get("Content-Length", 0)) > limit:
            raise Refused("too large")
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > limit or time.monotonic() > deadline:
                raise Refused("too large" if len(content) > limit else "timeout")
    return bytes(content)
