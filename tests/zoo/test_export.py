"""Exports: versions, equal bytes, refused graphs, proof through the C API and the protos, streams, and requests that do not
fit."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import EncodeError

from tests import exports
from zoo.config import Refusal
from zoo.export import export_saved_model, latest_version
from zoo.serving import c_api, golden, ops, proof
from zoo.serving.stream_client import first_row, stream

GPT = ("gpt", "language_modeling")


@pytest.fixture(scope="module")
def directory():
    return exports.directory(*GPT)


@pytest.fixture(scope="module")
def served():
    return exports.served(*GPT)


def listing(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Files

TWO_EXPORTS = """
import os, signal, sys
from tensorflow.python.framework import ops
from tests import exports
from zoo import export

for _ in range(100_000):  # as if much had been traced before: names that TensorFlow numbers are longer
    ops.uid()
export.export_saved_model(sys.argv[1], *exports.made("gpt", "language_modeling"), provenance=exports.PROVENANCE)
export.model_card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # all but the card is written, and nothing has its name
export.export_saved_model(sys.argv[1], *exports.made("gpt", "language_modeling"), provenance=exports.PROVENANCE)
"""


def test_another_process_writes_the_same_bytes_and_one_that_is_killed_leaves_nothing_for_long(directory, tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", TWO_EXPORTS, str(tmp_path)]
    result = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    first, second = listing(directory / "1"), listing(tmp_path / "1")
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []
    left = [path.name for path in tmp_path.iterdir() if path.name not in ("1", "deployment")]
    assert len(left) == 1 and left[0].startswith(".2-")  # a polling server looks at integers alone
    assert latest_version(tmp_path) == 1
    monkeypatch.setattr("zoo.export.proving", lambda path: contextlib.nullcontext(lambda request: None))
    export_saved_model(tmp_path, *exports.made("bag_of_words", "classification"))  # the next one, of whatever model
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "deployment"]


def test_what_cannot_be_exported_is_refused_and_nothing_changes(directory, tmp_path):
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(ValueError, match="Version 1 must be above 1, the latest in"):
        export_saved_model(directory, *exports.made(*GPT), version=1)
    with pytest.raises(ValueError, match="float32, bfloat16 or int8, got 'float8'"):
        export_saved_model(directory, *exports.made(*GPT), precision="float8")
    assert sorted(path.name for path in directory.iterdir()) == before
    ngram = exports.made("ngram", "language_modeling")
    with pytest.raises(ValueError, match="ngram has tables and no matrices, which int8 could store; export it in float32"):
        export_saved_model(tmp_path / "new", *ngram, precision="int8")
    with pytest.raises(ValueError, match="ngram looks its numbers up in tables, which XLA cannot compile"):
        export_saved_model(tmp_path / "new", *ngram, xla=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="The directory .*file cannot be written: File exists; choose another place"):
        export_saved_model(tmp_path / "file", *ngram)


@pytest.mark.parametrize(
    "error",
    [
        EncodeError("Failed to serialize proto"),
        tf.errors.InvalidArgumentError(
            None, None, "serialized size (2400000200bytes) would be larger than the limit (2147483647 bytes)"
        ),
    ],
)
def test_a_graph_too_large_for_a_protocol_buffer_is_a_sentence(error, tmp_path, monkeypatch):
    def save(*_, **__):
        raise error

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(ValueError, match="larger than the 2 GB that a protocol buffer can hold; a smaller vocabulary"):
        export_saved_model(tmp_path, *exports.made("bag_of_words", "classification"))
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_somebody_else_wrote_meanwhile_stays(tmp_path, monkeypatch):
    def meanwhile(aside):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "saved_model.pb").write_text("theirs")
        return contextlib.nullcontext(lambda request: None)

    monkeypatch.setattr("zoo.export.proving", meanwhile)
    with pytest.raises(Refusal, match="Version 1 appeared in .* while this one was made; export again"):
        export_saved_model(tmp_path, *exports.made("bag_of_words", "classification"))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "theirs"


def test_the_card_tells_where_the_model_comes_from_and_no_file_where_it_was_made(directory):
    card = (directory / "1" / "assets.extra" / "model_card.md").read_text(encoding="utf8")
    assert "toy" in card and "CC0" in card and "loss 1.5000" in card
    assert not [p for p in directory.rglob("*") if p.is_file() and str(directory).encode() in p.read_bytes()]


# Proof


def test_every_way_to_prove_an_export(directory):
    sentences = [check(directory / "1") for check in proof.CHECKS]
    assert [sentence.split(":")[0] for sentence in sentences] == ["C API", "Protos", "saved_model_cli", "Operations"]
    assert "beam_search, decode_step, generate, prefill, score, serving_default" in sentences[0]


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
        proof.prove(copy)
    with pytest.raises(ValueError, match="signature score, output log_prob"), proof.proving(copy) as repeat:
        for asked in requests:
            repeat(asked)
    graph = copy / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"In a clean process the SavedModel {copy} fails or answers otherwise: [A-Z_]+: "):
        proof.prove(copy)


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


def test_a_stream_ends_in_the_text_that_generate_writes(served):
    class Local:
        def __call__(self, signature, inputs):
            return served.run(signature, inputs)

        first = staticmethod(first_row)

    options = {"temperature": 0.8, "seed": 3}
    pieces = list(stream(Local(), "The ", 12, **options))
    whole = served.run("generate", {"prompt": ["The "], "max_new_tokens": [12], **{k: [v] for k, v in options.items()}})
    assert "The " + "".join(pieces) == whole["text"][0].decode("utf8", "replace")
    assert len(pieces) > 1  # fewer than tokens: random bytes are rarely a character, and half a one is held back


def test_each_step_tells_the_likeliest_tokens(served):
    """Against all 256 bytes and the special ids, by the model itself; a row that has finished tells none."""
    model, tokenizer, task = exports.made(*GPT)
    before = task.frame(model.kind, tokenizer).before
    asked = {"prompt": ["The end", "ab"], "max_new_tokens": [2, 1], "temperature": [0.0]}
    first = served.run("prefill", asked)
    for row, prompt in enumerate(asked["prompt"]):
        logits = model(np.array([[*before, *tokenizer.encode(prompt)]]))[0, -1].numpy()
        best = np.argsort(-logits, kind="stable")[:5]
        log_probs = logits[best] - np.logaddexp.reduce(logits)
        np.testing.assert_allclose(first["likeliest_log_probs"][row], log_probs, atol=1e-5)
        written = [token.decode("utf8") for token in first["likeliest"][row]]
        assert written == [tokenizer.decode([token]) for token in best.tolist()]
        assert first["log_prob"][row] == pytest.approx(log_probs[0], abs=1e-5)  # greedy
    inputs = served.signatures["decode_step"].inputs
    second = served.run("decode_step", {name: value for name, value in first.items() if name in inputs})
    assert second["likeliest"][1].tolist() == [b""] * 5 and not second["likeliest_log_probs"][1].any()
    assert second["likeliest_log_probs"][0].all()


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
        missing = columns - rows["state_padding"].shape[1]
        rows["state_padding"] = np.pad(rows["state_padding"], [(0, 0), (0, missing)])
        for name in ("state_layer_0_keys", "state_layer_0_values"):
            rows[name] = np.pad(rows[name], [(0, 0), (0, 0), (0, missing), (0, 0)])
    both = join(first, second)
    for _ in range(9):
        both = step(both)
    assert both["finished"].all()
    assert both["text"].tolist() == alone


def test_a_prompt_is_read_once_for_many_continuations(served):
    """What `prefill` answered is a value: its row may be repeated, each copy with options of its own, and used again later."""
    options = {"temperature": [0.0, 1.2, 1.2, 0.8], "top_k": [0, 0, 5, 9], "seed": [0, 1, 2, 2]}
    inputs = served.signatures["decode_step"].inputs
    kept = served.run("prefill", {"prompt": ["The end"], "max_new_tokens": [9]})
    # The first token, which `prefill` has drawn, is taken back: the prompt's last token is read again.
    anew = {**kept, "token_ids": kept["token_ids"][:, :-1], "state_index": kept["state_index"] - 1}
    anew["remaining"] = np.array([9], np.int32)

    def continued(rows, options):
        for _ in range(9):
            taken = {name: value for name, value in rows.items() if name in inputs}
            rows = served.run("decode_step", {**taken, **options})
        return rows["text"].tolist()

    expected = served.run("generate", {"prompt": ["The end"] * 4, "max_new_tokens": [9], **options})["text"].tolist()
    assert continued({name: np.repeat(value, 4, axis=0) for name, value in anew.items()}, options) == expected
    for row in (3, 1):
        assert continued(anew, {name: [value[row]] for name, value in options.items()}) == expected[row : row + 1]
    assert continued(kept, {}) == expected[:1] and len(set(expected)) > 2


# Requests that do not fit


def test_a_step_writes_no_more_than_the_state_has_room_for(served):
    def step(rows, **changed):
        rows = {**rows, **changed}
        return served.run("decode_step", {name: value for name, value in rows.items() if name in inputs})

    inputs = served.signatures["decode_step"].inputs
    rows = served.run("prefill", {"prompt": ["ab", "a"], "max_new_tokens": [3, 2]})
    with pytest.raises(c_api.RequestError, match="The state has room for 3 more tokens, and up to 4 may still come"):
        step(rows, remaining=np.array([4, 1], np.int32))
    for _ in range(3):
        rows = step(rows, remaining=np.array([1, 1], np.int32))
    with pytest.raises(c_api.RequestError, match="The state has room for 0 more tokens, and up to 1 may still come"):
        step(rows, remaining=np.array([1, 0], np.int32))


@pytest.mark.parametrize(
    ("signature", "inputs", "sentence"),
    [
        ("generate", {"prompt": "The"}, r"prompt\w* \[\] is not compatible with expected shape \[\?\]"),
        ("score", {"text": [["a", "b"]]}, r"text\w* \[1,2\] is not compatible"),
        (
            "generate",
            {"prompt": ["a"], "temperature": [float("nan")]},
            r"temperature is 0 \(greedy\) or a positive number; got \[nan\]",
        ),
        ("generate", {"prompt": ["a"], "top_p": [1.5]}, "top_p is a probability"),
        ("generate", {"prompt": ["a"], "max_new_tokens": [-1]}, "max_new_tokens is a number of tokens, 0 or more"),
        (
            "generate",
            {"prompt": ["a", "b"], "seed": [1, 2, 3]},
            "seed takes one value for all prompts or one each: 3 values for 2",
        ),
        ("generate", {"prompt": ["a" * 64]}, "The longest prompt has 65 tokens"),
        ("beam_search", {"prompt": ["a"], "num_beams": [0]}, r"num_beams is 1 to 64; got \[0\]"),
        ("beam_search", {"prompt": ["a"], "length_penalty": [-1.0]}, r"length_penalty is 0 \(off\) to 100"),
        ("generate", {"text": ["a"]}, r"generate takes prompt string\[\?\], max_new_tokens int32\[\?\] = 64"),
        ("generate", {"prompt": ["a"], "top_k": ["many"]}, "top_k takes int32"),
        ("write", {"prompt": ["a"]}, "no signature is called 'write'; there are beam_search, decode_step, generate"),
    ],
)
def test_a_signature_called_wrongly_says_what_it_wanted(served, signature, inputs, sentence):
    with pytest.raises(c_api.RequestError, match=sentence):
        served.run(signature, inputs)


def test_what_a_request_leaves_out_is_the_default(served):
    assert served.run("generate", {"prompt": ["The"]})["text"] == served.run("serving_default", {"prompt": ["The"]})["text"]
    assert golden.EXTRA == "assets.extra"


# Precisions and XLA


SMALLER = [
    ("gpt", "language_modeling", "bfloat16"), ("gpt", "language_modeling", "int8"), ("gpt", "tagging", "bfloat16"),
    ("bert", "masked_lm", "bfloat16"), ("bert", "classification", "int8"), ("bag_of_words", "classification", "int8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "task_name", "precision"), SMALLER)
def test_a_smaller_precision_is_smaller_and_answers_nearly_the_same(name, task_name, precision, tmp_path):
    wide = dict(num_buckets=65_536) if name == "bag_of_words" else dict(hidden_dim=96)
    model, tokenizer, task = exports.make(name, task_name, strong=False, **wide)
    if name == "bag_of_words":  # which begins with zeros, and those are the same in any precision
        random = np.random.default_rng(0)
        model.set_weights([random.normal(size=weight.shape, scale=0.3) for weight in model.get_weights()])
    before = model.get_weights()
    path = export_saved_model(tmp_path, model, tokenizer, task, precision=precision)  # proved like any other
    signature, output = {
        "language_modeling": ("score", "log_prob"),
        "masked_lm": ("score", "log_prob"),
        "classification": ("classify", "scores"),
    }.get(task_name, ("tag", "num_tokens"))
    texts = ["the cat sat", "a dog"]
    scores = c_api.SavedModel(path).run(signature, {"text": texts})[output]
    expected = task.signatures(model, tokenizer)[signature](text=tf.constant(texts))[output]
    np.testing.assert_allclose(scores, expected, rtol=0.03)
    assert output == "num_tokens" or (np.asarray(scores) != np.asarray(expected)).any()  # it is another model, if hardly
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    size = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
    parameters = sum(value.size for value in model.get_weights())
    # A vector stays float32: beside three classes a bag of words has one of a quarter of its weights.
    share = 0.45 if name == "bag_of_words" else {"bfloat16": 0.52, "int8": 0.3}[precision]
    assert size < share * 4 * parameters


def test_what_only_training_needs_is_not_exported():
    """Of word vectors the table is served, a word a row and a word a column, and not the vectors of outputs."""
    model, _, _ = exports.made("word2vec", "word_vectors")
    variables = exports.directory("word2vec", "word_vectors") / "1" / "variables" / "variables"
    stored = tf.train.load_checkpoint(str(variables)).get_variable_to_shape_map().values()
    words, width = model.without_head().table().shape
    assert sorted(shape for shape in stored if len(shape) == 2) == sorted([[words, width], [width, words]])
    assert any(variable.path.endswith("/outputs") for variable in model.trainable_variables)


@pytest.mark.parametrize(("name", "task_name"), [GPT, ("bert", "classification")])
def test_a_version_for_servers_with_xla_is_compiled_and_answers_the_same(name, task_name, tmp_path):
    path = export_saved_model(tmp_path, *exports.made(name, task_name), xla=True)  # proved like any other
    with pytest.raises(ValueError, match="must be compiled by XLA, which a stock server has switched off"):
        ops.check_ops(path)
    ops.check_ops(path, xla=True)
    compiled = c_api.SavedModel(path)
    requests = {"generate": {"prompt": ["the", "a cat"], "max_new_tokens": [6]}, "score": {"text": ["the", "a cat"]}}
    requests = requests if name == "gpt" else {"classify": {"text": ["the", "a cat"]}}
    for signature, inputs in requests.items():
        plain = exports.served(name, task_name).run(signature, inputs)
        for output, value in compiled.run(signature, inputs).items():
            if value.dtype == object:
                np.testing.assert_array_equal(value, plain[output])
            else:
                np.testing.assert_allclose(value, plain[output], rtol=1e-4, atol=1e-4)
    compiled.close()
