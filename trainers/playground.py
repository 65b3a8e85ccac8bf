"""Serves exports on this machine, with a page to play with them: python -m trainers.playground --export_dir=RUN/export

It speaks TF Serving's REST protocol, so what works here works there. With --server it shows the page for a running TF Serving.

    GET  /                                             the page
    GET  /v1/models/NAME[/versions/N]                  status
    GET  /v1/models/NAME[/versions/N]/metadata         signatures
    POST /v1/models/NAME[/versions/N]:predict          an answer
    GET  /playground/models                            what the page may ask
    POST /playground/stream                            a continuation, a line of JSON for each piece

With --grpc_port it answers TF Serving's PredictionService besides: Predict and GetModelMetadata.
"""

import contextlib
import functools
import json
import os
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal
from zoo.serving.stream_client import first_row

FLAGS = flags.FLAGS

PAGE = Path(__file__).parent / "playground.html"
PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d{1,18}))?(:predict|/metadata)?")
POLL_SECONDS = 1.0
FORWARD_SECONDS = 300.0
GRACE_SECONDS = 3  # for requests under way when the server ends
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The page may load nothing from anywhere, and talk to nobody but this server.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
SAMPLING = ("temperature", "top_k", "top_p", "seed")


class Local:
    """A model of this process, for the page and for REST.

    Args:
        versions: the `zoo.serving.versions.Versions` of its export.
    """

    def __init__(self, versions):
        self.versions = versions

    def answer(self, version, body):
        """The body of the answer to a `:predict`."""
        from zoo.serving import rest

        with self.versions.borrowed(version) as loaded:
            return rest.predict(loaded.model, body)

    def status(self, name, version):
        from zoo.serving import rest

        return rest.status_body(self.versions.states(version))

    def metadata(self, name, version):
        from zoo.serving import rest

        with self.versions.borrowed(version) as loaded:
            return rest.metadata(name, loaded.number, loaded.model.signatures)

    def examples(self):
        return self.versions.examples()

    @contextlib.contextmanager
    def predicting(self, name):
        """What `stream_client.stream` asks, of one version from beginning to end."""
        with self.versions.borrowed() as loaded:
            yield _Arrays(loaded.model)


class _Arrays:
    def __init__(self, model):
        self.model = model

    def __call__(self, signature, inputs):
        from zoo.serving import c_api, rest

        try:
            return self.model.run(signature, inputs)
        except c_api.RequestError as error:
            raise rest.fault_of(error) from error

    first = staticmethod(first_row)


