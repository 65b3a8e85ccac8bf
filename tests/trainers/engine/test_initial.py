"""A run that begins with another one's weights, and what cannot begin one: --init_from."""

import json

import numpy as np
import pytest

import zoo
from tests import foreign_models, programs
from trainers.engine import initial
from zoo import bundle as bundles
from zoo.convert import huggingface, vector_files

ROWS = "animal\tthe cat sat\nnumber\ta page of 1984\nanimal\tthe dog ran\nnumber\tin 1984 it was 7\n"
PAIRED = "--data_path=train=rows.tsv,validation=rows.tsv,columns=label:text"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A directory with labelled texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.tsv").write_text(ROWS, encoding="utf8")
    return tmp_path


def run(capfd, *arguments, steps=0, model="bert"):
    return programs.call(
        capfd, "run", f"--model={model}", "--batch_size=2", "--xla=off", "--noexport", f"--steps={steps}", *arguments
    )


def weights(model, part="backbone"):
    """Path -> array of the weights of a model without its head, or of the head alone."""
    return {variable.path: variable.numpy() for variable in getattr(model, part, model).weights}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path], err_msg=path)


def test_what_was_pretrained_here_is_fine_tuned_with_its_vocabulary_and_a_new_head(workplace, capfd):
    (workplace / "text.txt").write_text("the cat sat on the mat , and in 1984 a dog ran over page 7 . " * 20, encoding="utf8")
    first = run(
        capfd,
        "--preset=tiny",
        "--tokenizer=wordpiece",
        "--vocab_size=48",
        "--data_path=text.txt",
        "--model_dir=before",
        steps=2,
    )
    assert first.status == 0, first.err
    second = run(capfd, "--init_from=before", "--task=classification", PAIRED, "--model_dir=after")
    assert second.status == 0, second.err
    assert "variables from before, with a new head" in second.out
    before, after = bundles.load("before/bundle"), bundles.load("after/bundle")
    assert_equal(weights(after.model), weights(before.model))
    assert not weights(after.model, "head").keys() & weights(before.model, "head").keys()
    assert after.tokenizer.vocabulary == before.tokenizer.vocabulary
    assert after.task.facts.labels == ("animal", "number")
    # For the same task the head goes along.
    again = before.task.assemble(type(before.model.backbone)(before.model.config)).build_from_ids()
    assert initial.assign(again, before.tokenizer, "before").endswith("variables from before, its head too")
    assert_equal(weights(again, "head"), weights(before.model, "head"))


def test_weights_of_a_hugging_face_directory_begin_a_run_once_they_are_carried_in(workplace, capfd):
    bundle = foreign_models.bundle("bert-masked_lm")
    # A table may have a few rows more than there are ids, for a round number.
    config = bundle.model.config.replace(vocab_size=bundle.tokenizer.vocab_size + 3)
    bundle.model = bundle.task.assemble(type(bundle.model.backbone)(config)).build_from_ids()
    directory = huggingface.write(bundle, workplace / "theirs")
    refused = run(capfd, f"--init_from={directory}", "--task=tagging")
    assert refused.status == 2 and f"python -m trainers.convert --from={directory} --to=NEW" in refused.err
    huggingface.read(directory).save("ours")
    answer = run(capfd, "--init_from=ours", "--task=classification", PAIRED, "--model_dir=after")
    assert answer.status == 0, answer.err
    assert_equal(weights(bundles.load("after/bundle").model), weights(bundle.model))


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        (None, ("--init_from=nowhere",), "nowhere holds no bundle; give the directory of a run, such as runs/gpt/latest."),
        (
            None,
            ("--init_from=saved", "model=gpt"),
            "--init_from=saved holds a bert, which cannot begin a gpt; say --model=bert.",
        ),
        (None, ("--init_from=saved", "--tokenizer=byte"), "--tokenizer cannot be chosen with --init_from"),
        (None, ("--init_from=saved", "--preset=default"), "--preset cannot be chosen with --init_from"),
        (
            None,
            ("--init_from=saved", "--set=num_layers=3", "--task=classification", PAIRED),
            "has another structure than this model",
        ),
        (None, ("--init_from=saved", "--seq_length=99"), "--seq_length=99 is more than the 16 positions of --init_from."),
        (
            dict(vocab_size=50),
            ("--init_from=saved", "--task=classification", PAIRED),
            "ids and a model of 50: they do not belong together",
        ),
        (dict(hidden_dim=14), ("--init_from=saved", "--task=classification", PAIRED), "is damaged or of another model"),
    ],
)
def test_what_cannot_begin_a_run_is_a_sentence(change, arguments, sentence, workplace, capfd):
    foreign_models.bundle("bert").save("saved")
    if change:
        path = workplace / "saved" / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "model_config": {**config["model_config"], **change}}))
    model = next((argument[6:] for argument in arguments if argument.startswith("model=")), "bert")
    arguments = [argument for argument in arguments if argument.startswith("--")]
    answer = run(capfd, *arguments, "--model_dir=after", model=model)
    assert answer.status == 2, answer.err
    assert sentence in answer.err and len(answer.err.splitlines()) == 1
    assert not (workplace / "after").exists()


ROLES = "the\t-\tB-A0\ncat\t-\tI-A0\nsat\tsit\tB-V\n\na\t-\ndog\t-\n\n"


