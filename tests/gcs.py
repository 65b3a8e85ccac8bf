"""Google Cloud Storage on this machine, asked by TensorFlow's own client of gs://: python -m tests.gcs

One machine prepares a text and shares its tokens, another trains from them without a copy, and a third trains with the tokens
on its own disk. The last two must write the same losses. The client speaks TLS to googleapis.com through a proxy, which answers
itself, with an emulator of that storage (the package gcp-storage-emulator).
"""

import contextlib
import functools
import http.server
import io
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from unittest import mock

import trustme
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

HOSTS = "www.googleapis.com", "storage.googleapis.com"
TEXT = "the cat sat on the mat\nthe dog ran after it, and it ran\n" * 400
ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def serving(directory, ranges=None):
    """Yields variables of the environment in which gs://bucket is here.

    Args:
        directory: where its certificate is written.
        ranges: a list, to which each read of a part of a file adds (path, first byte, last byte), or None.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket("bucket", storage)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, storage))
    server.context, server.ranges = context, [] if ranges is None else ranges
    with mock.patch.object(emulator, "Request", _Request), server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {
                "https_proxy": "http://{}:{}".format(*server.server_address),
                "CURL_CA_BUNDLE": str(directory / "authority.pem"),
                "NO_GCE_CHECK": "true",  # so that no key is asked for
            }
        finally:
            server.shutdown()


class _Request(emulator.Request):
    """An upload may be empty: that of a directory is."""

    @property
    def data(self):
        found = super().data
        return b"" if found is None and "uploadType" in self.query else found


class _Handler(emulator.RequestHandler):
    """The emulator, and the proxy before it: whichever host a CONNECT names, the requests behind it are answered here."""

    def do_CONNECT(self):
        self.send_response_only(200)
        self.end_headers()
        self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False  # one more request comes

    def do_GET(self):
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            self.server.ranges.append((self.path, int(first), int(last)))
        super().do_GET()

    def parse_request(self):
        """Reads a body that comes in parts: the emulator goes by the length, which the client tells besides."""
        there = super().parse_request()
        if there and "Expect" in self.headers:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if there and "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            body = b"".join(parts)
            self.headers.replace_header("Content-Length", str(len(body)))
            self.rfile = io.BytesIO(body)
        return there

    def send_header(self, keyword, value):
        """The emulator sends the client to http://, where nobody is."""
        super().send_header(keyword, value.replace("http:", "https:", 1) if keyword == "Location" else value)

    def finish(self):
        super().finish()
        self.connection.close()


def main():
    with tempfile.TemporaryDirectory() as place, serving(Path(place)) as variables:
        here = Path(place)
        (here / "text.txt").write_text(TEXT, encoding="utf8")
        shared = {**variables, "ZOO_SHARED_CACHE": "gs://bucket/tokens"}

        def ask(program, machine, environment, *flags):
            command = [
                sys.executable,
                "-m",
                f"trainers.{program}",
                "--data_path=text.txt",
                "--tokenizer=bpe",
                "--vocab_size=300",
            ]
            environment = {**os.environ, **environment, "ZOO_CACHE": str(here / machine), "PYTHONPATH": str(ROOT)}
            subprocess.run([*command, *flags], cwd=here, env=environment, check=True)
            print(machine, sorted(path.name for path in (here / machine).rglob("tokens-*.bin")), flush=True)

        training = "--model=gpt", "--preset=tiny", "--steps=20", "--noexport"
        ask("prepare", "first", shared)
        ask("run", "second", shared, *training, "--model_dir=second_run")
        ask("run", "third", {}, *training, "--model_dir=third_run")
        second, third = (_losses(here / run / "metrics.jsonl") for run in ("second_run", "third_run"))
        print(f"{len(second)} losses, {sum(one != other for one, other in zip(second, third, strict=True))} different")
        sys.exit(second != third)


def _losses(path):
    lines = map(json.loads, path.read_text(encoding="utf8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


if __name__ == "__main__":
    main()
