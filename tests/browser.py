"""A real browser for tests: Chromium of this machine, driven by Playwright. A plugin of pytest (`pytest_plugins` in conftest.py).

Without a browser these tests are left out, and one line at the end says how to have them. BLINDSPOTS_BROWSER=required makes
that a failure.
"""

import importlib.util
import os
import shutil
import sys
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "/Applications/Chromium.app/Contents/MacOS/Chromium",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip
OPTIONS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage"]
LOCAL = ("file", "data", "blob", "chrome", "about")  # schemes of addresses that leave no machine
LEFT_OUT = pytest.StashKey[list[str]]()


class Screen(NamedTuple):
    """What a reader holds: `@pytest.mark.parametrize("browser_page", [Screen(390, 844, "dark")], indirect=True)`."""

    width: int = 1440
    height: int = 900
    colours: Literal["light", "dark"] = "light"


def missing_browser() -> str:
    """Return what must be installed before a browser can be driven, or ""."""
    if importlib.util.find_spec("playwright") is None:
        return f"{sys.executable} -m pip install -r requirements.lock"
    if chromium() is None:
        return "install Chromium or Chrome, such as by: apt-get install chromium"
    return ""


def chromium() -> str | None:
    return next((found for program in PROGRAMS if (found := shutil.which(program))), None)


@pytest.fixture
def page_problems():
    """Console errors, exceptions, and requests that failed or left the machine; the test fails at its end if one is left."""
    return []


@pytest.fixture
def browser_page(request, page_problems):
    """An empty page of a fresh browser, as wide and as light as a `Screen` says, whose problems are collected."""
    if missing := missing_browser():
        if os.environ.get("BLINDSPOTS_BROWSER") == "required":
            pytest.fail(f"BLINDSPOTS_BROWSER=required, and there is no browser: {missing}", pytrace=False)
        request.config.stash.setdefault(LEFT_OUT, []).append(request.node.nodeid)
        pytest.skip(f"no browser: {missing}")
    from playwright.sync_api import sync_playwright  # one per test: while it lives, papermill cannot run in this process

    screen = getattr(request, "param", Screen())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=OPTIONS)
        size = {"width": screen.width, "height": screen.height}
        page = browser.new_page(viewport=size, color_scheme=screen.colours, permissions=["clipboard-read", "clipboard-write"])
        page.set_default_timeout(15_000)
        collect_problems(page, page_problems)
        yield page
        browser.close()
    assert not page_problems, "\n".join(page_problems)


def collect_problems(page, problems: list[str]) -> None:
    """Write down all that goes wrong on a page from now on."""

    def asked(request):
        if not stays_here(request.url):
            problems.append(f"a request leaves this machine: {request.url}")

    page.on("console", lambda message: message.type == "error" and problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    page.on("request", asked)
    page.on("requestfailed", lambda request: problems.append(f"request failed: {request.url[:200]}: {request.failure}"))
    page.on("response", lambda answer: answer.status >= 400 and problems.append(f"status {answer.status}: {answer.url[:200]}"))


def stays_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in LOCAL or parts.hostname in ("127.0.0.1", "localhost")


def pytest_terminal_summary(terminalreporter, config):
    if left_out := config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(f"left out: {len(left_out)} tests in a real browser; to have them: {missing_browser()}")
