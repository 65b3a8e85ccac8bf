"""zoo.create, zoo.list_models, zoo.load."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from tests import exports, foreign_models, tiny_models
from zoo import api
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.registry import MODELS, TASKS
from zoo.serving.stream_client import until
from zoo.tokenizers.base import create as create_tokenizer
from zoo.tokenizers.word import WordTokenizer


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A tiny GPT over bytes, with weights that make it prefer some tokens clearly."""
    model = tiny_models.strengthen(tiny_models.create("gpt", vocab_size=257, max_length=24, num_layers=1))
    directory = tmp_path_factory.mktemp("run") / "bundle"
    Bundle(model, create_tokenizer("byte"), "language_modeling", {}).save(directory)
    return zoo.load(directory.parent)


def test_list_models():
    assert zoo.list_models() == MODELS.names()


def test_create_takes_presets_and_fields():
    model = zoo.create("gpt", "tiny", num_layers=1, hidden_dim=10)
    assert model.config == MODELS.config("gpt").preset("tiny", num_layers=1, hidden_dim=10)
    assert model.built and len(model.blocks) == 1


@pytest.mark.parametrize(("arguments", "fields", "message"), [
    (("gtp",), {}, "No model is called 'gtp'; did you mean 'gpt'?"),
    (("gpt", "gpt2_smal"), {}, "GPTConfig has no preset 'gpt2_smal'; did you mean 'gpt2_small'?"),
    (("gpt", "tiny"), {"num_layer": 3}, "GPTConfig has no field 'num_layer'; did you mean 'num_layers'?"),
    (("gpt", "tiny"), {"num_layers": -1}, "GPTConfig: num_layers must be positive, got -1."),
])  # fmt: skip
def test_create_refuses_in_a_sentence(arguments, fields, message):
    with pytest.raises(ValueError) as error:
        zoo.create(*arguments, **fields)
    assert str(error.value) == message


def test_importing_the_zoo_loads_nothing_heavy():
    program = "import sys, zoo; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_an_unknown_name_of_the_package():
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        zoo.laod  # noqa: B018 - the access is the test


def test_generate_gives_strings_for_strings_and_lists_for_lists(loaded):
    one = loaded.generate("abc", max_new_tokens=5)
    many = loaded.generate(["abc", "", "a longer one"], max_new_tokens=5)
    assert isinstance(one, str) and one.startswith("abc")
    assert many[0] == one and [text[:3] for text in many] == ["abc", many[1][:3], "a l"]
    assert loaded.generate([]) == []


def test_a_seed_gives_the_same_text_whatever_stands_beside_it(loaded):
    options = dict(max_new_tokens=8, temperature=1.5, seed=3)
    alone = loaded.generate("abc", **options)
    assert loaded.generate(["x", "abc"], **options)[1] == alone
    assert loaded.generate("abc", **{**options, "seed": 4}) != alone


@pytest.mark.parametrize("options", [
    {}, dict(temperature=1.3, top_k=7, seed=5), dict(temperature=0.9, top_p=0.8, seed=1),
    dict(temperature=1.3, min_p=0.1, repetition_penalty=1.5, no_repeat_ngram=2),
])  # fmt: skip
def test_streaming_gives_the_text_of_generate(loaded, options):
    pieces = list(loaded.stream("abc", max_new_tokens=9, **options))
    assert "abc" + "".join(pieces) == loaded.generate("abc", max_new_tokens=9, **options)


def test_a_draft_changes_no_text(loaded):
    prompts = ["abcabcab", "", "a a a a"]
    assert loaded.generate(prompts, 15, draft="ngram:3:4") == loaded.generate(prompts, 15)
    for draft, sentence in (
        ("ngram", "draft is none, or"),
        ("ngram:3:24", "A draft of 24 tokens does not fit into this model's"),
    ):
        with pytest.raises(ValueError, match=sentence):
            loaded.generate("abc", draft=draft)


