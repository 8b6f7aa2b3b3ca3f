"""Debian's Chromium without a window, spoken to over pipes in the DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

EXECUTABLE = shutil.which("chromium")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Chromium:
    """One tab. What it has told so far is in *events*, each a DevTools method with its parameters."""

    def __init__(self, profile: Path) -> None:
        assert EXECUTABLE
        to_read, self._to_browser = os.pipe()
        self._from_browser, to_write = os.pipe()
        # It reads its orders from descriptor 3 and answers on 4; only a shell puts them there.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", EXECUTABLE, *_FLAGS,
             f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._answers = os.fdopen(self._from_browser, "rb")
        self._held, self._count, self._session = b"", 0, ""
        self._attach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to_browser)
        self._answers.close()
        self._process.kill()
        self._process.wait()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a DevTools *method*."""
        self._count += 1
        call = {"id": self._count, "method": method, "params": params}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(call).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append((answer["method"], answer["params"]))
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, path: Path, width: int = 1280, scheme: str = "light") -> None:
        """Load the page at *path* and wait until it is there."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=path.absolute().as_uri())
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            answer = self._next()
            self.events.append((answer["method"], answer["params"]))

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _attach(self) -> None:
        targets = self.send("Target.getTargets")["targetInfos"]
        target = next(info["targetId"] for info in targets if info["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            data = os.read(self._from_browser, 1 << 16)
            assert data, "Chromium has ended"
            self._held += data
        message, _, self._held = self._held.partition(b"\0")
        return dict(json.loads(message))
