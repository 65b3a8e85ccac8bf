"""The client that stands beside an export, started as users start it."""

import socket
import subprocess
import sys

from zoo.serving import stream_client


def test_without_a_server_one_sentence_and_no_prompt():
    with socket.socket() as free:  # nobody listens there
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        command = [
            sys.executable,
            "-I",
            stream_client.__file__,
            "--model=gpt",
            "--prompt=The",
            "--host=127.0.0.1",
            f"--port={port}",
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert (
        result.stderr.startswith(f"error: no server answers at http://127.0.0.1:{port}/") and "Traceback" not in result.stderr
    )
