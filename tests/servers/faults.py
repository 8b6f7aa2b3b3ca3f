"""What both test servers share: running in a thread, and failing on demand."""

import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server


@dataclass
class Fault:
    """What goes wrong with requests that match, *times* times."""

    kind: str
    method: str
    path: str
    times: int
    status: int
    code: str
    seconds: float


class Faults:
    """Planned faults, in the order in which they were planned."""

    def __init__(self) -> None:
        self._planned: list[Fault] = []
        self._lock = threading.Lock()

    def plan(
        self,
        kind: str = "status",
        *,
        method: str = "[A-Z]+",
        path: str = "",
        times: int = 1,
        status: int = 503,
        code: str = "SlowDown",
        seconds: float = 0,
    ) -> None:
        """From now on, *times* requests of *method* whose path contains *path* (both patterns) go wrong.

        *kind*: "status" answers *status* and *code*; "reset" cuts the connection; "lost" carries the request out
        and then cuts it; "truncated" cuts it halfway through the answer's body; "damaged" stores other bytes than
        were sent; "slow" waits *seconds* first.
        """
        self._planned.append(Fault(kind, method, path, times, status, code, seconds))

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, if one is planned."""
        with self._lock:
            for fault in self._planned:
                if fault.times and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def clear(self) -> None:
        self._planned.clear()


class _Handler(WSGIRequestHandler):
    """Quiet, and with the clock of its application."""

    def log(self, type: str, message: str, *args: object) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + getattr(self.server.app, "ahead_s", 0))


def start(app: Any, port: int = 0, tls: ssl.SSLContext | None = None) -> BaseWSGIServer:
    """Serve *app* on a loopback port, 0 for any, until the server's ``shutdown``."""
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=_Handler, ssl_context=tls)
    server.daemon_threads = True  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # connections are cut here on purpose
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


def stop(server: BaseWSGIServer) -> None:
    server.shutdown()
    server.server_close()


def cut(environ: dict[str, Any]) -> Iterable[bytes]:
    """End the connection with a reset instead of an answer."""
    connection = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # close() would wait for the handler's own files on this socket
    raise ConnectionResetError


def damage(data: bytes) -> bytes:
    """*data* with one bit changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
