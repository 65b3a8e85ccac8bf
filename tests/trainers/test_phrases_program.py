"""trainers.phrases: a text whose phrases are single words."""

import gzip

from tests import programs
from tests.programs import refusal
from trainers import phrases

TEXT = "I saw New York .\n\nNew York is big .\nBoston is new .\nA York pear .\nNew York City is New York .\n"


def test_pairs_that_stand_together_become_one_word(tmp_path, capfd):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf8")
    arguments = (f"--from={tmp_path / 'text.txt'}", f"--to={tmp_path / 'joined.txt'}", "--min_count=1", "--threshold=3")
    answer = programs.call(capfd, "phrases", *arguments)
    assert answer.status == 0, answer.err
    # (4 - 1) 25 / (4 5) = 3.75; every other pair is there once, which scores 0
    assert answer.out == f"{tmp_path / 'joined.txt'}: 1 phrases, such as New_York (4)\n"
    assert (tmp_path / "joined.txt").read_text(encoding="utf8") == TEXT.replace("New York", "New_York").replace("\n\n", "\n")


def test_a_gzipped_text_in_a_new_directory(tmp_path):
    with gzip.open(tmp_path / "text.txt.gz", "wt", encoding="utf8") as file:
        file.write(TEXT)
    phrases.join_file(tmp_path / "text.txt.gz", tmp_path / "new" / "joined.txt.gz", min_count=1, threshold=3)
    with gzip.open(tmp_path / "new" / "joined.txt.gz", "rt", encoding="utf8") as file:
        assert file.read() == TEXT.replace("New York", "New_York").replace("\n\n", "\n")


def test_what_is_joined_does_not_depend_on_how_much_is_read_at_a_time(tmp_path, monkeypatch):
    text = "in New York City\nNew York City is big\nNew York is old\n" * 3
    (tmp_path / "text.txt").write_text(text, encoding="utf8")
    # First (9 - 2) 39 / 81 = 3.37 and (6 - 2) 39 / 54 = 2.89, then (6 - 2) 30 / 54 = 2.22; all others score 2.17 at most.
    asked = dict(passes=2, min_count=2, threshold=2.2, lowercase=True)
    found = phrases.join_file(tmp_path / "text.txt", tmp_path / "whole.txt", **asked)
    assert [phrase for phrase, _ in found] == ["new_york", "york_city", "new_york_city"]
    monkeypatch.setattr(phrases, "CHUNK_CHARACTERS", 7)
    assert phrases.join_file(tmp_path / "text.txt", tmp_path / "parts.txt", **asked) == found
    assert (tmp_path / "whole.txt").read_bytes() == (tmp_path / "parts.txt").read_bytes()
    joined = text.lower().replace("new york city", "new_york_city").replace("new york", "new_york")
    assert (tmp_path / "whole.txt").read_text(encoding="utf8") == joined


def test_what_cannot_be_joined_is_refused(tmp_path, capfd):
    (tmp_path / "text.txt").write_text("\n", encoding="utf8")
    path = tmp_path / "text.txt"
    assert refusal(capfd, "phrases", f"--from={path}").startswith("--from and --to are needed")
    assert "is the text itself" in refusal(capfd, "phrases", f"--from={path}", f"--to={path}")
    assert refusal(capfd, "phrases", f"--from={path}", f"--to={path}.out").startswith("There is no text to take words from")
