"""Pairs of texts, such as a sentence and its translation: two files line by line, gettext catalogues, translation memories.

Each record has `source` and `target`. What is left out is counted (`Remarks`), never passed over in silence.
"""

import io
import re
import xml.parsers.expat

from zoo.config import Refusal
from zoo.text_files import UTF8_MARK, opened, together

BLOCK_BYTES = 2**16
# Elements of a TMX segment whose content is formatting code of another program, and not text.
CODES = {"bpt", "ept", "ph", "it", "ut"}


def parallel(path, partner, data_path):
    """(line, record) of each line of two files. Raises Refusal, with both numbers of lines, where these differ."""
    for number, source, target in together(path, partner, data_path.errors):
        yield number, {"source": source, "target": target}


def po(path, data_path, remarks):
    """(line, record) of each translated message of a gettext catalogue; `source` is the msgid.

    A message with plural forms gives the singular with its translation, and the plural with the last of them.
    """
    from babel.messages.pofile import PoFileError, read_po

    try:
        with opened(path) as file:
            data = file.read().removeprefix(UTF8_MARK)
        catalogue = read_po(io.BytesIO(data), abort_invalid=True)
    except (PoFileError, UnicodeDecodeError, LookupError) as error:
        raise Refusal(f"{path} is not a gettext catalogue: {' '.join(str(error).split())}.") from error
    header = re.search(rb'^msgid ""\s*^msgstr', data, re.MULTILINE) is not None
    for _ in range(len(re.findall(rb"^msgid[ \t]", data, re.MULTILINE)) - header - len(catalogue)):
        remarks.add("messages stand there twice, and the first is read", 1)
    for message in catalogue.obsolete.values():
        remarks.add("messages are obsolete (#~) and left out", message.lineno or 1)
    for message in catalogue:
        number = message.lineno or 1
        if not message.id:
            continue  # the header
        if message.fuzzy:
            remarks.add("messages are marked fuzzy and left out", number)
            continue
        sources = [message.id] if isinstance(message.id, str) else list(message.id)
        targets = [message.string] if isinstance(message.string, str) else list(message.string)
        if not all(targets):
            remarks.add("messages have no translation and are left out", number)
            continue
        for source, target in zip(sources, (targets[0], targets[-1]), strict=False):
            yield number, {"source": source, "target": target}


def tmx(path, data_path, remarks):
    """(line, record) of each unit of a translation memory (TMX 1.4) that has both languages.

    The languages are `languages=en:fr`, of which `en` stands for `en-GB` too; or the file's source language and the only other
    one of its units. The file is read in blocks; entities that it declares are refused and never expanded.
    """
    units = _Units(path)
    with opened(path) as file:
        try:
            while block := file.read(BLOCK_BYTES):
                units.parser.Parse(block, False)
                yield from _pairs(units, path, data_path, remarks)
            units.parser.Parse(b"", True)
            yield from _pairs(units, path, data_path, remarks)
        except (xml.parsers.expat.ExpatError, LookupError) as error:  # the latter: it names an encoding that is not known
            raise Refusal(f"{path} is not TMX: {error}.") from error
    if not units.is_tmx:
        raise Refusal(f"{path} is XML and not TMX: it has no element tmx.")


def _pairs(units, path, data_path, remarks):
    for number, texts, surplus in units.take():
        if surplus:
            remarks.add("units have a second text in one language, which is left out", number)
        if data_path.languages:
            chosen = [_language(texts, language) for language in data_path.languages]
        elif len(texts) > 2:
            raise Refusal(f"{path}, line {number} has {', '.join(texts)}; say which two with languages=, such as en:fr.")
        else:
            chosen = _chosen(units, texts)
            others = [language for language in texts if language not in chosen]
            if others:
                raise Refusal(
                    f"{path}, line {number} has a text in {others[0]}, and the units before it are in "
                    f"{' and '.join(units.pair)}; say which two languages are read with languages=, such as en:fr."
                )
        if None in chosen:
            remarks.add("units lack one of the two languages and are left out", number)
        else:
            yield number, {"source": texts[chosen[0]], "target": texts[chosen[1]]}


def _chosen(units, texts):
    """[language of the source, of the target] of a unit, None for one that it lacks; the first whole unit names them."""
    if units.pair is None:
        if len(texts) < 2:
            return [*texts, None]
        first = _language(texts, units.source) or next(iter(texts))
        units.pair = (first, next(language for language in texts if language != first))
    bases = [language.partition("-")[0] for language in units.pair]
    alike = [[language for language in texts if bases[0] != bases[1] and language.partition("-")[0] == base] for base in bases]
    return [wanted if wanted in texts else next(iter(some), None) for wanted, some in zip(units.pair, alike, strict=True)]


def _language(texts, wanted):
    """The language of a unit that is `wanted`, or the first that begins with it; None if there is none."""
    wanted = wanted.lower().replace("_", "-")
    exact = [language for language in texts if language == wanted]
    return next(iter(exact + [language for language in texts if language.startswith(f"{wanted}-")]), None)


class _Units:
    """Collects the translation units of a TMX file while it is parsed.

    Attributes:
        source: the source language that the header names.
        is_tmx: whether an element tmx was seen.
        pair: the two languages of the units, once they are known, or None.
    """

    def __init__(self, path):
        self.parser = xml.parsers.expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._entity
        self.source, self.is_tmx, self.pair = "", False, None
        self._path, self._done, self._unit, self._language, self._segment, self._codes = path, [], None, "", None, 0

    def take(self):
        """(line, language -> text, whether a language has two texts) of the units that are complete and were not yet taken."""
        done, self._done = self._done, []
        return done

    def _entity(self, name, *rest):
        del rest
        raise Refusal(f"{self._path} declares the entity {name!r}; TMX needs none, and none is expanded.")

    def _start(self, name, attributes):
        if name == "tmx":
            self.is_tmx = True
        elif name == "header":
            self.source = attributes.get("srclang", "")
        elif name == "tu":
            self._unit = [self.parser.CurrentLineNumber, {}, False]
        elif name == "tuv":
            self._language = (attributes.get("xml:lang") or attributes.get("lang") or "").lower().replace("_", "-")
            if not self._language:
                raise Refusal(f"{self._path}, line {self.parser.CurrentLineNumber}: an element tuv has no xml:lang.")
        elif name == "seg":
            self._segment = []
        elif name in CODES:
            self._codes += 1

    def _end(self, name):
        if name == "seg" and self._unit is not None:
            text = re.sub(r"[ \t\r\n]+", " ", "".join(self._segment)).strip()
            self._unit[2] |= self._language in self._unit[1]
            self._unit[1].setdefault(self._language, text)
            self._segment = None
        elif name == "tu":
            self._done.append(self._unit)
            self._unit = None
        elif name in CODES:
            self._codes -= 1

    def _text(self, text):
        if self._segment is not None and not self._codes:
            self._segment.append(text)
