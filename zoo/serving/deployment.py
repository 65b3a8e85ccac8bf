"""What starts a server for one exported model: batching, model config, docker, compose, Kubernetes, and a streaming client.

The files stand beside the versions, in `deployment/`: a polling server looks only at names that are integers
(file_system_storage_path_source.cc). Their contents depend on the model alone, not on a version or a place.
"""

import json
import os
import shutil
from pathlib import Path

from zoo.serving import stream_client

IMAGE = "tensorflow/serving"
XLA = "--xla_cpu_compilation_enabled"
BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# BatchingParameters of session_bundle_config.proto, as text: the last size must be max_batch_size. Lengths are never padded by
# the server: every input of ours is one string or number a row.
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
      - --model_config_file=/models/{name}/deployment/models.config
      - --enable_batching
      - --batching_parameters_file=/models/{name}/deployment/batching_parameters.txt{compose_xla}
    restart: unless-stopped
    healthcheck:
      test: ["CMD-SHELL", "exec 3<>/dev/tcp/localhost/8501"]
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
            - --model_config_file=/models/{name}/deployment/models.config
            - --enable_batching
            - --batching_parameters_file=/models/{name}/deployment/batching_parameters.txt{kubernetes_xla}
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
    {curl}
    python deployment/stream_client.py --model={name} --prompt='The '       # token by token, over REST
    python deployment/stream_client.py --model={name} --prompt='The ' --grpc

With batching, which joins the requests of many callers (a request of several rows then names all its options):

    docker compose -f deployment/docker-compose.yaml up

kubernetes.yaml wants a volume claim `{label}-export` that holds this directory.
Signatures: {signatures}.
"""


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


def example_instances(requests):
    """JSON of the longest row of the golden requests to the default signature that is plain ASCII."""
    inputs = next(request["inputs"] for request in requests if request["signature"] == "serving_default")
    rows = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
    row = max((row for row in rows if json.dumps(row, ensure_ascii=False).isascii()), key=lambda row: len(json.dumps(row)))
    return json.dumps([row if len(row) > 1 else next(iter(row.values()))])


def write(directory, name, signatures, xla=False):
    """Writes `deployment/` into the directory of the versions of a model, file by file, each at once.

    Args:
        directory: the parent of the versions.
        name: the name that the model is served under.
        signatures: names of them.
        xla: whether the server must be started with XLA.
    """
    label = name.replace("_", "-")
    folder = Path(directory) / "deployment"
    folder.mkdir(exist_ok=True)
    values = {
        "name": name, "label": label, "image": IMAGE, "signatures": ", ".join(signatures),
        "compose_xla": f"\n      - {XLA}" * xla, "kubernetes_xla": f"\n            - {XLA}" * xla,
        "docker": docker_command(None, name, xla), "curl": curl_command(name, '["The list"]'),
    }  # fmt: skip
    texts = {
        "batching_parameters.txt": BATCHING, "models.config": MODELS.format(**values), "README.md": README.format(**values),
        "docker-compose.yaml": COMPOSE.format(**values), "kubernetes.yaml": KUBERNETES.format(**values),
    }  # fmt: skip
    if "decode_step" in signatures:
        texts["stream_client.py"] = Path(stream_client.__file__).read_text(encoding="utf8")
    aside = folder / f".{os.getpid()}"
    for file_name, text in texts.items():
        aside.write_text(text, encoding="utf8")
        shutil.move(aside, folder / file_name)
