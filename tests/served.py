"""A playground for tests: a server on a free port of loopback.

with serving({"gpt": playground.Local(Versions(directory))}) as port:
    status, answer = ask(port, "/v1/models/gpt:predict", {"instances": ["The"]})
"""

import contextlib
import json
import threading
import urllib.error
import urllib.request

from trainers import playground

MAX_BYTES = 1_000_000


@contextlib.contextmanager
def serving(models):
    """The port of a server for some models."""
    bound, stopped = playground.listening("127.0.0.1", 0), threading.Event()
    server = playground.server(models, MAX_BYTES)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    local = {name: model for name, model in models.items() if isinstance(model, playground.Local)}
    threading.Thread(target=playground.watch, args=(local, stopped), daemon=True).start()
    try:
        yield bound.getsockname()[1]
    finally:
        stopped.set()
        server.should_exit = server.force_exit = True
        thread.join()


def ask(port, path, body=None, method=None):
    """(status, body) of an answer; JSON is read."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
