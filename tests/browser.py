"""A headless Chromium that does what people do; told over a pair of pipes, so that no package and no port is needed."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATH = next((path for name in NAMES if (path := shutil.which(name))), None)

# The browser reads at 3 and writes at 4; the first two copies keep clear of both.
CONNECT = """
import os, sys
ends = [os.dup(os.dup(os.dup(int(end)))) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A page that is open."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._number, self._session = commands, answers, 0, None
        (target,) = [each for each in self.send("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def send(self, method, **parameters):
        """A command of the DevTools protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self):
        parts = []
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            parts.append(byte)
        return b"".join(parts)

    def evaluate(self, script):
        """The value of an expression of JavaScript."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script, seconds=30):
        """Until an expression is true."""
        until = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < until, f"{script} did not come true: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def type(self, text):
        """Keys, into what has the focus."""
        for character in text:
            self.send("Input.dispatchKeyEvent", type="char", text=character)


@contextlib.contextmanager
def opened(url, profile, width=1000, height=800):
    """A :class:`Page` at that address; ``profile`` is an empty directory."""
    to_browser, from_browser = os.pipe(), os.pipe()

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--remote-debugging-pipe", "about:blank"]
    ends = (to_browser[0], from_browser[1])
    command = [sys.executable, "-c", CONNECT, *map(str, ends), PATH, *flags]
    process = subprocess.Popen(command, pass_fds=ends, stderr=subprocess.DEVNULL)
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        with open(from_browser[0], "rb") as answers:
            page = Page(to_browser[1], answers)
            page.send("Page.navigate", url=url)
            page.wait("location.href != 'about:blank' && document.readyState == 'complete'")
            yield page
    finally:
        process.kill()
        process.wait()
        os.close(to_browser[1])
