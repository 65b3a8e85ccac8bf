"""Counterfactual swaps: what a classifier or a tagger answers when words of a text change places with others, he with she.

A table says which words: `one TAB other TAB trait`, a row each; the trait may be missing. Every text of a split that has such
words is read twice, as it is and with each of them exchanged for its partner, and the two answers are compared. A model that
does not look at the trait gives both the same answer (Garg et al. 2019, counterfactual token fairness).
"""

import re

import numpy as np

from zoo import metrics, text_files
from zoo.config import Refusal
from zoo.data.examples import overlong
from zoo.data.words import characters_of

REMARK = (
    "A swap tells whether these words move an answer, and not whether it should be moved: a text may be wrong or senseless "
    "with the other word. Texts without such words are not looked at."
)


def read(path):
    """The tables of a file: trait -> list of (one, other); the trait of rows without one is `all`.

    Raises:
        Refusal: a row that is not so, a word that has two partners in one column and trait, or a file without any row.
    """
    found = {}
    for number, line in text_files.lines(path):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) not in (2, 3) or not all(cells[:2]) or cells[0].lower() == cells[1].lower():
            raise Refusal(f"Line {number} of {path} must be one TAB other TAB trait, with two unlike words, got {line!r:.80}.")
        table = found.setdefault(cells[2] if len(cells) == 3 and cells[2] else "all", [])
        table.append((cells[0], cells[1]))
    if not found:
        raise Refusal(f"{path} holds no swaps; each line is one TAB other TAB trait.")
    return found


class Swap:
    """Exchanges the words of a table, in both directions; a word that stands in several rows goes by the first of them.

        >>> Swap([("he", "she")])("He said that she is.")
        ('She said that he is.', True, True)

    Words are found whole and in any case; small, Capital and CAPITAL letters stay such. In writing that puts no blanks between
    words, such as Chinese, a word is found wherever its characters stand.

    Args:
        table: list of (one, other).
    """

    def __init__(self, table):
        self._partner, self._first = {}, {one.lower() for one, _ in table}
        for one, other in table:
            self._partner.setdefault(one.lower(), other)
        for one, other in table:
            self._partner.setdefault(other.lower(), one)
        words = sorted(self._partner, key=lambda word: (-len(word), word))
        self._found = re.compile("|".join(map(_whole, words)), re.IGNORECASE)

    def __call__(self, text):
        """(the text with its words exchanged, whether one of the first column was there, whether one of the second)."""
        words = [match[0].lower() for match in self._found.finditer(text)]
        first = any(word in self._first for word in words)
        return self._found.sub(self._exchanged, text), first, any(word not in self._first for word in words)

    def _exchanged(self, match):
        word, partner = match[0], self._partner[match[0].lower()]
        if word.isupper() and len(word) > 1:
            return partner.upper()
        return partner[0].upper() + partner[1:] if word[0].isupper() else partner


def _whole(word):
    """The pattern of a word that does not stand inside of another one."""
    before, behind = (
        "" if metrics.UNSPACED_CHARACTER.match(word[i]) else edge for i, edge in ((0, r"(?<!\w)"), (-1, r"(?!\w)"))
    )
    return before + re.escape(word) + behind


def pairs_of(texts, table):
    """The texts that a table changes: list of (as it is, exchanged, direction), 1 where words of its first column alone were
    there, -1 of its second alone, 0 of both."""
    swap, found = Swap(table), []
    for text in texts:
        other, first, second = swap(text)
        if other != text:
            found.append((text, other, int(first) - int(second)))
    return found


def fits_whole(task, model, tokenizer):
    """A function from a text to whether the task's signature takes it: it refuses what is too long for a row.

    Args:
        task, model, tokenizer: those of a bundle for tagging, or for classification of one text.
    """
    limit = task.facts.max_tokens or model.max_length
    if task.registered_name == "classification":
        frame, limit, leads = task.reading(model, tokenizer, limit)
        if limit is None or task.config.overlong == "cut":
            return lambda text: True
        return lambda text: not overlong([tokenizer.encode(leads[0] + text)], frame, limit)
    special, cut = task.frame(model.kind, tokenizer).num_special(), cutter(task)

    def fits(text):
        pieces = tokenizer.encode_batch([word if i == 0 else f" {word}" for i, word in enumerate(cut(text))])
        return limit is None or special + sum(max(len(ids), 1) for ids in pieces) <= limit

    return fits


def cutter(task):
    """A function from a text to what has tags in it: its words, or its characters."""
    return characters_of if task.texts_are == "characters" else str.split


