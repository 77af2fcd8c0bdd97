"""A real headless Chromium for tests, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def find_browser() -> str | None:
    """The first that starts: some distributions have a program of this name that only says how to install one."""
    for name in filter(shutil.which, NAMES):
        if not subprocess.run([name, "--version"], capture_output=True).returncode:
            return name
    return None


class Browser:
    """One page of a browser.

    Args:
        program: of the browser.
        profile: a fresh folder for its profile; downloads go to its folder ``downloads``.
        size: of the window, in CSS pixels.
    """

    def __init__(self, program: str, profile: Path, size: tuple[int, int] = (1300, 1000)) -> None:
        self.downloads = profile / "downloads"
        self.messages: list[str] = []
        self._process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
            + ["--remote-debugging-port=0", "about:blank"],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not port_file.exists() or not port_file.read_text().strip():
            assert self._process.poll() is None and time.monotonic() < deadline, "the browser does not start"
            time.sleep(0.05)
        self._port = int(port_file.read_text().split()[0])
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")
        self.command("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    async def _connect(self) -> None:
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{self._port}/json/list") as response:
            page = next(target for target in await response.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=2**28)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        return self._loop.run_until_complete(self._command(self._number, method, parameters))

    async def _command(self, number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        self._events.append(message)
        if message["method"] == "Log.entryAdded":
            self.messages.append(message["params"]["entry"]["text"])

    def wait_for_load(self) -> None:
        """Wait until a page that was asked for is loaded."""

        async def wait() -> None:
            while not any(event["method"] == "Page.loadEventFired" for event in self._events):
                self._take(await self._socket.receive_json(timeout=60))

        self._loop.run_until_complete(wait())
        self._events.clear()

    def open(self, address: str) -> None:
        """Open a page."""
        self._events.clear()
        self.command("Page.navigate", url=address)
        self.wait_for_load()

    def run(self, script: str) -> Any:
        """The value of a script in the page (the tool's own: a page's policy does not hold for it)."""
        result = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def click(self, selector: str, *, loads: bool = True) -> None:
        """Click in the middle of the first element that ``selector`` finds, as a mouse does."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const b = e.getClientRects()[0]; return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        self._events.clear()
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        if loads:
            self.wait_for_load()

    def type_into(self, selector: str, text: str) -> None:
        """Put the cursor into an input and type."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.run("document.activeElement.select && document.activeElement.select()")
        self.command("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """Save a picture of the whole page."""
        picture = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        """End the browser."""
        self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.terminate()
        self._process.wait(timeout=30)
