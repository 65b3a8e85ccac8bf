"""Phrases: two words that stand beside each other far more often than chance has it become one word, such as new_york.

    score(a b) = (count(a b) - min_count) n / (count(a) count(b)),   n the sum of all counts

as in the original program of word2vec (Mikolov et al. 2013b, arXiv:1310.4546, section 4). A second pass over the joined text
finds phrases of three and four words.

Shape letters: V vocabulary, P phrases.
"""

import tempfile

import numpy as np

from zoo.config import Refusal
from zoo.data.cooccurrence import SortedSums
from zoo.data.pairs import BLOCK_TOKENS


def find_phrases(stream, counts, *, min_count=5, threshold=100.0, most=None, memory_bytes=2**29):
    """The phrases of a stream, best score first.

    Args:
        stream: `TokenShards`, or a 1-d integer array. What has no count, such as `eos_id` and rare words, is in no phrase.
        counts: int64 (V,), as `zoo.data.pairs.count_words` gives them.
        min_count: taken away from the count of every pair, so that rare pairs score low.
        threshold: a phrase has a score above it.
        most: the most phrases, or None for any number.
        memory_bytes: about what counting may hold.

    Returns:
        (phrases, scores): int32 (P, 2), the two words of each; float64 (P,).

    Example: in `a b x a b y a b`, with min_count 1, the score of `a b` is (3 - 1) 8 / (3 3) = 1.78.
    """
    if threshold < 0:
        raise Refusal(f"threshold must not be negative, got {threshold}.")
    counts, size = np.asarray(counts, np.float64), len(counts)
    phrases, scores = [np.zeros((0, 2), np.int32)], [np.zeros(0)]
    with tempfile.TemporaryDirectory() as directory:
        sums, block = SortedSums(directory, memory_bytes), max(1, min(BLOCK_TOKENS, memory_bytes // 128))
        for start in range(0, len(stream), block):
            ids = np.asarray(stream[start : start + block + 1], np.int64)
            known = counts[ids] > 0
            keys = (ids[:-1] * size + ids[1:])[known[:-1] & known[1:]]
            sums.add(keys, np.ones(len(keys), np.int64))
        for keys, number in sums.merged():
            first, second = np.divmod(keys, size)
            score = (number - min_count) * counts.sum() / (counts[first] * counts[second])
            good = score > threshold
            phrases.append(np.stack([first[good], second[good]], 1).astype(np.int32))
            scores.append(score[good])
    phrases, scores = np.concatenate(phrases), np.concatenate(scores)
    order = np.argsort(-scores, kind="stable")[:most]
    return phrases[order], scores[order]


def join_phrases(stream, phrases, vocab_size, block_tokens=BLOCK_TOKENS):
    """Yields the ids of a stream with phrases joined, int32 arrays: phrase p becomes the id V + p.

    From the left, each word is joined with the next one where the two are a phrase and the word is not joined already: of
    `a b c` with the phrases `a b` and `b c` it is `a_b c`.

    Args:
        stream: `TokenShards`, or a 1-d integer array.
        phrases: int (P, 2), as `find_phrases` gives them.
        vocab_size: V.
        block_tokens: how many tokens are read at a time.
    """
    keys = np.asarray(phrases, np.int64).reshape(-1, 2) @ np.array([vocab_size, 1])
    order = np.argsort(keys, kind="stable")
    keys, waiting = keys[order], np.zeros(0, np.int64)
    for start in range(0, max(len(stream), 1), block_tokens):
        ids = np.concatenate([waiting, np.asarray(stream[start : start + block_tokens], np.int64)])
        pairs = ids[:-1] * vocab_size + ids[1:]
        place = np.searchsorted(keys, pairs).clip(0, max(len(keys) - 1, 0))
        fits = (keys[place] == pairs) if len(keys) else np.zeros(len(pairs), bool)
        # A chain of pairs that fit is joined from its left end, so only its beginning must be known: cut where none fits.
        end = len(ids)
        if start + block_tokens < len(stream):
            apart = np.flatnonzero(~fits)
            end = int(apart[-1]) + 1 if len(apart) else 0
        waiting, ids, fits, place = ids[end:], ids[:end], fits[: max(end - 1, 0)], place[: max(end - 1, 0)]
        index = np.arange(len(fits))
        begins = fits & ~np.concatenate([[False], fits[:-1]])[: len(fits)]
        joined = fits & ((index - np.maximum.accumulate(np.where(begins, index, 0))) % 2 == 0)
        result = ids.astype(np.int32)
        result[:-1][joined] = vocab_size + order[place[joined]]
        yield result[~np.concatenate([[False], joined])[: len(result)]]
