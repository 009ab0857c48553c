"""Chromium without a window, driven through its DevTools pipe: real clicks and keys, no network."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1000",
    "--remote-debugging-pipe",
)
# Chromium reads commands from file descriptor 3 and writes answers to 4.
LAUNCHER = """
import fcntl, os, sys
commands, answers = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]]
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}


def find_chromium() -> str | None:
    """The path of Chromium; None where there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    return None


class Page:
    """A page in the browser.

    Attributes:
        errors: what the console has shown as an error, and exceptions.
        requests: the addresses that were asked for.
    """

    def __init__(self, connection: "Connection", session: str):
        self._connection = connection
        self._session = session
        self.errors: list[str] = []
        self.requests: list[str] = []
        connection.listeners[session] = self._receive
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._connection.call(method, parameters, self._session)

    def _receive(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.errors.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(json.dumps(parameters["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(self, address: str) -> None:
        """Opens an address, and waits until the page says that it is ready."""
        self._call("Page.navigate", url=address)
        self.wait_for("document.body !== null && document.body.dataset.ready === 'true'")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + SECONDS
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, f"never: {condition}; {self.errors}"
            time.sleep(0.02)

    def click(self, selector: str, position: int = 0) -> None:
        """Clicks on the middle of an element, one of those that a CSS selector finds."""
        place = self.evaluate(
            f"(() => {{ const node = document.querySelectorAll({json.dumps(selector)})[{position}];"
            "node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    def type_text(self, selector: str, text: str) -> None:
        """Replaces the text of an input element, as if it had been typed."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self._call("Input.insertText", text=text)

    def press(self, selector: str, key: str) -> None:
        """Presses a key while an element has the focus."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        for kind in ("rawKeyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=KEYS[key],
            )

    def texts(self, selector: str) -> list[str]:
        """The text of each element that a CSS selector finds."""
        return self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.innerText)"
        )

    def save_picture(self, file: Path) -> None:
        """Saves what the window shows."""
        picture = self._call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(picture["data"]))


class Connection:
    """Commands to the browser and its answers, each a line of JSON that ends in a zero byte."""

    def __init__(self, commands: int, answers: int):
        self._commands = commands
        self._answers = answers
        self._received = b""
        self._number = 0
        self.listeners: dict[str, Any] = {}

    def call(
        self,
        method: str,
        parameters: dict[str, Any],
        session: str | None = None,
    ) -> dict[str, Any]:
        """Sends a command and returns its result; events meanwhile go to the listeners."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            listener = self.listeners.get(answer.get("sessionId", ""))
            if listener and "method" in answer:
                listener(answer["method"], answer["params"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], SECONDS)
            assert ready, "the browser does not answer"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser has ended"
            self._received += piece
        line, _, self._received = self._received.partition(b"\0")
        return json.loads(line)


@contextlib.contextmanager
def open_browser(chromium: str, profile: Path) -> Iterator[Connection]:
    """Starts a browser with an empty profile, and ends it."""
    read_command, write_command = os.pipe()
    read_answer, write_answer = os.pipe()
    words = [sys.executable, "-c", LAUNCHER, str(read_command), str(write_answer)]
    process = subprocess.Popen(
        [*words, chromium, *OPTIONS, f"--user-data-dir={profile}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(read_command, write_answer),
    )
    os.close(read_command)
    os.close(write_answer)
    try:
        yield Connection(write_command, read_answer)
    finally:
        os.close(write_command)
        process.terminate()
        process.wait(SECONDS)
        os.close(read_answer)


def open_page(connection: Connection) -> Page:
    """An empty page."""
    target = connection.call("Target.createTarget", {"url": "about:blank"})
    session = connection.call(
        "Target.attachToTarget", {"targetId": target["targetId"], "flatten": True}
    )
    return Page(connection, session["sessionId"])
