"""Images from links of a stand-in web, through the real client."""

import io
import socket
import threading
import time

import httpx2
import numpy as np
import pytest
from PIL import Image

from blindspots_lib.core.config import LinkedPairs
from blindspots_lib.core.errors import StudyError
from blindspots_lib.data import connections, downloads
from blindspots_lib.data.downloads import UNREACHABLE, Fetched, download_in_order, fetch_image
from blindspots_lib.data.images import encode_png

PICTURE = encode_png(np.full((8, 8, 3), 90, np.uint8))
PNG = {"Content-Type": "image/png"}
CONFIG = LinkedPairs(
    source="links", repo="a/b", revision="latest", n=4, n_connections=3, timeout=5.0, max_megabytes=0.1, store_side=64
)


def waits_and_result(hub, name, **links):
    hub.links |= links
    waits = []
    with httpx2.Client(follow_redirects=True, max_redirects=5, timeout=5) as client:
        return waits, fetch_image(client, name if "://" in name else f"{hub.url}/link/{name}", CONFIG, waits.append)


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        ((200, PNG, PICTURE), ""),
        ((200, {"Content-Type": "Image/JPEG"}, PICTURE), ""),
        ((200, {}, PICTURE), ""),  # no type said: the content decides later
        ((404, {}, b""), "status 404"),
        ((302, {"Location": "/link/x"}, b""), "too many redirects"),
        ((200, {**PNG, "Content-Length": "5000000000"}, b""), "too large"),
        ((200, PNG, b"x" * 100_001), "too large"),
        ((200, {"Content-Type": "text/html; charset=utf-8"}, b"<p>"), "not an image"),
        ((200, {**PNG, "X-Robots-Tag": "noindex, NoAI"}, PICTURE), "opted out"),
        ((200, {**PNG, "X-Robots-Tag": "nofollow"}, PICTURE), ""),
    ],
)
def test_each_answer_gives_an_image_or_a_cause(hub, answer, lost):
    waits, found = waits_and_result(hub, "x", x=answer)
    assert found == Fetched(b"" if lost else PICTURE, lost)
    assert waits == []


@pytest.mark.parametrize("link", ["file:///etc/passwd", "ftp://host/a.png", "://", "no link"])
def test_what_is_no_link_is_not_asked_for(hub, link):
    before = len(hub.requests)
    assert waits_and_result(hub, link if "://" in link else f"{link}://")[1] == Fetched(b"", "not a link")
    assert len(hub.requests) == before


def test_a_busy_server_is_waited_for_and_asked_no_more_than_three_times(hub):
    hub.faults["/link/busy"] = [429, 503]
    assert waits_and_result(hub, "busy", busy=(200, PNG, PICTURE)) == ([0.0, 0.0], Fetched(PICTURE, ""))
    hub.faults["/link/busy"], before = [503] * 9, len(hub.requests)
    assert waits_and_result(hub, "busy")[1] == Fetched(b"", "status 503")
    assert len(hub.requests) - before == 3
    hub.faults.clear()


def test_a_connection_that_is_cut_is_tried_again(hub):
    hub.faults["/link/cut"] = ["cut"]
    assert waits_and_result(hub, "cut", cut=(200, PNG, PICTURE))[1] == Fetched(PICTURE, "")


def test_a_network_that_swallows_everything_counts_as_none():
    def swallowed(request):
        raise httpx2.ConnectTimeout("no answer")

    with httpx2.Client(transport=httpx2.MockTransport(swallowed)) as client:
        assert fetch_image(client, "http://host/a.png", CONFIG) == Fetched(b"", UNREACHABLE)


@pytest.fixture
def slow_server():
    """A server that sends its headers byte by byte and never ends them; its address."""
    over = threading.Event()

    def serve():
        while not over.is_set():
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=dribble, args=(connection,), daemon=True).start()

    def dribble(connection):
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not over.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()


def test_a_server_that_sends_its_headers_slowly_holds_no_connection(hub, slow_server):
    hub.links["good.png"] = (200, PNG, PICTURE)
    config = CONFIG.model_copy(update={"timeout": 0.3, "n_connections": 1})
    began = time.monotonic()
    found = list(download_in_order([slow_server, f"{hub.url}/link/good.png"], str, config))
    assert [fetched.lost for _, fetched in found] == ["timeout", ""]
    assert time.monotonic() - began < 0.6


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.0.1",
        "0.0.0.0",
        "240.0.0.1",
    ],
)
def test_links_to_private_addresses_are_refused(hub, monkeypatch, host):
    monkeypatch.delenv("BLINDSPOTS_ALLOW_PRIVATE_LINKS")
    hub.links["picture.png"], before = (200, PNG, PICTURE), len(hub.requests)
    link = f"http://{host}:{hub.url.rpartition(':')[2]}/link/picture.png"
    config = CONFIG.model_copy(update={"timeout": 1.0})
    assert list(download_in_order([link], str, config)) == [(link, Fetched(b"", "private address"))]
    assert len(hub.requests) == before


def test_redirects_to_private_addresses_are_refused(hub, monkeypatch):
    monkeypatch.delenv("BLINDSPOTS_ALLOW_PRIVATE_LINKS")
    monkeypatch.setattr(connections, "is_public", lambda address: address == "127.0.0.1")  # as if the hub were far away
    hub.links["away"] = (302, {"Location": "http://10.1.2.3/picture.png"}, b"")
    ((_, found),) = download_in_order([f"{hub.url}/link/away"], str, CONFIG)
    assert found == Fetched(b"", "private address")


def test_order_is_that_of_the_links_whatever_comes_first(hub):
    hub.links |= {f"{i}.png": (200, PNG, encode_png(np.full((4, 4, 3), i, np.uint8))) for i in range(20)}
    hub.links["3.png"] = (404, {}, b"")
    rows = [f"{hub.url}/link/{i}.png" for i in range(20)]
    found = list(download_in_order(rows, lambda row: row, CONFIG))
    assert [row for row, _ in found] == rows
    values = [None if f.lost else int(np.asarray(Image.open(io.BytesIO(f.content)))[0, 0, 0]) for _, f in found]
    assert values == [None if i == 3 else i for i in range(20)]


def test_a_network_that_is_down_stops_the_run_and_costs_no_links(monkeypatch):
    monkeypatch.setattr(downloads, "fetch_image", lambda *given: Fetched(b"", UNREACHABLE))
    seen = []
    with pytest.raises(StudyError, match="100 links in a row could not be reached, so the network seems to be down"):
        seen.extend(download_in_order(iter(range(10_000)), str, CONFIG))
    assert len(seen) == 99
