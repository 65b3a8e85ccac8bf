"""The playground over a real socket: TF Serving's REST protocol, versions, crowds and slow clients. What the files of an export
say to do with it is asked in tests/test_conformance_exports.py, and the page is looked at in test_playground_page.py."""

import contextlib
import http.client
import json
import re
import shutil
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import exports, programs
from tests.served import ask, serving
from trainers import playground
from zoo.serving.rest import Fault
from zoo.serving.versions import Versions

CASES = {"bag_of_words": "classification", "gpt": "language_modeling"}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Copies of two exports: name -> directory of the versions."""
    parent = tmp_path_factory.mktemp("served")
    return {name: shutil.copytree(exports.directory(name, task), parent / name) for name, task in CASES.items()}


@pytest.fixture(scope="module")
def port(directories):
    with serving({name: playground.Local(Versions(path)) for name, path in directories.items()}) as number:
        yield number


def test_status_and_metadata_are_as_from_tf_serving(port):
    for path in ("/v1/models/gpt", "/v1/models/gpt/versions/1"):
        status, answer = ask(port, path)
        assert status == 200
        entry = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        assert answer == {"model_version_status": [entry]}
    status, answer = ask(port, "/v1/models/gpt/metadata")
    assert status == 200 and answer["model_spec"] == {"name": "gpt", "signature_name": "", "version": "1"}
    generate = answer["metadata"]["signature_def"]["signature_def"]["generate"]
    assert generate["method_name"] == "tensorflow/serving/predict"
    assert generate["inputs"]["prompt"]["dtype"] == "DT_STRING"
    assert generate["inputs"]["prompt"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_metadata_is_the_protocol_buffer_of_tf_serving(port):
    """Google's own reader of JSON takes it for a `GetModelMetadataResponse`'s map of signatures."""
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2

    _, answer = ask(port, "/v1/models/gpt/metadata")
    read = json_format.ParseDict(
        answer["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap(), ignore_unknown_fields=True
    )
    assert read.signature_def["generate"].inputs["temperature"].dtype == 1


def test_rows_and_columns_ask_the_same(port):
    path = "/v1/models/bag_of_words:predict"
    texts = ["the cat", "a dog , naïve", ""]
    columns = ask(port, path, {"inputs": {"text": texts}})[1]["outputs"]
    assert ask(port, path, {"inputs": texts})[1]["outputs"] == columns
    rows = ask(port, path, {"instances": texts})[1]["predictions"]
    assert [row["labels"] for row in rows] == columns["labels"] and [row["scores"] for row in rows] == columns["scores"]
    assert ask(port, path, {"instances": [{"text": text} for text in texts]})[1]["predictions"] == rows
    assert ask(port, "/v1/models/bag_of_words/versions/1:predict", {"instances": texts})[1]["predictions"] == rows
    encoded = [{"b64": "dGhlIGNhdA=="}, *texts[1:]]
    assert ask(port, path, {"instances": encoded, "signature_name": "classify"})[1]["predictions"] == rows
    assert ask(port, path, {"instances": [{"text": text} for text in encoded]})[1]["predictions"] == rows


def test_one_output_goes_without_its_name_and_defaults_may_be_left_out(port):
    path = "/v1/models/gpt:predict"
    (alone,) = ask(port, path, {"instances": ["The"]})[1]["predictions"]
    assert ask(port, path, {"inputs": ["The"]})[1]["outputs"] == [alone]
    rows = ask(port, path, {"signature_name": "generate", "instances": [{"prompt": "The"}]})[1]["predictions"]
    assert rows[0]["text"] == alone
    options = {"max_new_tokens": 64, "temperature": 0, "top_k": 0, "top_p": 1.0, "seed": 0}
    given = ask(port, path, {"signature_name": "generate", "instances": [{"prompt": "The", **options}]})[1]["predictions"]
    assert given == rows


PREDICT = "/v1/models/gpt:predict"
CLASSIFY = "/v1/models/bag_of_words:predict"


@pytest.mark.parametrize(("path", "body", "status", "words"), [
    (PREDICT, b"", 400, "The document is empty"),
    (PREDICT, b"{", 400, "JSON Parse error"),
    (PREDICT, b'{"instances": ["\xff"]}', 400, "JSON Parse error"),
    (PREDICT, b"[" * 100_000, 400, "JSON Parse error"),
    (PREDICT, b'{"instances": ' + b"[" * 500 + b"]" * 500 + b"}", 400, "dimensions"),
    (PREDICT, b"[1]", 400, "Is not object"),
    (PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
    (PREDICT, {"inputs": ["a"], "instances": ["a"]}, 400, "only one of"),
    (PREDICT, {"instances": []}, 400, "No values in 'instances'"),
    (PREDICT, {"instances": "a"}, 400, "to be a list"),
    (PREDICT, {"instances": ["a"], "signature_name": 3}, 400, "'signature_name' key must be a string"),
    (PREDICT, {"instances": ["a"], "signature_name": "no"}, 400, 'Serving signature name: "no" not found in signature def'),
    (PREDICT, {"instances": ["a"], "signature_name": "generate"}, 400, "plain value/list, but expecting an object"),
    (PREDICT, {"inputs": {"seed": [1]}, "signature_name": "generate"}, 400, "Missing named input: prompt"),
    (PREDICT, {"instances": [{"prompt": "a", "no": 1}], "signature_name": "generate"}, 400, "keys must be equal to"),
    (PREDICT, {"instances": [{"prompt": "a"}, {}], "signature_name": "generate"}, 400, "element: 1"),
    (PREDICT, {"inputs": {"prompt": ["a"], "top_k": [1.5]}, "signature_name": "generate"}, 400, "expected type: DT_INT32"),
    (PREDICT, {"inputs": {"prompt": ["a"], "top_k": [True]}, "signature_name": "generate"}, 400, "Type: Boolean"),
    (PREDICT, {"inputs": {"prompt": ["a"], "top_k": [2**40]}, "signature_name": "generate"}, 400, "too large"),
    (PREDICT, {"inputs": {"prompt": ["a"], "temperature": ["1"]}, "signature_name": "generate"}, 400, "Type: String"),
    (PREDICT, {"inputs": {"prompt": ["a"], "temperature": [-1]}, "signature_name": "generate"}, 400, "is 0 (greedy)"),
    (PREDICT, {"inputs": {"prompt": ["a"], "top_p": [1e300]}, "signature_name": "generate"}, 400, "without loss of precision"),
    (PREDICT, {"inputs": {"prompt": ["a"], "top_p": [10**400]}, "signature_name": "generate"}, 400, "without loss"),
    (CLASSIFY, {"instances": [3]}, 400, "expected type: DT_STRING"),
    (CLASSIFY, {"instances": [None]}, 400, "Type: Null"),
    (CLASSIFY, {"instances": ["a", ["b"]]}, 400, "element: 1"),
    (CLASSIFY, {"instances": ["a", {"text": "b"}]}, 400, "got object at item 1"),
    (CLASSIFY, {"instances": [{"text": "b"}, "a"]}, 400, "got list at item 1"),
    (CLASSIFY, {"inputs": [["a"], ["b", "c"]]}, 400, "unexpected size: 2"),
    (CLASSIFY, {"inputs": [["a"]]}, 400, "text"),
    (CLASSIFY, {"inputs": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
    (CLASSIFY, b'{"inputs": ["\\ud800"]}', 400, "surrogate"),
    ("/v1/models/no:predict", {"instances": ["a"]}, 404, "Servable not found for request: Latest(no)"),
    ("/v1/models/no/versions/3:predict", {"instances": ["a"]}, 404, "Servable not found for request: Specific(no, 3)"),
    ("/v1/models/no/versions/3/metadata", None, 404, "Servable not found for request: Specific(no, 3)"),
    ("/v1/models/gpt/versions/9:predict", {"instances": ["a"]}, 404, "Specific(gpt, 9)"),
    ("/v1/models/gpt:no", {"instances": ["a"]}, 400, "Malformed request: POST /v1/models/gpt:no"),
    ("/v1/models/no", None, 404, "Could not find any versions of model no"),
    ("/v1/models/no/versions/3", None, 404, "Could not find version 3 of model no"),
    ("/v1/models/gpt/versions/9", None, 404, "Could not find version 9 of model gpt"),
    ("/v1/no", None, 400, "Malformed request: GET /v1/no"),
    (PREDICT, None, 400, "Malformed request: GET"),
    ("/playground/stream", {"model": "no", "prompt": "a"}, 404, "there are bag_of_words, gpt"),
    ("/playground/stream", [1], 400, "A stream takes an object"),
    ("/playground/stream", b"{", 400, "JSON Parse error"),
])  # fmt: skip
def test_a_wrong_request_gets_a_status_and_a_sentence(port, path, body, status, words):
    returned, answer = ask(port, path, body)
    assert returned == status and list(answer) == ["error"] and words in answer["error"], answer
    assert "\n" not in answer["error"] and "Traceback" not in answer["error"]


def streamed(port, **asked):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/playground/stream", json.dumps(asked).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [json.loads(line) for line in answer]


def test_the_stream_of_the_page_has_the_text_and_the_probabilities_of_generate(port):
    lines = streamed(port, model="gpt", prompt="The", max_new_tokens=9, temperature=0.7, seed=2)
    wanted = exports.served("gpt", "language_modeling").run(
        "generate", {"prompt": ["The"], "max_new_tokens": [9], "temperature": [0.7], "seed": [2]}
    )
    assert "The" + "".join(line["text"] for line in lines) == wanted["text"][0].decode("utf8", "replace")
    assert sum(line["log_prob"] for line in lines) == pytest.approx(float(wanted["log_prob"][0]), abs=1e-3)
    told = [line["likeliest"] for line in lines if line["likeliest"]]  # of one token each, and not of the bytes of a character
    assert told and all(len(pairs) == 5 and sorted(pairs, key=lambda pair: -pair[1]) == pairs for pairs in told)
    (refused,) = streamed(port, model="gpt", prompt="The", temperature=-1)
    assert "temperature is 0 (greedy)" in refused["error"]


def test_a_reader_who_leaves_gives_the_version_back(directories):
    model = playground.Local(Versions(directories["gpt"]))
    lines = playground.written(model, "gpt", {"prompt": "The"})
    next(lines)
    with model.versions.borrowed() as loaded:
        assert loaded.users == 2
        lines.close()
        assert loaded.users == 1


def test_200_requests_at_once_get_their_own_answers(port):
    texts = [f"the cat number {i % 7}" for i in range(200)]
    wanted = {text: ask(port, CLASSIFY, {"instances": [text]})[1] for text in set(texts)}
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda text: ask(port, CLASSIFY, {"instances": [text]}), texts))
    assert all(answer == (200, wanted[text]) for text, answer in zip(texts, answers, strict=True))


def test_a_body_over_the_limit_is_refused_before_it_is_read(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        "POST", CLASSIFY, iter([b"x" * 100_000] * 11), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    answer = connection.getresponse()
    assert answer.status == 413 and "more than 1,000,000 bytes" in json.load(answer)["error"]
    connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", CLASSIFY)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_slow_clients_do_not_stop_others(port):
    body = json.dumps({"instances": ["the cat " * 20] * 2_000}).encode()
    head = f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    slow = []
    for part in (head + body, head + body[:10]):  # some never read their answer, some never end their request
        for _ in range(20):
            slow.append(socket.socket())
            slow[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow[-1].connect(("127.0.0.1", port))
            slow[-1].sendall(part)
    begun = time.monotonic()
    assert ask(port, CLASSIFY, {"instances": ["a"]})[0] == 200
    assert time.monotonic() - begun < 20
    for each in slow:
        each.close()
    assert ask(port, CLASSIFY, {"instances": ["a"]})[0] == 200


def test_a_new_version_is_taken_when_it_appears(tmp_path):
    directory = shutil.copytree(exports.directory("bag_of_words", "classification"), tmp_path / "export")
    with serving({"words": playground.Local(Versions(directory))}) as number:
        assert ask(number, "/v1/models/words/metadata")[1]["model_spec"]["version"] == "1"
        shutil.copytree(directory / "1", tmp_path / "aside")
        (tmp_path / "aside").rename(directory / "2")
        end = time.monotonic() + 30
        while ask(number, "/v1/models/words/metadata")[1]["model_spec"]["version"] != "2":
            assert ask(number, "/v1/models/words:predict", {"instances": ["a"]})[0] == 200
            assert time.monotonic() < end
        states = ask(number, "/v1/models/words")[1]["model_version_status"]
        assert [(entry["version"], entry["state"]) for entry in states] == [("2", "AVAILABLE"), ("1", "END")]
        assert ask(number, "/v1/models/words/versions/1:predict", {"instances": ["a"]})[0] == 404


def test_the_old_version_stays_for_requests_under_way(tmp_path):
    directory = shutil.copytree(exports.directory("bag_of_words", "classification"), tmp_path / "export")
    versions = Versions(directory)
    assert versions.name == "bag_of_words"
    with versions.borrowed() as old:
        shutil.copytree(directory / "1", directory / "10")
        assert versions.refresh() and not versions.refresh()
        assert [state[:2] for state in versions.states()] == [(10, "AVAILABLE"), (1, "UNLOADING")]
        assert old.model.run("classify", {"text": ["a"]})["labels"].shape == (1, 3)
        with versions.borrowed() as new:
            assert new.number == 10
    assert old.model is None and versions.states()[1][1] == "END"
    with pytest.raises(Fault, match="Specific"), versions.borrowed(1):
        pass


def test_a_version_that_cannot_be_loaded_is_told_and_the_old_one_goes_on(tmp_path):
    directory = shutil.copytree(exports.directory("bag_of_words", "classification"), tmp_path / "export")
    versions = Versions(directory)
    (directory / "2").mkdir()
    (directory / "2" / "saved_model.pb").write_bytes(b"no")
    assert not versions.refresh() and not versions.refresh()
    (broken, good) = versions.states()
    assert broken[:2] == (2, "END") and broken[2] and good == (1, "AVAILABLE", "")
    with versions.borrowed() as loaded:
        assert loaded.number == 1


def test_one_version_alone_can_be_served():
    versions = Versions(exports.directory("bag_of_words", "classification") / "1")
    assert versions.name == "bag_of_words" and versions.states() == [(1, "AVAILABLE", "")]
    assert not versions.refresh()


def test_before_a_tf_serving_requests_are_forwarded(port):
    remote = playground.Remote(f"http://127.0.0.1:{port}/")
    with serving({"gpt": remote, "bag_of_words": remote}) as front:
        body = {"instances": ["the cat"]}
        assert ask(front, CLASSIFY, body) == ask(port, CLASSIFY, body)
        for path in ("/v1/models/gpt", "/v1/models/gpt/metadata", "/v1/models/gpt/versions/9"):
            assert ask(front, path) == ask(port, path)
        assert ask(front, PREDICT, {"instances": []}) == ask(port, PREDICT, {"instances": []})
        asked = dict(model="gpt", prompt="The", max_new_tokens=5)
        assert streamed(front, **asked) == streamed(port, **asked)
        models = ask(front, "/playground/models")[1]["models"]
        assert [model["name"] for model in models] == ["gpt", "bag_of_words"]
    free = playground.listening("127.0.0.1", 0)
    nobody = playground.Remote(f"http://127.0.0.1:{free.getsockname()[1]}")
    free.close()
    with serving({"gpt": nobody}) as front:
        status, answer = ask(front, PREDICT, {"instances": ["a"]})
        assert status == 502 and "No server answers" in answer["error"]
        assert "No server answers" in ask(front, "/playground/models")[1]["models"][0]["error"]


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "--export_dir is missing"),
    (("--export_dir={empty}",), "holds no version of a SavedModel"),
    (("--export_dir={export}", "--export_dir={export}"), "Two models are called bag_of_words"),
    (("--export_dir={export}", "--name=a", "--name=b"), "--name is given 2 times and --export_dir 1"),
    (("--export_dir={export}", "--name=a/b"), "cannot stand in a URL"),
    (("--server=http://localhost:1",), "--name is missing"),
    (("--server=localhost:1", "--name=a"), "--server takes a URL"),
    (("--server=http://localhost:1", "--name=a", "--export_dir={export}"), "leave --export_dir out"),
    (("--export_dir={export}", "--port={taken}"), "choose another --port"),
    (("--export_dir={export}", "--port=0", "--grpc_port={taken}"), "choose another --grpc_port"),
    (("--server=http://localhost:1", "--name=a", "--port=0", "--grpc_port=0"), "ask that server's own port"),
])  # fmt: skip
def test_what_the_program_refuses(capfd, tmp_path, arguments, words):
    export = exports.directory("bag_of_words", "classification")
    with contextlib.closing(playground.listening("127.0.0.1", 0)) as taken:
        values = dict(empty=tmp_path, export=export, taken=taken.getsockname()[1])
        assert words in programs.refusal(capfd, "playground", *(argument.format(**values) for argument in arguments))


def test_without_its_libraries_it_names_the_extra(capfd, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    sentence = programs.refusal(capfd, "playground", "--export_dir=anywhere")
    assert "uvicorn" in sentence and "pip install -e '.[playground]'" in sentence


def test_the_program_says_what_it_serves_and_that_production_is_for_tf_serving(capfd, monkeypatch):
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    export = exports.directory("bag_of_words", "classification")
    answer = programs.call(capfd, "playground", f"--export_dir={export}", "--port=0", "--name=mine")
    assert answer.status == 0, answer.err
    first, model, last = answer.out.splitlines()
    assert re.match(r"Open http://127\.0\.0\.1:\d+/ in a browser", first)
    assert model.strip().startswith("mine, version 1: http://127.0.0.1:") and "in production use TF Serving" in last
    answer = programs.call(capfd, "playground", f"--export_dir={export}", "--port=0", "--host=0.0.0.0")
    assert "without a password" in answer.out
    answer = programs.call(capfd, "playground", f"--export_dir={export}", "--port=0", "--grpc_port=0")
    assert re.search(r"gRPC: 127\.0\.0\.1:\d+, PredictionService", answer.out)
