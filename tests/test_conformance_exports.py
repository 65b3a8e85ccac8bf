"""What every export promises, for every registered model and every task that it can serve: replayed in a clean process, of
operations that a stock server has, and with answers that no other row of a batch changes."""

import collections
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from benchmarks import fuzz
from tests import exports
from tests.served import ask, serving
from trainers import playground
from zoo.export import latest_version
from zoo.serving import deployment, golden, ops
from zoo.serving.versions import Versions

CLOSE = dict(rtol=1e-5, atol=1e-5)
WORDS = ["the cat", "a", "", "the naive dog ran . a cat is not a dog , the cat"]
# What a request may ask for, by signature; every other signature is asked as it is.
WAYS = {
    "generate": {
        "greedy": dict(max_new_tokens=[5, 2, 6, 4]),
        "sampled": dict(
            max_new_tokens=[5, 2, 6, 4],
            temperature=[0.9, 1.5, 0.7, 0.0],
            top_k=[9, 0, 0, 0],
            top_p=[1.0, 0.9, 1.0, 1.0],
            seed=[5, 6, 7, 8],
        ),
    },
    "beam_search": {"beams": dict(max_new_tokens=[5, 2, 6, 4], num_beams=[3, 2, 4, 1], length_penalty=[0.6, 0.0, 1.0, 0.6])},
    "prefill": {"sampled": dict(max_new_tokens=[5, 2, 6, 4], temperature=[0.9, 1.5, 0.7, 0.0], seed=[5, 6, 7, 8])},
}


@pytest.fixture(scope="module", params=exports.cases(), ids="-".join)
def case(request):
    return request.param


def text_inputs(case, model, name):
    """Inputs of strings that a request to this signature must have: name -> a text for each of the four rows."""
    tokenizer = exports.made(*case).tokenizer
    slots = model.signatures[name]
    required = [key for key in slots.inputs if key not in slots.defaults]
    mask = f"{tokenizer.mask_token} " if name in ("fill_mask", "serving_default") and case[1] == "masked_lm" else ""
    return {key: [mask + text for text in WORDS[i:] + WORDS[:i]] for i, key in enumerate(required)}


def test_an_export_is_proved_and_holds_what_a_stock_server_has(case):
    directory = exports.directory(*case)  # raises unless a clean process gives the same answers through the C API
    assert latest_version(directory) == 1
    assert sorted(entry.name for entry in directory.iterdir()) == ["1", "deployment"]
    ops.check_ops(directory / "1")
    requests = json.loads((directory / "1" / golden.EXTRA / "golden.json").read_text(encoding="utf8"))
    signatures = exports.made(*case).task.signatures(*exports.made(*case)[:2]).keys()
    assert {request["signature"] for request in requests} == signatures == exports.served(*case).signatures.keys()


def test_what_several_signatures_compute_is_traced_once(case):
    saved_model = saved_model_pb2.SavedModel.FromString((exports.directory(*case) / "1" / "saved_model.pb").read_bytes())
    functions = [function.signature.name for function in saved_model.meta_graphs[0].graph_def.library.function]
    times = collections.Counter(name.removeprefix("__inference_").rsplit("_", 1)[0] for name in functions)
    assert max(times["tokenize"], times["detokenize"], times["encode"]) <= 1
    if case == ("gpt", "language_modeling"):  # a pass over a prompt, over a token of one row, and over a token of several
        assert (times["next_logits"], times["token_log_probs"]) == (3, 1)


def test_a_server_that_batches_takes_the_warm_up(case):
    """It wants as many rows of every input, and of every answer, adds copies of the first row up to a size that it is allowed,
    and does not serve a model whose warm-up it refuses (batching_session.cc, saved_model_bundle_source_adapter.cc)."""
    file = exports.directory(*case) / "1" / golden.EXTRA / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        (rows,) = {len(value) for value in inputs.values()}
        if rows == 1:
            continue  # which the replay has answered as it is
        size = next(size for size in deployment.BATCH_SIZES if size >= rows)
        inputs = {name: np.concatenate([value, *[value[:1]] * (size - rows)]) for name, value in inputs.items()}
        answer = exports.served(*case).run(request.model_spec.signature_name, inputs)
        assert {len(value) for value in answer.values()} == {size}, request.model_spec.signature_name