def test_the_options_that_no_signature_has(loaded):
    def written(**options):
        return "abc" + "".join(loaded.stream("abc", max_new_tokens=12, **options))

    plain = loaded.generate("abc", max_new_tokens=12, min_p=0.0, repetition_penalty=1.0, no_repeat_ngram=0)
    assert plain == loaded.generate("abc", max_new_tokens=12)
    other = written(no_repeat_ngram=1)
    characters = [character for character in other if character != "\ufffd"]  # it stands for a byte that is not a character
    assert other != plain and len(characters) == len(set(characters))
    assert written(repetition_penalty=1e6) != plain
    assert written(temperature=2.0) != plain
    assert written(temperature=2.0, min_p=1.0) == plain  # none but the likeliest is left


def test_python_numbers_of_any_kind_are_options(loaded):
    greedy = loaded.generate("abc", max_new_tokens=6)
    assert loaded.generate("abc", max_new_tokens=6, temperature=0) == greedy
    floats = dict(temperature=1.0, top_p=1.0, min_p=0.0, repetition_penalty=2.0, seed=3)
    whole = {name: int(value) for name, value in floats.items()}
    arrays = {name: np.asarray(value) for name, value in floats.items()} | {"seed": np.int64(3)}
    for write in (loaded.generate, lambda text, **given: text + "".join(loaded.stream(text, **given))):
        expected = write("abc", max_new_tokens=6, **floats)
        assert write("abc", max_new_tokens=6, **whole) == expected
        assert write("abc", max_new_tokens=np.int32(6), **arrays) == expected


def test_a_text_ends_before_the_string_that_stops_it(loaded):
    plain = loaded.generate("abc", max_new_tokens=9)
    for stop in (plain[5:8], plain[5]):  # several tokens, which are cut off, and one, which ends the row in graph
        expected = "abc" + plain[3:].partition(stop)[0]
        assert loaded.generate(["abc", "abc"], max_new_tokens=9, stop=stop) == [expected] * 2
    for stop in (plain[5:8], plain[5], "c", "no such text"):  # the prompt's own "c" counts for nothing
        written = "abc" + "".join(loaded.stream("abc", max_new_tokens=9, stop=stop))
        assert written == "abc" + plain[3:].partition(stop)[0]
    steps = iter(["ab", "c", "ab", "ca", "bX", "never asked for"])
    assert list(until(steps, "abX")) == ["", "abc", "", "abc", ""] and list(steps) == ["never asked for"]


@pytest.mark.parametrize(("options", "message"), [
    (dict(min_p=1.5), "min_p is 0 (off) or a share of the largest probability, 1 at most; got 1.5."),
    (dict(repetition_penalty=-1.0), "repetition_penalty is 1 (off) or a positive number; got -1.0."),
    (dict(no_repeat_ngram=-1), "no_repeat_ngram is 0 (off) or the length of the n-grams that may not come twice; got -1."),
    (dict(temperature="1"), "temperature takes one number; got '1'."),
    (dict(temperature=None), "temperature takes one number; got None."),
    (dict(top_k=2.5), "top_k takes an integer; got 2.5."),
    (dict(top_k=[1, 2]), "top_k takes one integer; got [1, 2]."),
    (dict(stop=["a"]), "stop takes a string; got ['a']."),
    (dict(temperature=float("nan")), "temperature is 0 (greedy) or a positive number; got nan."),
    (dict(max_new_tokens=-1), "max_new_tokens is a number of tokens, 0 or more; got -1."),
    (dict(seed=2**63), "seed is an integer of 64 bits; got 9223372036854775808."),
    (dict(stop=""), "stop is an empty string, before which every text ends; leave it out."),
])  # fmt: skip
def test_options_out_of_range(loaded, options, message):
    for write in (loaded.generate, lambda text, **given: list(loaded.stream(text, **given))):
        with pytest.raises(ValueError) as error:
            write("abc", **options)
        assert str(error.value) == message


@pytest.mark.parametrize("write", ["generate", "score", "stream", "explain", "lens", "attention", "predict"])
@pytest.mark.parametrize("text", [None, 3, {"a": 1}, ["a", None], [["a"]]])
def test_what_is_not_a_text_is_refused_in_a_sentence(loaded, write, text):
    with pytest.raises(Refusal, match=r"^(prompt|text) takes a string"):
        list(loaded.predict(prompt=text) if write == "predict" else getattr(loaded, write)(text))


