"""Downloads against a small server with the hub's protocol.

In processes of their own, because the client reads the hub's address only once.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CONTENT = bytes(range(256)) * 40_000  # 10 MB: more than one piece of the client
COMMIT = "c" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    delay = 0.0

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        if self.path == "/":
            self.send_response(200)
            self.end_headers()
            return
        found = self.path.endswith("/pytorch_model.bin") and "/good/" in self.path
        self.send_response(200 if found else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound" if "/good/" in self.path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("ETag", '"' + "e" * 64 + '"')
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if body:
            for start in range(0, len(CONTENT), 1 << 20):
                time.sleep(self.delay)
                try:
                    self.wfile.write(CONTENT[start : start + (1 << 20)])
                except OSError:
                    return

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def run(code: str, home: Path, endpoint: str, **more: str) -> list[str]:
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "*", **more}
    env.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    start = "import time\nfrom featup_app.backbones.hub import *\nfrom featup_app.base.errors import Cancelled\n"
    result = subprocess.run([sys.executable, "-c", start + code], env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_download_tells_progress_and_fills_the_cache(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "delay", 0.05)
    code = """
seen = []
print(cached_weights("good/model"))
path = fetch_weights("good/model", "x", progress=lambda *a: seen.append(a))
print(path.name, path.stat().st_size, max(s[1] for s in seen), max(s[2] for s in seen), seen[0][0])
print(cached_weights("good/model") == path, fetch_weights("good/model", "x") == path)
"""
    size = len(CONTENT)
    expected = ["None", f"pytorch_model.bin {size} {size} {size} downloading x", "True True"]
    assert run(code, tmp_path, hub) == expected


def test_download_can_be_cancelled_at_once(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "delay", 0.5)
    code = """
start = time.time()
def progress(words, done, total, stage=None):
    if time.time() - start > 1.5:
        raise Cancelled
try:
    fetch_weights("good/model", "x", progress=progress)
except Cancelled:
    print(time.time() - start < 2.0, cached_weights("good/model"))
"""
    assert run(code, tmp_path, hub) == ["True None"]


@pytest.mark.parametrize(
    ("repository", "endpoint", "env", "words"),
    [
        ("bad/model", None, {}, "no such repository"),
        ("good/model", "http://127.0.0.1:9", {}, "cannot be reached"),
        ("good/model", "http://nowhere.invalid", {}, "cannot be reached"),
        ("good/model", None, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_failure_is_quick_and_has_a_reason(
    hub: str, tmp_path: Path, repository: str, endpoint: str | None, env: dict[str, str], words: str
) -> None:
    code = f"""
start = time.time()
try:
    fetch_weights({repository!r}, "x", ["model.safetensors"])
except HubError as error:
    print(time.time() - start < 8, error)
"""
    (line,) = run(code, tmp_path, endpoint or hub, **env)
    assert line.startswith("True ")
    assert words in line
