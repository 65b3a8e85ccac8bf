"""Sentences of words in columns: tags (CoNLL-2000 to 2003, CoNLL-U) and semantic roles (PropBank, CoNLL-2005, Universal
Propositions).

    word TAB ... TAB tag                                                                 tagged; `column=` names another column
    word TAB predicate or - TAB one column of roles for each predicate                   conll
    ID FORM LEMMA UPOS ... MISC, and after them Universal Propositions' predicates       conllu

A blank line ends a sentence. Columns stand between tabs if every line of a sentence has one, else between blanks. Comments and
`-DOCSTART-` lines are not words. Roles are BIO tags (`B-ARG0 I-ARG0 O`) or spans in brackets (`(A0* * *)`), which become BIO.

References: Tjong Kim Sang and De Meulder 2003; Carreras and Marquez 2005; Akbik et al. 2015; Jindal et al. 2022.
"""

import re
from dataclasses import dataclass

from zoo.config import Refusal
from zoo.text_files import lines, together

NOT_A_PREDICATE = ("-", "_")
WHITE_SPACE = re.compile(r"[ \t\n\r\f\v]+")  # where tf.strings.split cuts a text that is served
BRACKETS = re.compile(r"(\([^()*\s]+)?\*(\))?")
# Of CoNLL-U's ten columns; a file of Universal Propositions has further ones.
CONLLU = {"word": 1, "tag": 3, "predicate": 10, "roles": 11}


@dataclass(frozen=True)
class Sentence:
    """The lines of one sentence.

    Attributes:
        path: the file.
        numbers: int, the number of each line.
        rows: for each line the list of its columns. All are of one length.
    """

    path: str
    numbers: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, index, what):
        """The cells of a column, from 0; an empty one is refused."""
        if index >= len(self.rows[0]):
            raise Refusal(
                f"{self.path}, line {self.numbers[0]} has {len(self.rows[0])} columns, and the {what} should be in column "
                f"{index + 1}."
            )
        for number, row in zip(self.numbers, self.rows, strict=True):
            if not row[index]:
                raise Refusal(f"{self.path}, line {number} has an empty {what}: {'|'.join(row)!r:.60}.")
        return [row[index] for row in self.rows]


def tagged(path, data_path, remarks):
    """(line, record) of each sentence: `tokens` and `tags`, and the words with blanks between them as `text`."""
    names = data_path.columns or ()
    word, width = names.index("word") if "word" in names else 0, None
    for sentence in sentences(path, data_path.errors):
        tag = data_path.column - 1 if data_path.column else names.index("tag") if "tag" in names else len(sentence.rows[0]) - 1
        width = width or len(sentence.rows[0])
        if width != len(sentence.rows[0]):
            raise Refusal(
                f"{path}, line {sentence.numbers[0]} has {len(sentence.rows[0])} columns, and the sentences before it have "
                f"{width}; each line of a file needs as many."
            )
        yield sentence.numbers[0], _tagged(sentence, word, tag, data_path, remarks)


def conll(path, data_path, remarks, partner=None):
    """(line, record) of each sentence: `tokens`, `predicates`, `senses`, and `tags`, one list for each predicate.

    With `column=`, or a column called `tag`, records are those of `tagged`. `partner` is a file whose columns are joined on.
    """
    names = data_path.columns or ()
    if data_path.column or "tag" in names:
        yield from tagged(path, data_path, remarks)
        return
    word = names.index("word") if "word" in names else 0
    predicate = names.index("predicate") if "predicate" in names else 1
    roles = names.index("roles") if "roles" in names else predicate + 1
    for sentence in sentences(path, data_path.errors, partner):
        yield sentence.numbers[0], _labelled(sentence, (word, predicate, roles), "roles" in names, remarks)


