"""A fake Google Cloud Storage on this machine, for the libraries that use the real one."""

import json
import re
import sys
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

BUCKET = "bucket"  # the only bucket that exists
# The path of a request: /storage/v1/b/BUCKET, or with /o for all objects, or with /o/NAME for one of them.
_PATH = re.compile(
    "(?:/download|/upload)?/storage/v1/b/(?P<bucket>[^/]+)"
    "(?P<objects>/o(?:/(?P<name>[^/]+)(?:/moveTo/o/(?P<to>[^/]+))?)?)?"
)

Answer = tuple[int, dict[str, str], bytes]  # HTTP status, headers, content


class Storage(ThreadingHTTPServer):
    """Answers the requests that a run makes, and records all other requests in `unknown`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.objects: dict[str, tuple[int, bytes]] = {}  # name: generation, content
        self.generation, self.lock, self.unknown = 0, threading.RLock(), []

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make google-cloud-storage, gcsfs and tensorstore use this server without credentials."""
        url = f"http://127.0.0.1:{self.server_port}"
        urls = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        return urls | {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "any", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

    def handle_error(self, *_: object) -> None:
        """Ignores clients that close the connection: gcsfs sends two requests at once and takes the first answer."""
        if not isinstance(sys.exception(), ConnectionError):
            self.unknown.append(repr(sys.exception()))

    def copy_to(self, folder: Path, prefix: str) -> None:
        """Copies the objects whose names begin with `prefix` to files."""
        for name, (_, content) in self.objects.items():
            if name.startswith(prefix):
                file = folder / name.removeprefix(prefix)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer:
        url = urlsplit(target)
        query, path = dict(parse_qsl(url.query)), _PATH.fullmatch(url.path)
        if path and path["bucket"] != BUCKET:
            return _missing("The specified bucket does not exist.")
        name = unquote(path["name"] or "") if path else ""
        if name and name not in self.objects:
            return _missing(f"No such object: {BUCKET}/{name}")
        # The second value says what the request is about: None a bucket, False all of its objects, True one object.
        match path and (method, path["objects"] and bool(name), path["to"], query.get("uploadType")):
            case ("GET", None, None, _):
                return _json({"name": BUCKET})
            case ("GET", False, None, _):
                return _json(self.list(**query))
            case ("POST", False, None, "media"):
                return self.write(query["name"], query, body)
            case ("POST", False, None, "multipart"):
                boundary = headers.get_param("boundary").encode()
                end = b"\r\n" if body.startswith(b"--" + boundary + b"\r\n") else b"\n"
                metadata, content = (part.split(2 * end, 1)[1] for part in body.split(b"--" + boundary)[1:3])
                return self.write(json.loads(metadata)["name"], query, content.removesuffix(end))
            case ("POST", False, None, "resumable") if "upload_id" not in query:
                return 200, {"Location": f"http://127.0.0.1:{self.server_port}{target}&upload_id=0"}, b""
            case ("POST", False, None, "resumable") if headers["Content-Range"].endswith(("*/0", f"/{len(body)}")):
                return self.write(query["name"], query, body)  # all in one part
            case ("GET", True, None, _) if query.get("alt") == "media":
                return 200, {"x-goog-generation": str(self.objects[name][0])}, self.objects[name][1]
            case ("GET", True, None, _):
                return _json(self.describe(name))
            case ("DELETE", True, None, _):
                del self.objects[name]
                return 204, {}, b""
            case ("POST", True, str(to), _):
                return self.write(unquote(to), query, self.objects.pop(name)[1])
        self.unknown.append(f"{method} {target}")
        return 501, {}, b"{}"

    def list(self, prefix: str = "", delimiter: str = "\0", **_: str) -> dict[str, object]:
        names = [name for name in sorted(self.objects) if name.startswith(prefix)]
        heads = {name: prefix + name.removeprefix(prefix).split(delimiter)[0] for name in names}  # up to the delimiter
        return {
            "kind": "storage#objects",
            "items": [self.describe(name) for name in names if heads[name] == name],
            "prefixes": sorted({heads[name] + delimiter for name in names if heads[name] != name}),
        }

    def describe(self, name: str) -> dict[str, str]:
        generation, content = self.objects[name]
        times = dict.fromkeys(("timeCreated", "updated"), "2020-01-01T00:00:00.000Z")
        return times | {"name": name, "bucket": BUCKET, "generation": str(generation), "size": str(len(content))}

    def write(self, name: str, query: dict[str, str], content: bytes) -> Answer:
        generation, _ = self.objects.get(name, (0, b""))  # 0: the object does not exist
        if int(query.get("ifGenerationMatch", generation)) != generation:
            return 412, {}, b"{}"
        self.generation += 1
        self.objects[name] = self.generation, content
        return _json(self.describe(name))


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    disable_nagle_algorithm = True  # otherwise, the content would wait 40 ms until the headers are acknowledged

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            status, headers, content = self.server.answer(self.command, self.path, self.headers, body)
        if status == 200 and (part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, size = int(part[1]), len(content)
            content = content[first : int(part[2] or size) + 1]
            status, headers["Content-Range"] = 206, f"bytes {first}-{first + len(content) - 1}/{size}"
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do

    def log_message(self, *_: object) -> None:
        pass


def _json(found: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


def _missing(message: str) -> Answer:
    return 404, {"Content-Type": "application/json"}, json.dumps({"error": {"code": 404, "message": message}}).encode()


@pytest.fixture
def storage() -> Iterator[Storage]:
    """A server with an empty bucket. After the test, it must not have received requests that it does not know."""
    with Storage() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        assert not server.unknown
