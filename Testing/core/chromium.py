"""Headless Chromium for tests of pages, by its DevTools protocol over a pipe: the standard library is enough.

Only pages of this computer are opened; the flags keep the browser from asking anything of the network.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_WAIT_S = 30.0


class Browser:
    """One page in one browser; `profile` is an empty folder."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        (to_read, self._write), (self._read, to_write) = os.pipe(), os.pipe()
        theirs = [
            fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_read, to_write)
        ]  # out of the way of 3 and 4
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]

        def place() -> None:  # DevTools reads file 3 and writes file 4
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        with (profile / "output.log").open("wb") as log:
            self._process = subprocess.Popen(command, preexec_fn=place, close_fds=False, stdout=log, stderr=log)
        for end in (to_read, to_write, *theirs):
            os.close(end)
        self._rest, self._number, self.messages = b"", 0, []
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState == 'complete' && location.href == {json.dumps(url)}")

    def evaluate(self, script: str) -> Any:
        """The JSON value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, *, seconds: float = _WAIT_S) -> Any:
        """Wait until a JavaScript expression is true; gives its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            text = self.evaluate("document.body.innerText")
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {script}\n{text}"
            time.sleep(0.05)
        return value

    def look(self, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Set the size of the window, in CSS pixels, and the colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """PNG of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def complaints(self) -> list[str]:
        """What the browser logged as an error so far: scripts, blocked content, failed loads."""
        self.evaluate("0")
        found = []
        for message in self.messages:
            if message["method"] == "Runtime.exceptionThrown":
                found.append(str(message["params"]["exceptionDetails"]))
            if message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                found.append(message["params"]["entry"]["text"])
        return found

    def requested(self) -> list[str]:
        """The addresses that pages asked for so far."""
        return [m["params"]["request"]["url"] for m in self.messages if m["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        """End the browser and its children."""
        try:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self._process.kill()
        finally:
            os.close(self._write)
            os.close(self._read)

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """One call of the DevTools protocol; what arrives meanwhile is kept in `messages`."""
        self._number += 1
        request: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._write, json.dumps(request).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            if "method" in message:
                self.messages.append(message)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "Chromium has ended"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
