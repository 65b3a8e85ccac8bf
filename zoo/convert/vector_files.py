"""Word vectors <-> the files of word2vec, GloVe and fastText.

    bundle = read_bundle("vectors.txt.gz")      the family word2vec with the word tokenizer, ready to be served
    write_bundle(bundle, "vectors.bin")

| name | form |
|---|---|
| `.txt`, `.vec` | a line "words width", then a line a word: the word and its numbers, separated by blanks |
| `.glove.txt` | the same without the first line; on reading the first line tells which of the two it is |
| `.bin` | that first line, then for each word: the word, a blank, float32 numbers (little-endian), perhaps a line feed |
| `.bin` of fastText | a model, which is read and not written (`zoo/convert/fasttext.py`) |

Each may be gzipped (`.gz`). A file is read as a stream into one table, which becomes the model's. Nine digits are written, so
float32 numbers come back bit for bit.
"""

import gzip
import importlib.util
import warnings
from pathlib import Path

import numpy as np
from keras import ops

from zoo.bundle import Bundle, aligned_zeros, as_tensor, unfilled
from zoo.config import Refusal
from zoo.convert import fasttext
from zoo.files import replace_file
from zoo.models.word2vec import Word2Vec, Word2VecConfig
from zoo.registry import TASKS
from zoo.text_files import GZIP_MARK, UTF8_MARK, opened
from zoo.tokenizers.word import WordTokenizer, normalised

HEADERLESS = ".glove.txt"
# The marks of sentences, which files of the original programs hold as words.
SENTENCE_MARKS, UNKNOWN = ("<s>", "</s>"), "<unk>"
MARKS = (*SENTENCE_MARKS, UNKNOWN)
WHITE_SPACE = set("\0\t\n\r ")
FASTTEXT_MAGIC = fasttext.MAGIC.to_bytes(4, "little")
READ_BYTES = 1 << 20
LONGEST_WORD = 1 << 16  # bytes; a longer one is a damaged file
GZIP_RATIO = 1_100  # deflate makes a file smaller by 1,032 at most
ROWS_AT_ONCE = 4_096
COMPARED_WORDS = 1_000


def _is_binary(path):
    return str(path).removesuffix(".gz").endswith(".bin")


# Reading


class _Table:
    """What has been read of a file: its words, and the table of their vectors, below the rows of `unk_id` and `eos_id`.

    Args:
        path: of the file, for messages.
        count: how many words it has at most.
        width: how many numbers each has.
    """

    def __init__(self, path, count, width):
        least = 2 * count * width  # bytes of a text: a digit and a blank a number
        held = path.stat().st_size * (GZIP_RATIO if path.name.endswith(".gz") else 1)
        if not (count > 0 and width > 0 and least <= held):
            raise Refusal(f"{path}, line 1: {count} words of {width} numbers do not fit the size of the file; it is damaged.")
        self.path, self.width = path, width
        self.table = aligned_zeros((count + 2, width))
        self.places = {}  # word -> where it stands
        self.left_out = []  # marks, and words of a text file that have white space in them

    def add(self, place, word, vector):
        """Takes a word, bytes, and its vector. `place` says where in the file it stands, such as "line 7"."""
        try:
            word = word.decode("utf8")
        except UnicodeDecodeError as error:
            raise self.malformed(place, f"the word {word[:40]!r} is not UTF-8.") from error
        if not word or not WHITE_SPACE.isdisjoint(word):
            raise self.malformed(place, f"the word {word[:40]!r} is empty or has white space in it; take it out of the file.")
        if not np.isfinite(vector).all():
            raise self.malformed(place, f"the vector of {word[:40]!r} has a number that is not finite.")
        if word in self.places or word in self.left_out:
            first = f" ({self.places[word]})" if word in self.places else ""
            raise self.malformed(place, f"the word {word[:40]!r} is there already{first}; each must be there once.")
        if word in SENTENCE_MARKS:
            self.left_out.append(word)
        elif word == UNKNOWN:
            self.left_out.append(word)
            self.table[WordTokenizer.unk_id] = vector
        else:
            self.table[len(self.places) + 2] = vector
            self.places[word] = place

    def malformed(self, place, sentence):
        return Refusal(f"{self.path}, {place}: {sentence}")


