"""A headless Chromium for tests, driven through chromedriver's WebDriver protocol."""

import base64
import json
import shutil
import subprocess
import urllib.request

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-device-scale-factor=1",
)  # fmt: skip
# "" where a page can be looked at, else what is missing.
MISSING = ", ".join(name for name in ("chromium", "chromedriver") if not shutil.which(name))


class Browser:
    """One window; `with Browser(folder) as browser`, the folder for an empty profile.

    OSError where it does not start, for example because the two programs do not fit one another.
    """

    def __init__(self, folder):
        self.driver = subprocess.Popen(
            [shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE, text=True
        )
        try:
            lines = (line for line in self.driver.stdout if "started successfully" in line)
            started = next(lines, None)
            if started is None:
                raise OSError("chromedriver does not start")
            self.address = f"http://127.0.0.1:{started.split()[-1].rstrip('.')}/session"
            options = {"binary": shutil.which("chromium")}
            options["args"] = [*FLAGS, f"--user-data-dir={folder}"]
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = self.post("", capabilities={"alwaysMatch": wanted})["sessionId"]
            self.address += f"/{session}"
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.post("", method="DELETE")
        finally:
            self.stop()

    def stop(self):
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()

    def post(self, path, method="POST", **values):
        """The value that a command of WebDriver answers with."""
        content = json.dumps(values).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, content, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path, width, height, dark=False):
        """Open a file in a window of this size, by day or by night."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.post("/url", url=path.resolve().as_uri())

    def devtools(self, command, **values):
        return self.post("/goog/cdp/execute", cmd=command, params=values)

    def run(self, script, *values):
        """What the body of a JavaScript function returns; `arguments` are the values."""
        return self.post("/execute/sync", script=script, args=values)

    def complaints(self):
        """What the page has written to the console since the last call: errors, refused loads."""
        return [line["message"] for line in self.post("/se/log", type="browser")]

    def press(self, key):
        """Press a key where the focus is; special keys by their names in the DOM."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.devtools("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def save_picture(self, path):
        path.write_bytes(base64.b64decode(self.post("/screenshot", method="GET")))

    def click(self, x, y):
        """Press and release the mouse at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.devtools("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left",
                          clickCount=1)  # fmt: skip

    def roll(self, x, y, down):
        """Turn the wheel at a place of the window."""
        self.devtools("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0,
                      deltaY=down)  # fmt: skip

    def touch(self, *moments):
        """Fingers on the screen: at each moment a list of (x, y), the last moment empty."""
        before = []
        for points in moments:
            kind = "touchStart" if len(points) > len(before) else "touchMove"
            kind, before = (kind if points else "touchEnd"), points
            fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            self.devtools("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)