class Remote:
    """A model of a TF Serving, to which requests are forwarded.

    Args:
        url: of the server, without a path.
    """

    def __init__(self, url):
        self.url = url.rstrip("/")

    def forward(self, path, body=None):
        """The body that the server answers with. Raises Fault."""
        from zoo.serving import rest

        request = urllib.request.Request(
            self.url + urllib.parse.quote(path, safe="/:"), body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=FORWARD_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise rest.Fault(error.code, _error_in(error.read()) or str(error)) from error
        except OSError as error:
            raise rest.Fault(502, f"No server answers at {self.url}: {error}.") from error

    def metadata(self, name, version):
        return json.loads(self.forward(f"/v1/models/{name}/metadata"))

    def examples(self):
        return {}

    @contextlib.contextmanager
    def predicting(self, name):
        yield _Forwarded(self, f"/v1/models/{name}:predict")


class _Forwarded:
    def __init__(self, remote, path):
        self.remote, self.path = remote, path

    def __call__(self, signature, inputs):
        body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
        return json.loads(self.remote.forward(self.path, body))["outputs"]

    first = staticmethod(first_row)


def _error_in(body):
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return None


class Noted:
    """Passes requests on to a predict function, and keeps of each answer the token's log-probability and its alternatives.

    Args:
        predict: as `stream_client.stream` takes it.
    """

    def __init__(self, predict):
        self.predict, self.first, self.tokens = predict, predict.first, []

    def __call__(self, signature, inputs):
        answer = self.predict(signature, inputs)
        self.tokens.append((float(self.first(answer["log_prob"])), self._likeliest(answer)))
        return answer

    def _likeliest(self, answer):
        """[token, log-probability] of the tokens that were likeliest; an export of an older version does not tell."""
        if "likeliest" not in answer:
            return []
        pairs = zip(answer["likeliest"][0], answer["likeliest_log_probs"][0], strict=True)
        return [[token.decode("utf8", "replace") if isinstance(token, bytes) else token, float(p)] for token, p in pairs]

    def taken(self):
        """(log-probability, alternatives) of the tokens since the last call; of several tokens together none."""
        tokens, self.tokens = self.tokens, []
        return sum(log_prob for log_prob, _ in tokens), tokens[0][1] if len(tokens) == 1 else []


def written(model, name, asked):
    """Yields lines of JSON: {"text": piece, "log_prob": of it, "likeliest": [[token, log-probability]]} for each piece of a
    continuation, or {"error": sentence}.

    Args:
        model: a `Local` or a `Remote`.
        name: what it is served as.
        asked: JSON values of the request: `prompt`, and perhaps `max_new_tokens` and the options of sampling.
    """
    from zoo.serving import rest
    from zoo.serving.stream_client import stream

    options = {key: asked[key] for key in (*SAMPLING, "max_new_tokens") if key in asked}
    try:
        with model.predicting(name) as predict:
            noted = Noted(predict)
            for piece in stream(noted, asked.get("prompt", ""), **options):
                log_prob, likeliest = noted.taken()
                yield json.dumps({"text": piece, "log_prob": log_prob, "likeliest": likeliest}).encode() + b"\n"
    except rest.Fault as error:
        yield rest.write_error(str(error)) + b"\n"


class Handlers:
    """Answers of the server: each takes a request of Starlette and gives a response; the work is done in a pool of threads.

    Args:
        models: name -> `Local` or `Remote`.
        max_bytes: of a request's body.
    """

    def __init__(self, models, max_bytes):
        self.models, self.max_bytes = models, max_bytes
        # A session of TensorFlow spreads one request over the processors; a few more keep them busy between the requests.
        self.pool = ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="request")

    async def page(self, request):
        """The page."""
        from starlette.responses import HTMLResponse

        return HTMLResponse(PAGE.read_bytes(), headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    async def listed(self, request):
        """Names, metadata and examples of all models."""
        return await self._worked(lambda: json.dumps({"models": [self._described(name) for name in self.models]}).encode())

    def _described(self, name):
        from zoo.serving import rest

        model = self.models[name]
        try:
            metadata = model.metadata(name, None)
        except rest.Fault as error:
            return {"name": name, "error": str(error)}
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        signatures = {key: value for key, value in signatures.items() if not key.startswith("__saved_model")}
        version = metadata["model_spec"]["version"]
        return {"name": name, "version": version, "signatures": signatures, "examples": model.examples()}

    async def rest(self, request):
        """A request to `/v1/...`."""
        from zoo.serving import rest

        path = request.scope["path"]
        found = PATH.fullmatch(path)
        method = {":predict": "POST"}.get(found[3], "GET") if found else None
        if method != request.method:
            return self._error(rest.Fault(400, f"Malformed request: {request.method} {path}"))
        name, version = found[1], int(found[2]) if found[2] else None
        if name not in self.models:
            return self._error(rest.unknown(name, version, state=not found[3]))
        model = self.models[name]
        try:
            body = await self._body(request) if method == "POST" else None
        except rest.Fault as error:
            return self._error(error)
        if isinstance(model, Remote):
            return await self._worked(functools.partial(model.forward, path, body))
        if method == "POST":
            return await self._worked(functools.partial(model.answer, version, body))
        if found[3]:
            return await self._worked(lambda: json.dumps(model.metadata(name, version), indent=1).encode())
        return await self._worked(functools.partial(model.status, name, version))

    async def stream(self, request):
        """A continuation, piece by piece."""
        from starlette.responses import StreamingResponse

        from zoo.serving import rest

        try:
            asked = json.loads(await self._body(request))
            if not isinstance(asked, dict) or not isinstance(asked.get("prompt", ""), str):
                raise rest.Fault(400, "A stream takes an object with the model's name, a prompt and options.")
            if asked.get("model") not in self.models:
                raise rest.Fault(404, f"No model is called {asked.get('model')!r}; there are {', '.join(self.models)}.")
        except rest.Fault as error:
            return self._error(error)
        except ValueError as error:
            return self._error(rest.Fault(400, f"JSON Parse error: {error}"))
        lines = written(self.models[asked["model"]], asked["model"], asked)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    async def _body(self, request):
        """The body, read no further than to the limit. Raises Fault."""
        from zoo.serving import rest

        length = request.headers.get("content-length", "")
        parts, size = [], int(length) if length.isdecimal() else 0
        if size <= self.max_bytes:
            size = 0
            async for part in request.stream():
                size += len(part)
                if size > self.max_bytes:
                    break
                parts.append(part)
        if size > self.max_bytes:
            raise rest.Fault(413, f"The request has more than {self.max_bytes:,} bytes, the most that --max_request_mb allows.")
        return b"".join(parts)

    async def _worked(self, work):
        """The response with the bytes that `work` gives in a thread."""
        import asyncio

        from starlette.responses import Response

        from zoo.serving import rest

        try:
            return Response(await asyncio.get_running_loop().run_in_executor(self.pool, work), media_type="application/json")
        except rest.Fault as error:
            return self._error(error)

    @staticmethod
    def _error(error):
        from starlette.responses import Response

        from zoo.serving import rest

        close = {"Connection": "close"} if error.status == 413 else {}
        return Response(rest.write_error(str(error)), error.status, close, media_type="application/json")


def application(models, max_bytes):
    """The application of Starlette: see `Handlers`."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    handlers = Handlers(models, max_bytes)
    routes = [
        Route("/", handlers.page),
        Route("/playground/models", handlers.listed),
        Route("/playground/stream", handlers.stream, methods=["POST"]),
        Route("/v1/{rest:path}", handlers.rest, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]
    return Starlette(routes=routes)


def listening(host, port):
    """A socket that listens. Raises Refusal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Refusal(
            f"Nothing can listen on {host}, port {port} ({error.strerror}); choose another --port or --host."
        ) from error


def server(models, max_bytes):
    """The server of uvicorn for some models; `run(sockets=[...])` serves until `should_exit`."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            application(models, max_bytes), log_level="error", lifespan="off", timeout_graceful_shutdown=GRACE_SECONDS
        )
    )


def watch(models, stopped):
    """Takes new versions as they appear, until the event `stopped` is set."""
    while not stopped.wait(POLL_SECONDS):
        for name, model in models.items():
            if model.versions.refresh():
                print(f"{name}: version {model.versions.states()[0][0]} is served now.", flush=True)


def main():
    if not FLAGS.export_dir and not FLAGS.server:
        raise Refusal("--export_dir is missing; give the export of a run, such as runs/gpt/latest/export.")
    _require_library()
    with program.quiet():
        models = _remote() if FLAGS.server else _local()
    bound = listening(FLAGS.host, FLAGS.port)
    stopped = threading.Event()
    if not FLAGS.server:
        threading.Thread(target=watch, args=(models, stopped), daemon=True).start()
    max_bytes = int(FLAGS.max_request_mb * 1e6)
    calls, rpc_port = _rpc(models, max_bytes) if FLAGS.grpc_port is not None else (None, None)
    print(_announced(models, bound.getsockname()[1], rpc_port), flush=True)
    try:
        server(models, max_bytes).run(sockets=[bound])
    finally:
        stopped.set()
        if calls:
            calls.stop(grace=GRACE_SECONDS)


def _rpc(models, max_bytes):
    """The gRPC server beside the page, and its port."""
    if FLAGS.server:
        raise Refusal("--grpc_port is for exports of this machine; with --server ask that server's own port.")
    with program.quiet():
        from zoo.serving import rpc

        return rpc.serve({name: model.versions for name, model in models.items()}, FLAGS.host, FLAGS.grpc_port, max_bytes)


def _require_library():
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise Refusal(f"The playground needs {error.name}; install it with pip install -e '.[playground]'.") from error


def _local():
    from zoo.serving.versions import Versions

    if FLAGS.name and len(FLAGS.name) != len(FLAGS.export_dir):
        raise Refusal(
            f"--name is given {len(FLAGS.name)} times and --export_dir {len(FLAGS.export_dir)}; give both once a model."
        )
    models = {}
    for i, directory in enumerate(FLAGS.export_dir):
        versions = Versions(directory)
        if FLAGS.name:
            versions.name = FLAGS.name[i]
        if versions.name in models:
            raise Refusal(f"Two models are called {versions.name}; give --name=... once for each --export_dir.")
        if not re.fullmatch(r"[^/:\s]+", versions.name):
            raise Refusal(f"--name={versions.name} cannot stand in a URL; use letters, digits, - and _.")
        models[versions.name] = Local(versions)
    return models


def _remote():
    if FLAGS.export_dir:
        raise Refusal("--server shows the models of another server; leave --export_dir out.")
    if not FLAGS.name:
        raise Refusal("--name is missing; a server does not list its models, so give --name=... for each that it serves.")
    if not re.match(r"https?://", FLAGS.server):
        raise Refusal(f"--server takes a URL such as http://localhost:8501, got {FLAGS.server!r}.")
    return {name: Remote(FLAGS.server) for name in FLAGS.name}


def _announced(models, port, rpc_port=None):
    """What is served where, for people."""
    host = f"[{FLAGS.host}]" if ":" in FLAGS.host else FLAGS.host
    url = f"http://{host}:{port}"
    lines = [f"Open {url}/ in a browser; Ctrl-C ends."]
    for name, model in models.items():
        where = FLAGS.server if FLAGS.server else f"version {model.versions.states()[0][0]}"
        lines.append(f"  {name}, {where}: {url}/v1/models/{name}:predict")
    if rpc_port:
        lines.append(f"  gRPC: {host}:{rpc_port}, PredictionService")
    if FLAGS.host not in LOOPBACK:
        lines.append(f"It listens on {FLAGS.host}: whoever reaches this machine can use it, without a password.")
    lines.append("This is for trying models out; in production use TF Serving, as deployment/ in the export shows.")
    return "\n".join(lines)


def start():
    """The program, with its flags."""
    trainer_flags.define_playground()
    program.start(main)


if __name__ == "__main__":
    start()
