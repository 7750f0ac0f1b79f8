"""A stand-in for the hub: as much of its HTTP API as the libraries use, on a loopback port, with faults on demand."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0de"
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/(?P<place>resolve/[^/]+|cdn)/(?P<path>.+)")


class StandinHub:
    """Serves folders as repositories, each at any full commit hash; large files come from another path, as from a CDN.

    `faults` maps a path's ending to a list of answers.

    An answer is a status, "cut" (the connection ends half-way), "wrong" (the content is not what its hash says), used up
    one by one; then the file is served as it is.

    `xet` maps repositories to the status with which their Xet storage answers: their large files are said to lie there, too.
    A client that does not ask for Xet gets them as from any other repository.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Path] = {}  # (kind, id) -> folder
        self.gated: set[str] = set()
        self.expired: set[str] = set()  # tokens
        self.faults: dict[str, list] = {}
        self.xet: dict[str, int] = {}
        self.links: dict[str, tuple] = {}  # /link/<name> -> (status, headers, body)
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Answer,), {"hub": self}))
        self.server.daemon_threads = True
        self.server.handle_error = lambda *given: None  # a client that goes away is no fault
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repo: str, folder: Path, kind: str = "models", gated: bool = False) -> None:
        self.repos[kind, repo] = folder
        if gated:
            self.gated.add(repo)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Answer(BaseHTTPRequestHandler):
    hub: StandinHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        self.posted = self.rfile.read(length)
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.body = body
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.expired:
            return self.send(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        for ending, answers in self.hub.faults.items():
            if path.endswith(ending) and answers and (self.command == "GET" or isinstance(answers[0], int)):
                return self.fail(answers.pop(0), path)
        if path.startswith("/link/"):
            return self.send_link(path.removeprefix("/link/"))
        if match := re.fullmatch(r"/cas/([^/]+/[^/]+)/(.*)", path):
            return self.send(self.hub.xet[match[1]], b"{}", {})
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", path):
            return self.send_api(*match.groups())
        if match := FILE.fullmatch(path):
            return self.send_file(*match.group("kind", "repo", "place", "path"))
        self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def fail(self, fault, path: str) -> None:
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"half of it")
            self.close_connection = True
            return
        if fault == "wrong":
            self.wrong = True
            return self.send_file(*FILE.fullmatch(path).group("kind", "repo", "place", "path"))
        self.send(fault, b"{}", {404: {"X-Error-Code": "EntryNotFound"}}.get(fault, {"Retry-After": "0"}))

    def send_link(self, name: str) -> None:
        status, headers, content = self.hub.links.get(name, (404, {}, b""))
        self.send(status, content, headers)

    def send_api(self, kind: str, repo: str, rest: str | None) -> None:
        folder = self.find(kind, repo)
        if folder is None:
            return
        files = [listed(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()]
        if rest is None or re.fullmatch(r"revision/[^/]+", rest):
            siblings = [{"rfilename": f["path"], "size": f["size"], "blobId": f["oid"], "lfs": f.get("lfs")} for f in files]
            content = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False,
                       "gated": False, "disabled": False, "downloads": 0, "likes": 0,
                       "lastModified": "2026-01-01T00:00:00.000Z"}  # fmt: skip
        elif rest == "auth-check":
            content = {}
        elif rest.startswith("xet-read-token/") and repo in self.hub.xet:
            access = {"X-Xet-Cas-Url": f"{self.hub.url}/cas/{repo}", "X-Xet-Access-Token": "pass",
                      "X-Xet-Token-Expiration": "4000000000"}  # fmt: skip
            return self.send(200, b"{}", access)
        elif match := re.fullmatch(r"tree/[^/]+(?:/(.*))?", rest):
            inside = f"{match[1]}/" if match[1] else ""
            content = [f for f in files if f["path"].startswith(inside)]
            content += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": str(d.relative_to(folder))}
                        for d in folder.rglob("*") if d.is_dir() and str(d.relative_to(folder)).startswith(inside)]  # fmt: skip
        elif re.fullmatch(r"paths-info/[^/]+", rest):
            asked = json.loads(self.posted)["paths"]
            content = [f for f in files if f["path"] in asked]
            content += [
                {"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in asked if (folder / path).is_dir()
            ]
        else:
            return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def find(self, kind: str, repo: str) -> Path | None:
        if repo in self.hub.gated:
            self.send(403, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"})
        elif (kind, repo) not in self.hub.repos:
            self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        else:
            return self.hub.repos[kind, repo]

    def send_file(self, kind: str | None, repo: str, place: str, path: str) -> None:
        folder = self.find("datasets" if kind else "models", repo)
        if folder is None:
            return
        if not (folder / path).is_file():
            return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content, facts = (folder / path).read_bytes(), listed(folder, folder / path)
        if getattr(self, "wrong", False):
            content = bytes(len(content))
        etag = f'"{facts["lfs"]["oid"] if "lfs" in facts else facts["oid"]}"'
        if "lfs" in facts and place != "cdn":
            linked = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
            if repo in self.hub.xet:
                route = f"{self.hub.url}/api/{kind or 'models/'}{repo}/xet-read-token/{COMMIT}"
                linked |= {"X-Xet-Hash": facts["lfs"]["oid"], "X-Xet-Refresh-Route": route,
                           "Link": f'<{route}>; rel="xet-auth"'}  # fmt: skip
            elsewhere = f"http://localhost:{self.hub.server.server_port}/{kind or ''}{repo}/cdn/{path}"  # another host's name
            return self.send(302, b"", {"Location": elsewhere, **linked})
        headers = {"ETag": etag, "Accept-Ranges": "bytes"} | ({} if place == "cdn" else {"X-Repo-Commit": COMMIT})
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(span[1]), int(span[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            return self.send(206, content[first : last + 1], headers)
        self.send(200, content, headers)

    def send(self, status: int, content: bytes, headers: dict) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.body:
            self.wfile.write(content)


def listed(folder: Path, file: Path) -> dict:
    """What the hub says of a file: git's hash, and for weights and other large files their SHA-256."""
    content = file.read_bytes()
    facts = {"type": "file", "path": file.relative_to(folder).as_posix(), "size": len(content),
             "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}  # fmt: skip
    if file.suffix in {".safetensors", ".parquet", ".pth", ".bin"}:
        sha256 = hashlib.sha256(content).hexdigest()
        facts["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 134}
    return facts