@pytest.mark.parametrize(("name", "rows"), [("roberta", 1), ("modernbert", 1), ("bert-masked_lm", 3)])
def test_a_table_of_segments_gets_the_rows_that_the_task_needs(name, rows, workplace, capfd):
    before = foreign_models.bundle(name, num_segments=rows)
    before.save("before")
    (workplace / "rows.conll").write_text(ROLES, encoding="utf8")
    data = "--data_path=train=rows.conll,validation=rows.conll,format=conll"
    answer = run(capfd, "--init_from=before", "--task=semantic_roles", data, "--model_dir=after")
    assert answer.status == 0, answer.err
    assert f"from before, the table of segments with 2 rows instead of {rows}, with a new head" in answer.out
    after, path = bundles.load("after/bundle"), "bert/segments/embeddings"
    ours, theirs = weights(after.model), weights(before.model)
    table, former = ours.pop(path), theirs.pop(path, np.zeros((1, 12), np.float32))
    np.testing.assert_array_equal(table, former[[0, 0] if rows == 1 else [0, 1]])
    assert_equal(ours, theirs)
    # So a mark says nothing yet, and the other rows are as they were.
    batch = {"token_ids": np.array([[5, 9, 7, 6]], np.int32), "padding_mask": np.ones((1, 4), bool)}
    expected = np.asarray(before.model.backbone.hidden(batch))
    marks = ([0] * 4, [0, 1, 1, 0]) if rows == 1 else ([0] * 4,)
    for segment_ids in marks:
        hidden = after.model.backbone.hidden({**batch, "segment_ids": np.array([segment_ids], np.int32)})
        np.testing.assert_allclose(np.asarray(hidden), expected, atol=1e-6)


# Rows of word vectors

VECTORS = {"the": [1, 2, 3], "cat": [4, 5, 6], "dog": [7, 8, 9], "horse": [1, 1, 1]}


@pytest.fixture
def word_vectors(workplace):
    """A bundle `vectors` of four words, and a text."""
    lines = [f"{word} {' '.join(map(str, numbers))}\n" for word, numbers in VECTORS.items()]
    (workplace / "vectors.txt").write_text("".join(lines), encoding="utf8")
    vector_files.read_bundle(workplace / "vectors.txt").save("vectors")
    (workplace / "text.txt").write_text("The cat saw the dog .\nthe Cat ran\n" * 20, encoding="utf8")
    return workplace


@pytest.mark.parametrize(("model", "arguments"), [
    ("lstm", ("--preset=tiny", "--data_path=text.txt")),
    ("bilstm", ("--preset=tiny", "--task=classification", PAIRED)),
    ("bag_of_words", ("--preset=tiny", PAIRED)),
    ("glove", ("--task=classification", PAIRED, "--set=hidden_dim=3")),
    ("word2vec", ("--task=classification", PAIRED, "--set=hidden_dim=3")),
])  # fmt: skip
def test_a_table_takes_the_rows_of_the_words_that_both_know(model, arguments, word_vectors, capfd):
    source = "vectors"
    if model == "word2vec":  # of another family too
        source = "glove"
        tokenizer = bundles.load("vectors").tokenizer
        glove = zoo.create("glove", "tiny", vocab_size=6, hidden_dim=3)
        table = np.array([[0] * 3, [0] * 3, *VECTORS.values()], np.float32)
        glove.embeddings.assign(table - 0.25)
        glove.contexts.assign(np.full((6, 3), 0.25))
        bundles.Bundle(glove, tokenizer, "embedding", {}).save("glove")
    answer = run(capfd, f"--init_from={source}", "--tokenizer=word", *arguments, "--model_dir=after", model=model)
    assert answer.status == 0, answer.err
    after = bundles.load("after/bundle")
    words, taken = after.tokenizer.vocabulary, after.model.without_head()
    sides = (taken.table(),) if taken.config.contextual else taken.sides()
    table = sum(np.asarray(side) for side in sides)[: len(words)]
    known = [i for i, word in enumerate(words) if word.lower() in VECTORS]  # `The` is read as `the`
    np.testing.assert_array_equal(table[known], [VECTORS[words[i].lower()] for i in known])
    others = np.setdiff1d(np.arange(2, len(words)), known)
    assert len(known) and len(others) and all((np.abs(np.asarray(side)[others]) < 0.2).all() for side in sides)
    assert f"Embeddings: {len(known)} of {len(words) - 2} words found in {source}" in answer.out


@pytest.mark.parametrize(("model", "arguments", "sentence"), [
    ("lstm", ("--preset=tiny", "--set=embedding_dim=4"), "has vectors of 3 numbers, and the embeddings of this lstm have 4"),
    ("bag_of_words", ("--set=embedding_dim=0",), "has no table of embeddings; give it one with --set=embedding_dim="),
    ("lstm", ("--preset=tiny", "--tokenizer=byte"), "A byte tokenizer has no written vocabulary"),
])  # fmt: skip
def test_what_cannot_take_rows_is_a_sentence(model, arguments, sentence, word_vectors, capfd):
    data = PAIRED if model == "bag_of_words" else "--data_path=text.txt"
    answer = run(
        capfd, "--init_from=vectors", "--tokenizer=word", data, *arguments, "--model_dir=after", model=model
    )  # fmt: skip
    assert answer.status == 2 and sentence in answer.err and len(answer.err.splitlines()) == 1
    assert not (word_vectors / "after").exists()
