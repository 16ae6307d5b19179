"""A hub of one repo on this machine, whose connection can break in the middle of a file."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO = "some/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves the files of a folder as those of REPO. break_at: the byte of a weight file where connections break, once

    or, with `gone`, from then on for every request; None: never.
    """

    def __init__(self, folder: Path, break_at: int | None = None, gone: bool = False) -> None:
        self.files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        self.break_at, self.gone, self.is_gone, self.breaks = break_at, gone, False, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.hub.is_gone:
            self.close_connection = True
            self.connection.close()
        elif "/tree/" in self.path:
            files = self.hub.files.items()
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files]
            self._send(json.dumps(tree).encode(), {}, with_body)
        elif self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._send(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode(), {}, with_body)
        else:
            self._answer_file(self.path.rsplit("/", 1)[-1].split("?")[0], with_body)

    def _answer_file(self, name: str, with_body: bool) -> None:
        data = self.hub.files.get(name)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        digest = hashlib.sha256(data).hexdigest()
        self._send(data, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, with_body, name)

    def _send(self, data: bytes, headers: dict[str, str], with_body: bool, name: str = "") -> None:
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked.startswith("bytes=") and with_body else 0
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        hub = self.hub
        if not with_body:
            return
        if name.endswith(".safetensors") and hub.break_at is not None and start <= hub.break_at:
            self.wfile.write(data[start : hub.break_at])
            self.wfile.flush()
            hub.breaks += 1
            hub.is_gone = hub.gone
            hub.break_at = hub.break_at if hub.gone else None
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(data[start:])