def test_the_playground_answers_what_an_exports_own_files_ask(case, monkeypatch):
    """The curl line of `deployment/` gets the answer that the export was proved with, and its client the text of `generate`."""
    directory, model = exports.directory(*case), exports.served(*case)
    monkeypatch.setattr("zoo.serving.versions.SavedModel", lambda path: model)
    local, text = playground.Local(Versions(directory)), (directory / "deployment" / "README.md").read_text(encoding="utf8")
    with serving({local.versions.name: local}) as port:
        (line,) = re.findall(r"curl -d .*", text)
        _, _, body, url = shlex.split(line)
        assert url == f"http://localhost:8501/v1/models/{case[0]}:predict"
        status, answer = ask(port, url.removeprefix("http://localhost:8501"), body.encode())
        assert status == 200, answer
        requests = json.loads((directory / "1" / golden.EXTRA / "golden.json").read_text(encoding="utf8"))
        proved = next(request for request in requests if request["signature"] == "serving_default")
        (asked,), (got,) = json.loads(body)["instances"], answer["predictions"]
        asked = [asked[name] for name in proved["inputs"]] if isinstance(asked, dict) else [asked]
        row = [list(values) for values in zip(*proved["inputs"].values(), strict=True)].index(asked)
        got = got if len(proved["outputs"]) > 1 else {next(iter(proved["outputs"])): got}
        assert got.keys() == proved["outputs"].keys()
        for name, values in proved["outputs"].items():  # of one row alone, it has less padding
            assert_begins_with(as_served(values[row]), as_served(got[name]), name, -1 if name == "predicates" else 0)
        if "stream_client.py" in text:
            client = [sys.executable, "-I", directory / "deployment" / "stream_client.py", "--host=127.0.0.1", f"--port={port}"]
            slot = "prompt" if "prompt" in model.signatures["generate"].inputs else "text"
            asked = f"--{'prompt' if slot == 'prompt' else 'source'}=The"
            client += [f"--model={case[0]}", asked, "--max_new_tokens=9"]
            written = subprocess.run(client, capture_output=True, check=True, env={"PYTHONIOENCODING": "utf8"}).stdout
            wanted = model.run("generate", {slot: ["The"], "max_new_tokens": [9]})["text"][0].decode("utf8", "replace")
            assert written.decode("utf8") == wanted + "\n"


def as_served(value):
    """A value of JSON as the runtime gives it: strings as bytes, in an array of objects."""
    array = np.asarray(value)
    return np.vectorize(str.encode, otypes=[object])(array) if array.dtype.kind == "U" else array


def test_a_rows_answer_is_its_own(case):
    """Alone, repeated in batches of 2, 7 and 32, beside a much longer row, and with rows of padding as the server adds them."""
    model = exports.served(*case)
    for name in model.signatures:
        if name == "decode_step":  # goes on from `prefill`, and is what test_export.py is about
            continue
        texts = text_inputs(case, model, name)
        for way, options in WAYS.get(name, {"": {}}).items():
            columns = {**texts, **options}
            pick = lambda rows: {key: [values[row] for row in rows] for key, values in columns.items()}  # noqa: B023, E731
            alone = [model.run(name, pick([row])) for row in range(4)]
            for rows in ([0, 3], [0, 1, 2, 3, 0, 0, 0], [(5 * i + 1) % 4 for i in range(32)]):
                together = model.run(name, pick(rows))
                for place, row in enumerate(rows):
                    for output, expected in alone[row].items():
                        if output == "token_ids" or output.startswith("state_"):  # padded at the left, as the batch needs it
                            continue
                        fill = -1 if output == "predicates" else 0  # as 0 is the number of a word
                        assert_begins_with(together[output][place], expected[0], f"{name} {way} {output} of row {row}", fill)


def test_nonsense_is_answered_or_refused(case):
    model = exports.served(*case)
    for signature in model.signatures:
        outcomes, _, _, _ = fuzz.fuzz(model, signature, 60, megabyte=False)  # ends with SystemExit at anything else
        assert set(outcomes) <= {"answered", "INVALID_ARGUMENT"} and outcomes["answered"] > 1, signature


def assert_begins_with(actual, expected, message, fill=0):
    """`actual` is `expected`, and beyond that padding: of empty strings, `fill`, or impossible beams."""
    kind = object if isinstance(expected, bytes) else None
    actual, expected = np.atleast_1d(np.asarray(actual, kind)), np.atleast_1d(np.asarray(expected, kind))
    corner = tuple(slice(size) for size in expected.shape)
    inside = actual[corner]
    if actual.dtype == object:
        np.testing.assert_array_equal(inside, expected, err_msg=message)
    else:
        np.testing.assert_allclose(inside, expected, **CLOSE, err_msg=message)
    beyond = np.array(actual, copy=True)
    beyond[corner] = b"" if actual.dtype == object else fill
    assert np.all((beyond == b"") if actual.dtype == object else (beyond == fill) | np.isneginf(beyond)), message