def read(path):
    """Reads a file of word vectors.

    Args:
        path: the file; its name tells the form, as the table above says.

    Returns:
        `(words, table, left_out)`: a list of N strings in the order of the file; float32 (N + 2, D), their vectors from row 2
        on, row 0 that of `<unk>` where the file has it, else zeros, and row 1 zeros; what is in the file and not among the
        words: special words, and words of a text file that have white space in them, as some of GloVe's have.

    Raises:
        Refusal: the file is damaged, or a word is there twice, or a vector has another width or a number that is not finite.
            The sentence has the number of the line, or of the word in a binary file.
    """
    path = Path(path)
    with opened(str(path)) as file:
        first = file.readline(READ_BYTES)
        if not first:
            raise Refusal(f"{path} is empty.")
        if first.startswith(GZIP_MARK):
            raise Refusal(f"{path} is a gzip file; give it a name that ends in .gz.")
        fields = first.removeprefix(UTF8_MARK).split()
        if not fields:
            raise Refusal(f"{path}, line 1: the line is empty, and should have a word and its numbers.")
        header = tuple(map(int, fields)) if len(fields) == 2 and all(field.isdigit() for field in fields) else None
        if first.startswith(FASTTEXT_MAGIC):
            count, width, rows = fasttext.read(path)
            found, header = _Table(path, count, width), (count, width)
            for number, (word, vector) in enumerate(rows, 1):
                found.add(f"word {number:,}", word, vector)
        elif _is_binary(path):
            if header is None:
                raise Refusal(f"{path}, line 1: expected the number of words and their width, got {first[:40]!r}.")
            found = _read_binary(_Table(path, *header), file, header[0])
        elif header is not None:
            found = _read_text(_Table(path, *header), file, 2, header[0])
    if header is None:
        with opened(str(path)) as file:
            count = sum(1 for line in file if line.strip())
        with opened(str(path)) as file:
            found = _read_text(_Table(path, count, max(1, len(fields) - 1)), file, 1)
    if not found.places:
        raise Refusal(f"{path} has no words.")
    return list(found.places), found.table[: len(found.places) + 2], found.left_out


def _read_text(found, file, first_line, count=None):
    """`count`: how many words there are, where the file says so."""
    read, number, empty = 0, first_line - 1, None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # by which numpy tells that something is not a number
        for number, line in enumerate(file, first_line):
            line = (line.removeprefix(UTF8_MARK) if number == 1 else line).rstrip(b"\r\n").replace(b"\t", b" ")
            if not line.strip():
                empty = empty or number
                continue
            if empty:
                raise found.malformed(f"line {empty}", "the line is empty, and the file goes on behind it.")
            if read == count:
                raise found.malformed(f"line {number}", f"the file goes on after the {count:,} words of its first line.")
            word, _, numbers = line.partition(b" ")
            try:
                vector = np.fromstring(numbers, np.float32, sep=" ")
            except (DeprecationWarning, ValueError):
                vector = ()
            read += 1
            spaced = _spaced_word(line, found.width) if len(vector) != found.width else None
            if spaced is not None:
                found.left_out.append(spaced)
            elif len(vector) != found.width:
                raise found.malformed(f"line {number}", _why_not(line, found.width))
            else:
                found.add(f"line {number}", word, vector)
    if count is not None and read < count:
        raise found.malformed(f"line {empty - 1 if empty else number}", f"the file ends after {read:,} of {count:,} words.")
    return found


def _spaced_word(line, width):
    """The word of a line that has `width` numbers behind a word of several parts, none of them a number; else None."""
    fields = line.decode("utf8", "replace").split(" ")
    fields = [field for field in fields if field]
    word, numbers = fields[:-width], fields[-width:]
    is_spaced = len(word) > 1 and all(map(_is_number, numbers)) and not any(map(_is_number, word))
    return " ".join(word) if is_spaced else None


def _why_not(line, width):
    """What is wrong with a line that does not hold a word and `width` numbers."""
    fields = line.decode("utf8", "replace").split()
    if line.startswith(b" "):
        return "the line begins with a blank, where its word should stand."
    wrong = next((field for field in fields[1:] if not _is_number(field)), None)
    if wrong is not None:
        return f"{wrong[:40]!r} is not a number."
    return f"expected a word and {width} numbers, got {max(0, len(fields) - 1)} numbers."


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_binary(found, file, count):
    data, start, size = b"", 0, 4 * found.width
    for number in range(1, count + 1):
        while (blank := data.find(b" ", start)) < 0 or len(data) < blank + 1 + size:
            more = file.read(max(READ_BYTES, size))
            if not more or (blank < 0 and len(data) - start > LONGEST_WORD):
                raise found.malformed(f"word {number:,} of {count:,}", "the file ends here, or is damaged.")
            data, start = data[start:] + more, 0
        found.add(f"word {number:,}", data[start:blank].lstrip(b"\n"), np.frombuffer(data, "<f4", found.width, blank + 1))
        start = blank + 1 + size
    if (data[start:] + file.read(2)).strip(b"\n"):
        raise found.malformed(f"word {count:,}", "the file goes on after the words of its first line.")
    return found


