"""N-gram models <-> ARPA files, the text format of SRILM and KenLM: `log10 p TAB words TAB log10 back-off`.

    write("model.arpa", model, words)          words[i] spells id i
    model, words = read("model.arpa")
    bundle = read_bundle("model.arpa.gz")      with the word tokenizer, ready to be served

Logarithms have base 10 here and nowhere else. Nine digits are written, so float32 tables come back bit for bit. An ARPA
file knows the sentence mark as two words: our `eos_id` is <s> where it opens an n-gram and </s> where it closes one;
`unk_id` is <unk>.
"""

import gzip
import importlib.util
import itertools
import math
import zlib
from pathlib import Path

import numpy as np

from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.files import replace_file
from zoo.layers.ngram_estimation import Tables
from zoo.models.ngram import MAX_ORDER, NGram, NGramConfig
from zoo.text_files import GZIP_MARK, UTF8_MARK
from zoo.tokenizers.word import WordTokenizer

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
UNK_SPELLINGS = (b"<unk>", b"<UNK>")
# The probability that SRILM writes for <s>, which is never predicted.
NEVER = -99.0
# What KenLM gives an unknown word where the file has no <unk>, log10.
UNKNOWN_MISSING = -100.0
SUFFIXES = (".arpa", ".arpa.gz")
TOLERANCE = 1e-3  # of log10 p of a word, between us and KenLM
LN10 = math.log(10)
ROWS_AT_ONCE = 1 << 16
# What KenLM separates words at.
WHITE_SPACE = set("\0\t\n\r ")
KENLM_MARK = b"mmap lm http://kheafield.com/code"
BLANKS = b"\t\n\r "


def write(path, model, words):
    """Writes a fitted model.

    Args:
        path: the file to make; gzipped if its name ends in `.gz`. It appears when it is whole.
        model: an NGram.
        words: the spelling of each id, a sequence of V strings; those of `eos_id` and `unk_id` do not matter. Raises
            Refusal for one that is empty, has white space in it, or is there twice: ARPA could not tell it apart.
    """
    words = _spellings(words, model.config)
    opener = gzip.open if str(path).endswith(".gz") else open

    def write_(aside):
        with opener(aside, "wt", encoding="utf8", newline="\n") as file:
            _write(file, model, words)

    replace_file(Path(path), write_)


def _write(file, model, words):
    num_ngrams = model.tables.num_ngrams
    file.write(f"\\data\\\nngram 1={num_ngrams[0] + 1}\n")  # <s> and </s> are two
    file.writelines(f"ngram {n}={size}\n" for n, size in enumerate(num_ngrams[1:], start=2))
    keys = [None]
    for n in range(1, model.config.order + 1):
        table, logs = model.tables.arrays(n)
        logs = logs.astype(np.float64) / LN10
        log_probs, backoffs = logs[:, 0], logs[:, 1] if n < model.config.order else None
        file.write(f"\n\\{n}-grams:\n")
        if n == 1:
            _write_unigrams(file, words, model.config.eos_id, log_probs, backoffs)
            continue
        keys.append(table)
        for start in range(0, num_ngrams[n - 1], ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, num_ngrams[n - 1]))
            columns = _columns(rows, keys, words, model.config.eos_id)
            _write_rows(file, log_probs[rows], columns, None if backoffs is None else backoffs[rows])
    file.write("\n\\end\\\n")


def _spellings(words, config):
    """An object array of V strings that an ARPA file can hold, with </s> and <unk> in their places."""
    words = np.array(list(words), dtype=object)
    if words.shape != (config.vocab_size,):
        raise Refusal(f"The model has {config.vocab_size} ids, so ARPA needs as many words, got {len(words)}.")
    words[config.eos_id] = EOS
    if config.unk_id is not None:
        words[config.unk_id] = UNK
    seen = {BOS}
    for i, word in enumerate(words):
        if not word or not WHITE_SPACE.isdisjoint(word) or word in seen:
            raise Refusal(f"ARPA cannot spell id {i} as {word!r}: a word must be unique and without white space.")
        seen.add(word)
    return words


def _write_unigrams(file, words, eos_id, log_probs, backoffs):
    """<s> stands just before </s>: it has no probability, and the back-off weight of `eos_id` is its own."""
    order = np.insert(np.arange(len(words)), eos_id, eos_id)
    spellings, log_probs = words[order], log_probs[order]
    spellings[eos_id], log_probs[eos_id] = BOS, NEVER
    if backoffs is not None:
        backoffs = backoffs[order]
        backoffs[eos_id + 1] = 0.0
    _write_rows(file, log_probs, [spellings], backoffs)