def conllu(path, data_path, remarks):
    """(line, record) of each sentence of a CoNLL-U file: those of `conll` if it has columns behind the tenth, else of `tagged`.

    Words are the syntactic words; the surface tokens of several (`1-2`) and the empty nodes (`8.1`) are left out.
    """
    names = data_path.columns or ()
    asked = data_path.column or "tag" in names
    word = names.index("word") if "word" in names else CONLLU["word"]
    tag = data_path.column - 1 if data_path.column else names.index("tag") if "tag" in names else CONLLU["tag"]
    for sentence in sentences(path, data_path.errors):
        if len(sentence.rows[0]) < 10:
            raise Refusal(
                f"{path}, line {sentence.numbers[0]} has {len(sentence.rows[0])} columns, and CoNLL-U has ten; files with a "
                "word first are read by format=tagged or format=conll."
            )
        kept = _syntactic_words(sentence, remarks)
        sentence = Sentence(path, tuple(sentence.numbers[i] for i in kept), tuple(sentence.rows[i] for i in kept))
        if not kept:
            continue
        if asked or len(sentence.rows[0]) == 10:
            record = _tagged(sentence, word, tag, data_path, remarks)
            if not asked and "_" in record["tags"]:
                number = sentence.numbers[sentence.column(tag, "tag").index("_")]
                raise Refusal(f"{path}, line {number} has no UPOS tag (_); give it one, or read another column with column=.")
            yield sentence.numbers[0], record
        elif _has_spans(sentence):
            yield sentence.numbers[0], _propositions(sentence)
        else:
            columns = (CONLLU["word"], CONLLU["predicate"], CONLLU["roles"])
            yield sentence.numbers[0], _labelled(sentence, columns, False, remarks)


def _syntactic_words(sentence, remarks):
    """Which rows of a CoNLL-U sentence are words: their ids are 1, 2, 3, ... Raises Refusal for ids that are not so."""
    kept = []
    for i, (number, row) in enumerate(zip(sentence.numbers, sentence.rows, strict=True)):
        if row[0] == str(len(kept) + 1):
            kept.append(i)
        elif re.fullmatch(r"[0-9]+-[0-9]+", row[0]):
            remarks.add("tokens of several words, such as 1-2, are left out; their words are read", number)
        elif not re.fullmatch(r"[0-9]+\.[0-9]+", row[0]):
            raise Refusal(
                f"{sentence.path}, line {number} has the id {row[0]!r:.20} where {len(kept) + 1} should be; the words of a "
                "sentence are counted from 1, and a blank line ends it."
            )
    return kept


def sentences(path, errors="strict", partner=None):
    """Yields each `Sentence` of a file, or of two files whose columns are put side by side.

    Raises:
        Refusal: lines of one sentence with different numbers of columns; two files whose sentences end at different lines.
    """
    tabs = width = None
    for block in _blocks(lines(path, errors) if partner is None else _side_by_side(path, partner, errors)):
        tabs, width, block = _without_comments(block, tabs, width)
        if block:
            yield _sentence(path, block, tabs)


def _side_by_side(path, partner, errors):
    """(number, line) of two files, the columns of the second behind those of the first."""
    for number, left, right in together(path, partner, errors):
        if bool(left.strip()) != bool(right.strip()):
            raise Refusal(f"Line {number} ends a sentence in one of {path} and {partner} and not in the other.")
        yield number, "\t".join(cell for line in (left, right) for cell in _cells(line, "\t" in line) if line.strip())


def _blocks(numbered):
    """Lists of (number, line) between blank lines."""
    block = []
    for number, line in numbered:
        if line.strip(" \t\r"):
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _without_comments(block, tabs, width):
    """(tabs, width, block): the lines that are words, whether tabs stand between their columns, and how many columns there are.

    `tabs` and `width` are given as they were in the sentence before, or None: a block of comments alone has no words to tell.
    """
    block = [entry for entry in block if not entry[1].startswith("-DOCSTART-")]
    first = next((i for i, (_, line) in enumerate(block) if not line.startswith("#")), len(block))
    words = block[first:]
    if words:
        tabs = all("\t" in line for _, line in words if not line.startswith("#"))  # a comment among words is refused later
        width = len(_cells(words[0][1], tabs))
    leading = [entry for entry in block[:first] if not _is_comment(entry[1], tabs, width)]
    if leading and width is None:
        tabs = True
        width = len(_cells(leading[0][1], tabs))
    return tabs, width, leading + words


