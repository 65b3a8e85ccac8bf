"""One thing said in two locales: what kinds of things there are, and how CLDR says them.

phrases = Phrases("en", "fr")
phrases.pair(Values("train", 3))    -> Pair(source="Saturday, May 17, 2031", target="samedi 17 mai 2031", ...)
"""

import datetime
import functools
import re
from dataclasses import dataclass

from babel import Locale, dates, lists, numbers, units

from tfds_configs.cldr.values import Values

DAY_SKELETONS = (
    "yMd", "yMEd", "yMMMd", "yMMMEd", "yMMMMd", "yMMMMEd", "yMMMMEEEEd", "GyMd", "GyMMMd", "GyMMMEd", "Md", "MEd", "MMMd",
    "MMMEd", "MMMMd", "MMMMEd",
)  # fmt: skip
MONTH_SKELETONS = ("yM", "yMMM", "yMMMM", "yQQQ", "yQQQQ", "GyM", "GyMMM", "GyMMMM")
TIME_SKELETONS = ("hm", "hms", "Hm", "Hms", "Bhm", "Bhms", "Ehm", "EHm", "Ehms", "EHms")
DAY_INTERVALS = ("Md", "MEd", "MMMd", "MMMEd", "yMd", "yMEd", "yMMMd", "yMMMEd")
# Units of time from the longest, how many of them a text has at most, and their seconds as babel counts them.
TIME_UNITS = {
    "year": (60, 31_536_000), "month": (11, 2_592_000), "week": (51, 604_800), "day": (30, 86_400), "hour": (23, 3_600),
    "minute": (59, 60), "second": (59, 1),
}  # fmt: skip
# What can stand per what: kilograms per square metre.
COUNTED = ("length", "mass", "volume", "energy", "digital", "electric", "force", "power")
PER = (
    "duration-second", "duration-minute", "duration-hour", "duration-day", "duration-week", "duration-year", "length-meter",
    "length-kilometer", "area-square-meter", "area-square-kilometer", "volume-liter", "volume-cubic-meter", "mass-kilogram",
)  # fmt: skip
# How often each kind of thing is said.
WEIGHTS = {
    "date": 15, "time": 5, "moment": 11, "interval": 12, "duration": 10, "relative": 7, "money": 13, "measure": 12, "number": 4,
    "names": 11,
}  # fmt: skip
FEWEST_NAMES = 20
# Units whose names are abbreviations or guesses in most locales.
ODD_UNITS = re.compile(
    r".*-jp$|.*shaku|.*-(sai|koku|kosaji|osaji|cho|rin|sun|ken|light-speed|gasoline-energy-density)$|mass-fun"
)


@dataclass(frozen=True)
class Pair:
    """One thing said twice.

    Attributes:
        source, target: the texts.
        pattern: what they have in common with the other pairs that differ in their values only.
        values: the values, of which other splits have none.
    """

    source: str
    target: str
    pattern: str
    values: tuple[str, ...] = ()


