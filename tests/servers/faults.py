"""What both test servers share: running in a thread, and failing on demand."""

import io
import math
import os
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

FOREVER = math.inf  # times, until `Faults.clear`
_PIECE = 16 * 2**10  # bytes that pass a slow line at a time


@dataclass
class Fault:
    """What goes wrong with requests that match: *after* of them have passed, with a *share* of them, *times* times."""

    kind: str
    method: str
    path: str
    times: float
    after: int
    share: float
    status: int
    code: str
    seconds: float


class Faults:
    """Planned faults, in the order in which they were planned, and the line to the server: *bytes_per_s* is how much of
    request and answer bodies passes it in both directions together."""

    def __init__(self) -> None:
        self.bytes_per_s = FOREVER
        self.struck: Counter[str] = Counter()  # requests that went wrong since `clear`, by the kind of fault
        self._planned: list[Fault] = []
        self._clearings = 0
        self._lock = threading.Lock()
        self._chance = random.Random(0)
        self._line_free_at = 0.0

    def plan(
        self,
        kind: str = "status",
        *,
        method: str = "[A-Z]+",
        path: str = "",
        times: float = 1,
        after: int = 0,
        share: float = 1,
        status: int = 503,
        code: str = "SlowDown",
        seconds: float = 0,
    ) -> None:
        """From now on, *times* requests of *method* whose path contains *path* (both patterns) go wrong; of those that
        match, the first *after* do not, and then each does with the probability *share*.

        *kind*: "status" answers *status* and *code*; "reset" cuts the connection; "lost" carries the request out
        and then cuts it; "truncated" cuts it halfway through the answer's body; "damaged" stores other bytes than
        were sent; "slow" waits *seconds* first; "hang" waits as long, and then cuts it without carrying it out.
        """
        self._planned.append(Fault(kind, method, path, times, after, share, status, code, seconds))

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, if one is planned."""
        with self._lock:
            found = next((fault for fault in self._planned if self._strikes(fault, method, path)), None)
            if found:
                self.struck[found.kind] += 1
            return found

    def held(self, seconds: float) -> bool:
        """Hold a request for *seconds*; whether `clear` was called meanwhile. Then it must not be carried out: the test
        that sent it may be over, and another's store stand in the place of its own."""
        clearings = self._clearings
        time.sleep(seconds)
        return clearings != self._clearings

    def clear(self, seed: int = 0) -> None:
        """Forget all faults, and the requests that are `held`. *seed* is of the chance by which a share of requests is
        picked."""
        self._clearings += 1
        self._planned.clear()
        self.struck.clear()
        self._chance.seed(seed)
        self.bytes_per_s = FOREVER

    def receive(self, environ: dict[str, Any]) -> bytes:
        """The body of a request, as the line carries it; it can be read from *environ* again."""
        stream, length = environ["wsgi.input"], int(environ.get("CONTENT_LENGTH") or 0)
        chunked = environ.get("wsgi.input_terminated")
        pieces = [stream.read()] if chunked else (stream.read(size) for size in self._sizes(length))
        body = b"".join(self._carried(pieces))
        environ["wsgi.input"] = io.BytesIO(body)
        return body

    def send(self, body: bytes) -> Iterator[bytes]:
        """The *body* of an answer, in pieces, as the line carries it."""
        stream = io.BytesIO(body)
        return self._carried(stream.read(size) for size in self._sizes(len(body)))

    def _sizes(self, length: int) -> list[int]:
        piece = length if self.bytes_per_s == FOREVER else _PIECE
        return [min(piece, length - start) for start in range(0, length, max(piece, 1))]

    def _carried(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """All connections share the line fairly."""
        for piece in pieces:
            with self._lock:
                now = time.monotonic()
                self._line_free_at = max(now, self._line_free_at) + len(piece) / self.bytes_per_s
                wait_s = self._line_free_at - now
            time.sleep(wait_s)
            yield piece

    def _strikes(self, fault: Fault, method: str, path: str) -> bool:
        if not (fault.times and re.fullmatch(fault.method, method) and re.search(fault.path, path)):
            return False
        if fault.after:
            fault.after -= 1
            return False
        if self._chance.random() >= fault.share:
            return False
        fault.times -= 1
        return True


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
