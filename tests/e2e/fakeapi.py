"""A model that plays a script: the Messages API (Claude Code and others) and the Responses API (codex) on loopback.

    track = Track([bash("echo 1"), lambda request: say(f"saw {request.results[0].text}")], marker="some text")
    with FakeAPI(track) as api:
        ...  # run a client against api.url
    assert "some text" in track.requests[0].all

A request goes to the first track whose marker it holds; each track plays its own steps in order. What no track
wants gets a plain answer and is kept in `api.others`.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Json = dict[str, Any]
Event = tuple[str, Json]
Ids = Iterator[int]
# silent: not one byte comes; stall: the stream stops in the middle and stays open; half: it ends in the middle
Ending = Literal["whole", "half", "stall", "silent"]


@dataclass(frozen=True)
class Step:
    """One turn of the model, or one failure of its server. Made by the functions below."""

    text: str = ""
    calls: tuple[tuple[str, Json], ...] = ()
    tokens: tuple[int, int] = (10, 10)
    status: int = 200
    failure: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    ending: Ending = "whole"


def say(text: str) -> Step:
    """The model answers and ends its turn."""
    return Step(text=text)


def call(name: str, /, **arguments: Any) -> Step:
    """The model calls one tool."""
    return Step(calls=((name, arguments),))


def bash(command: str, **more: Any) -> Step:
    """Claude Code's shell tool."""
    return call("Bash", command=command, description="step", **more)


def together(*steps: Step) -> Step:
    """Several tool calls in one turn."""
    return Step(calls=tuple(itertools.chain.from_iterable(step.calls for step in steps)))