class Phrases:
    """All that can be said in two locales.

    Args:
        source, target: names of locales, such as `pt_BR`.
    """

    def __init__(self, source, target):
        self.locales = Locale.parse(source), Locale.parse(target)
        self._names = {
            kind: {code: names for code, names in found.items() if all(names)}
            for kind, found in (
                ("language", self._both("languages", [code for code in self.locales[0].languages if len(code) == 2])),
                ("territory", self._both("territories", _territories(self.locales[0]))),
                ("currency", self._both("currencies", _currencies())),
            )
        }
        self._names = {kind: names for kind, names in self._names.items() if len(names) >= FEWEST_NAMES}
        self._kinds = [kind for kind, weight in WEIGHTS.items() if kind != "names" or self._names for _ in range(weight)]
        self._sayings = {
            "date": self._date, "time": self._time, "moment": self._moment, "interval": self._interval,
            "duration": self._duration, "relative": self._relative, "money": self._money, "measure": self._measure,
            "number": self._number, "names": self._list_of_names,
        }  # fmt: skip

    def names(self):
        """A `Pair` for each language, territory and currency alone; for training only, as they cannot be guessed."""
        for kind, names in self._names.items():
            for code, (source, target) in names.items():
                yield Pair(_typed(source), target, f"{kind}/{code}")

    def pair(self, values):
        """The `Pair` that `values` (a `Values`) draws, or None if the two locales do not have it."""
        said = self._sayings[values.choice(self._kinds)](values)
        if said is None:
            return None
        pattern, format = said
        try:
            source, target = (format(locale) for locale in self.locales)
        except (KeyError, units.UnknownUnitError, numbers.UnknownCurrencyError):  # CLDR says it in one of them only
            return None
        return Pair(_typed(source), target, pattern, tuple(values.taken)) if source and target else None

    # Each kind: (pattern, locale -> text), or None

    def _date(self, values):
        style = values.choice(("full", "long", "medium", "short", "month", *["skeleton"] * 5))
        if style == "skeleton" or style == "month":
            known = self._skeletons(DAY_SKELETONS if style == "skeleton" else MONTH_SKELETONS)
            if not known:
                return None
            skeleton, day = values.choice(known), values.day() if style == "skeleton" else values.month()
            return f"date/{skeleton}", lambda locale: dates.format_skeleton(
                skeleton, _midnight(day), locale=locale, fuzzy=False
            )
        day = values.day()
        return f"date/{style}", lambda locale: dates.format_date(day, style, locale=locale)

    def _time(self, values):
        known = self._skeletons([skeleton for skeleton in TIME_SKELETONS if "E" not in skeleton])
        style = values.choice(("short", "medium", *known))
        time = datetime.datetime.combine(datetime.date(2000, 1, 1), values.time())
        if style in ("short", "medium"):
            return f"time/{style}", lambda locale: dates.format_time(time, style, locale=locale)
        return f"time/{style}", lambda locale: dates.format_skeleton(style, time, locale=locale, fuzzy=False)

    def _moment(self, values):
        known = self._skeletons([skeleton for skeleton in TIME_SKELETONS if "E" in skeleton])
        style = values.choice(("short", "medium", "long", *(known or ["short"])))
        moment = datetime.datetime.combine(values.day(), values.time())
        if style in ("short", "medium", "long"):
            return f"moment/{style}", lambda locale: dates.format_datetime(moment, style, locale=locale)
        return f"moment/{style}", lambda locale: dates.format_skeleton(style, moment, locale=locale, fuzzy=False)

    def _interval(self, values):
        known = [skeleton for skeleton in DAY_INTERVALS if all(skeleton in locale.interval_formats for locale in self.locales)]
        if not known:
            return None
        skeleton, (start, end) = values.choice(known), values.days()
        differ = "year" if start.year != end.year else "month" if start.month != end.month else "day"
        if start == end or (differ == "year" and "y" not in skeleton):
            return None
        return f"interval/{skeleton}/{differ}", lambda locale: dates.format_interval(start, end, skeleton, locale=locale)

    def _duration(self, values):
        length = values.choice(("long", "long", "short"))
        first, count = values.below(len(TIME_UNITS)), 1 + values.below(3)
        chosen = list(TIME_UNITS)[first : first + count]
        if len(chosen) == 1:
            parts = [(values.number(1, 999), chosen[0])]
        else:
            parts = values.duration([(name, TIME_UNITS[name][0]) for name in chosen])
        style = {"long": "unit", "short": "unit-short"}[length]

        def said(locale):
            texts = [units.format_unit(count, f"duration-{name}", length, locale=locale) for count, name in parts]
            return _listed(texts, style, locale)

        return f"duration/{'+'.join(chosen)}/{length}", said

    def _relative(self, values):
        unit, format = values.choice(list(TIME_UNITS)), values.choice(("long", "long", "short"))
        count, sign = int(values.number(1, 400)), values.choice((-1, 1))
        delta = datetime.timedelta(seconds=sign * count * TIME_UNITS[unit][1])
        return f"relative/{unit}/{'past' if sign < 0 else 'future'}/{format}", lambda locale: dates.format_timedelta(
            delta, granularity=unit, threshold=10**12, add_direction=True, format=format, locale=locale
        )

    def _money(self, values):
        if "currency" not in self._names:
            return None
        code, style = values.choice(list(self._names["currency"])), values.choice(("name", "name", "standard"))
        digits = numbers.get_currency_precision(code)
        amount = values.number(1, 999_999, values.choice((0, min(digits, 2))))
        return f"money/{code}/{style}", lambda locale: numbers.format_currency(amount, code, locale=locale, format_type=style)

    def _measure(self, values):
        unit, length = values.choice(_units(self.locales)), values.choice(("long", "long", "short"))
        number = values.number(1, *values.choice(((999, 0), (99, 1), (99_999, 0))))
        per = values.choice(PER)
        if unit.partition("-")[0] in COUNTED and "per" not in unit and values.below(3) == 0 and per != unit:
            return f"measure/{unit}/per/{per}", lambda locale: units.format_compound_unit(
                number, unit, denominator_unit=per, length="long", locale=locale
            )
        return f"measure/{unit}/{length}", lambda locale: units.format_unit(number, unit, length, locale=locale)

    def _number(self, values):
        style = values.choice(("decimal", "percent", "thousand", "million", "billion"))
        if style == "decimal":
            number = values.number(10, 9_999_999, values.choice((0, 0, 2)))
            return "number/decimal", lambda locale: numbers.format_decimal(number, locale=locale)
        if style == "percent":
            number = values.number(1, 100)
            return "number/percent", lambda locale: numbers.format_percent(number / 100, locale=locale)
        power = {"thousand": 3, "million": 6, "billion": 9}[style]
        number = values.number(1, 99, 1)
        return f"number/{style}", lambda locale: numbers.format_compact_decimal(
            number.scaleb(power), format_type="long", locale=locale, fraction_digits=1
        )

    def _list_of_names(self, values):
        kind = values.choice(list(self._names))
        style = values.choice(("standard", "standard", "or"))
        codes = values.several(sorted(self._names[kind]), 2 + values.below(3))
        index = {locale: i for i, locale in enumerate(self.locales)}
        return f"names/{kind}/{style}/{len(codes)}", lambda locale: _listed(
            [self._names[kind][code][index[locale]] for code in codes], style, locale
        )

    # What both locales have

    def _both(self, attribute, codes):
        """Code -> its names in both locales."""
        ours, theirs = (getattr(locale, attribute) for locale in self.locales)
        return {code: (ours[code], theirs[code]) for code in codes if code in ours and code in theirs}

    def _skeletons(self, names):
        return [name for name in names if all(name in locale.datetime_skeletons for locale in self.locales)]


