"""An HTTP server that plays the judge, and misbehaves on command."""

import json
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread

KEY = "sk-test-4f1d2c3b5a69788796a5b4c3d2e1f000"
MODEL = "judge-1-0613"


class JudgeServer(ThreadingHTTPServer):
    """Serves `/v1/chat/completions`. `behave(n, asked)` names how the n-th request meets its end, `asked` being how often the
    same messages came before; the manners are the methods of Handler."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, behave: Callable[[int, int], str] = lambda n, asked: "rate", latency: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.latency = latency
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.keys: set[str] = set()
        self.times: list[float] = []
        self.stopped = Event()
        self.lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "JudgeServer":
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that gave up is no news."""


def rating_of(messages: list[dict]) -> int:
    """What a well-behaved judge says to messages."""
    return 1 + zlib.crc32(json.dumps(messages).encode()) % 10


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = json.dumps(body["messages"])
        with self.server.lock:
            number, asked = len(self.server.bodies), self.server.asked[name]
            self.server.bodies.append(body)
            self.server.asked[name] += 1
            self.server.times.append(time.monotonic())
            self.server.keys.add(self.headers.get("authorization", ""))
            manner = self.server.behave(number, asked)
        self.body = body
        time.sleep(self.server.latency)
        getattr(self, manner)()
        if manner == "rate":
            with self.server.lock:
                self.server.answered[name] += 1

    def rate(self) -> None:
        self.said(f"It quotes [[3]], but is better.\n\nRating: [[{rating_of(self.body['messages'])}]]")

    def slow_down(self) -> None:
        self.refused(429, "slow down", {"Retry-After": "7"})

    def slow_down_until(self) -> None:
        self.refused(429, "slow down", {"Retry-After": formatdate(time.time() + 30, usegmt=True)})

    def no_quota(self) -> None:
        self.refused(429, "You exceeded your current quota", code="insufficient_quota")

    def broken(self) -> None:
        self.refused(500, "out of memory")

    def unknown_key(self) -> None:
        self.refused(401, f"Incorrect API key provided: {self.headers.get('authorization')}")

    def too_long(self) -> None:
        self.refused(400, "maximum context length exceeded")

    def no_temperature(self) -> None:
        if "temperature" in self.body:
            self.refused(400, "Unsupported parameter: 'temperature' is not supported with this model.")
        elif "max_tokens" in self.body:
            self.refused(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        else:
            self.rate()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def drip(self) -> None:
        """A byte now and then: no single read is slow."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.stopped.wait(0.02):
            self.wfile.write(b" ")

    def no_choice(self) -> None:
        self.sent(200, self.completion("") | {"choices": []})

    def nothing(self) -> None:
        self.said("")

    def no_rating(self) -> None:
        self.said("A fine answer, eight of ten.")

    def eleven(self) -> None:
        self.said("Rating: [[11]]")

    def two_ratings(self) -> None:
        self.said("The answer claims [[10]]. I disagree. Rating: [[4]]")

    def garbage(self) -> None:
        self.raw(200, b'{"choices": [', {})

    def html(self) -> None:
        self.raw(200, b"<html>hello</html>", {"Content-Type": "text/html"})

    def other_model(self) -> None:
        self.sent(200, self.completion("Rating: [[5]]") | {"model": "another-model"})

    def newer_model(self) -> None:
        self.sent(200, self.completion("Rating: [[5]]") | {"model": f"{self.body['model']}-0806"})

    def echo_the_key(self) -> None:
        self.said(f"You sent {self.headers.get('authorization')}. Rating: [[5]]")

    def said(self, text: str) -> None:
        self.sent(200, self.completion(text))

    def completion(self, text: str) -> dict:
        message = {"role": "assistant", "content": text}
        return {
            "id": "c1",
            "object": "chat.completion",
            "created": 0,
            "model": self.body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }

    def refused(self, status: int, message: str, headers: dict | None = None, code: str | None = None) -> None:
        self.sent(status, {"error": {"message": message, "code": code, "type": "error", "param": None}}, headers)

    def sent(self, status: int, body: dict, headers: dict | None = None) -> None:
        self.raw(status, json.dumps(body).encode(), headers or {})

    def raw(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""