def read_bundle(path):
    """The bundle of a file: the family `word2vec` with the task `word_vectors`. Raises Refusal as `read` does.

    Where no word changes in lower case, texts are read in lower case: their other words are unknown either way. Files have no
    counts; words stand from the most frequent to the least, and the head counts N, N - 1, ..., 1, as gensim does.
    """
    words, table, left_out = read(path)
    try:
        tokenizer = WordTokenizer(words, lowercase=_in_lower_case(words))
    except Refusal as error:
        raise Refusal(f"{path}: {error}") from error
    config = Word2VecConfig(len(table), table.shape[1], eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id)
    task = TASKS.get("word_vectors")()
    with unfilled():
        model = task.assemble(Word2Vec(config)).build_from_ids()
    model.without_head().embeddings.value.assign(as_tensor(table))
    model.head.counts.assign(np.array([0, 0, *range(len(words), 0, -1)], np.float32))
    provenance = {"converted_from": "word vectors", "source": Path(path).name, "left_out": left_out}
    return Bundle(model, tokenizer, task, provenance)


def _in_lower_case(words):
    pieces = (words[start : start + ROWS_AT_ONCE] for start in range(0, len(words), ROWS_AT_ONCE))
    return all(normalised(piece, True, True) == piece for piece in pieces)


# Writing


def write_bundle(bundle, path):
    """Writes the vectors of a bundle, those of special tokens left out, in the order of ids.

    Args:
        bundle: a `Bundle` with a model of word vectors, whatever its task.
        path: the file to make; its name tells the form. It appears when it is whole.

    Returns:
        List of the tokens that were left out, because they have white space in them.

    Raises:
        Refusal: the vectors of the model depend on more than the word.
    """
    path, model = Path(path), bundle.model.without_head()
    if model.config.contextual:
        raise Refusal(
            f"{path.name} is a file of word vectors, and in {model.registered_name} those depend on the words around; give "
            "--to a directory, with --static=256 for vectors of its tokens."
        )
    words, special = bundle.tokenizer.vocabulary, set(bundle.tokenizer.special_ids)
    ids = [i for i in range(len(words)) if i not in special]
    if bundle.task.registered_name == "word_vectors":
        counts = np.asarray(bundle.model.head.counts)
        ids = [i for i in ids if counts[i] > 0]
    spelt = [i for i in ids if words[i] and WHITE_SPACE.isdisjoint(words[i])]
    kept = np.array(spelt, np.int64)

    def write_(aside):
        with (gzip.open if path.name.endswith(".gz") else open)(aside, "wb") as file:
            _write(file, path, [words[i] for i in spelt], kept, model.sides())

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write_)
    return [words[i] for i in sorted(set(ids) - set(spelt))]


def _write(file, path, words, ids, sides):
    width = sides[0].shape[1]
    if not path.name.removesuffix(".gz").endswith(HEADERLESS):
        file.write(f"{len(words)} {width}\n".encode())
    template = " ".join(["%.9g"] * width)
    for start in range(0, len(words), ROWS_AT_ONCE):
        rows = _rows(sides, ids[start : start + ROWS_AT_ONCE])
        for word, row in zip(words[start:], rows, strict=False):
            if _is_binary(path):
                file.write(word.encode("utf8") + b" " + row.astype("<f4").tobytes() + b"\n")
            else:
                file.write(f"{word} {template % tuple(row.tolist())}\n".encode())


def _rows(sides, ids):
    """float32 (N, D): the vectors of some ids."""
    return sum(ops.convert_to_numpy(ops.take(side, ids, axis=0)).astype(np.float32) for side in sides)


def certify(bundle, path, written=True):
    """Compares the vectors of a bundle with what gensim reads in the file.

    Args:
        bundle: a `Bundle`.
        path: the file.
        written: whether `write_bundle` wrote it. What others wrote may be more than gensim reads.

    Returns:
        dict of `words`, how many; `compared`, and `peer` or the `reason` why not; `largest_difference` of a number.

    Raises:
        Refusal: a number differs.
    """
    path = str(path)
    with opened(path) as file:
        first = file.readline(READ_BYTES)
    if first.startswith(FASTTEXT_MAGIC):
        return {"compared": False, "reason": "the file is a model of fastText and not one of vectors"}
    if importlib.util.find_spec("gensim") is None:
        return {"compared": False, "reason": "gensim is not installed (pip install gensim)"}
    from gensim.models import KeyedVectors

    headerless = not _is_binary(path) and len(first.split()) != 2
    try:
        theirs = KeyedVectors.load_word2vec_format(path, binary=_is_binary(path), limit=COMPARED_WORDS, no_header=headerless)
    except ValueError as error:  # of a file with tabs, or with blanks in its words
        if written:
            raise
        return {"compared": False, "reason": f"gensim does not read the file ({error})"}
    model, places = bundle.model.without_head(), {word: i for i, word in enumerate(bundle.tokenizer.vocabulary)}
    shared = [word for word in theirs.index_to_key if word in places and word not in SENTENCE_MARKS]
    ours = _rows(model.sides(), np.array([places[word] for word in shared], np.int64))
    apart = float(np.max(np.abs(ours - theirs[shared]), initial=0.0)) if shared else 0.0
    if apart > 0:
        raise Refusal(f"{path}: a number is apart from what gensim reads by {apart:.2g}.")
    return {"compared": True, "peer": "gensim", "words": len(shared), "largest_difference": apart}