def _typed(text):
    """A text as people type it: with blanks where CLDR has no-break and narrow ones."""
    return re.sub(r"[\u00a0\u2009\u202f]", " ", text)


def _listed(texts, style, locale):
    """Texts as a list: babel 2.19 says the second of two again where a locale has no pattern for two."""
    patterns = locale.list_patterns.get(style) or locale.list_patterns["standard"]
    if len(texts) == 2:
        return patterns.get("2", patterns["end"]).format(*texts)
    return lists.format_list(texts, style if style in locale.list_patterns else "standard", locale=locale)


def _midnight(day):
    return datetime.datetime.combine(day, datetime.time())


def _territories(locale):
    return [code for code in locale.territories if len(code) == 2 and code.isalpha() and code not in ("ZZ", "XA", "XB")]


@functools.cache
def _currencies():
    """Codes of the currencies that are in use."""
    codes = set()
    for territory in _territories(Locale("en")):
        codes.update(numbers.get_territory_currencies(territory))
    return sorted(codes)


@functools.cache
def _units(locales):
    """Units that both locales have a name for, in their own or a common word."""
    found = []
    for unit in sorted(unit for unit in locales[0].unit_display_names if not ODD_UNITS.match(unit)):
        try:
            for locale in locales:
                units.format_unit(2, unit, "long", locale=locale)
                units.format_unit(2, unit, "short", locale=locale)
        except (KeyError, units.UnknownUnitError):
            continue
        if unit in locales[1].unit_display_names:
            found.append(unit)
    return found


def pairs(source, target, sizes):
    """Yields (split, `Pair`) for a pair of locales, each source text once.

    Args:
        source, target: names of locales.
        sizes: split -> how many pairs.
    """
    phrases, seen = Phrases(source, target), set()
    for split, size in sizes.items():
        made = 0
        for pair in phrases.names() if split == "train" else ():
            if made < size and pair.source not in seen:
                seen.add(pair.source)
                made += 1
                yield split, pair
        number = 0
        while made < size:
            pair = phrases.pair(Values(split, number))
            number += 1
            if pair is not None and pair.source not in seen:
                seen.add(pair.source)
                made += 1
                yield split, pair
