"""Writes a continuation token by token from a running TF Serving: python stream_client.py --model=gpt --prompt='The'

A model that turns one text into another, such as a translator, takes --source in place of --prompt, and writes the other text.
Stands alone. Over REST it needs Python only; over gRPC (--grpc) grpcio and tensorflow-serving-api. It calls `prefill` once and
then `decode_step`, feeding each output whose name is an input back in, until the row is finished.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request

FED_BACK = ("prompt", "token_ids", "prompt_length", "remaining")


def first_row(values):
    """What an output holds for the first row; bytes are read as text."""
    return values[0].decode("utf8", "replace") if isinstance(values[0], bytes) else values[0]


class Rest:
    """A model over REST; tensors are nested lists."""

    def __init__(self, host, port, model, timeout):
        self.url, self.timeout = f"http://{host}:{port or 8501}/v1/models/{model}:predict", timeout

    def __call__(self, signature, inputs):
        body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return json.load(answer)["outputs"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"error: {json.load(error).get('error', error)}") from error
        except OSError as error:
            raise SystemExit(f"error: no server answers at {self.url}: {error}.") from error

    first = staticmethod(first_row)


class Grpc:
    """A model over gRPC; tensors are TensorProtos."""

    def __init__(self, host, port, model, timeout):
        import grpc
        import numpy as np
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = grpc.insecure_channel(f"{host}:{port or 8500}", unlimited)
        self.stub, self.model, self.timeout = prediction_service_pb2_grpc.PredictionServiceStub(channel), model, timeout
        self.request, self.make, self.read, self.error = (
            predict_pb2.PredictRequest,
            tf.make_tensor_proto,
            tf.make_ndarray,
            grpc.RpcError,
        )
        self.dtypes = {
            "temperature": np.float32,
            "top_p": np.float32,
            "seed": np.int64,
            "top_k": np.int32,
            "max_new_tokens": np.int32,
            "padded_length": np.int32,
        }

    def __call__(self, signature, inputs):
        request = self.request()
        request.model_spec.name, request.model_spec.signature_name = self.model, signature
        for name, value in inputs.items():
            proto = value if hasattr(value, "tensor_shape") else self.make(value, self.dtypes.get(name))
            request.inputs[name].CopyFrom(proto)
        try:
            return dict(self.stub.Predict(request, self.timeout).outputs)
        except self.error as error:
            raise SystemExit(f"error: {error.code().name}: {error.details()}") from error

    def first(self, value):
        return first_row(self.read(value))


def stream(predict, prompt, max_new_tokens=64, stop=None, another=False, **sampling):
    """Yields the continuation of a prompt in pieces, up to the string `stop` if it comes; half a character is held back.

    With `another` the prompt is a text that becomes another one, which is yielded.
    """
    given = {"text": [prompt]} if another else {"prompt": [prompt], "padded_length": [0]}
    pieces = _pieces(predict, given, 0 if another else len(prompt), max_new_tokens, sampling)
    return pieces if stop is None else until(pieces, stop)


def _pieces(predict, given, shown, max_new_tokens, sampling):
    options = {name: [value] for name, value in sampling.items()}
    answer = predict("prefill", {**given, "max_new_tokens": [max_new_tokens], **options})
    while True:
        text, finished = predict.first(answer["text"]), predict.first(answer["finished"])
        if finished or not text.endswith("\ufffd"):
            yield text[shown:]
            shown = len(text)
        if finished:
            return
        state = {name: answer[name] for name in answer if name in FED_BACK or name.startswith("state_")}
        answer = predict("decode_step", {**state, **options})


def until(pieces, stop):
    """Yields the pieces of a text up to the first `stop`; what may be its beginning is held back until that is known."""
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held.partition(stop)[0]
            return
        kept = next(n for n in range(min(len(stop) - 1, len(held)), -1, -1) if held.endswith(stop[:n]))
        yield held[: len(held) - kept]
        held = held[len(held) - kept :]
    yield held


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompt", help="a text to go on with")
    asked.add_argument("--source", help="a text that becomes another one")
    parser.add_argument("--model", required=True, help="the name that the model is served under")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, help="8501 for REST, 8500 for gRPC if not given")
    parser.add_argument("--grpc", action="store_true", help="instead of REST")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that one step may take")
    parser.add_argument("--stop", help="end before this string")
    for name, value in (("max_new_tokens", 64), ("temperature", 0.0), ("top_k", 0), ("top_p", 1.0), ("seed", 0)):
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()
    predict = (Grpc if args.grpc else Rest)(args.host, args.port, args.model, args.timeout)
    sampling = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "seed")}
    another = args.prompt is None
    text, kept = (args.source, "") if another else (args.prompt, args.prompt)
    pieces = stream(predict, text, args.max_new_tokens, args.stop or None, another, **sampling)
    print(kept, next(pieces, ""), sep="", end="", flush=True)  # not before a server has answered
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(main())
