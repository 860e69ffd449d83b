"""A dataset hub on loopback: what huggingface_hub's client needs of one, with faults that can be planted."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from loopback import Loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What one GET does instead of answering well.

    `cut`: announces everything, sends `sent` bytes, closes. `short`: announces and sends only `sent` bytes.
    `corrupt`: one bit is wrong. `stall`: sends `sent` bytes, then waits for `Hub.released`.
    """

    kind: str
    sent: int = 0


@dataclass
class Hub(Loopback):
    """Files by name in one repository; `faults[name]` is used up one per GET; `requests` is what came in.

    `redirects`: files are served by another host, as the real hub's storage is. `tokens` collects the
    Authorization headers that this other host was sent.
    """

    repo: str
    files: dict[str, bytes]
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    has_sha256: bool = True
    redirects: bool = False
    tokens: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.serve(Handler)
        return self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def ranges(self, name: str) -> list[str]:
        """The Range header of every GET of a file, "" where there was none."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        name = self.path.rpartition("/")[2]
        known = (f"/datasets/{self.hub.repo}/resolve/{COMMIT}/{name}", f"/storage/{name}")
        if name not in self.hub.files or self.path not in known:
            self._refuse()
        elif self.hub.redirects and self.path == known[0]:
            self._redirect(name)
        else:
            self._send(self.hub.files[name], name)

    def _refuse(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, name: str) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.connection.getsockname()[1]}/storage/{name}")
        self._describe(self.hub.files[name])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _describe(self, blob: bytes) -> None:
        self.send_header("ETag", '"not-the-hash"')
        self.send_header("X-Repo-Commit", COMMIT)
        if self.hub.has_sha256:
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(blob).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(blob)))

    def _send(self, blob: bytes, name: str) -> None:
        if self.path.startswith("/storage/"):
            self.hub.tokens += self.headers.get_all("Authorization", [])
        span = self.headers.get("Range", "")
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        faults = self.hub.faults.get(name, []) if self.command == "GET" else []
        fault = faults.pop(0) if faults else None
        body = blob[start:]
        if fault and fault.kind == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault and fault.kind == "short":
            body = body[: fault.sent]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body)))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
        self.send_header("Accept-Ranges", "bytes")
        self._describe(blob)
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: Fault | None) -> None:
        if fault is None or fault.kind in ("corrupt", "short"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.sent])
        self.wfile.flush()
        if fault.kind == "stall":
            self.hub.stalled.set()
            self.hub.released.wait(60)
        self.close_connection = True
