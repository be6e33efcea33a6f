"""A server of JSON on loopback, in a thread, whose answers a test writes; it counts how many requests overlap."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# status, JSON or raw bytes, headers; None: hang up; a function writes the whole answer, its first line too
Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]] | Callable[[Any], None] | None


class Loopback:
    """`url`, the requests that came ([(path, body, headers)]), and the most that were under way at once."""

    def __init__(self, answer: Callable[[str, Any], Answer]) -> None:
        self.requests: list[tuple[str, Any, dict[str, str]]] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _reply(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(size)) if size else None
                with outer._lock:
                    outer.requests.append((self.path, body, dict(self.headers)))
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                try:
                    made = answer(self.path, body)
                finally:
                    with outer._lock:
                        outer._now -= 1
                if made is None or callable(made):
                    self.close_connection = True
                    with contextlib.suppress(OSError):  # the client may have had enough
                        if made is not None:
                            made(self.wfile)
                    return
                content = made[1] if isinstance(made[1], bytes) else json.dumps(made[1]).encode()
                self.send_response(made[0])
                headers = made[2] if len(made) == 3 else {}
                self.close_connection = "Content-Length" in headers  # a test that promises more than it sends
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _reply  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextlib.contextmanager
def serving(answer: Callable[[str, Any], Answer]) -> Iterator[Loopback]:
    """A server that answers `answer(path, body)` while the context lasts."""
    loopback = Loopback(answer)
    thread = threading.Thread(target=loopback.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        loopback.server.shutdown()
        loopback.server.server_close()
        thread.join()
