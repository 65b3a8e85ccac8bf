"""What reading files found that the user should know, such as pairs that were left out."""

import collections


class Remarks:
    """Sentences about files, complete once these have been read to their ends.

    A file counts once, however often it is read.

        >>> found = Found()
        >>> found.add("pairs with an empty side are left out", 7)
        >>> remarks = Remarks()
        >>> remarks.keep("a.en", found)
        >>> remarks.sentences()
        ['a.en: pairs with an empty side are left out (1 in all, the first in line 7).']

    Attributes:
        spellings: what a label means -> how it is spelt, in all files.
    """

    def __init__(self):
        self._files, self.spellings = {}, {}

    def keep(self, path, found):
        """Keeps what a complete reading of a file found, in the place of the one before."""
        self._files[path] = found

    def sentences(self):
        """One sentence for each thing that was found in a file."""
        return [sentence for path, found in self._files.items() for sentence in found.sentences(path)]


class Found:
    """What one reading of a file found: for each thing how often, and the line of the first."""

    def __init__(self):
        self._counts, self._first = collections.Counter(), {}

    def add(self, what, number):
        """Counts a thing in line `number`; `what` is a clause with a plural subject."""
        self._counts[what] += 1
        self._first.setdefault(what, number)

    def sentences(self, path):
        """One sentence for each thing."""
        return [
            f"{path}: {what} ({count:,} in all, the first in line {self._first[what]})." for what, count in self._counts.items()
        ]
