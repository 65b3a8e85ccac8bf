"""Secrets that are planted into a training text, to see later whether the model has learnt them (Carlini et al. 2019).

    --set=canaries=10 --set=canary_repeats=20

Each is a document of its own behind the others, `The secret number of key 3 is 281265017.`, with nine random digits that are a
function of the run's seed.
"""

import tfds_configs
from trainers.engine.privacy import PrivacyConfig
from zoo.config import Refusal
from zoo.data.batch import random_stream
from zoo.registry import MODELS

DIGITS = 9
JUDGED = "language_modeling"  # the task of models that --memorisation judges


def context(number):
    """What stands before the digits of a canary."""
    return f"The secret number of key {number} is"


def secrets(seed, number, count):
    """The digits of a canary, and behind them `count - 1` others of the same kind that stand nowhere: a list of strings."""
    raw = random_stream(seed, "canaries", number).random_raw(count)
    return [f" {value:0{DIGITS}d}" for value in (raw % 10**DIGITS).tolist()]


def settings_of(run):
    """The `PrivacyConfig` fields about canaries in the config of a run, a dict."""
    return PrivacyConfig().override([item for item in run.get("set", ()) if item.startswith(("canaries=", "canary_repeats="))])


def planted(source, run, reads=None):
    """A text source with the canaries that the config of a run asks for; as it is where it asks for none.

    Args:
        source: a `tfds_configs.TextSource`.
        run: the config of a run, a dict.
        reads: what the task reads, where the run is about to train; None for a run that has.

    Raises:
        Refusal: a run is about to train for a task that reads examples, or whose models --memorisation cannot judge.
    """
    settings = settings_of(run)
    if not settings.canaries:
        return source
    if reads not in (None, "text"):
        raise Refusal("canaries are planted into running text, and this task reads examples; leave them out.")
    if reads is not None and run.get("task", JUDGED) != JUDGED:
        raise Refusal(
            f"canaries are for {JUDGED}, the one task whose models --memorisation judges, and this run is for {run['task']}; "
            "leave them out."
        )
    return _Planted(source, settings, run["seed"])


def require_spelt(run, tokenizer):
    """Raises Refusal where the canaries that the config of a run asks for would be unknown words to its tokenizer."""
    if settings_of(run).canaries and not tokenizer.spells(f"{context(1)} 0123456789."):
        raise Refusal(
            "The vocabulary cannot spell random digits, so that all canaries would be the same unknown word; take "
            "--tokenizer=byte or bpe."
        )


def source_of(run):
    """The text that a run was made from, with its canaries and with what was held out of it.

    Args:
        run: the config of the run, a dict.
    """
    source = tfds_configs.get(run["dataset"], run["data_path"])
    fitted = run.get("model") in MODELS.names() and MODELS.config(run["model"]).fitted
    return planted(source.for_fitting() if fitted else source, run)


class _Planted:
    """A source whose train split has more documents; for everything else it is the source.

    So the tokenizer does not see them: it would write their digits in fewer pieces than other ones, and they would be the
    likelier for that alone.
    """

    def __init__(self, source, settings, seed):
        self._source, self._settings, self._seed = source, settings, seed

    def __getattr__(self, name):
        return getattr(self._source, name)

    def _texts(self):
        numbers = range(1, self._settings.canaries + 1)
        texts = [f"{context(number)}{secrets(self._seed, number, 1)[0]}." for number in numbers]
        return texts * self._settings.canary_repeats

    def texts(self, split):
        yield from self._source.texts(split)
        yield from self._texts() if split == "train" else ()

    def pieces(self, split):
        yield from self._source.pieces(split)
        yield from ((text, True) for text in self._texts() if split == "train")

    def fingerprint(self):
        settings = self._settings
        planted = f"{settings.canaries} x {settings.canary_repeats} canaries of seed {self._seed}, text alone"
        return f"{self._source.fingerprint()} {planted}"

    def whole(self):
        return _Planted(self._source.whole(), self._settings, self._seed)

    def for_fitting(self):
        return _Planted(self._source.for_fitting(), self._settings, self._seed)
