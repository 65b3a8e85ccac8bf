"""Values that the pairs are made of, drawn by a counter-based generator, with those of each split apart.

values = Values("test", 17)         the 17th draw of the split
values.day()                        -> datetime.date, whose month and day no other split has
values.number(1, 999)               -> Decimal, which no other split has
values.taken                        -> {"day 5-17", "number 37"}
"""

import calendar
import datetime
import functools
import hashlib
from decimal import Decimal

import numpy as np

SPLITS = ("train", "validation", "test")
SEED = 2031
TRAIN_SHARE, VALIDATION_SHARE = 0.9, 0.05
# A hundred years, so that a year of two digits means one of them.
FIRST_YEAR, NUM_YEARS = 1950, 100
# Numbers below are in the training split, as they alone show the singular and the other forms of small numbers.
FIRST_HELD_OUT = 10


def split_of(value):
    """The split that a value, a string such as `number 37`, belongs to."""
    share = int.from_bytes(hashlib.sha256(f"{SEED} {value}".encode()).digest()[:8], "big") / 2**64
    return "train" if share < TRAIN_SHARE else "validation" if share < TRAIN_SHARE + VALIDATION_SHARE else "test"


@functools.cache
def _of_split(split):
    """(days of the year, minutes of the day, months of all years) of a split."""
    days = [(month, day) for month in range(1, 13) for day in range(1, calendar.monthrange(2000, month)[1] + 1)]
    months = [(FIRST_YEAR + i // 12, i % 12 + 1) for i in range(12 * NUM_YEARS)]
    return (
        [(month, day) for month, day in days if split_of(f"day {month}-{day}") == split],
        [minute for minute in range(24 * 60) if split_of(f"minute {minute}") == split],
        [(year, month) for year, month in months if split_of(f"month {year}-{month}") == split],
    )


class Values:
    """Draws values of one split. Equal arguments draw equal values on every machine (Philox: Salmon et al. 2011).

    Args:
        split: train, validation or test.
        number: of the draw, from 0.

    Attributes:
        taken: the values drawn so far that other splits do not have, as strings.
    """

    def __init__(self, split, number):
        self.split, self.taken = split, []
        self._bits = np.random.Philox(key=[SEED, SPLITS.index(split)], counter=[0, 0, 0, number])

    def below(self, limit):
        """An int from 0 to below `limit`."""
        return int(self._bits.random_raw()) * limit >> 64

    def choice(self, items):
        """One of `items`, a list or tuple."""
        return items[self.below(len(items))]

    def several(self, items, count):
        """`count` different ones of `items`, which as a list are the value: no other split has them in this order."""
        while True:
            left, found = list(items), []
            for _ in range(count):
                found.append(left.pop(self.below(len(left))))
            if self._takes(f"list {' '.join(found)}"):
                return found

    def day(self, year=None):
        """A `datetime.date` whose month and day, taken together, are the value; of the year, if it is given."""
        month, day = self.choice(_of_split(self.split)[0])
        year = FIRST_YEAR + self.below(NUM_YEARS) if year is None else year
        self._takes(f"day {month}-{day}")
        return datetime.date(year, month, min(day, calendar.monthrange(year, month)[1]))

    def days(self):
        """Two dates, the earlier one first: of one month, of one year, or of two years."""
        one = self.day()
        in_month = [day for month, day in _of_split(self.split)[0] if month == one.month and day != one.day]
        in_month = [day for day in in_month if day <= calendar.monthrange(one.year, one.month)[1]]
        kind = self.below(3)
        if kind == 0 and in_month:
            other = one.replace(day=self.choice(in_month))
            self._takes(f"day {other.month}-{other.day}")
        else:
            other = self.day(one.year if kind < 2 else None)
        return tuple(sorted((one, other)))

    def month(self):
        """A `datetime.date` whose year and month are the value."""
        year, month = self.choice(_of_split(self.split)[2])
        self._takes(f"month {year}-{month}")
        return datetime.date(year, month, 1)

    def time(self):
        """A `datetime.time` whose hour and minute are the value."""
        minute = self.choice(_of_split(self.split)[1])
        self._takes(f"minute {minute}")
        return datetime.time(minute // 60, minute % 60, self.below(60))

    def number(self, low, high, decimals=0):
        """A `Decimal` from `low` to `high` with at most `decimals` decimal places; each number of digits is as likely."""
        while True:
            digits = len(str(low)) + self.below(len(str(high)) - len(str(low)) + 1)
            least, most = max(low, 10 ** (digits - 1)), min(high, 10**digits - 1)
            number = Decimal((least * 10**decimals) + self.below((most - least) * 10**decimals + 1)).scaleb(-decimals)
            number = number.to_integral_value() if number == number.to_integral_value() else number.normalize()
            if number < FIRST_HELD_OUT:
                if self.split == "train":
                    self.taken.append(f"number {number}")
                    return number
            elif self._takes(f"number {number}"):
                return number

    def duration(self, units):
        """(count, unit) for each of `units`, which are (name, most of it); all together are the value."""
        while True:
            parts = [(1 + self.below(most), name) for name, most in units]
            if self._takes("duration " + " ".join(f"{count} {name}" for count, name in parts)):
                return parts

    def _takes(self, value):
        """Whether a value is one of this split's; if so it is noted."""
        if split_of(value) != self.split:
            return False
        self.taken.append(value)
        return True
