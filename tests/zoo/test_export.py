"""Exports: versions, equal bytes, refused graphs, proof through the C API and the protos, streams, and rows that mind their own business."""

import json

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from benchmarks import fuzz
from tests import tiny_models
from zoo.export import export_saved_model, latest_version
from zoo.registry import MODELS, TASKS
from zoo.serving import c_api, deployment, golden, ops, verification
from zoo.serving.stream_client import stream
from zoo.tokenizers.base import create as create_tokenizer

PROVENANCE = {"dataset": "toy", "licence": "CC0", "steps": 3, "scores": {"test": {"loss": 1.5}}}


@pytest.fixture(scope="module")
def tokenizer():
    return create_tokenizer("byte")


def tiny(name, tokenizer):
    fields = dict(vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, max_length=48, num_layers=1)
    known = {key: value for key, value in fields.items() if hasattr(MODELS.config(name), key)}
    return tiny_models.strengthen(tiny_models.create(name, **known))


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny("gpt", tokenizer)


@pytest.fixture(scope="module")
def directory(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "export"
    export_saved_model(path, model, tokenizer, TASKS.get("language_modeling")(), provenance=PROVENANCE)
    return path


@pytest.fixture(scope="module")
def served(directory):
    model = c_api.SavedModel(directory / "1")
    yield model
    model.close()


# Files


def test_the_same_model_gives_the_same_bytes(directory, model, tokenizer):
    export_saved_model(directory, model, tokenizer, TASKS.get("language_modeling")(), version=7, provenance=PROVENANCE)
    first, second = (
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in (directory / "1", directory / "7")
    )
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []
    assert latest_version(directory) == 7


def test_a_version_that_is_not_higher_is_refused_and_nothing_changes(directory, model, tokenizer):
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(ValueError, match="Version 1 must be above"):
        export_saved_model(directory, model, tokenizer, TASKS.get("language_modeling")(), version=1)
    with pytest.raises(ValueError, match="float32, bfloat16 or int8, got 'float8'"):
        export_saved_model(directory, model, tokenizer, TASKS.get("language_modeling")(), precision="float8")
    assert sorted(path.name for path in directory.iterdir()) == before


def test_an_ngram_has_no_matrices_for_int8(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="ngram has tables"):
        export_saved_model(tmp_path, tiny("ngram", tokenizer), tokenizer, TASKS.get("language_modeling")(), precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_deployment_files_are_what_their_protos_read(directory):
    from tensorflow_serving.config import model_server_config_pb2

    folder = directory / "deployment"
    config = text_format.Parse(
        (folder / "models.config").read_text(encoding="utf8"), model_server_config_pb2.ModelServerConfig()
    )
    assert [(c.name, c.base_path) for c in config.model_config_list.config] == [("gpt", "/models/gpt")]
    sizes = [
        int(line.split()[1]) for line in (folder / "batching_parameters.txt").read_text().splitlines() if "allowed" in line
    ]
    assert (
        sizes == sorted(sizes)
        and f"max_batch_size {{ value: {sizes[-1]} }}" in (folder / "batching_parameters.txt").read_text()
    )
    assert "gpt" in (folder / "docker-compose.yaml").read_text() and "gpt" in (folder / "kubernetes.yaml").read_text()
    card = (directory / "1" / "assets.extra" / "model_card.md").read_text(encoding="utf8")
    assert "toy" in card and "CC0" in card and "loss 1.5000" in card
    assert not [p for p in directory.rglob("*") if p.is_file() and str(directory).encode() in p.read_bytes()]


def test_the_curl_line_asks_with_the_longest_plain_row():
    requests = [{"signature": "serving_default", "inputs": {"prompt": ["", "It's", "naïve but long"]}}]
    assert deployment.example_instances(requests) == '["It\'s"]'
    line = deployment.curl_command("m", deployment.example_instances(requests))
    assert line.startswith("curl -d '{\"instances\": [\"It'\\''s\"]}' ")


# Proof


def test_every_way_to_prove_an_export(directory):
    sentences = [check(directory / "1") for check in verification.CHECKS]
    assert [sentence.split(":")[0] for sentence in sentences] == ["C API", "Protos", "saved_model_cli", "Operations"]
    assert "decode_step, generate, prefill, score, serving_default" in sentences[0]


def test_a_changed_answer_is_found(directory, tmp_path):
    import shutil

    copy = tmp_path / "1"
    shutil.copytree(directory / "1", copy)
    path = copy / "assets.extra" / "golden.json"
    requests = json.loads(path.read_text(encoding="utf8"))
    request = next(request for request in requests if request["signature"] == "score")
    request["outputs"]["log_prob"][0] += 0.01
    path.write_text(json.dumps(requests), encoding="utf8")
    with pytest.raises(ValueError, match="signature score, output log_prob"):
        verification.through_protos.__globals__["prove"](copy)


@pytest.mark.parametrize(("name", "sentence"), [
    ("PyFunc", "PyFunc, which a stock server cannot run"), ("ReadFile", "ReadFile, which"), ("XlaSort", "XlaSort, which"),
])  # fmt: skip
def test_operations_that_a_stock_server_lacks_are_refused(name, sentence, tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel()
    saved_model.meta_graphs.add().graph_def.node.add(name="odd", op=name)
    (tmp_path / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    with pytest.raises(ValueError, match=sentence):
        ops.check_ops(tmp_path)


def test_a_function_that_must_be_compiled_is_refused(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: x + 1, jit_compile=True, input_signature=[tf.TensorSpec([2])], autograph=False)
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    with pytest.raises(ValueError, match="must be compiled by XLA"):
        ops.check_ops(tmp_path)
    ops.check_ops(tmp_path, xla=True)


# Rows


OPTIONS = {"greedy": {}, "sampled": {"temperature": 0.9, "top_k": 40, "top_p": 0.95}}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_rows_answer_is_its_own(served, kind):
    def ask(prompts, seeds):
        options = {name: [value] * len(prompts) for name, value in OPTIONS[kind].items()}
        return served.run("generate", {"prompt": prompts, "seed": seeds, "max_new_tokens": [9] * len(prompts), **options})

    prompts, seeds = ["The", "a", "", "list of words and then some more"], [5, 6, 7, 8]
    alone = [ask([prompt], [seed]) for prompt, seed in zip(prompts, seeds, strict=True)]
    for size in (2, 7, 32):
        rows = [(3 * i + size) % len(prompts) for i in range(size)]  # repeated, and beside much longer ones
        together = ask([prompts[row] for row in rows], [seeds[row] for row in rows])
        for i, row in enumerate(rows):
            assert together["text"][i] == alone[row]["text"][0]
            np.testing.assert_allclose(together["log_prob"][i], alone[row]["log_prob"][0], rtol=1e-5, atol=1e-5)
    assert ask([], [])["text"].shape == (0,)


def test_a_stream_ends_in_the_text_that_generate_writes(served):
    class Local:
        def __call__(self, signature, inputs):
            return served.run(signature, inputs)

        @staticmethod
        def first(values):
            return values[0].decode("utf8", "replace") if isinstance(values[0], bytes) else values[0]

    options = {"temperature": 0.8, "seed": 3}
    pieces = list(stream(Local(), "The ", 12, **options))
    whole = served.run("generate", {"prompt": ["The "], "max_new_tokens": [12], **{k: [v] for k, v in options.items()}})
    assert "The " + "".join(pieces) == whole["text"][0].decode("utf8", "replace")
    assert len(pieces) > 1  # fewer than tokens: random bytes are rarely a character, and half a one is held back


def test_rows_join_and_part_between_steps(served):
    """Continuous batching: a second request joins the first after three steps, and each writes what it writes alone."""

    def step(rows):
        return served.run("decode_step", {name: value for name, value in rows.items() if name in inputs})

    def join(first, second):
        return {name: np.concatenate([first[name], second[name]]) for name in inputs if name in first}

    inputs = served.signatures["decode_step"].inputs
    alone = [served.run("generate", {"prompt": [p], "max_new_tokens": [9]})["text"][0] for p in ("The end", "ab")]
    first = served.run("prefill", {"prompt": ["The end"], "max_new_tokens": [9]})
    for _ in range(3):
        first = step(first)
    # The first row has read all but its latest token: the second is padded to as many columns, and gets as much room.
    read, room = int(first["state_index"][0]), first["state_layer_0_keys"].shape[2]
    second = served.run("prefill", {"prompt": ["ab"], "max_new_tokens": [9], "padded_length": [read]})
    columns = max(room, second["state_layer_0_keys"].shape[2])
    for rows in (first, second):
        for name in ("state_layer_0_keys", "state_layer_0_values"):
            rows[name] = np.pad(rows[name], [(0, 0), (0, 0), (0, columns - rows[name].shape[2]), (0, 0)])
    both = join(first, second)
    for _ in range(9):
        both = step(both)
    assert both["finished"].all()
    assert both["text"].tolist() == alone


# Requests that do not fit


@pytest.mark.parametrize(("signature", "inputs", "sentence"), [
    ("generate", {"prompt": "The"}, r"prompt\w* \[\] is not compatible with expected shape \[\?\]"),
    ("score", {"text": [["a", "b"]]}, r"text\w* \[1,2\] is not compatible"),
    ("generate", {"prompt": ["a"], "temperature": [float("nan")]}, r"temperature is 0 \(greedy\) or a positive number; got \[nan\]"),
    ("generate", {"prompt": ["a"], "top_p": [1.5]}, "top_p is a probability"),
    ("generate", {"prompt": ["a"], "max_new_tokens": [-1]}, "max_new_tokens is a number of tokens, 0 or more"),
    ("generate", {"prompt": ["a", "b"], "seed": [1, 2, 3]}, "seed takes one value for all prompts or one each: 3 values for 2"),
    ("generate", {"prompt": ["a" * 48]}, "The longest prompt has 49 tokens"),
    ("generate", {"text": ["a"]}, r"generate takes prompt string\[\?\], max_new_tokens int32\[\?\] = 64"),
    ("generate", {"prompt": ["a"], "top_k": ["many"]}, "top_k takes int32"),
    ("write", {"prompt": ["a"]}, "no signature is called 'write'; there are decode_step, generate"),
])  # fmt: skip
def test_a_signature_called_wrongly_says_what_it_wanted(served, signature, inputs, sentence):
    with pytest.raises(c_api.RequestError, match=sentence):
        served.run(signature, inputs)


def test_what_a_request_leaves_out_is_the_default(served):
    assert served.run("generate", {"prompt": ["The"]})["text"] == served.run("serving_default", {"prompt": ["The"]})["text"]
    assert golden.EXTRA == "assets.extra"


def test_nonsense_is_answered_or_refused(served):
    for signature in served.signatures:
        outcomes, _, _, _ = fuzz.fuzz(served, signature, 120, megabyte=False)
        assert set(outcomes) <= {"answered", "INVALID_ARGUMENT"} and outcomes["answered"] > 5


# Precisions


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.02), ("int8", 0.02)])
def test_a_smaller_precision_answers_nearly_the_same(precision, tolerance, tokenizer, tmp_path):
    model = tiny_models.create("gpt", vocab_size=tokenizer.vocab_size, max_length=48, num_layers=1, hidden_dim=96)
    task = TASKS.get("language_modeling")()
    before = model.get_weights()
    path = export_saved_model(tmp_path, model, tokenizer, task, precision=precision)  # proved like any other
    texts = ["The list of words", "naïve"]
    scores = c_api.SavedModel(path).run("score", {"text": texts})["log_prob"]
    expected = task.signatures(model, tokenizer)["score"](text=tf.constant(texts))["log_prob"]
    np.testing.assert_allclose(scores, expected, rtol=tolerance)
    assert (np.asarray(scores) != np.asarray(expected)).all()  # it is another model, if hardly
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    size = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert size < {"bfloat16": 0.52, "int8": 0.3}[precision] * 4 * model.config.num_params()