def error(
    status: int, kind: str, message: str = "", /, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Step:
    """The server refuses: an HTTP status, the error's type, and whatever else its JSON object carries."""
    return Step(status=status, failure={"type": kind, "message": message, **more}, headers=headers or {})


def limit(resets_at: int) -> Step:
    """The account's usage limit until a Unix time, as the Messages API says it to subscribers (`client.SUBSCRIBER`)."""
    shared = "anthropic-ratelimit-unified-"
    told = {"status": "rejected", "reset": str(resets_at), "representative-claim": "five_hour"}
    headers = {shared + name: value for name, value in told.items()}
    return error(429, "rate_limit_error", "This request would exceed your account's rate limit.", headers=headers)


def slow(step: Step, delay_s: float) -> Step:
    """The same step, its first byte late."""
    return replace(step, delay_s=delay_s)


def half(step: Step) -> Step:
    """The connection closes in the middle of the answer."""
    return replace(step, ending="half")


def stall(step: Step) -> Step:
    """The answer stops in its middle; the connection stays open until the server closes."""
    return replace(step, ending="stall")


def hang() -> Step:
    """The request is taken and never answered."""
    return Step(ending="silent")


def costing(step: Step, *, read: int, written: int) -> Step:
    """The same step with other token counts: what a client computes its cost from."""
    return replace(step, tokens=(read, written))


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered, as the model is shown it."""

    text: str
    is_error: bool = False


def text_of(value: object) -> str:
    """All readable text of a message, a block or a list of them, one per line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(text_of(entry) for entry in value)
    if isinstance(value, dict):
        return text_of(value.get("text") or value.get("content") or value.get("output") or "")
    return ""


_RESULTS = {"tool_result", "function_call_output"}
_CALLS = {"function_call", "reasoning"}


def _is_reply(entry: Json) -> bool:
    return entry.get("role") == "assistant" or entry.get("type") in _CALLS


@dataclass(frozen=True)
class Request:
    """One call of a client; the readable parts are the same for both APIs."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Json
    at_s: float  # the server's monotonic clock

    @property
    def system(self) -> str:
        return text_of(self.body.get("system") or self.body.get("instructions") or "")

    @property
    def messages(self) -> list[Json]:
        sent = self.body.get("messages") or self.body.get("input") or []
        return sent if isinstance(sent, list) else [{"role": "user", "content": sent}]

    @property
    def all(self) -> str:
        """The system prompt and every message: what the model can read."""
        return "\n".join([self.system, *(text_of(message) for message in self.messages)])

    @property
    def tools(self) -> list[str]:
        return [str(tool.get("name") or tool.get("type")) for tool in self.body.get("tools") or []]

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def turn(self) -> int:
        """Answers of the model that this conversation already holds."""
        marks = [_is_reply(message) for message in self.messages]
        return sum(here and not before for before, here in zip([False, *marks], marks, strict=False))

    @property
    def results(self) -> list[ToolResult]:
        """Results of the tools that the model's last answer called."""
        messages = self.messages
        last = max((place for place, message in enumerate(messages) if _is_reply(message)), default=-1)
        blocks: list[Json] = []
        for message in messages[last + 1 :]:
            content = message.get("content")
            blocks += content if isinstance(content, list) else [message]
        return [
            ToolResult(text_of(block), bool(block.get("is_error"))) for block in blocks if block.get("type") in _RESULTS
        ]


Script = Iterable[Step | Callable[[Request], Step]]
_OVER = say("(the script is over)")


class Track:
    """Steps for the requests that hold `marker`: in the system prompt (`where="system"`) or anywhere.

    `steps` may be endless, for instance `itertools.repeat(function)`. Requests are in `requests`, oldest first.
    """

    def __init__(self, steps: Script, *, marker: str = "", where: Literal["all", "system"] = "all") -> None:
        self.marker = marker
        self.where = where
        self.requests: list[Request] = []
        self._steps = iter(steps)
        self._lock = threading.Lock()

    def wants(self, request: Request) -> bool:
        # a request without tools is one of the client's own: a title, a quota check
        return bool(request.tools) and self.marker in (request.system if self.where == "system" else request.all)

    def answer(self, request: Request) -> Step:
        with self._lock:
            self.requests.append(request)
            step = next(self._steps, _OVER)
        return step(request) if callable(step) else step


def message_document(step: Step, model: str, ids: Ids) -> Json:
    """The Messages API's whole answer."""
    blocks: list[Json] = [{"type": "text", "text": step.text}] if step.text else []
    for name, arguments in step.calls:
        blocks.append({"type": "tool_use", "id": f"toolu_fake{next(ids):05d}", "name": name, "input": arguments})
    return {
        "id": f"msg_fake{next(ids):05d}", "type": "message", "role": "assistant", "model": model, "content": blocks,
        "stop_reason": "tool_use" if step.calls else "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": step.tokens[0], "output_tokens": step.tokens[1]},
    }  # fmt: skip