def _columns(rows, keys, words, eos_id):
    """The words of the n-grams in `rows` of the last of `keys`, an object array for each place from first to last."""
    columns = []
    for table in reversed(keys[1:]):
        rows, last = np.divmod(table[rows], len(words) + 1)
        columns.insert(0, words[last])
    return [np.where(rows == eos_id, BOS, words[rows]), *columns]


def _write_rows(file, log_probs, columns, backoffs):
    template = "%.9g\t" + " ".join(["%s"] * len(columns)) + ("\n" if backoffs is None else "\t%.9g\n")
    values = [log_probs, *columns] if backoffs is None else [log_probs, *columns, backoffs]
    file.writelines(map(template.__mod__, zip(*(value.tolist() for value in values), strict=True)))


def read_bundle(path):
    """The bundle of an ARPA file: the model with the tokenizer of its words. Raises Refusal as `read` does."""
    model, words = read(path, for_tokenizer=True)
    try:
        tokenizer = WordTokenizer(words[2:])
    except Refusal as error:
        raise Refusal(f"{path}: {error}") from error
    provenance = {"converted_from": "arpa", "source": Path(path).name}
    return Bundle(model, tokenizer, "language_modeling", provenance)


def write_bundle(bundle, path):
    """Writes the n-gram model of a bundle. Raises Refusal for another model, or for tokens that ARPA cannot spell."""
    if bundle.model.registered_name != "ngram":
        raise Refusal(f"ARPA files hold n-gram models, and this is {bundle.model.registered_name}; give --to a directory.")
    if bundle.tokenizer.registered_name != "word":
        raise Refusal(
            f"ARPA separates words by blanks, and this model's tokens are those of the {bundle.tokenizer.registered_name} "
            "tokenizer; train with --tokenizer=word."
        )
    write(path, bundle.model, bundle.tokenizer.vocabulary)


def certify(bundle, path, written=True):
    """Compares the model of a bundle with what KenLM makes of the ARPA file, word by word.

    Args:
        bundle: a `Bundle`.
        path: the file.
        written: whether `write_bundle` wrote it. Of what others wrote, `read` takes more than KenLM does.

    Returns:
        dict of `sentences`, how many; `compared`, and `peer` or the `reason` why not; `largest_difference` of log10 p.

    Raises:
        Refusal: the two are apart by more than `TOLERANCE`.
    """
    if importlib.util.find_spec("kenlm") is None:
        return {"compared": False, "reason": "KenLM's Python module is not installed (pip install kenlm)"}
    import kenlm

    config, words = bundle.model.config, bundle.tokenizer.vocabulary
    try:
        judge = kenlm.Model(str(path))
    except OSError as error:
        if written:
            raise
        return {"compared": False, "reason": f"KenLM does not read the file ({error})"}
    rng, apart, sentences = np.random.default_rng(7), 0.0, 20
    for _ in range(sentences):
        ids = rng.integers(2, len(words), rng.integers(1, 13)) if len(words) > 2 else np.zeros(3, int)
        ours = np.asarray(bundle.model.token_log_probs(np.array([[config.eos_id, *ids]]), np.array([[*ids, config.eos_id]]))[0])
        theirs = [log10 for log10, _, _ in judge.full_scores(" ".join(words[i] for i in ids))]
        apart = max(apart, float(np.max(np.abs(ours[0] / LN10 - theirs))))
    if apart > TOLERANCE:
        raise Refusal(f"{path}: log10 p of a word is apart from KenLM's by {apart:.2g}, and at most {TOLERANCE} is right.")
    return {"compared": True, "peer": "kenlm", "sentences": sentences, "largest_difference": apart}


def _opened(path):
    """The bytes of a file that may be gzipped."""
    return gzip.open(path) if str(path).endswith(".gz") else open(path, "rb")


def read(path, for_tokenizer=False):
    """Reads an ARPA file of any toolkit.

    Args:
        path: the file, gzipped if its name ends in `.gz`. Raises Refusal, with the number of the line, where it is not as ARPA
            should be.
        for_tokenizer: whether ids are those of the word tokenizer: <unk>, </s>, then the words in the order of the file. A file
            without <unk> then gives it log10 p = -100, as KenLM does.

    Returns:
        `(model, words)`: an NGram, and the spelling of its ids, by default in the order of the file; "</s>" for `eos_id`.
    """
    try:
        return _read(path, for_tokenizer)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Refusal(f"{path} is a damaged gzip file: {error}.") from error


