"""From a token stream to the tables of a back-off n-gram model, by sorting: numpy only, no Python loop over tokens.

The stages are those of KenLM's lmplz (Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model Estimation"):

    corpus_count     every distinct n-gram of every order, with its count
    adjust_counts    below the top order: how many different words stand before it (Kneser-Ney's continuation count)
    discounts        D1, D2, D3+ of each order, from counts of counts
    initial_probabilities    discounted relative frequencies, and the mass that each history leaves to shorter ones
    kneser_ney       interpolates them with the shorter history's probabilities, from unigrams upwards
    prune            drops rare n-grams

Every smoothing ends as the same `Tables`: log p of each n-gram and log back-off weight of each history, so that

    log p(w | h) = log_probs(h w)                      if h w is in the tables
                 = log_backoffs(h) + log p(w | h')     otherwise, where h' is h without its oldest word

with log_backoffs(h) = 0 for an unseen h. `eos_id` opens a sentence (as <s>, only ever history) and closes it (as </s>,
only ever predicted), so no n-gram holds it in its middle. Memory is about 25 bytes an n-gram plus 40 a token.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import os

import numpy as np

# Weight of each step down in "Stupid Backoff" (Brants et al. 2007, section 4).
STUPID_BACKOFF_WEIGHT = 0.4
# What KenLM's --discount_fallback assumes when counts of counts define no discounts, in the simple form of one D.
FALLBACK_DISCOUNT = 0.5
# So many positions are sorted at once.
RANGE = 2**18


@dataclasses.dataclass
class NGrams:
    """The M distinct n-grams of one order, sorted by key; an n-gram's row is its *node*.

    Attributes:
        keys: int64 (M,), prefix node * (V + 1) + last word, where the prefix (all but the last word) is a node of the
            order below; what can follow a prefix are therefore neighbours. A unigram's key is its id. (The word V,
            which no n-gram has, is left free for "no word".)
        suffixes: int32 (M,), the node of all but the first word, in the order below; zeros for unigrams.
        counts: int32 (M,), occurrences in the corpus.
        opens: bool (M,), whether the n-gram begins a sentence, with <s> as its first word.
    """

    keys: np.ndarray
    suffixes: np.ndarray
    counts: np.ndarray
    opens: np.ndarray

    def __len__(self):
        return len(self.keys)

    def prefixes(self, vocab_size):
        """The prefix node of each n-gram, (M,)."""
        return self.keys // (vocab_size + 1)


@dataclasses.dataclass
class Tables:
    """One order of the finished model: keys as in `NGrams`, natural logs in float32, `log_backoffs` None at the top."""

    keys: np.ndarray
    log_probs: np.ndarray
    log_backoffs: np.ndarray | None


def estimate(token_ids, order, vocab_size, eos_id, smoothing="kneser_ney", add_k=1.0, cutoffs=()):
    """Fits a back-off model to a stream of ids, in which `eos_id` stands before the first sentence and after each.

    Args:
        token_ids: int (N,), ids in [0, vocab_size).
        order: longest n-gram, 1 or more.
        vocab_size: V; every id gets a probability, seen or not.
        eos_id: the id that separates sentences.
        smoothing: "kneser_ney" (interpolated, modified), "add_k" or "stupid_backoff".
        add_k: the pseudo-count of add_k.
        cutoffs: n-grams of order k that occur at most cutoffs[k - 1] times are dropped; the last entry holds for all
            longer orders (KenLM's --prune).

    Returns:
        A list of `order` Tables.
    """
    return tables_of(corpus_count(token_ids, order, vocab_size, eos_id), vocab_size, smoothing, add_k, cutoffs)


def tables_of(ngrams, vocab_size, smoothing="kneser_ney", add_k=1.0, cutoffs=()):
    """The Tables of counted n-grams, a list of NGrams that is emptied as it goes; the other arguments as for `estimate`."""
    cutoffs = tuple(cutoffs) or (0,)
    cutoffs += cutoffs[-1:] * (len(ngrams) - len(cutoffs))
    kept = [table.counts > cutoff for table, cutoff in zip(ngrams, cutoffs, strict=True)]
    kept[0] = np.ones(vocab_size, bool)
    if smoothing == "kneser_ney":
        smoothed = kneser_ney(ngrams, kept, vocab_size)
    elif smoothing == "add_k":
        smoothed = lidstone(ngrams, kept, vocab_size, add_k)
    else:
        smoothed = stupid_backoff(ngrams, kept, vocab_size)
    tables = []
    for n, (probs, backoffs) in enumerate(smoothed, start=1):
        if n > 1:
            tables[-1].log_backoffs = _log(backoffs)
        tables.append(Tables(ngrams[n - 1].keys, _log(probs), None))
        ngrams[n - 1] = None  # only the next order is still looked at
    return prune(tables, kept, vocab_size) if any(cutoffs) else tables


def corpus_count(token_ids, order, vocab_size, eos_id):
    """All distinct n-grams of order 1 to `order`, from the shortest to the longest: a list of NGrams.

    Positions that are sorted by the (n-1)-gram that ends there are, one further on, sorted by the prefix of the n-gram that
    ends there: only its last word is still to be sorted by. So the work falls apart into ranges of prefixes, which are small
    enough for a core's cache and are sorted by all cores.
    """
    ids = np.asarray(token_ids, np.int32)
    words_before = _words_before(ids, eos_id)
    counts = np.bincount(ids[1:], minlength=vocab_size).astype(np.int32)
    nothing = np.zeros(vocab_size, np.int32)
    tables, nodes = [NGrams(np.arange(vocab_size), nothing, counts, nothing > 0)], ids
    # The positions where an n-gram ends, in the order of n-grams, and how many there are of each.
    ends, counts = (_sorted_with_places(ids.astype(np.int64))[1]).astype(np.int32), np.bincount(ids, minlength=vocab_size)

    def counted(prefixes, places, n):
        """What follows the prefixes from one number to another, whose positions stand in `ends` from one place to another."""
        here = ends[slice(*places)] + 1
        prefix = np.repeat(np.arange(prefixes[1] - prefixes[0]), counts[slice(*prefixes)])
        if here.size and here.max() == len(ids):  # behind the last
            prefix, here = prefix[here < len(ids)], here[here < len(ids)]
        if n > 2:
            inside = words_before[here - 1] >= n - 1
            prefix, here = prefix[inside], here[inside]
        keys, by_key = _sorted_with_places(prefix * (vocab_size + 1) + ids[here])
        here = here[by_key]
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        first = np.flatnonzero(is_first)
        examples, found = here[first], np.diff(first, append=len(keys)).astype(np.int32)
        keys = keys[first] + prefixes[0] * (vocab_size + 1)
        return keys, nodes[examples], found, ids[examples - n + 1] == eos_id, here

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as cores:
        for n in range(2, order + 1):
            parts = list(cores.map(functools.partial(counted, n=n), *_ranges(counts)))
            *columns, ends = map(np.concatenate, zip(*parts, strict=True))
            del parts
            tables.append(NGrams(*columns))
            counts = tables[-1].counts
            if n < order:
                nodes = np.zeros(len(ids), np.int32)
                nodes[ends] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return tables


def _ranges(counts):
    """Divides groups of `counts` members into ranges of about `RANGE`: two lists of pairs, of groups and of members."""
    before = np.append(0, np.cumsum(counts, dtype=np.int64))
    inner = np.unique(np.searchsorted(before, np.arange(RANGE, before[-1], RANGE)))
    groups = [0, *inner[inner < len(counts)].tolist(), len(counts)]
    return list(itertools.pairwise(groups)), list(itertools.pairwise(before[groups].tolist()))


def _sorted_with_places(keys):
    """Keys, int64 of 0 or more, in order, and where each stood."""
    bits = len(keys).bit_length()
    if len(keys) and int(keys.max()) >> (63 - bits):
        places = np.argsort(keys)
        return keys[places], places
    # Sorting numbers takes half as long as sorting places, so the place stands in the low bits.
    keys = np.sort((keys << bits) | np.arange(len(keys)))
    return keys >> bits, keys & ((1 << bits) - 1)


def without(ngrams, removed, vocab_size):
    """The n-grams of a corpus from which documents are taken: those that `corpus_count` finds in what is left.

    Args:
        ngrams: list of NGrams of the whole.
        removed: list of NGrams of the documents, of the same orders.
        vocab_size: V.

    Raises:
        ValueError: the whole has an n-gram of them less often.
    """
    found, places, numbers = [], np.arange(vocab_size), np.arange(vocab_size)
    for whole, part in zip(ngrams, removed, strict=True):
        keys = whole.keys
        if found:  # nodes of the order below: of the documents' n-grams in the whole, and of the whole in what is left
            wanted = places[part.prefixes(vocab_size)] * (vocab_size + 1) + part.keys % (vocab_size + 1)
            places = np.minimum(np.searchsorted(whole.keys, wanted), max(len(whole) - 1, 0))
            if len(wanted) and (not len(whole) or (whole.keys[places] != wanted).any()):
                raise ValueError("The corpus does not have an n-gram of the documents that are taken out.")
            keys = numbers[whole.prefixes(vocab_size)] * (vocab_size + 1) + whole.keys % (vocab_size + 1)
        counts = whole.counts.copy()
        counts[places] -= part.counts
        if (counts < 0).any():
            raise ValueError("The corpus has an n-gram less often than the documents that are taken out.")
        kept = counts > 0 if found else np.ones(vocab_size, bool)
        suffixes = numbers[whole.suffixes] if found else whole.suffixes
        found.append(NGrams(keys[kept], suffixes[kept].astype(np.int32), counts[kept], whole.opens[kept]))
        numbers = np.cumsum(kept) - 1
    return found


def _words_before(ids, eos_id):
    """How many words of its sentence stand before each but the first of `ids`, <s> included: int32 (N - 1,)."""
    position = np.arange(len(ids), dtype=np.int32)
    opening = np.maximum.accumulate(np.where(ids == eos_id, position, 0))
    return position[1:] - opening[:-1]


def adjust_counts(table, longer):
    """Kneser-Ney's counts of the n-grams of one order, int (M,): Chen and Goodman (1998), section 2.7.

    At the top order (`longer` None) a(g) = count(g). Below, a(g) = the number of different words v with count(v g) > 0,
    except that an n-gram which opens a sentence has nothing before it and keeps its count.
    """
    if longer is None:
        return table.counts
    return np.where(table.opens, table.counts, np.bincount(longer.suffixes, minlength=len(table)))


def discounts(adjusted):
    """What to take from an adjusted count of 0, 1, 2 and 3 or more: float64 (4,).

    Chen and Goodman (1998), equation (26), with n_j the number of n-grams whose adjusted count is j:

        Y = n1 / (n1 + 2 n2),   D_j = j - (j + 1) Y n_{j+1} / n_j   for j = 1, 2, 3

    A small or artificial corpus may leave some n_j zero or a D_j outside (0, j]. KenLM then refuses; here the order
    takes D = Y for all three (Kneser and Ney 1995), or 0.5 where even Y is undefined.
    """
    return discounts_of(np.bincount(np.minimum(adjusted, 5), minlength=6).astype(np.float64))


def discounts_of(n):
    """`discounts`, from how many n-grams have an adjusted count of 0 to 4, and of 5 or more: float64 (6,)."""
    j = np.arange(1, 4)
    if n[1:5].all():
        d = j - (j + 1) * (n[1] / (n[1] + 2 * n[2])) * n[2:5] / n[1:4]
        if (d > 0).all() and (d <= j).all():
            return np.concatenate([[0.0], d])
    d = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else FALLBACK_DISCOUNT
    return np.array([0.0, d, d, d])


def initial_probabilities(prefixes, adjusted, kept, num_prefixes):
    """Discounted frequencies and the mass they leave, before interpolation.

        u(w | h) = (a(h w) - D(a(h w))) / A(h),   A(h) = sum over w of a(h w)
        b(h)     = 1 - sum of u(w | h) over the n-grams that are kept

    Returns:
        u, float64 (M,), and b, float64 (num_prefixes,): 1 for a history that nothing follows.
    """
    discount = discounts(adjusted)[np.minimum(adjusted, 3)]
    total = np.bincount(prefixes, weights=adjusted, minlength=num_prefixes)
    # A pruned n-gram leaves all of its mass; summing what is left, not 1 - u, keeps small b exact.
    left = np.bincount(prefixes, weights=np.where(kept, discount, adjusted), minlength=num_prefixes)
    seen = total > 0
    backoff = np.divide(left, total, out=np.ones(num_prefixes), where=seen)
    return (adjusted - discount) / total[prefixes], backoff


def kneser_ney(ngrams, kept, vocab_size):
    """Interpolated modified Kneser-Ney: p(w | h) = u(w | h) + b(h) p(w | h'), down to the uniform 1 / V.

    Yields, as each smoothing here does, for n = 1 to the order: the probabilities of the n-grams, float64 (M,), those
    that are not `kept` with any value; and the back-off weights of the (n-1)-grams before them, float64.
    """
    shorter, num_prefixes = np.full(1, 1 / vocab_size), 1
    for k in range(len(ngrams)):
        table, longer = ngrams[k], ngrams[k + 1] if k + 1 < len(ngrams) else None
        prefixes = table.prefixes(vocab_size)
        own, backoffs = initial_probabilities(prefixes, adjust_counts(table, longer), kept[k], num_prefixes)
        shorter, num_prefixes = own + backoffs[prefixes] * shorter[table.suffixes], len(table)
        yield shorter, backoffs


def lidstone(ngrams, kept, vocab_size, k):
    """Add-k at the longest history: p(w | h) = (c(h w) + k) / (c(h) + k V), c(h) = sum over w of c(h w).

    A history has n - 1 words, or begins with <s>; one that was never seen makes every word equally probable. Nothing
    is learnt from shorter n-grams: those that do not open a sentence say 1 / V and only lead to longer ones.
    """
    num_prefixes = 1
    for n, table in enumerate(ngrams, start=1):
        prefixes = table.prefixes(vocab_size)
        has_history = table.opens | (n == len(ngrams))
        counts = np.where(has_history & kept[n - 1], table.counts, 0)
        total = np.bincount(prefixes, weights=counts, minlength=num_prefixes) + k * vocab_size
        yield np.where(has_history, (counts + k) / total[prefixes], 1 / vocab_size), k * vocab_size / total
        num_prefixes = len(table)


def stupid_backoff(ngrams, kept, vocab_size):
    """Stupid Backoff (Brants et al. 2007, equation 5), divided by its sum so that it is a distribution.

        S(w | h) = c(h w) / c(h)   if h w is in the tables,   0.4 S(w | h')   otherwise,   S(w) = 0.4 / V without counts
        p(w | h) = S(w | h) / Z(h),   Z(h) = sum over all w of S(w | h)

    The division changes no ranking within a history. Over the words that follow h in the tables,
    Z(h) = sum of S(w | h) + 0.4 (Z(h') - sum of S(w | h')).
    """
    shorter_scores, shorter_sums, suffixes = np.full(1, 1 / vocab_size), np.ones(1), np.zeros(1, int)
    for table, in_table in zip(ngrams, kept, strict=True):
        prefixes = table.prefixes(vocab_size)
        total = np.bincount(prefixes, weights=table.counts, minlength=len(suffixes))
        backed_off = STUPID_BACKOFF_WEIGHT * shorter_scores[table.suffixes]
        seen = in_table & (table.counts > 0)
        scores = np.where(seen, table.counts / np.maximum(total, 1)[prefixes], backed_off)
        below = STUPID_BACKOFF_WEIGHT * shorter_sums[suffixes]
        sums = below + np.bincount(prefixes, weights=scores - backed_off, minlength=len(suffixes))
        yield scores / sums[prefixes], below / sums
        shorter_scores, shorter_sums, suffixes = scores, sums, table.suffixes


def prune(tables, kept, vocab_size):
    """Drops the n-grams that are not `kept` and renumbers the nodes in the keys of longer ones. Returns `tables`.

    What is kept has a kept prefix and a kept suffix: those occur at least as often, and cut-offs never fall.
    """
    for k in range(1, len(tables)):
        renumbered = np.cumsum(kept[k - 1]) - 1
        prefixes, words = np.divmod(tables[k].keys[kept[k]], vocab_size + 1)
        tables[k].keys = renumbered[prefixes] * (vocab_size + 1) + words
        tables[k].log_probs = tables[k].log_probs[kept[k]]
        if tables[k].log_backoffs is not None:
            tables[k].log_backoffs = tables[k].log_backoffs[kept[k]]
    return tables


def _log(probs):
    return np.log(probs).astype(np.float32)