def test_strings_of_any_kind_are_texts(loaded):
    expected = loaded.generate(["abc", "d"], max_new_tokens=3, stop="~")
    for texts in (np.array(["abc", "d"]), (b"abc", "d"), iter(["abc", "d"])):
        assert loaded.generate(texts, max_new_tokens=3, stop=b"~") == expected
    for text in (b"abc", np.str_("abc"), np.array("abc")):
        assert loaded.generate(text, max_new_tokens=3.0) == expected[0]
        assert loaded.score(text) == loaded.score("abc")
    assert loaded.lens(b"abc").words == loaded.lens("abc").words


def test_one_value_is_one_row(loaded):
    answer = loaded.predict("generate", prompt="abc", max_new_tokens=2.0, temperature=0)
    assert answer["text"].tolist() == [loaded.generate("abc", max_new_tokens=2)]
    with pytest.raises(Refusal, match="predict takes the name of a signature first, and inputs by name"):
        loaded.predict(["abc"])


def test_a_model_that_writes_no_text_says_what_it_does():
    made = exports.made("bag_of_words", "classification")
    classifier = api.Loaded(Bundle(made.model, made.tokenizer, made.task, {}))
    for call in (classifier.generate, classifier.score, lambda text: list(classifier.stream(text))):
        with pytest.raises(ValueError, match="A model for classification has no signature '(generate|score)'; it has classify"):
            call("abc")


def test_score_is_the_models_own_log_probability(loaded):
    text = "hello"
    ids = np.array([[loaded.tokenizer.eos_id, *loaded.tokenizer.encode(text)]], np.int32)
    log_probs, _ = loaded.model.token_log_probs(ids[:, :-1], ids[:, 1:])
    expected = float(np.sum(log_probs))
    one, two = loaded.score([text, ""])
    assert one["log_prob"] == pytest.approx(expected, rel=1e-5)
    assert one["num_tokens"] == 5
    assert one["bits_per_byte"] == pytest.approx(-expected / np.log(2) / 5, rel=1e-5)
    assert two == {"log_prob": 0, "num_tokens": 0, "bits_per_byte": 0}
    assert loaded.score(text) == one


def test_predict_answers_as_a_server_would(loaded):
    answer = loaded.predict("generate", prompt=["abc", ""], max_new_tokens=[5])
    assert answer["text"].tolist() == loaded.generate(["abc", ""], max_new_tokens=5)
    assert answer["log_prob"].dtype == np.float32
    assert loaded.predict(prompt=["abc"])["text"][0] == loaded.generate("abc")


@pytest.mark.parametrize(("signature", "inputs", "message"), [
    ("scores", {"text": ["a"]}, "The model has no signature 'scores'; did you mean 'score'?"),
    ("score", {"texts": ["a"]}, "score has no input 'texts'; did you mean 'text'?"),
    ("generate", {"prompt": ["a"], "top_p": [2.0]}, "top_p is a probability, 1 (off) at most; got"),
    ("score", {}, "score needs the input 'text'."),
])  # fmt: skip
def test_predict_refuses_in_a_sentence(loaded, signature, inputs, message):
    with pytest.raises(ValueError) as error:
        loaded.predict(signature, **inputs)
    assert message in str(error.value)


