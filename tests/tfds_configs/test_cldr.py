"""The pairs from CLDR: what they say, how they are split, any two locales, and the real TFDS builder."""

import collections
import hashlib
import subprocess
import sys
from decimal import Decimal

import pytest

import tfds_configs
from tfds_configs.cldr import values
from tfds_configs.cldr.phrases import pairs
from tfds_configs.cldr.values import SPLITS, Values, split_of
from zoo.config import Refusal

SIZES = {"train": 2_203, "validation": 301, "test": 307}


@pytest.fixture(scope="module")
def said():
    return list(pairs("en", "fr", SIZES))


def of_split(said, split):
    return [pair for its_split, pair in said if its_split == split]


def test_sizes_are_exact_and_no_source_occurs_twice(said):
    assert collections.Counter(split for split, _ in said) == SIZES
    assert len({pair.source for _, pair in said}) == sum(SIZES.values())


def test_known_texts_are_there(said):
    texts = {pair.source: pair.target for pair in of_split(said, "train")}
    assert texts["Germany"] == "Allemagne" and texts["Basque"] == "basque" and texts["Japanese Yen"] == "yen japonais"
    dates = [pair for pair in of_split(said, "train") if pair.pattern == "date/full"]
    assert dates and all(pair.source.split(", ")[0].endswith("day") and pair.target.split()[0].islower() for pair in dates)
    assert not [pair for _, pair in said if {"\u00a0", "\u202f"} & set(pair.source)], "a source is as people type it"


def test_every_kind_of_thing_is_said(said):
    kinds = {"date", "time", "moment", "interval", "duration", "relative", "money", "measure", "number", "names"}
    assert {pair.pattern.partition("/")[0] for pair in of_split(said, "test")} == kinds
    train = {pair.pattern.partition("/")[0] for pair in of_split(said, "train")}
    assert train == kinds | {"language", "territory", "currency"}
    assert len({pair.pattern for _, pair in said}) > 1_000


def test_no_value_of_one_split_is_in_another(said):
    found = {split: {value for pair in of_split(said, split) for value in pair.values} for split in SPLITS}
    assert all(pair.values for split in ("validation", "test") for pair in of_split(said, split))
    for split, taken in found.items():
        assert all(split_of(value) == split for value in taken if not value.startswith("number ") or Decimal(value[7:]) >= 10)
    assert (
        not found["train"] & found["test"]
        and not found["train"] & found["validation"]
        and not found["validation"] & found["test"]
    )


def test_days_minutes_and_months_are_each_in_one_split():
    shares = [[len(kind) for kind in values._of_split(split)] for split in SPLITS]
    assert [sum(kind) for kind in zip(*shares, strict=True)] == [366, 1_440, 1_200]
    assert all(0.85 < train / (train + validation + test) < 0.95 for train, validation, test in zip(*shares, strict=True))


def test_draws_are_those_of_the_counter():
    first = Values("train", 5)
    assert [first.below(1_000) for _ in range(4)] == [Values("train", 5)._bits.random_raw() * 1_000 >> 64, *first_of(5)[1:]]
    assert first_of(5) != first_of(6) and first_of(5) == first_of(5)
    assert Values("test", 5).below(10**9) != Values("train", 5).below(10**9)
    for number in range(50):
        drawn = Values("test", number)
        assert 10 <= drawn.number(1, 120) <= 120
        start, end = drawn.days()
        assert start <= end and {f"day {day.month}-{day.day}" for day in (start, end)} <= {*drawn.taken, "day 2-28"}
        assert len(set(drawn.several("abcdefgh", 3))) == 3


def first_of(number):
    drawn = Values("train", number)
    return [drawn.below(1_000) for _ in range(4)]


def test_another_process_says_the_same(said):
    program = (
        "import hashlib\nfrom tfds_configs.cldr.phrases import pairs\n"
        f"print(hashlib.sha256(repr(list(pairs('en', 'fr', {SIZES}))).encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(repr(said).encode()).hexdigest()


@pytest.mark.parametrize(("source", "target"), [("de", "ja"), ("ar", "pt_BR"), ("aa", "zh_Hant")])
def test_any_two_locales(source, target):
    made = list(pairs(source, target, {"train": 900, "test": 40}))
    assert len(made) == 940 and all(pair.source and pair.target for _, pair in made)


def test_two_of_a_list_are_said_once():
    two = [pair for _, pair in pairs("ar", "en", {"train": 3_000}) if pair.pattern == "duration/month+week/long"]
    assert two and all(
        pair.target.count(",") == 1 and pair.source.count("أسبوع") + pair.source.count("أسابيع") <= 1 for pair in two
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cldr/en-qqqqqqqq", "CLDR has no locale 'qqqqqqqq'; it has 1,"),
        ("cldr/en-pt_BRR", "CLDR has no locale 'pt_BRR'; did you mean 'pt_BR'?"),
        ("cldr/en", "two locales with a hyphen between them, such as cldr/en-fr or cldr/pt_BR-de, got 'en'"),
        ("cldr/en-fr-de", "two locales with a hyphen"),
        ("cldr/fr-fr", "two locales; 'fr-fr' names one"),
    ],
)
def test_what_is_refused(name, sentence):
    for refuse in (tfds_configs.check, tfds_configs.get):
        with pytest.raises(Refusal, match=sentence):
            refuse(name)


def test_the_builder_gives_the_pairs(tmp_path, monkeypatch):
    from tfds_configs.cldr import cldr_dataset_builder

    monkeypatch.setattr(cldr_dataset_builder, "SIZES", {"train": 700, "validation": 11, "test": 13})
    source = tfds_configs.get("cldr/de-nl", data_dir=str(tmp_path))
    assert source.fields() == ("source", "target") and source.name == "cldr/de-nl"
    made = {split: list(source.examples(split)) for split in SPLITS}
    assert {split: len(examples) for split, examples in made.items()} == {"train": 700, "validation": 11, "test": 13}
    expected = list(pairs("de", "nl", cldr_dataset_builder.SIZES))
    for split, examples in made.items():
        texts = sorted((pair.source, pair.target) for pair in of_split(expected, split))
        assert sorted((example["source"], example["target"]) for example in examples) == texts
    builder = source._builder()
    assert builder.info.full_name.startswith("cldr/de-nl/1.2") and "Unicode Consortium" in builder.info.citation
    assert "say the same thing in two locales" in builder.info.description
    assert source.fingerprint().startswith("cldr/de-nl/1.2")
