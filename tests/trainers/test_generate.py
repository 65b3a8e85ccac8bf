"""trainers.generate: from a bundle and from a SavedModel, by sampling and by searching."""

import functools
import io
import json
from pathlib import Path

import pytest

import zoo
from tests import exports, foreign_models, programs, tiny_models
from tests.programs import refusal
from trainers import served
from zoo import api
from zoo.bundle import Bundle


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The flags that name the same GPT, as a bundle and as a SavedModel."""
    made = exports.made("gpt", "language_modeling")
    directory = tmp_path_factory.mktemp("run") / "bundle"
    Bundle(made.model, made.tokenizer, made.task, {}).save(directory)
    return f"--model_dir={directory}", f"--export_dir={exports.directory('gpt', 'language_modeling')}"


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """The same bundle and SavedModel for all calls: their graphs are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "load", functools.cache(lambda path: api.load(path)))
        patch.setattr(served, "Served", functools.cache(served.Served))
        yield


def piped(text):
    """A standard input with a text in UTF-8."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf8")


def printed(capfd, *arguments):
    answer = programs.call(capfd, "generate", *arguments)
    assert answer.status == 0, answer.err
    return answer.out


def test_both_write_the_same(places, tmp_path, capfd, monkeypatch):
    (tmp_path / "prompts.txt").write_text("The cat\n\n", encoding="utf8")
    for options in (
        ["--prompt=The cat", "--max_new_tokens=8"],
        ["--prompt=The cat", "--max_new_tokens=8", "--stop= "],
        ["--prompt=The cat", "--max_new_tokens=6", "--num_beams=3"],
        [f"--prompt_file={tmp_path / 'prompts.txt'}", "--max_new_tokens=8", "--stop=at"],
        [f"--prompt_file={tmp_path / 'prompts.txt'}", "--max_new_tokens=6", "--num_beams=3", "--num_best=2"],
    ):
        first, second = (printed(capfd, place, *options) for place in places)
        assert first == second and first.strip()
    lines = [json.loads(line) for line in first.splitlines()]
    assert [line["prompt"] for line in lines] == ["The cat", "The cat", "", ""]
    loaded = zoo.load(Path(places[0].partition("=")[2]))
    best = loaded.predict("beam_search", prompt=["The cat", ""], max_new_tokens=[6], num_beams=[3])
    assert [line["text"] for line in lines] == best["text"][:, :2].reshape(-1).tolist()
    assert [line["score"] for line in lines] == pytest.approx(best["score"][:, :2].reshape(-1).tolist())

    (tmp_path / "none.txt").write_text("", encoding="utf8")
    for place in places:
        for options in ([], ["--num_beams=3"]):
            assert printed(capfd, place, f"--prompt_file={tmp_path / 'none.txt'}", *options) == ""

    monkeypatch.setattr("sys.stdin", piped("\ufeffThe cat\r\n\n"))  # and at a terminal, prompt by prompt
    told = printed(capfd, places[1], "--max_new_tokens=6", "--num_beams=3", "--num_best=2")
    assert told == "".join(f"{line['score']:.4f}  {line['text']!r}\n" for line in lines)


def test_at_a_terminal_a_prompt_that_is_refused_is_not_the_end(places, capfd, monkeypatch):
    lines = f"{'x' * 99}\nThe cat\n"
    for terminal in (True, False):
        monkeypatch.setattr("sys.stdin", piped(lines))
        monkeypatch.setattr("sys.stdin.isatty", lambda: terminal)  # noqa: B023
        hint = "Type a text and Enter. Ctrl-C stops a text that is being written; Ctrl-D ends."
        answer = programs.call(capfd, "generate", places[1], "--max_new_tokens=3", "--temperature=0")
        told = "error: The longest prompt has 100 tokens, with the special ones around it; this model takes at most 64."
        if terminal:
            assert answer.status == 0 and answer.out.startswith(f"{hint}\nprompt> {told}\nprompt> The cat")
        else:
            assert (answer.status, answer.out, answer.err) == (2, "", told + "\n")


def test_penalties_are_for_bundles(places, capfd):
    options = ("--prompt=The cat", "--max_new_tokens=8", "--temperature=0", "--no_repeat_ngram=1", "--min_p=0.1")
    loaded = zoo.load(Path(places[0].partition("=")[2]))
    expected = loaded.generate("The cat", max_new_tokens=8, no_repeat_ngram=1, min_p=0.1)
    assert printed(capfd, places[0], *options) == expected + "\n"
    assert expected != loaded.generate("The cat", max_new_tokens=8)
    sentence = "--min_p is not an input of a SavedModel's signatures; use it with --model_dir."
    assert refusal(capfd, "generate", places[1], *options) == sentence


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--num_beams=3", "--temperature=1"], "--temperature is for sampling, and --num_beams searches; leave one of them out."),
    (["--num_beams=3", "--num_best=4"], "--num_best=4 is more than --num_beams=3."),
    (["--num_best=2"], "--num_best is for a search, which --num_beams asks for."),
    (["--stop="], "--stop is empty; give the string before which a text is to end."),
    (["--num_beams=65"], "num_beams is 1 to 64; got [65]."),
    (["--temperature=nan"], "temperature is 0 (greedy) or a positive number; got "),
])  # fmt: skip
def test_flags_that_make_no_sense(places, flags, sentence, capfd):
    for place in places:
        assert sentence in refusal(capfd, "generate", place, "--prompt=x", *flags)


def test_a_conversation_goes_on_from_what_was_answered(tmp_path, capfd, monkeypatch):
    tokenizer = foreign_models.chat_tokenizer(foreign_models.CHATML)
    model = tiny_models.strengthen(tiny_models.create("gpt", vocab_size=tokenizer.vocab_size, max_length=96, num_layers=1))
    Bundle(model, tokenizer, "language_modeling", {}).save(tmp_path / "bundle")
    place, options = f"--model_dir={tmp_path / 'bundle'}", ("--chat", "--max_new_tokens=4", "--temperature=0")
    loaded = zoo.load(tmp_path / "bundle")
    said = [{"role": "user", "content": "the cat"}]
    first = loaded.chat(said, max_new_tokens=4)
    assert printed(capfd, place, "--prompt=the cat", *options) == first + "\n"
    second = loaded.chat([*said, {"role": "assistant", "content": first}, {"role": "user", "content": "a"}], max_new_tokens=4)
    monkeypatch.setattr("sys.stdin", piped("the cat\na\n"))
    assert printed(capfd, place, *options) == f"{first}\n{second}\n"
    (tmp_path / "prompts.txt").write_text("the cat\n", encoding="utf8")
    line = json.loads(printed(capfd, place, f"--prompt_file={tmp_path / 'prompts.txt'}", *options))
    assert line == {"prompt": "the cat", "text": first}


@pytest.mark.parametrize(("place", "flag", "sentence"), [
    (0, "--top_k=3", "This vocabulary came without a chat template, so there are no conversations; give a plain prompt."),
    (0, "--num_beams=3", "--num_beams is for texts that go on; leave it out with --chat."),
    (1, "--top_k=3", "--chat asks the model of a bundle, and no SavedModel; use it with --model_dir."),
])  # fmt: skip
def test_conversations_that_make_no_sense(places, place, flag, sentence, capfd):
    assert refusal(capfd, "generate", places[place], "--prompt=x", "--chat", flag) == sentence


def test_an_export_that_writes_no_text_and_a_directory_without_one(tmp_path, capfd):
    directory = exports.directory("bag_of_words", "classification")
    sentence = refusal(capfd, "generate", f"--export_dir={directory}", "--prompt=x")
    assert sentence == f"{directory / '1'} does not write text; it has classify, serving_default."
    assert refusal(capfd, "generate", f"--export_dir={tmp_path}", "--prompt=x") == (
        f"{tmp_path} holds no SavedModel; write one with python -m trainers.export."
    )


def test_a_model_that_writes_another_text_prints_that_alone_and_does_not_sample_unasked(tmp_path, capfd):
    made = exports.made("seq2seq", "translation")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    loaded = zoo.load(tmp_path / "bundle")
    (tmp_path / "lines.txt").write_text("the cat sat\na\n", encoding="utf8")
    besides = dict(target_prefix="le", min_new_tokens=3, no_repeat_ngram=1)
    searched = dict(num_beams=3, coverage_penalty=2.0, length_penalty=1.0, **besides)
    for place in (f"--model_dir={tmp_path / 'bundle'}", f"--export_dir={exports.directory('seq2seq', 'translation')}"):
        for signature, options in (("generate", {}), ("generate", besides), ("beam_search", searched)):
            asked = [f"--{name}={value}" for name, value in {**options, "max_new_tokens": 6}.items()]
            given = {name: [value] for name, value in {**options, "max_new_tokens": 6}.items()}
            texts = loaded.predict(signature, text=["the cat sat", "a"], **given)["text"]
            texts = [text if signature == "generate" else text[0] for text in texts]
            assert printed(capfd, place, "--prompt=the cat sat", *asked) == texts[0] + "\n"
            lines = printed(capfd, place, f"--prompt_file={tmp_path / 'lines.txt'}", *asked).splitlines()
            assert [(line["prompt"], line["text"]) for line in map(json.loads, lines)] == [
                ("the cat sat", texts[0]),
                ("a", texts[1]),
            ]
        asked = ("--prompt=the cat sat", "--max_new_tokens=6")
        assert "--coverage_penalty is for a search" in refusal(capfd, "generate", place, *asked, "--coverage_penalty=1")
        sampled = loaded.generate("the cat sat", 6, temperature=5.0, seed=3)
        assert printed(capfd, place, *asked, "--temperature=5", "--top_k=0", "--seed=3") == sampled + "\n"
    assert sampled != texts[0]


def test_what_another_text_begins_with_is_not_for_a_text_that_goes_on(places, capfd):
    sentence = "--target_prefix is for models that write another text, such as a translation; leave it out."
    for place in places:
        assert refusal(capfd, "generate", place, "--prompt=x", "--target_prefix=y") == sentence
    said = "--no_repeat_ngram is for sampling, and --num_beams searches; leave one of them out."
    assert refusal(capfd, "generate", places[0], "--prompt=x", "--num_beams=2", "--no_repeat_ngram=2") == said
    loaded = zoo.load(Path(places[0].partition("=")[2]))
    with pytest.raises(ValueError, match="min_new_tokens is for models that write another text"):
        loaded.generate("x", min_new_tokens=2)
