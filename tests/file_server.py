"""A web server on loopback that serves a few files, with faults that can be planted."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from loopback import Loopback


@dataclass
class Fault:
    """What one answer does instead of answering well.

    `cut`: announces everything, sends `n` bytes, closes. `corrupt`: one bit is wrong. `whole`: ignores the Range
    header. `shifted`: sends another range than was asked for. `status`: answers with the code `n`. `endless`: announces
    no length and sends `n` bytes more. `stall`: sends `n` bytes, then waits for `FileServer.released`.
    """

    kind: str
    n: int = 0


@dataclass
class FileServer(Loopback):
    """Files by name; `faults[name]` is used up one per request; `requests` holds the name and Range header of each."""

    files: dict[str, bytes]
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> FileServer:
        class Handler(_Handler):
            server_of_files = self

        self.serve(Handler)
        return self

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def ranges(self, name: str) -> list[str]:
        return [span for asked, span in self.requests if asked == name]


class _Handler(BaseHTTPRequestHandler):
    server_of_files: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site, name, span = self.server_of_files, self.path.lstrip("/"), self.headers.get("Range", "")
        site.requests.append((name, span))
        faults = site.faults.get(name, [])
        fault = faults.pop(0) if faults else Fault("")
        if name in site.redirects:
            self._answer(302, b"", {"Location": site.redirects[name]})
        elif name not in site.files:
            self._answer(404, b"")
        elif fault.kind == "status":
            self._answer(fault.n, b"")
        else:
            self._send(site.files[name], 0 if fault.kind == "whole" or not span else int(span[6:-1]), fault)

    def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, blob: bytes, start: int, fault: Fault) -> None:
        if start >= len(blob):
            self._answer(416, b"")
            return
        start += 1 if fault.kind == "shifted" else 0
        body = blob[start:]
        if fault.kind == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
        if fault.kind == "endless":
            self.send_header("Connection", "close")
            body += bytes(fault.n)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: Fault) -> None:
        site = self.server_of_files
        if fault.kind not in ("cut", "stall"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.n])
        self.wfile.flush()
        if fault.kind == "stall":
            site.stalled.set()
            site.released.wait(60)
        self.close_connection = True
