"""WEAT by hand, by brute force, and by the program."""

import itertools
import json

import numpy as np
import pytest

from tests import exports, programs
from trainers import association
from zoo.bundle import Bundle
from zoo.config import Refusal


def test_sets_as_far_apart_as_can_be():
    effect, p_value = association.weat([[2, 0], [1, 0]], [[0, 1], [0, 3]], [[1, 0]], [[0, 1]])
    # s is 1, 1, -1, -1: a difference of 2 over a deviation of 2 / sqrt(3); one of six ways to part them is as far.
    assert effect == pytest.approx(np.sqrt(3)) and p_value == pytest.approx(1 / 6)
    assert association.weat([[1, 1]] * 2, [[1, 1]] * 2, [[1, 0]], [[0, 1]]) == (0.0, 1.0)


def test_against_brute_force():
    random = np.random.default_rng(0)
    x, y, a, b = (random.normal(size=(n, 3)) for n in (4, 4, 3, 5))

    def cosine(u, v):
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    s = [np.mean([cosine(w, v) for v in a]) - np.mean([cosine(w, v) for v in b]) for w in [*x, *y]]
    effect, p_value = association.weat(x, y, a, b)
    assert effect == pytest.approx((np.mean(s[:4]) - np.mean(s[4:])) / np.std(s, ddof=1))
    ways = [set(way) for way in itertools.combinations(range(8), 4)]
    differences = [np.mean([s[i] for i in way]) - np.mean([s[i] for i in range(8) if i not in way]) for way in ways]
    assert p_value == pytest.approx(np.mean(np.array(differences) >= differences[0] - 1e-12))


def test_the_program_and_what_it_refuses(tmp_path, capfd):
    made = exports.made("bert", "masked_lm")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    test = {"name": "toy", "X": ["cat", "dog"], "Y": ["mat", "the"], "A": ["sat", "ran"], "B": ["not", "naive"]}
    path = tmp_path / "tests.jsonl"
    path.write_text(json.dumps(test) + "\n", encoding="utf8")
    flags = [f"--model_dir={tmp_path / 'bundle'}", f"--weat={path}"]
    answer = programs.call(capfd, "evaluate", *flags)
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["name"] == "toy" and found["words"] == [2, 2, 2, 2] and abs(found["effect"]) <= 1.74
    assert answer.err.endswith(association.REMARK + "\n")
    for text, sentence in (("", "holds no tests"), ("{}\n", "two words or more")):
        path.write_text(text, encoding="utf8")
        answer = programs.call(capfd, "evaluate", *flags)
        assert answer.status == 2 and sentence in answer.err
    with pytest.raises(Refusal, match="fewer than two of the words Y"):
        association.judge(None, [test], lambda word: word != "mat")