def _kept(texts, table, fits):
    """The pairs of a table that fit, both texts of each, and what is told of them."""
    pairs = pairs_of(texts, table)
    kept = [pair for pair in pairs if fits(pair[0]) and fits(pair[1])]
    return kept, {"num_texts": len(kept), "num_left_out": len(pairs) - len(kept)}


def judge_classes(probs_of, texts, tables, labels, fits=lambda text: True):
    """The scores of a classifier under each table, a list of dicts.

    Args:
        probs_of: list of strings -> float (N, C).
        texts: strings.
        tables: as `read` gives them.
        labels: the C classes.
        fits: from a text to whether it can be asked; see `fits_whole`.

    Returns:
        Of each table `trait`; `num_texts`, those that it changes; `num_left_out`, how many others it changes that do not fit,
        as they are or with the other words; `decision_changed`, the share of them whose class changes,
        with its 95% `interval`; `mean_change`, how far the probability of the class moves, whichever way. Of texts with words
        of one column alone (`num_directed`) `by_class`: how much likelier the class is with the first column's words than
        with the second's, on average, and the `p_value` of a permutation test of it.
    """
    scores = []
    for trait, table in tables.items():
        pairs, counts = _kept(texts, table, fits)
        entry = {"trait": trait, **counts}
        if pairs:
            before, behind = (np.asarray(probs_of([pair[side] for pair in pairs]), np.float64) for side in (0, 1))
            chosen, rows = before.argmax(1), np.arange(len(pairs))
            directions = np.array([pair[2] for pair in pairs])
            directed = directions != 0
            differences = ((before - behind) * directions[:, None])[directed]
            entry |= _changed(chosen != behind.argmax(1))
            entry["mean_change"] = float(np.abs(before - behind)[rows, chosen].mean())
            entry["num_directed"] = int(directed.sum())
            if directed.any():
                entry["by_class"] = {label: _directed(differences[:, i]) for i, label in enumerate(labels)}
        scores.append(entry)
    return scores


def judge_tags(answers_of, texts, tables, fits=lambda text: True, cut=str.split):
    """The scores of a tagger under each table, a list of dicts.

    Args:
        answers_of: list of strings, words by spaces -> list of (tags, log-probability of these tags).
        texts, tables, fits: as above; a word of a table has no blank in it.
        cut: from a text to what has tags in it; see `cutter`.

    Returns:
        Of each table `trait`, `num_texts`, `num_left_out`, `decision_changed` (the share of those texts in which a tag changes)
        with its `interval`; `words_changed`, the share of words whose tag changes, and `others_changed`, that of the words that
        were not exchanged; `difference`: how much likelier the best tags are with the first column's words, in nats, and
        `p_value`.

    Raises:
        Refusal: a word of a table has a blank in it, or where characters have tags not as many as its partner.
    """
    blank = next((word for table in tables.values() for pair in table for word in pair if len(word.split()) > 1), None)
    if blank is not None:
        raise Refusal(f"--swaps has {blank!r}, and a tagger reads word by word; give single words.")
    for one, other in (pair for table in tables.values() for pair in table):
        if len(cut(one)) != len(cut(other)):
            raise Refusal(f"--swaps has {one!r} and {other!r}, and this tagger reads characters; give words of as many.")
    scores = []
    for trait, table in tables.items():
        pairs, counts = _kept(texts, table, fits)
        entry = {"trait": trait, **counts}
        if pairs:
            before, behind = (answers_of([pair[side] for pair in pairs]) for side in (0, 1))
            changed, others = [], []
            for pair, (tags, _), (new, _) in zip(pairs, before, behind, strict=True):
                moved = np.array(tags) != np.array(new)
                swapped = np.array(cut(pair[0])) != np.array(cut(pair[1]))
                changed.append(moved)
                others.append(moved[~swapped])
            entry |= _changed(np.array([moved.any() for moved in changed]))
            entry["words_changed"] = float(np.concatenate(changed).mean())
            others = np.concatenate(others)
            entry["others_changed"] = float(others.mean()) if len(others) else 0.0
            directions = np.array([pair[2] for pair in pairs])
            differences = np.array([old[1] - new[1] for old, new in zip(before, behind, strict=True)]) * directions
            entry["num_directed"] = int((directions != 0).sum())
            if entry["num_directed"]:
                entry |= _directed(differences[directions != 0])
        scores.append(entry)
    return scores


def _changed(changed):
    """The share of decisions that changed, of bool (N,)."""
    share = float(changed.mean())
    return {"decision_changed": share, "interval": list(metrics.share_interval(share, len(changed)))}


def _directed(differences):
    return {"difference": float(differences.mean()), "p_value": metrics.sign_flip_test(differences)}