def message_events(document: Json) -> list[Event]:
    """The same answer as the Messages API streams it: each block is opened empty, filled and closed."""
    opening = {**document, "content": [], "stop_reason": None, "usage": {**document["usage"], "output_tokens": 1}}
    events: list[Event] = [("message_start", {"message": opening})]
    for index, block in enumerate(document["content"]):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events.append(("content_block_start", {"index": index, "content_block": empty}))
        events.append(("content_block_delta", {"index": index, "delta": delta}))
        events.append(("content_block_stop", {"index": index}))
    reason = {"stop_reason": document["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": document["usage"]["output_tokens"]}
    return [*events, ("message_delta", {"delta": reason, "usage": usage}), ("message_stop", {})]


def _response_call(name: str, arguments: Json, number: int) -> Json:
    ids = {"id": f"fc_fake{number:05d}", "call_id": f"call_fake{number:05d}"}
    return {"type": "function_call", **ids, "name": name, "arguments": json.dumps(arguments), "status": "completed"}


def response_document(step: Step, model: str, ids: Ids) -> Json:
    """The Responses API's whole answer."""
    items = [_response_call(name, arguments, next(ids)) for name, arguments in step.calls]
    if step.text:
        content = [{"type": "output_text", "text": step.text, "annotations": []}]
        items.insert(0, {"type": "message", "id": f"msg_fake{next(ids):05d}", "role": "assistant", "content": content})
    read, written = step.tokens
    return {
        "id": f"resp_fake{next(ids):05d}", "object": "response", "model": model, "status": "completed", "output": items,
        "usage": {
            "input_tokens": read, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": written, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read + written,
        },
    }  # fmt: skip


def response_events(document: Json) -> list[Event]:
    """The same answer as the Responses API streams it, without the deltas, which clients can do without."""
    events: list[Event] = [("response.created", {"response": {**document, "status": "in_progress", "output": []}})]
    for index, item in enumerate(document["output"]):
        events.append(("response.output_item.done", {"output_index": index, "item": item}))
    return [*events, ("response.completed", {"response": document})]


@dataclass(frozen=True)
class Dialect:
    """How one API words an answer and a failure."""

    document: Callable[[Step, str, Ids], Json]
    events: Callable[[Json], list[Event]]
    failure: Callable[[Json], Json]


DIALECTS = {
    "/v1/messages": Dialect(message_document, message_events, lambda failure: {"type": "error", "error": failure}),
    "/v1/responses": Dialect(response_document, response_events, lambda failure: {"error": failure}),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: a client that hangs up early is part of the tests."""

    def do_HEAD(self) -> None:
        self._send_json(200, {})

    def do_GET(self) -> None:
        self.server.api.record(self._request({}))
        self._send_json(200, {"data": [], "models": [], "has_more": False})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = self._request(json.loads(raw or b"{}"))
        self.server.api.record(request)
        dialect = DIALECTS.get(request.path)
        if request.path.endswith("/count_tokens"):
            self._send_json(200, {"input_tokens": 100})
        elif dialect is None:
            self._send_json(404, {"error": {"type": "not_found_error", "message": request.path}})
        else:
            self._play(self.server.api.answer(request), request, dialect)

    def _request(self, body: Json) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path.partition("?")[0], headers, body, time.monotonic())

    def _play(self, step: Step, request: Request, dialect: Dialect) -> None:
        closing = self.server.api.closing
        closing.wait(step.delay_s)
        if step.ending == "silent":
            closing.wait()
            self.close_connection = True
        elif step.failure:
            self._send_json(step.status, dialect.failure(step.failure), step.headers)
        else:
            document = dialect.document(step, request.model, self.server.api.ids)
            if request.body.get("stream"):
                self._stream(dialect.events(document), step)
            else:
                self._send_json(200, document, step.headers, is_cut=step.ending != "whole")

    def _send_json(
        self, status: int, document: Json, headers: Mapping[str, str] | None = None, *, is_cut: bool = False
    ) -> None:
        content = json.dumps(document).encode()
        self._open(status, {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})})
        self.close_connection = self.close_connection or is_cut
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if is_cut else content)

    def _stream(self, events: list[Event], step: Step) -> None:
        self._open(step.status, {"content-type": "text/event-stream", "connection": "close", **step.headers})
        self.close_connection = True
        sent = events if step.ending == "whole" else events[: max(1, len(events) // 2)]
        for name, content in sent:
            self.wfile.write(f"event: {name}\ndata: {json.dumps({'type': name, **content})}\n\n".encode())
        self.wfile.flush()
        if step.ending == "stall":
            self.server.api.closing.wait()

    def _open(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: FakeAPI) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle is no news."""


class FakeAPI:
    """The server. `url` has no `/v1`; `requests` holds everything that was sent, `others` what no track wanted."""

    def __init__(self, *tracks: Track) -> None:
        self.tracks = tracks
        self.requests: list[Request] = []
        self.others: list[Request] = []
        self.mistakes: list[Exception] = []
        self.ids = itertools.count(1)
        self.closing = threading.Event()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeAPI:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        if self.mistakes:
            raise self.mistakes[0]

    def record(self, request: Request) -> None:
        self.requests.append(request)

    def answer(self, request: Request) -> Step:
        track = next((track for track in self.tracks if track.wants(request)), None)
        if track is None:
            self.others.append(request)
            return say("ok")
        try:
            return track.answer(request)
        except Exception as mistake:  # of the test's own step: the test must see it, not the client
            self.mistakes.append(mistake)
            return error(400, "invalid_request_error", f"The script failed: {mistake!r}")
