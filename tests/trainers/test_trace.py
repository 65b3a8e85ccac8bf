"""trainers.trace: the passages of a text that stand in the training text of a run."""

import json

import pytest

from tests import programs, tiny_models
from tests.programs import refusal
from zoo.bundle import Bundle
from zoo.tokenizers.base import create as create_tokenizer

DOCUMENTS = ["A cat sat on a mat.", "A dog ran after a cat.", "The cat sat on a chair."]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a byte GPT on three documents, of which the train split has all."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "text.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in DOCUMENTS), encoding="utf8")
    tokenizer = create_tokenizer("byte")
    model = tiny_models.create("gpt", vocab_size=tokenizer.vocab_size)
    Bundle(model, tokenizer, "language_modeling", {}).save(directory / "bundle")
    path = str(directory / "text.jsonl")
    config = {"dataset": "local_text", "data_path": f"train={path},validation={path}", "tokenizer": "byte", "vocab_size": None}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf8")
    return directory


def test_the_longest_passages_are_found_with_their_documents(run, capfd):
    text = "xx cat sat on a dog"
    answer = programs.call(capfd, "trace", f"--model_dir={run}", f"--text={text}", "--format=json", "--order=3")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    best, second = found["passages"][:2]
    assert (best["text"], best["count"], best["length"]) == (" cat sat on a ", 2, 14)
    assert [(place["document"], place["token"]) for place in best["documents"]] == [(0, 1), (2, 3)]
    assert DOCUMENTS[2] == best["documents"][1]["before"] + best["text"] + best["documents"][1]["behind"]
    assert (second["text"], second["count"], second["num_documents"]) == (" dog", 1, 1)
    assert [(row["text"], row["start"]) for row in found["passages"]] == [(" cat sat on a ", 2), (" dog", 15)]
    (twice,) = json.loads(
        programs.call(capfd, "trace", f"--model_dir={run}", "--text=a ", "--format=json", "--documents=9").out
    )["passages"]
    assert (twice["count"], twice["num_documents"]) == (3, 3)
    assert [(place["document"], place["token"]) for place in twice["documents"]] == [(0, 13), (1, 16), (2, 15)]
    joined = "\n".join(DOCUMENTS)  # no passage of this text has a line's end
    for row in found["counts"]:
        grams = [text[i : i + row["n"]] for i in range(len(text) - row["n"] + 1)]
        assert (row["ngrams"], row["found"]) == (len(grams), sum(gram in joined for gram in grams))
    assert found["counts"][-1]["n"] == 14
    assert {row["text"]: row["count"] for row in found["ngrams"]} == {
        text[i : i + 3]: sum(joined.startswith(text[i : i + 3], j) for j in range(len(joined))) for i in range(len(text) - 2)
    }
    shown = programs.call(capfd, "trace", f"--model_dir={run}", f"--text={text}")
    assert "14 tokens, 2 times in 2 documents: ' cat sat on a '" in shown.out and "Sorting" not in shown.err


def test_what_cannot_be_traced_is_refused(run, tmp_path, capfd):
    assert refusal(capfd, "trace", f"--model_dir={run}").startswith("--text is missing")
    assert refusal(capfd, "trace", f"--model_dir={run}", "--text=").startswith("The text is empty")
    (tmp_path / "bundle").symlink_to(run / "bundle")
    assert "stands alone" in refusal(capfd, "trace", f"--model_dir={tmp_path / 'bundle'}", "--text=a")


def test_what_is_written_is_looked_for_in_the_training_text(run, tmp_path, capfd):
    (tmp_path / "prompts.txt").write_text("xx cat sat on\n", encoding="utf8")
    flags = [f"--model_dir={run}", f"--prompt_file={tmp_path / 'prompts.txt'}", "--max_new_tokens=2", "--trace"]
    answer = programs.call(capfd, "generate", *flags)
    assert answer.status == 0, answer.err
    best = json.loads(answer.out)["copied"][0]
    assert best["text"].startswith(" cat sat on") and best["count"] == best["num_documents"] == 2
    answer = programs.call(capfd, "generate", flags[0], "--prompt=a", "--trace")
    assert answer.status == 2 and "takes --model_dir and --prompt_file" in answer.err