def _read(path, for_tokenizer):
    with _opened(path) as file:
        lines = enumerate(file, start=1)
        sizes = _read_header(path, lines)
        first_line, log_probs, backoffs, fields = _read_section(path, lines, 1, sizes[0], list)
        fields = _with_one_unknown(fields)
        words = _vocabulary(path, first_line, fields)
        if for_tokenizer:
            first = [UNK.encode(), EOS.encode()]
            words = [*first, *(word for word in words if word not in first)]
        ids, eos_id = {word: i for i, word in enumerate(words)}, words.index(EOS.encode())
        tables = [_unigrams(fields, words, eos_id, log_probs, backoffs)]
        ids[BOS.encode()] = len(words)  # until the places of <s> and </s> are checked
        ids.update(dict.fromkeys(UNK_SPELLINGS, ids[UNK.encode()]) if UNK.encode() in ids else {})
        for n, size in enumerate(sizes[1:], start=2):
            first_line, log_probs, backoffs, ngrams = _read_section(
                path,
                lines,
                n,
                size,
                lambda fields: np.fromiter(map(ids.get, fields, itertools.repeat(-1)), np.int32, len(fields)),
            )
            keys, rows = _sorted_keys(path, first_line, ngrams.reshape(-1, n), tables, len(words), eos_id)
            tables.append(Tables(keys, log_probs[rows], backoffs[rows]))
        _expect(path, lines, b"\\end\\")
        for _ in lines:  # to the checksum behind a gzipped text
            pass
    config = NGramConfig(
        order=len(sizes), vocab_size=len(words), eos_id=eos_id, unk_id=ids.get(UNK.encode()),
        ngram_counts=tuple(len(table.keys) for table in tables),
    )  # fmt: skip
    model = NGram(config)
    model.tables.assign(tables)
    return model, [word.decode("utf8", "replace") for word in words]


def _malformed(path, number, sentence):
    return Refusal(f"{path}, line {number}: {sentence}")


def _expect(path, lines, text, only=True):
    """Skips blank lines and the one that must be `text`; unless `only`, other lines before it too."""
    number = 0
    for number, line in lines:
        if number == 1 and line.startswith(GZIP_MARK):
            raise Refusal(f"{path} is a gzip file; give it a name that ends in .gz.")
        if number == 1 and line.startswith(KENLM_MARK):
            raise Refusal(f"{path} is a binary file of KenLM; give the ARPA file that it was made of.")
        line = line.removeprefix(UTF8_MARK) if number == 1 else line
        if line.strip() == text:
            return
        if only and line.strip():
            raise _malformed(path, number, f"expected {text.decode()}, got {line.strip()[:40]!r}.")
    raise _malformed(path, number, f"the file ends where {text.decode()} should stand.")


def _read_header(path, lines):
    """The numbers of n-grams that follow \\data\\, a list."""
    _expect(path, lines, b"\\data\\", only=False)  # CMU's toolkit tells before it what the model is
    sizes = []
    for number, line in lines:
        if not line.strip():
            break
        order, _, size = line.strip().removeprefix(b"ngram ").partition(b"=")
        if not (size.strip().isdigit() and order.strip() == b"%d" % (len(sizes) + 1)):
            expected = f"'ngram {len(sizes) + 1}=' and a count"
            raise _malformed(path, number, f"expected {expected}, got {line.strip()[:40]!r}.")
        sizes.append(int(size))
    if not 1 <= len(sizes) <= MAX_ORDER:
        raise Refusal(f"{path} is a model of order {len(sizes)}; an NGram has order 1 to {MAX_ORDER}.")
    return sizes


