"""What roles can be told without a model: a baseline beside which the scores of semantic roles stand."""

import collections
import itertools

FARTHEST = 15  # words further from the predicate count as this far
ENOUGH = 20  # predicates that have a role, before that none has it twice says something


class FrequentRoles:
    """Gives each word the tag that was most frequent so far from that predicate, else so far from any.

    Far is the signed distance in words. A predicate is its word in lower case; two examples make it known at a distance.

        >>> FrequentRoles([(["cats", "sit"], 1, ["B-A0", "B-V"])]).tags(["dogs", "bark"], 1)
        ['B-A0', 'B-V']

    Args:
        columns: iterable of (words, place of the predicate, tags).
    """

    def __init__(self, columns):
        counts = collections.defaultdict(collections.Counter)
        for words, place, tags in columns:
            predicate = words[place].lower()
            for i, tag in enumerate(tags):
                counts[predicate, _distance(i, place)][tag] += 1
                counts[None, _distance(i, place)][tag] += 1
        self._tags = {
            key: max(sorted(tags), key=tags.get) for key, tags in counts.items() if key[0] is None or tags.total() > 1
        }

    def tags(self, words, place):
        """The tags of a sentence's words for the predicate at `place`, a list."""
        predicate, distances = words[place].lower(), [_distance(i, place) for i in range(len(words))]
        return [self._tags.get((predicate, d)) or self._tags.get((None, d), "O") for d in distances]


def taken_once(columns):
    """The roles that many predicates have and none has twice, as those of PropBank's numbers: a sorted tuple.

        >>> taken_once([["B-A0", "B-V", "B-AM", "B-AM"]] * 20)
        ('A0', 'V')

    Args:
        columns: for each predicate its BIO tags.
    """
    counts = [collections.Counter(tag[2:] for tag in column if tag.startswith("B-")) for column in columns]
    predicates = collections.Counter(itertools.chain(*counts))
    twice = {role for some in counts for role in some if some[role] > 1}
    return tuple(sorted(role for role in predicates if predicates[role] >= ENOUGH and role not in twice))


def _distance(i, place):
    return max(-FARTHEST, min(FARTHEST, i - place))