def _sentence(path, block, tabs):
    rows = [_cells(line, tabs) for _, line in block]
    for (number, line), row in zip(block, rows, strict=True):
        if len(row) < 2:
            raise Refusal(f"{path}, line {number} is not a word, a tab and its tag: {line!r:.60}.")
        if len(row) != len(rows[0]):
            between = "tabs" if tabs else "blanks"
            raise Refusal(
                f"{path}, line {number} has {len(row)} columns between {between} and line {block[0][0]} has {len(rows[0])}: "
                f"{line!r:.60}; each line of a sentence needs as many."
            )
    return Sentence(path, tuple(number for number, _ in block), tuple(map(tuple, rows)))


def _is_comment(line, tabs, width):
    """Whether a line that begins with # at the front of a sentence is a comment and not a word.

    `# text = ...`, `# id 7 TAB domain=en` and `#begin document` are comments; `#` and `#tag` with the columns of the others are
    words.
    """
    if width is None:
        return "\t" not in line
    cells = _cells(line, tabs)
    if len(cells) != width:
        return True
    if tabs:
        return line.startswith("# ")
    return "\t" in line or (line.startswith("# ") and any("=" in cell for cell in cells[1:]))


def _cells(line, tabs):
    return line.rstrip("\r").split("\t") if tabs else re.split(r"[ \t]+", line.strip(" \t\r"))


def _tagged(sentence, word, tag, data_path, remarks):
    words, tags = sentence.column(word, "word"), sentence.column(tag, "tag")
    check_tags(tags, sentence.path, sentence.numbers)
    words, tags = without_blanks(words, tags, data_path.blanks, sentence.path, sentence.numbers, remarks)
    return {"text": " ".join(words), "tokens": words, "tags": tags}


def check_tags(tags, path, numbers):
    """Raises Refusal for a tag with white space at one of its ends, which nobody sees. `numbers` as for `without_blanks`."""
    for i, tag in enumerate(tags):
        if tag != tag.strip():
            number = numbers if isinstance(numbers, int) else numbers[i]
            raise Refusal(f"{path}, line {number} has the tag {tag!r:.60} with white space at its end; take it away.")


def without_blanks(words, tags, blanks, path, numbers, remarks):
    """Words and tags where no word has white space in it: a server cuts texts there, so training must as well.

    Args:
        blanks: `refuse`, or `split`: each part becomes a word with the tag of the whole; after a `B-` tag the later parts get
            `I-`.
        numbers: the line of each word, or one line for all.

    Raises:
        Refusal: a word with white space in it, if `blanks` is `refuse`.
    """
    if "" in words:
        raise Refusal(f"{path}, line {numbers if isinstance(numbers, int) else numbers[0]} has an empty word; leave it out.")
    if not any(WHITE_SPACE.search(word) for word in words):
        return words, tags
    parts = []
    for i, (word, tag) in enumerate(zip(words, tags, strict=True)):
        number = numbers if isinstance(numbers, int) else numbers[i]
        pieces = [piece for piece in WHITE_SPACE.split(word) if piece]
        if pieces != [word]:
            if blanks == "refuse" or not pieces:
                raise Refusal(
                    f"{path}, line {number} has the word {word!r:.60} with white space in it, where a server would cut it; "
                    "give each part a tag of its own, or have words cut with blanks=split."
                )
            remarks.add("words with white space in them are cut there; each part has the tag of the whole", number)
        later = re.sub(r"^B-", "I-", tag)
        parts += [(piece, later if j else tag) for j, piece in enumerate(pieces)]
    words, tags = zip(*parts, strict=True)
    return list(words), list(tags)


