"""A proxy in front of a server that answers slowly and fails now and then, as proxies of large networks do."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

FAULTS = ("refused", "lost", "cut")  # 503 in place of the server; the answer never arrives; half of it arrives
HOP = ("transfer-encoding", "connection", "content-length")  # headers of one connection, which are not passed on


class UnreliableProxy:
    """Passes HTTP requests on to a port of this machine, in threads; used as a context manager.

    The k-th request has the same fate in every run.

    Args:
        port: of the server.
        share: of requests that fail, each of `FAULTS` as often; may be changed.
        delay: seconds added to each request.

    Attributes:
        url: of the proxy.
        counts: the number of requests by fate: ``passed`` or one of `FAULTS`.
    """

    def __init__(self, port: int, share: float, delay: float = 0.0) -> None:
        self.counts: Counter[str] = Counter()
        self.share = share
        self._port, self._delay = port, delay
        self._draws, self._lock = random.Random(0), threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> UnreliableProxy:
        """Start."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def fate(self) -> str:
        """Draw what becomes of the next request."""
        with self._lock:
            fate = self._draws.choice(FAULTS) if self._draws.random() < self.share else "passed"
            self.counts[fate] += 1
        return fate

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
        """Ask the server."""
        time.sleep(self._delay)
        server = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            server.request(method, path, body, headers)
            found = server.getresponse()
            return found.status, found.getheaders(), found.read()
        finally:
            server.close()


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[UnreliableProxy]
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate = self.proxy.fate()
        if fate == "refused":
            self._send(503, [], b"the upstream server is not ready")
            return
        kept = {key: value for key, value in self.headers.items() if key.lower() not in HOP}
        status, headers, content = self.proxy.answer(self.command, self.path, kept, body)
        if fate == "passed":
            self._send(status, headers, content)
            return
        if fate == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + content[: len(content) // 2])
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, headers: Any, content: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers:
            if key.lower() not in HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, *_: Any) -> None:
        """Print nothing."""
