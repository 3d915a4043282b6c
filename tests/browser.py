"""A headless Chromium, driven by the WebDriver protocol of its own driver: no package is needed."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
ARGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class Browser:
    """One window."""

    def __init__(self, driver_port):
        self._base = f"http://127.0.0.1:{driver_port}"
        options = {"binary": CHROMIUM, "args": ARGS}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        found = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{found['sessionId']}"

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]

    def open(self, address):
        self._ask("POST", f"{self._session}/url", {"url": address})

    def run(self, script, *args):
        """Runs the body of a function in the page; what it returns."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": args})

    def wait(self, script, seconds=120):
        """Waits until an expression is true in the page."""
        until = time.monotonic() + seconds
        while not self.run(f"return Boolean({script})"):
            assert time.monotonic() < until, f"never true: {script}"
            time.sleep(0.05)

    def type(self, selector, text):
        """Types into an element, by key events."""
        using = {"using": "css selector", "value": selector}
        element = next(iter(self._ask("POST", f"{self._session}/element", using).values()))
        self._ask("POST", f"{self._session}/element/{element}/value", {"text": text})

    def messages(self):
        """What the console has shown since the last call."""
        return [entry["message"] for entry in self._ask("POST", f"{self._session}/se/log", {"type": "browser"})]

    def resize(self, width, height):
        """Sets the size of the page itself, also to one that is smaller than a window may be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._ask("POST", f"{self._session}/goog/cdp/execute", command)

    def set_dark(self, dark):
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._ask("POST", f"{self._session}/goog/cdp/execute", command)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def close(self):
        self._ask("DELETE", self._session)


@contextlib.contextmanager
def open_browser():
    """A window for a block; skips the test where there is no Chromium with its driver."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        browser = Browser(port)
        try:
            yield browser
        finally:
            with contextlib.suppress(urllib.error.URLError):
                browser.close()
    finally:
        driver.terminate()
        driver.wait()
