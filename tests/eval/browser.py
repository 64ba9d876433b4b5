"""Chromium without a window, driven by its own protocol over a pipe: real clicks and keys, on an untouched page.

The protocol: https://chromedevtools.github.io/devtools-protocol/, messages of JSON that end in a zero byte.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KEYS = {"Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
_PATIENCE_S = 120.0


def find_chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._read = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def open(self, page: Path, with_scripts: bool = True, beforehand: str = "") -> None:
        """In a tab of its own, with all that happens in it noted; `beforehand` is a script to run before the page's."""
        self._session = None
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Performance.enable", timeDomain="threadTicks")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=beforehand)
        self.call("Emulation.setScriptExecutionDisabled", value=not with_scripts)
        self.call("Page.navigate", url=page.as_uri())
        self._until(lambda: self.run("[location.href, document.readyState]") == [page.as_uri(), "complete"])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda: next((one for one in self._messages() if one.get("id") == self._count), None))
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    @property
    def processor_s(self) -> float:
        """Of the page's main thread, since it began."""
        metrics = {one["name"]: float(one["value"]) for one in self.call("Performance.getMetrics")["metrics"]}
        return metrics["ThreadTime"]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, element: str) -> None:
        """Of an expression's element, in its middle."""
        x, y = self.run(f"""(() => {{ const it = {element}; it.scrollIntoView({{block: "center", behavior: "instant"}});
            const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def happened(self, method: str) -> list[dict[str, Any]]:
        self._messages()
        return [event["params"] for event in self.events if event["method"] == method]

    def _until(self, found: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE_S
        while not (result := found()):
            assert time.monotonic() < deadline, "the browser does not answer"
        return result

    def _messages(self) -> list[dict[str, Any]]:
        """Answers among what has come; events are kept."""
        ready, _, _ = select.select([self._back], [], [], 0.05)
        if ready:
            self._read += os.read(self._back, 1 << 20)
        *whole, self._read = self._read.split(b"\0")
        messages = [json.loads(one) for one in whole]
        self.events += [one for one in messages if "method" in one]
        return [one for one in messages if "id" in one]


@contextmanager
def browser(program: str, folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`, that finds no address outside this machine."""
    command_read, to = os.pipe()
    back, answer_write = os.pipe()
    options = _options(folder)
    shell = f'exec "$@" 3<&{command_read} 4>&{answer_write}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", program, *options],
        pass_fds=(command_read, answer_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_read)
    os.close(answer_write)
    try:
        yield Browser(to, back)
    finally:
        os.close(to)  # at the end of its commands it ends
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(back)


def _options(folder: Path) -> Sequence[str]:
    return (
        "--headless",
        "--no-sandbox",  # which root and containers cannot have; the page is our own
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--window-size=1200,900",
        f"--user-data-dir={folder}",
        "--remote-debugging-pipe",
    )