def _labelled(sentence, columns, surplus_allowed, remarks):
    """The record of a sentence whose `columns` are the word's, the predicate's and the first of the roles, one a predicate."""
    word, predicate, roles = columns
    words = sentence.column(word, "word")
    cells = sentence.column(predicate, "predicate")
    places = [i for i, cell in enumerate(cells) if cell not in NOT_A_PREDICATE]
    count = len(sentence.rows[0]) - roles
    if count < len(places) or (count > len(places) and not surplus_allowed):
        raise Refusal(
            f"{sentence.path}, line {sentence.numbers[0]}: the sentence has {len(places)} predicates in column {predicate + 1} "
            f"and {max(count, 0)} columns of roles behind it; each predicate needs one. A file of tags is read with column=."
        )
    tags = [_bio(sentence, sentence.column(roles + k, "role")) for k in range(len(places))]
    for place, column in zip(places, tags, strict=True):
        verbs = [i for i, tag in enumerate(column) if tag[2:] == "V"]
        if verbs and place not in verbs:  # a few of PropBank's own sentences
            remarks.add("predicates have their V at another word than the predicate's", sentence.numbers[place])
    return _record(words, places, [cells[i] for i in places], tags)


def _record(words, places, senses, tags):
    return {"text": " ".join(words), "tokens": words, "predicates": places, "senses": senses, "tags": tags}


def _bio(sentence, cells):
    """BIO tags of a column: as it stands, or from spans in brackets, or from labels of heads (`A0`, `_`)."""
    if all(BRACKETS.fullmatch(cell) for cell in cells):
        return _from_brackets(sentence, cells)
    if all(re.match(r"[BIESLU]-.", cell) or cell == "O" for cell in cells):
        return cells
    if any(re.match(r"[BI]-.", cell) or "*" in cell for cell in cells):
        raise Refusal(f"{sentence.path}, line {sentence.numbers[0]}: a column of roles mixes BIO tags with others: {cells}.")
    return ["O" if cell in NOT_A_PREDICATE or cell == "O" else f"B-{cell}" for cell in cells]


def _from_brackets(sentence, cells):
    """(A0* * *) (V*) -> B-A0 I-A0 I-A0 B-V."""
    tags, inside = [], None
    for number, cell in zip(sentence.numbers, cells, strict=True):
        opening, closing = BRACKETS.fullmatch(cell).groups()
        if bool(opening) and inside is not None:
            raise Refusal(f"{sentence.path}, line {number}: {cell} begins a span inside of the span {inside}.")
        if closing and not (opening or inside):
            raise Refusal(f"{sentence.path}, line {number}: {cell} ends a span that has no beginning.")
        inside = opening[1:] if opening else inside
        tags.append(f"{'B' if opening else 'I'}-{inside}" if inside else "O")
        inside = None if closing else inside
    if inside:
        raise Refusal(f"{sentence.path}, line {sentence.numbers[-1]}: the span {inside} has no end in its sentence.")
    return tags


def _has_spans(sentence):
    """Whether the columns are UP 2's (UP:PRED UP:ARGHEADS UP:ARGSPANS) and not UP 1's (predicate, one column for each)."""
    spans = re.compile(r"_|[^:|\s]+:\d+(-\d+)?(\|[^:|\s]+:\d+(-\d+)?)*")
    cells = [cell for row in sentence.rows for cell in row[11:13]]
    return len(sentence.rows[0]) == 13 and all(spans.fullmatch(cell) for cell in cells)


def _propositions(sentence):
    """The record of a sentence of Universal Propositions 2: `label:first-last` spans, in ids of words."""
    words, senses = sentence.column(CONLLU["word"], "word"), sentence.column(CONLLU["predicate"], "predicate")
    index = {row[0]: i for i, row in enumerate(sentence.rows)}
    places = [i for i, sense in enumerate(senses) if sense not in NOT_A_PREDICATE]
    tags = []
    for place in places:
        column = ["O"] * len(words)
        column[place] = "B-V"
        spans = sentence.rows[place][12]
        for span in [] if spans == "_" else spans.split("|"):
            label, _, ids = span.rpartition(":")
            start, end = (ids.split("-") * 2)[:2]
            if start not in index or end not in index or index[end] < index[start]:
                raise Refusal(f"{sentence.path}, line {sentence.numbers[place]}: {span} names words that the sentence lacks.")
            for i in range(index[start], index[end] + 1):
                if column[i] == "O":
                    column[i] = f"{'B' if i == index[start] or column[i - 1] == 'B-V' else 'I'}-{label}"
        tags.append(column)
    return _record(words, places, [senses[i] for i in places], tags)
