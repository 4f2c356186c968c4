"""Chromium without a window, driven by its DevTools protocol over a pair of pipes: no port, no package."""

import fcntl
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Said = dict[str, Any]
SECONDS = 60.0  # for one command: far more than it takes, because machines that run tests are busy
FLAGS = (
    "--headless",
    "--no-sandbox",  # the tests may run as root, and open only pages of their own
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-extensions",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing but this machine can be reached
    "--remote-debugging-pipe",  # reads commands from descriptor 3, writes answers and events to 4
)


class BrowserFailed(Exception):
    """The browser ended, did not answer in time, or refused a command. The text has what it printed."""


class Browser:
    """One Chromium with a profile of its own. Ready once the `with` block is entered; ended when it is left."""

    def __init__(self, profile: Path) -> None:
        self._command = ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._log = tempfile.NamedTemporaryFile(prefix="chromium-", suffix=".log")  # noqa: SIM115 (lives as long as self)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = self._writer = -1
        self._heard = b""
        self._last_id = 0
        self._events: list[Said] = []

    def __enter__(self) -> Self:
        theirs_in, self._writer = _pipe()
        self._reader, theirs_out = _pipe()
        # A shell puts the pipes where Chromium looks for them, and becomes Chromium.
        places = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", places, "chromium", *self._command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            self.command("Browser.getVersion")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process is not None and self._process.poll() is None:
                self.command("Browser.close")
        finally:
            self._end()

    def open(self, url: str) -> "Page":
        """A new page, once it and its scripts have loaded."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.command(f"{domain}.enable")
        answer = page.command("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserFailed(f"{url}: {answer['errorText']}\n{self._printed()}")
        self._pump(lambda: bool(page.events("Page.loadEventFired")), f"{url} has loaded")
        return page

    def command(self, method: str, session: str | None = None, **parameters: Any) -> Said:
        """One command of the DevTools protocol, and its result."""
        self._last_id += 1
        mine = self._last_id
        said = {"id": mine, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(said).encode() + b"\0"
        try:
            while data:
                data = data[os.write(self._writer, data) :]
        except BrokenPipeError:
            raise BrowserFailed(f"Chromium has ended\n{self._printed()}") from None
        answers: list[Said] = []

        def answered() -> bool:
            answers.extend(event for event in self._events if event.get("id") == mine)
            return bool(answers)

        self._pump(answered, f"it answers {method}")
        self._events.remove(answers[0])
        if "error" in answers[0]:
            raise BrowserFailed(f"{method}: {answers[0]['error']}")
        result: Said = answers[0]["result"]
        return result

    def events_of(self, session: str, method: str) -> list[Said]:
        """The parameters of each event of this name that has come."""
        return [
            event["params"]
            for event in self._events
            if event.get("sessionId") == session and event.get("method") == method
        ]

    def _pump(self, done: Callable[[], bool], hope: str) -> None:
        """Reads until it is done. BrowserFailed when the browser ends, or SECONDS pass, before that."""
        deadline = time.monotonic() + SECONDS
        while not done():
            ready, _, _ = select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserFailed(f"waited {SECONDS:g} s until {hope}\n{self._printed()}")
            part = os.read(self._reader, 1 << 16)
            if not part:
                raise BrowserFailed(f"Chromium ended before {hope}\n{self._printed()}")
            *whole, self._heard = (self._heard + part).split(b"\0")
            self._events.extend(json.loads(text) for text in whole)

    def _printed(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def _end(self) -> None:
        os.close(self._writer)  # it ends by itself when nobody can command it any more
        os.close(self._reader)
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Page:
    """A page of a browser, and all that it has said since it was opened."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def command(self, method: str, **parameters: Any) -> Said:
        """A command to this page alone."""
        return self._browser.command(method, self._session, **parameters)

    def events(self, method: str) -> list[Said]:
        """The parameters of each event of this name."""
        return self._browser.events_of(self._session, method)

    def evaluate(self, expression: str) -> Any:
        """What an expression of JavaScript, or the promise that it is, comes to. BrowserFailed if it throws."""
        answer = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserFailed(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_until(self, expression: str) -> None:
        """Until it is true, looked at each time the page changes."""
        watched = """new Promise((resolve) => {
          const look = () => {
            if (!(CONDITION)) return false;
            watcher.disconnect();
            resolve();
            return true;
          };
          const watcher = new MutationObserver(look);
          look() || watcher.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
        })"""
        self.evaluate(watched.replace("CONDITION", expression))

    def call(self, function: str, *arguments: Any) -> Any:
        """A function of the page with arguments that JSON can say."""
        return self.evaluate(f"{function}({', '.join(json.dumps(argument) for argument in arguments)})")

    def click(self, element: str) -> None:
        """Moves the mouse to the middle of an element (an expression of JavaScript) and presses its left button."""
        middle = """(() => {
          const element = ELEMENT;
          element.scrollIntoView({block: "center", behavior: "instant"});
          const {x, y, width, height} = element.getBoundingClientRect();
          return [x + width / 2, y + height / 2];
        })()"""
        x, y = self.evaluate(middle.replace("ELEMENT", element))
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def complaints(self) -> list[str]:
        """Exceptions that nothing caught, and errors of the console: of scripts, of the network, of a policy."""
        thrown = [event["exceptionDetails"] for event in self.events("Runtime.exceptionThrown")]
        logged = [event["entry"] for event in self.events("Log.entryAdded")]
        said = [event for event in self.events("Runtime.consoleAPICalled") if event["type"] in ("error", "assert")]
        return [
            *(str(details) for details in thrown),
            *(entry["text"] for entry in logged if entry["level"] == "error"),
            *(str(event["args"]) for event in said),
        ]

    def asked_for(self) -> list[str]:
        """The address of each thing that the page has asked for, itself first."""
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]


def _pipe() -> tuple[int, int]:
    """(read, write), away from the low descriptors that the shell moves them to."""
    made = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in made]
    for end in made:
        os.close(end)
    return moved[0], moved[1]
