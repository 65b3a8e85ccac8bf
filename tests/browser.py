"""A headless Chromium, driven over its debugging pipe: https://chromedevtools.github.io/devtools-protocol

with Browser() as browser:
    browser.open("http://127.0.0.1:8501/")
    browser.evaluate("document.title")
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 120.0  # a busy machine may take one for the first answer of a model


class Browser:
    """One page. Its messages of the console that are errors are kept in `errors`."""

    def __init__(self, width=1100, height=900):
        self.size, self.errors, self.number, self.held = (width, height), [], 0, b""

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        theirs, self.to = os.pipe()
        self.come, answers = os.pipe()
        # The protocol wants its pipe at the descriptors 3 and 4.
        command = f'exec 3<&{theirs} 4>&{answers}; exec "$@"'
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.profile.name}",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", PROGRAM, *arguments, "about:blank"],
            pass_fds=(theirs, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs), os.close(answers)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*self.size)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self.to), os.close(self.come)
        self.profile.cleanup()

    def call(self, method, **parameters):
        """The result of a method of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(answer["params"]))
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        while b"\0" not in self.held:
            part = os.read(self.come, 1 << 16)
            assert part, "the browser has ended"
            self.held += part
        message, _, self.held = self.held.partition(b"\0")
        return json.loads(message)

    def resize(self, width, height):
        """Sets the size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def open(self, url):
        """Loads a page afresh, also where only what stands behind the # differs."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression):
        """Waits until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < end, (expression, self.evaluate("document.body.innerText"), self.errors)
            time.sleep(0.02)

    def press(self, key, code, modifiers=0):
        """Presses a key, perhaps with Ctrl (2)."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers)

    def screenshot(self, path):
        """Writes what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
