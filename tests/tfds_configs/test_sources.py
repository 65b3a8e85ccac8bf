"""Names of data sets, and the public ones against TFDS's own feature specifications."""

import inspect
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

import tfds_configs
from tfds_configs import language_modeling, translation
from tfds_configs.sources import TextSource

PUBLIC = [source.name for source in language_modeling.SOURCES if not source.module]
LABELLED = [name for name, source in tfds_configs.TABLE.items() if not source.module and name not in PUBLIC]
# Each config of TFDS once, by turns in its own direction and the other.
DIRECTIONS = [
    f"{source.name}/{name}"
    for source in translation.SOURCES
    if not source.module
    for i, name in enumerate(source.directions)
    if i % 4 in (0, 3)
]


def test_listing_and_refusing_import_nothing_heavy():
    program = (
        "import sys, tfds_configs\n"
        "assert 'python_docs' in tfds_configs.names() and 'local_text' in tfds_configs.names()\n"
        "try: tfds_configs.check('python_doc')\n"
        "except ValueError as error: print(error)\n"
        "assert not {'numpy', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "No dataset is called 'python_doc'; did you mean 'python_docs'?\n"


@pytest.mark.parametrize(
    ("name", "data_path", "sentence"),
    [
        ("wmt14_translate/en-fi", None, "wmt14_translate has no 'en-fi'; did you mean 'en-hi'"),
        ("wiki40c", None, "did you mean 'wiki40b'"),
        ("qqqqqq", None, "known: ag_news_subset, billsum, c4, "),
        ("pg19/en", None, "pg19 has no configs"),
        ("local_text/x", "a.txt", "local_text has no configs"),
        ("local_text", None, "say which with data_path"),
        ("lm1b", "a.txt", "data_path is for the dataset local_text"),
        ("local_text", "no/such/file.txt", "There is no file 'no/such/file.txt'"),
    ],
)
def test_what_is_refused(name, data_path, sentence):
    for refuse in (tfds_configs.check, tfds_configs.get):
        with pytest.raises(ValueError, match=sentence):
            refuse(name, data_path)


def test_every_set_says_what_it_is():
    for name in [*PUBLIC, "python_docs"]:
        source = tfds_configs.get(name)
        assert source.name == name
        assert list(source.splits) == ["train", "validation", "test"]
        assert "text" in source.features and len(source.licence) > 5


@pytest.mark.parametrize("name", [*PUBLIC, "wiki40b/de", "c4/realnewslike", "wikipedia/20230601.simple"])
def test_fields_are_those_of_tfds(name):
    source = tfds_configs.get(name)
    with tfds.testing.mock_data(num_examples=3):
        for split in source.splits:
            texts = list(source.texts(split))
            assert len(texts) == 3 and all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize("name", [*LABELLED, "xquad/zh", "conll2002/nl", "wikiann/fr", *DIRECTIONS])
def test_fields_of_labelled_sets_are_those_of_tfds(name):
    source = tfds_configs.get(name)
    assert list(source.splits) == ["train", "validation", "test"] and len(source.licence) > 5
    with tfds.testing.mock_data(num_examples=3):
        examples = list(source.examples("train"))
    assert len(examples) == 3
    for example in examples:
        assert example.keys() == source.features.keys()
        fields = ("text", "text_pair", "label", "question", "context", "source", "target")
        texts = [example[field] for field in fields if field in example]
        words = [word for field in ("tokens", "tags", "answers") for word in example.get(field, [])]
        assert all(isinstance(text, str) for text in texts + words)
        assert all(isinstance(start, int) for start in example.get("answer_starts", []))


@pytest.mark.parametrize("name", PUBLIC)
def test_splits_are_those_of_tfds(name):
    """TFDS tells the splits of a set only once it is prepared, so they are looked up where it makes them."""
    source = tfds_configs.get(name)
    code = inspect.getsource(tfds.builder_cls((source.builder or name).partition("/")[0])._split_generators)
    for split in source.splits.values():
        assert f"Split.{split.partition('[')[0].upper()}" in code


def test_what_a_set_lacks_is_named():
    source = tfds_configs.get("tiny_shakespeare")
    with pytest.raises(ValueError, match="tiny_shakespeare has no split 'dev'; it has train, validation, test"):
        next(source.texts("dev"))
    with pytest.raises(ValueError, match="TensorFlow Datasets has no 'wiki40b/klingon'"):
        next(tfds_configs.get("wiki40b/klingon").texts("train"))
    wrong = TextSource("lm1b", {"text": "body"}, {"train": "train"}, "none")
    with (
        tfds.testing.mock_data(num_examples=1),
        pytest.raises(ValueError, match="lm1b has no field 'body'; it has text"),
    ):
        next(wrong.texts("train"))


def test_a_set_that_cannot_be_fetched_is_a_sentence(tmp_path, monkeypatch):
    def no_network(self, *args, **kwargs):
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    with pytest.raises(OSError, match=r"could not prepare lm1b .*name resolution failed.*python_docs takes no network"):
        next(tfds_configs.get("lm1b", data_dir=str(tmp_path)).texts("train"))


def test_a_direction_says_which_side_is_the_source():
    there, back = tfds_configs.get("wmt16_translate/en-ro"), tfds_configs.get("wmt16_translate/ro-en")
    assert (there.builder, back.builder) == ("wmt16_translate/ro-en",) * 2
    assert (there.features["source"], there.features["target"]) == ("en", "ro")
    assert (back.features["source"], back.features["target"]) == ("ro", "en")
    assert (there.name, back.name) == ("wmt16_translate/en-ro", "wmt16_translate/ro-en")
    assert tfds_configs.get("wmt16_translate").features["source"] == "en"


def test_every_direction_is_a_config_of_tfds():
    for source in translation.SOURCES:
        if not source.module:
            base = source.builder.partition("/")[0]
            configs = {config.name for config in tfds.builder_cls(base).BUILDER_CONFIGS}
            assert {theirs for theirs, _, _ in source.directions.values()} == configs
