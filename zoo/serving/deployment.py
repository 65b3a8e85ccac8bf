"""What starts a server for one exported model: batching, model config, docker, compose, Kubernetes, and a streaming client.

The files stand beside the versions, in `deployment/`: a polling server looks only at names that are integers
(file_system_storage_path_source.cc). Their contents depend on the model alone, not on a version or a place.
"""

import functools
import json
from pathlib import Path

import numpy as np

from zoo.files import replace_file
from zoo.serving import stream_client

IMAGE = "tensorflow/serving"
XLA = "--xla_cpu_compilation_enabled"
BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# BatchingParameters of session_bundle_config.proto, as text: the last size must be max_batch_size. Lengths are never padded by
# the server: every input of the zoo's is one string or number a row.
BATCHING = f"""max_batch_size {{ value: {BATCH_SIZES[-1]} }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 2 }}
""" + "".join(f"allowed_batch_sizes: {size}\n" for size in BATCH_SIZES)

# ModelServerConfig of model_server_config.proto.
MODELS = """model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

COMPOSE = """services:
  {name}:
    image: {image}
    ports: ["8500:8500", "8501:8501"]
    volumes: ["..:/models/{name}:ro"]
    command:
      - --model_config_file=/models/{name}/deployment/models.config{compose_flags}
    restart: unless-stopped
    healthcheck:
      test: [CMD, bash, -c, "exec 3<>/dev/tcp/localhost/8501"]
      interval: 10s
"""

KUBERNETES = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: {label}
spec:
  replicas: 1
  selector:
    matchLabels: {{app: {label}}}
  template:
    metadata:
      labels: {{app: {label}}}
    spec:
      containers:
        - name: serving
          image: {image}
          args:
            - --port=8500
            - --rest_api_port=8501
            - --model_config_file=/models/{name}/deployment/models.config{kubernetes_flags}
          command: ["/usr/bin/tensorflow_model_server"]
          ports:
            - {{containerPort: 8500, name: grpc}}
            - {{containerPort: 8501, name: rest}}
          readinessProbe:
            httpGet: {{path: /v1/models/{name}, port: rest}}
          volumeMounts:
            - {{name: model, mountPath: /models/{name}, readOnly: true}}
      volumes:
        - name: model
          persistentVolumeClaim: {{claimName: {label}-export}}
---
apiVersion: v1
kind: Service
metadata:
  name: {label}
spec:
  selector: {{app: {label}}}
  ports:
    - {{port: 8500, name: grpc}}
    - {{port: 8501, name: rest}}
"""

README = """Run from the directory above this one, which holds the versions.

    {docker}
    {curl}{stream}

Or with docker-compose.yaml and kubernetes.yaml, which wants a volume claim `{label}-export` that holds this directory:

    docker compose -f deployment/docker-compose.yaml up
    kubectl apply -f deployment/kubernetes.yaml

There batching is {batching}. A server that batches joins the requests of many callers, at a price:

- All inputs of a request have the same number of rows, which is at most {largest}: an option is given once for each prompt.
- When one of them is refused, as for a text that is too long, so are those that it was joined with.{apart}

Signatures: {signatures}.
"""
STREAM = """
    python deployment/stream_client.py --model={name} {asked}='The'       # token by token, over REST
    python deployment/stream_client.py --model={name} {asked}='The' --grpc"""
# Requests are joined only where their shapes agree (MergeInputTensors of batching_session.cc): two callers seldom are as far.
APART = (
    "\n- `decode_step`s of different lengths cannot be joined, and refuse each other: stream from a server that does not batch."
)


def docker_command(directory, name, xla=False):
    """The line that starts a server for the versions in `directory`; with `$PWD` when that is None."""
    path = '"$PWD"' if directory is None else f'"{Path(directory).absolute()}"'
    return (
        f"docker run --rm -p 8500:8500 -p 8501:8501 -v {path}:/models/{name}:ro -e MODEL_NAME={name} {IMAGE}{f' {XLA}' * xla}"
    )


def curl_command(name, instances):
    """The line that asks the default signature of a running server; `instances` is JSON."""
    quoted = instances.replace("'", "'\\''")
    return f"curl -d '{{\"instances\": {quoted}}}' http://localhost:8501/v1/models/{name}:predict"


def example_instances(requests, defaults=None):
    """JSON of the longest row of the golden requests to the default signature that is plain ASCII.

    Args:
        requests: what golden.json holds.
        defaults: name -> array of the inputs that a request may leave out. They are given all the same: of several inputs a
            server wants each by its name.
    """
    given = {name: np.ravel(value)[0].item() for name, value in (defaults or {}).items()}
    inputs = next(request["inputs"] for request in requests if request["signature"] == "serving_default")
    rows = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
    row = max((row for row in rows if json.dumps(row, ensure_ascii=False).isascii()), key=lambda row: len(json.dumps(row)))
    row = {**row, **{name: value for name, value in given.items() if name not in row}}
    return json.dumps([row if len(row) > 1 else next(iter(row.values()))])


def write(directory, name, signatures, instances, xla=False, goes_on=True):
    """Writes `deployment/` into the directory of the versions of a model, file by file, each at once.

    Args:
        directory: the parent of the versions.
        name: the name that the model is served under.
        signatures: names of them.
        instances: JSON of what the default signature may be asked.
        xla: whether the server must be started with XLA.
        goes_on: whether a model that streams goes on from a prompt; else it writes another text.
    """
    label, streams = name.replace("_", "-"), "decode_step" in signatures
    folder = Path(directory) / "deployment"
    folder.mkdir(exist_ok=True)
    off = "# " * streams
    batching = [
        f"{off}- --enable_batching",
        f"{off}- --batching_parameters_file=/models/{name}/deployment/batching_parameters.txt",
    ]
    flags = [*batching, *[f"- {XLA}"] * xla]
    values = {
        "name": name, "label": label, "image": IMAGE, "signatures": ", ".join(signatures), "largest": BATCH_SIZES[-1],
        "compose_flags": "".join(f"\n      {flag}" for flag in flags),
        "kubernetes_flags": "".join(f"\n            {flag}" for flag in flags),
        "docker": docker_command(None, name, xla), "curl": curl_command(name, instances),
        "stream": STREAM.format(name=name, asked="--prompt" if goes_on else "--source") if streams else "",
        "apart": APART if streams else "",
        "batching": "off, and two commented lines switch it on" if streams else "on",
    }  # fmt: skip
    texts = {
        "batching_parameters.txt": BATCHING, "models.config": MODELS.format(**values), "README.md": README.format(**values),
        "docker-compose.yaml": COMPOSE.format(**values), "kubernetes.yaml": KUBERNETES.format(**values),
    }  # fmt: skip
    if streams:
        texts["stream_client.py"] = Path(stream_client.__file__).read_text(encoding="utf8")
    for file_name, text in texts.items():
        replace_file(folder / file_name, functools.partial(Path.write_text, data=text, encoding="utf8"))