def _read_section(path, lines, n, size, read_words):
    """The n-grams of one order: (number of the first line, natural log-probabilities, back-offs, words).

    `read_words` gets the words of some n-grams, bytes one after the other; what it gives is put together.
    """
    _expect(path, lines, b"\\%d-grams:" % n)
    numbers, words, first_line, read = [], [], None, 0
    while read < size:
        block, fields_of_block, number = [], [], 0
        for number, line in itertools.islice(lines, min(ROWS_AT_ONCE, size - read)):
            first_line = number if first_line is None else first_line
            fields = line.strip(BLANKS).replace(b"\t", b" ").split(b" ")
            if b"" in fields:
                fields = [field for field in fields if field]
            try:
                block.append((float(fields[0]), float(fields[n + 1]) if len(fields) == n + 2 else 0.0))
            except (ValueError, IndexError):
                fields = []
            if len(fields) not in (n + 1, n + 2):
                expected = f"a log10 probability, {n} words and perhaps a back-off weight"
                raise _malformed(path, number, f"expected {expected}, got {line.strip()[:40]!r}.")
            fields_of_block += fields[1 : n + 1]
        block = np.array(block).reshape(-1, 2)
        _check_rows(path, number - len(block) + 1, ~(block[:, 0] <= 0), "a log10 probability must be a number up to 0.")
        _check_rows(path, number - len(block) + 1, ~np.isfinite(block[:, 1]), "a log10 back-off weight must be finite.")
        numbers.append((block * LN10).astype(np.float32))
        words.append(read_words(fields_of_block))
        read += len(block)
        if read < size and len(block) < ROWS_AT_ONCE:
            last = number or (first_line or 1) + read - 1
            raise _malformed(path, last, f"the file ends after {read:,} of {size:,} {n}-grams.")
    numbers = np.concatenate([np.zeros((0, 2), np.float32), *numbers])
    words = (
        [word for block in words for word in block] if read_words is list else np.concatenate([np.zeros(0, np.int32), *words])
    )
    return first_line, numbers[:, 0], numbers[:, 1], words


def _check_rows(path, first_line, wrong, sentence):
    if wrong.any():
        raise _malformed(path, first_line + int(wrong.argmax()), sentence)


def _with_one_unknown(unigrams):
    """Words with <UNK> written as <unk>, which KenLM takes for the same."""
    return [UNK.encode() if word in UNK_SPELLINGS else word for word in unigrams]


def _vocabulary(path, first_line, unigrams):
    """The distinct words as bytes, <s> and </s> being one."""
    words = [word for word in unigrams if word != BOS.encode()]
    if EOS.encode() not in words:
        raise Refusal(f"{path} has no {EOS} among its words, so it is not a model of sentences.")
    last_row = {word: row for row, word in enumerate(unigrams)}
    repeated = np.array([last_row[word] != row for row, word in enumerate(unigrams)])
    _check_rows(path, first_line, repeated, "this word stands in the list again further down.")
    return words


def _unigrams(unigrams, words, eos_id, log_probs, backoffs):
    """Unigrams in the order of `words`, without <s>, whose back-off weight goes to `eos_id`: </s> is not a history."""
    row_of = {word: row for row, word in enumerate(unigrams)}
    begin = row_of.get(BOS.encode())
    rows = np.array([row_of.get(word, -1) for word in words])
    there = rows >= 0
    log_probs = np.where(there, log_probs[rows], UNKNOWN_MISSING * LN10).astype(np.float32)
    backoffs_of_words = np.where(there, backoffs[rows], 0).astype(np.float32)
    backoffs_of_words[eos_id] = 0.0 if begin is None else backoffs[begin]
    return Tables(np.arange(len(words)), log_probs, backoffs_of_words)


def _sorted_keys(path, first_line, ngrams, tables, vocab_size, eos_id):
    """Keys of n-grams, int64 (M, n) ids, as `zoo.layers.ngram` sorts them, and the rows they come from."""
    _check_rows(path, first_line, (ngrams < 0).any(axis=1), "a word is not among the unigrams.")
    _check_rows(path, first_line, (ngrams[:, 1:] == vocab_size).any(axis=1), f"{BOS} can only begin an n-gram.")
    _check_rows(path, first_line, (ngrams[:, :-1] == eos_id).any(axis=1), f"{EOS} can only end an n-gram.")
    nodes = np.where(ngrams[:, 0] == vocab_size, eos_id, ngrams[:, 0]).astype(np.int64)
    for table, last in zip(tables[1:], ngrams.T[1:-1], strict=True):
        wanted = nodes * (vocab_size + 1) + last
        nodes = np.searchsorted(table.keys, wanted)
        missing = np.append(table.keys, -1)[nodes] != wanted
        _check_rows(path, first_line, missing, "the file lacks this n-gram without its last word.")
    keys = nodes * (vocab_size + 1) + ngrams[:, -1]
    rows = np.argsort(keys, kind="stable")
    keys = keys[rows]
    repeated = np.zeros(len(keys), bool)
    repeated[rows[1:]] = keys[1:] == keys[:-1]
    _check_rows(path, first_line, repeated, "this n-gram stands in the list twice.")
    return keys, rows