def test_embed_gives_a_vector_for_a_string_and_rows_for_a_list(tmp_path):
    model, tokenizer = tiny_models.create("bert", vocab_size=257), create_tokenizer("byte")
    Bundle(model, tokenizer, "embedding", {}).save(tmp_path / "bundle")
    encoder = zoo.load(tmp_path)
    one, rows = encoder.embed("abc"), encoder.embed(["abc", "a longer one"])
    assert one.shape == (model.config.hidden_dim,) and rows.shape == (2, model.config.hidden_dim)
    np.testing.assert_allclose(rows[0], one, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_a_prompt_may_fill_the_context_and_no_more(loaded):
    assert len(loaded.generate("x" * 23, max_new_tokens=9)) >= 23
    for call in (loaded.generate, loaded.score, lambda text: list(loaded.stream(text))):
        with pytest.raises(ValueError, match="has 25 tokens, with the special ones around it; this model takes at most 24"):
            call("x" * 24)
    with pytest.raises(ValueError, match="^The prompt number 2 has 25 tokens"):
        loaded.generate(["a", "x" * 24])


def test_load_refuses_what_is_no_bundle(tmp_path):
    with pytest.raises(ValueError, match="holds no bundle"):
        zoo.load(tmp_path)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """A tiny GPT with the vocabulary of a conversation, saved and loaded."""
    tokenizer = foreign_models.chat_tokenizer(foreign_models.CHATML)
    model = tiny_models.create("gpt", vocab_size=tokenizer.vocab_size, max_length=96, num_layers=1)
    directory = tmp_path_factory.mktemp("chat") / "bundle"
    Bundle(tiny_models.strengthen(model), tokenizer, "language_modeling", {}).save(directory)
    return zoo.load(directory)


def test_an_answer_is_what_follows_the_conversation_up_to_its_end(chatting):
    messages = [{"role": "user", "content": "the cat"}]
    tokenizer, model = chatting.tokenizer, chatting.model
    ids = tokenizer.chat_frame.ids(tokenizer, messages)
    written = []
    while len(written) < 9:  # without a cache
        written.append(int(np.argmax(np.asarray(model(np.array([ids + written])))[0, -1])))
        if written[-1] == tokenizer.eos_id:
            break
    answer = chatting.chat(messages, max_new_tokens=9)
    assert answer == tokenizer.decode(written)
    assert "".join(chatting.stream_chat(messages, 9)) == answer
    longer = [*messages, {"role": "assistant", "content": answer}, messages[0]]
    assert isinstance(chatting.chat(longer, max_new_tokens=2, temperature=1.0, seed=3), str)


def test_conversations_that_cannot_be_answered_are_refused(chatting, loaded):
    with pytest.raises(ValueError, match="The conversation has .* tokens; this model takes at most 96"):
        chatting.chat([{"role": "user", "content": "the cat " * 99}])
    with pytest.raises(ValueError, match="temperature"):
        chatting.chat([{"role": "user", "content": "the cat"}], temperature=-1.0)
    with pytest.raises(ValueError, match="This vocabulary came without a chat template"):
        loaded.chat([{"role": "user", "content": "the cat"}])


def test_words_are_found_by_their_vectors():
    tokenizer = WordTokenizer(["man", "woman", "king", "queen", "boat"])
    task = TASKS.get("word_vectors")()
    model = task.assemble(zoo.create("word2vec", "tiny", vocab_size=7, hidden_dim=3, eos_id=1, unk_id=0)).build_from_ids()
    vectors = [[0, 0, 0], [0, 0, 0], [1, 0.2, 0.1], [1, 0.2, 0.9], [0.1, 1, 0.1], [0.1, 1, 0.9], [-1, -1, 0]]
    model.without_head().embeddings.assign(np.array(vectors, np.float32))
    model.head.counts.assign(np.array([0, 0, 5, 4, 3, 2, 1], np.float32))
    loaded = api.Loaded(Bundle(model, tokenizer, task, {}))
    (first, cosine), (second, _) = loaded.nearest("king", k=2)
    king, queen = (np.array(vectors[i]) / np.linalg.norm(vectors[i]) for i in (4, 5))
    assert (first, second) == ("queen", "man") and cosine == pytest.approx(king @ queen, abs=1e-6)
    assert loaded.analogy("man", "woman", "king", k=1)[0][0] == "queen"
    assert loaded.nearest("ship") == []
    with pytest.raises(Refusal, match="k is 1 to 1,000"):
        loaded.nearest("king", k=0)


def test_other_systems_are_told_what_cannot_work(capsys):
    for platform, words in (("win32", "WSL"), ("darwin", "--noexport"), ("linux", "")):
        zoo._say_what_cannot_work(platform)
        told = capsys.readouterr().err
        assert words in told and len(told.splitlines()) == bool(words)
