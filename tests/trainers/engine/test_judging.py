"""How much of a split an evaluation reads."""

from types import SimpleNamespace

import pytest

from trainers.engine import judging
from trainers.engine.judging import Reading

TEXT, EXAMPLES = SimpleNamespace(reads="text", shown=("loss", "bleu")), SimpleNamespace(reads="examples")

RUN = dict(model="gpt", seed=0, separate_documents=False)


def config(**fields):
    return SimpleNamespace(
        **{**dict(steps=6_000, eval_every=1_000, batch_size=16, seq_length=128, eval_tokens=None), **RUN, **fields}
    )


def data(validation, test=10):
    return dict(train=range(10**8), validation=range(validation), test=range(test))


def test_while_training_an_evaluation_takes_a_twentieth_of_the_time_and_50_000_tokens_are_enough():
    assert judging.while_training(config(), TEXT, data(10**6)) == (50_000, 10**6)
    # 100 steps of 2,048 tokens lie between two evaluations; a token is judged in a third of the time it is trained in
    assert judging.while_training(config(eval_every=100), TEXT, data(10**6)).tokens == int(0.05 * 3 * 204_800)
    assert judging.while_training(config(eval_every=1), TEXT, data(10**6)).tokens == 2_048  # a batch at least
    assert judging.while_training(config(), TEXT, data(30_000)).whole


def test_at_the_end_a_split_is_read_whole_where_that_takes_a_tenth_of_the_training():
    fair = int(0.1 * 3 * 6_000 * 2_048)
    assert judging.at_end(config(), TEXT, data(fair), "validation").whole
    assert judging.at_end(config(), TEXT, data(fair + 1), "validation") == (fair, fair + 1)
    assert judging.at_end(config(steps=5), TEXT, data(10**7), "validation").tokens == 50_000
    assert judging.at_end(config(steps=5), TEXT, data(10**7), "validation", fitted=True).whole


def test_an_example_counts_as_a_row():
    reading = judging.at_end(config(steps=5, seq_length=100), EXAMPLES, data(0, 1_000), "test")
    assert reading == (50_000, 100_000) and not reading.whole


def test_eval_tokens_says_how_much():
    asked = config(eval_tokens=700)
    readings = [judging.while_training(asked, TEXT, data(10**6)), judging.at_end(asked, TEXT, data(10**6), "validation", True)]
    assert readings == [(700, 10**6)] * 2
    assert judging.at_end(asked, TEXT, data(0, 600), "test").whole


def test_the_line_says_how_much_of_how_much():
    assert Reading(700, 10**6).sentence() == "  (700 of 1,000,000 tokens, drawn once)" and Reading(600, 600).sentence() == ""


@pytest.mark.parametrize("tokens", [700, 10**6])
def test_scores_of_a_part_say_so(tokens):
    trainer = SimpleNamespace(tokens_evaluated=5, evaluate=lambda part, layout, with_intervals: {"loss": 2.0, "part": part})
    task = SimpleNamespace(part=lambda data, tokens, layout: data[:tokens])
    reading = Reading(tokens, 10**6)
    part = reading.of(task, range(10**6), judging.layout_of(config()))
    scores = judging.split_scores(config(), trainer, part, reading)
    assert scores.pop("tokens_per_second") > 0
    said = dict(tokens_read=700, tokens_available=10**6) if tokens == 700 else {}
    assert scores == {"loss": 2.0, "part": range(tokens), **said}
