"""WordPiece (Schuster and Nakajima 2012) with BERT's normalisation (Devlin et al. 2019, arXiv:1810.04805).

A text is cleaned, stripped of accents and lower-cased as asked; words are what stands between white space, with every
punctuation mark and Chinese character a word of its own; each word is spelt by the longest piece of the vocabulary that
begins it, then by the longest that goes on, and so forth. A word that cannot be spelt so becomes `unk_id` as a whole.
The native side is the Rust library `tokenizers`; the graph side is `zoo/tokenizers/wordpiece_graph.py`.
"""

import collections
import itertools
from pathlib import Path

import numpy as np
import tokenizers

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers.added import Added, AddedTokens, add_to, split_added
from zoo.tokenizers.base import Tokenizer, cut_at_spaces, encode_pieces, read_json, read_lines, to_text, valid_utf8
from zoo.tokenizers.special import NOTHING, Special, post_processor, sentinels_among
from zoo.tokenizers.wordpiece_graph import WordPieceGraph

DEFAULT_VOCAB_SIZE = 8_192
# What each special token is for, and what BERT calls it.
ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
NEEDED = ("unk", "cls", "sep")
PREFIX = "##"
MAX_WORD_LENGTH = 100
UNCASED = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": True, "lowercase": True}
# While pieces are learnt, a character inside a word is written as one of these: no real text has them.
INNER = 0xF0000
REPEATED_TOGETHER = 1 << 12


@TOKENIZERS.register("wordpiece")
class WordPieceTokenizer(Tokenizer):
    """WordPiece over BERT's words. `eos_id` is [SEP]; `cls_id`, `sep_id`, `mask_id`, `pad_id` stand for no text.

    Args:
        vocabulary: dict, token -> id, each of 0..vocab_size-1 once. A token that goes on with a word begins with "##".
        normalization: `clean_text`, `handle_chinese_chars`, `strip_accents`, `lowercase`, all bool: BERT's, and by
            default those of its uncased models.
        special_tokens: role (`pad`, `unk`, `cls`, `sep`, `mask`) -> token, where they differ from BERT's `ROLES`.
        unspoken: further special tokens, which no text yields.
        special: what third-party files say of them, a `Special`.
        added: plain text that somebody added, a list of `Added`; the vocabulary need not have it.

    Raises:
        Refusal: an id is missing or there twice, or the vocabulary has no [UNK], [CLS] or [SEP].

    Example:
        >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing"]
        >>> tokenizer = WordPieceTokenizer({token: i for i, token in enumerate(vocabulary)})
        >>> tokenizer.encode("Playing")
        [5, 6]
    """

    def __init__(self, vocabulary, normalization=None, special_tokens=None, unspoken=(), special=NOTHING, added=()):
        super().__init__()
        self.special, self._unspoken, self.added = special, tuple(unspoken), tuple(added)
        own = {token.content: token.id for token in self.added if token.content not in vocabulary}
        vocabulary = {**vocabulary, **own}
        self._normalization = {**UNCASED, **(normalization or {})}
        self.special_tokens = {**ROLES, **(special_tokens or {})}
        _check(vocabulary, self._normalization, self.special_tokens)
        self.sentinel_ids = sentinels_among({token: vocabulary[token] for token in self._unspoken})
        self.vocab_size = len(vocabulary)
        ids = {role: vocabulary.get(token) for role, token in self.special_tokens.items()}
        self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[role] for role in ("unk", "cls", "sep", "mask"))
        self.eos_id, self._pad_id = self.sep_id, self.sep_id if ids["pad"] is None else ids["pad"]
        unspoken = {self.special_tokens[role] for role in ids if role != "unk"}.union(self._unspoken, own)
        spoken = {token: i for token, i in vocabulary.items() if token not in unspoken}
        self._native = _native(self._normalization, spoken, self.special_tokens["unk"])
        self._vocabulary = tuple(sorted(vocabulary, key=vocabulary.get))
        self._written = np.full(self.vocab_size, b"", object)
        self._matched = AddedTokens(self.added, self._native.normalizer.normalize_str)
        for i in own.values():
            self._written[i] = b" " + self._matched.written[i].encode("utf8")
        self.cut = self._matched.cut(self.cut)
        # From this id on there are added tokens alone.
        self._behind = min(own.values(), default=self.vocab_size)
        first, other = {}, {}
        for token, i in spoken.items():
            inner = token.startswith(PREFIX)
            self._written[i] = (token.removeprefix(PREFIX) if inner else " " + token).encode("utf8")
            first[token.encode("utf8")] = i
            if inner and token != PREFIX:
                other[token.removeprefix(PREFIX).encode("utf8")] = i
        self._graph = WordPieceGraph(
            self._normalization, first, other,
            unk_id=self.unk_id, max_word_length=MAX_WORD_LENGTH, written=self._written,
        )  # fmt: skip

    @property
    def pad_id(self):
        return self._pad_id

    @classmethod
    def train(cls, texts, vocab_size=None, normalization=None):
        """Learns pieces until there are `vocab_size` ids (8,192 by default), or no pair of pieces is there twice."""
        vocab_size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
        if vocab_size <= len(ROLES):
            needs = f"at least {len(ROLES) + 1} ids ({len(ROLES)} of them special)"
            raise Refusal(f"A WordPiece vocabulary has {needs}, got vocab_size {vocab_size}.")
        normalization = {**UNCASED, **(normalization or {})}
        counts = _word_counts(texts, normalization)
        if not counts:
            raise Refusal("There is no text to learn pieces from.")
        pieces = _learnt(counts, vocab_size - len(ROLES))
        return cls({token: i for i, token in enumerate([*ROLES.values(), *pieces])}, normalization)

    @classmethod
    def from_vocabulary(cls, vocab_txt, normalization=None, special_tokens=None, added=lambda vocabulary: ({}, [])):
        """From a `vocab.txt`, a token a line. The file does not tell how text is normalised; an uncased one is assumed.

        `added` gives the tokens that other files add, from the vocabulary: a dict, token -> id, of special ones, and a list
        of `Added`. Raises Refusal when a token is there twice or there is no such file.
        """
        tokens = read_lines(vocab_txt)
        vocabulary = {}
        for i, token in enumerate(tokens):
            if token in vocabulary:
                lines = f"on line {vocabulary[token] + 1} and on line {i + 1}"
                raise Refusal(f"{vocab_txt} has the token {token!r} twice, {lines}; each must be there once.")
            vocabulary[token] = i
        unspoken, plain = added(vocabulary)
        return cls(vocabulary | unspoken, normalization, special_tokens, tuple(unspoken), added=plain)

    @classmethod
    def from_pretrained(cls, directory):
        """From a directory with a `vocab.txt` and perhaps, beside it, Hugging Face's `tokenizer_config.json`."""
        from zoo.tokenizers import pretrained

        return pretrained.from_files(Path(directory) / "vocab.txt")

    @classmethod
    def from_huggingface(cls, tokenizer_json, special_tokens=None, special=NOTHING):
        """From a `tokenizer.json` of the `tokenizers` library.

        Args:
            tokenizer_json: path. The model must be WordPiece, the normalizer and the pre-tokenizer BERT's. Its
                post-processor is not used: special ids are the caller's to add.
            special_tokens, special: as in the constructor.
        """
        config = read_json(tokenizer_json)
        try:
            model = config["model"]
            _check_supported(config, model, tokenizer_json)
            vocabulary = dict(model["vocab"])
            added, plain = split_added(config, special)
            normalization = {name: config["normalizer"][name] for name in UNCASED}
        except (KeyError, TypeError, AttributeError) as error:
            raise Refusal(f"{tokenizer_json} is not a tokenizer.json of Hugging Face ({error!r}).") from error
        if normalization["strip_accents"] is None:  # then it goes with the case
            normalization["strip_accents"] = normalization["lowercase"]
        named = {role: token for role, token in special.roles.items() if role in ROLES}
        special_tokens = {**named, "unk": model.get("unk_token", ROLES["unk"]), **(special_tokens or {})}
        unspoken = sorted(added.keys() - {*ROLES.values(), *special_tokens.values()}, key=added.get)
        return cls({**vocabulary, **added}, normalization, special_tokens, unspoken, special, plain)

    @property
    def vocabulary(self):
        """Every token as vocabulary files write it, in the order of ids."""
        return self._vocabulary

    def begins_word(self):
        return np.array([not token.startswith(PREFIX) for token in self._vocabulary])

    def encode_batch(self, texts):
        if not self.added:
            return encode_pieces(self._native, texts)
        normalize = self._native.normalizer.normalize_str
        return self._matched.encode_batch(texts, normalize, lambda parts, firsts: encode_pieces(self._native, parts))

    def decode(self, ids):
        """As the contract says: words joined by a space, pieces by nothing; `unk_id` becomes its own token."""
        return b"".join(self._written[self.checked_ids(ids)]).removeprefix(b" ").decode("utf8")

    def lost_bytes(self, text):
        lost = 0
        text = to_text(text)
        segments = self._matched.segments(text, self._native.normalizer.normalize_str) if self.added else [(-1, text)]
        for piece in (piece for _, segment in segments for piece in cut_at_spaces(segment)):
            encoding = self._native.encode(piece, add_special_tokens=False)
            for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                lost += len(piece[start:end].encode("utf8")) if i == self.unk_id else 0
        return min(lost, len(text.encode("utf8")))

    def tokenize(self, texts):
        if not self.added:
            return self._graph.tokenize(texts)
        texts = valid_utf8(texts)
        return self._matched.tokenize(texts, self._graph.normalize, lambda parts, firsts: self._graph.tokenize(parts))

    def detokenize(self, token_ids):
        return self._graph.detokenize(token_ids)

    def save_assets(self, directory):
        """Writes `tokenizer.json`, which Hugging Face's libraries read too."""
        self.save_huggingface(directory)
        return {"special_tokens": self.special_tokens, **self.special.saved()}

    @property
    def roles(self):
        """BERT has no token that begins or ends a text; [CLS] and [SEP] do that."""
        return {role: token for role, token in super().roles.items() if role in ROLES or role in self.special.roles}

    def save_huggingface(self, directory):
        vocabulary = {token: i for i, token in enumerate(self._vocabulary)}
        spoken = dict(list(vocabulary.items())[: self._behind])
        native = _native(self._normalization, spoken, self.special_tokens["unk"])
        native.decoder = tokenizers.decoders.WordPiece(prefix=PREFIX)
        special = {token for token in (*self.special_tokens.values(), *self._unspoken) if token in vocabulary}
        special = [(Added(token, vocabulary[token], normalized=False), True) for token in special]
        add_to(native, [*special, *((token, False) for token in self.added)], self.vocab_size)
        native.post_processor = post_processor(self.template, vocabulary.get)
        (directory / "tokenizer.json").write_text(native.to_str(pretty=True), encoding="utf8")

    @classmethod
    def from_directory(cls, directory, config):
        return cls.from_huggingface(directory / "tokenizer.json", config["special_tokens"], Special.loaded(config))


def _native(normalization, vocabulary, unk_token):
    model = tokenizers.models.WordPiece(
        vocabulary, unk_token=unk_token, max_input_chars_per_word=MAX_WORD_LENGTH, continuing_subword_prefix=PREFIX
    )
    native = tokenizers.Tokenizer(model)
    native.normalizer = tokenizers.normalizers.BertNormalizer(**normalization)
    native.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return native


def _word_counts(texts, normalization):
    """Counter of the words of all texts, normalised."""
    normalizer = tokenizers.normalizers.BertNormalizer(**normalization)
    words = tokenizers.pre_tokenizers.BertPreTokenizer()
    counts = collections.Counter()
    for text in texts:
        for piece in cut_at_spaces(to_text(text)):
            counts.update(word for word, _ in words.pre_tokenize_str(normalizer.normalize_str(piece)))
    return counts


def _learnt(counts, size):
    """At most `size` pieces: the most frequent characters, at the front and inside of words, and what they merge into.

    The merges are BPE's (Sennrich et al. 2016), as in every WordPiece trainer there is. `tokenizers` has one of its own,
    but numbers characters inside words by the order of a hash table, so no two runs of it give the same vocabulary. Here
    they are characters of their own, and BPE's trainer numbers those by their code points.
    """
    counts = {word: count for word, count in counts.items() if len(word) <= MAX_WORD_LENGTH}
    inner = sorted({character for word in counts for character in word[1:]})
    inner_of = dict(zip(inner, map(chr, range(INNER, INNER + len(inner))), strict=True))
    characters = collections.Counter()
    spelt = {}
    for word, count in counts.items():
        spelt[word] = word[0] + "".join(map(inner_of.__getitem__, word[1:]))
        for character in spelt[word]:
            characters[character] += count
    kept = set(sorted(characters, key=lambda character: (-characters[character], character))[:size])
    native = tokenizers.Tokenizer(tokenizers.models.BPE())
    native.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False)
    known = (_repeated(word, counts[plain]) for plain, word in spelt.items() if kept.issuperset(word))
    native.train_from_iterator(itertools.chain.from_iterable(known), trainer)
    learnt = sorted(native.get_vocab().items(), key=lambda item: item[1])
    lost = sorted(kept.difference(token for token, _ in learnt))  # characters of words that hold rarer ones
    plain_of = {there: here for here, there in inner_of.items()}
    plain = str.maketrans(plain_of)
    tokens = [*lost, *(token for token, _ in learnt)][:size]
    return [(PREFIX if token[0] in plain_of else "") + token.translate(plain) for token in tokens]


def _repeated(word, count):
    """Yields texts that have a word `count` times together, none of them long."""
    for start in range(0, count, REPEATED_TOGETHER):
        yield " ".join([word] * min(REPEATED_TOGETHER, count - start))


def _check_supported(config, model, path):
    """Raises Refusal for what a tokenizer.json may ask and this class does not do."""
    normalizer, words = config.get("normalizer") or {}, config.get("pre_tokenizer") or {}
    longest, prefix = model.get("max_input_chars_per_word", MAX_WORD_LENGTH), model.get("continuing_subword_prefix")
    for true, sentence in [
        (model.get("type", "WordPiece") == "WordPiece", f"a {model.get('type')} model; only WordPiece is read here"),
        (normalizer.get("type") == "BertNormalizer", f"the normalizer {normalizer.get('type')}; only BERT's is read"),
        (words.get("type") == "BertPreTokenizer", f"the pre-tokenizer {words.get('type')}; only BERT's is read"),
        (longest == MAX_WORD_LENGTH, f"max_input_chars_per_word={longest}; only {MAX_WORD_LENGTH} is supported"),
        (prefix in (None, PREFIX), f"continuing_subword_prefix={prefix!r}; only {PREFIX!r} is supported"),
    ]:
        if not true:
            raise Refusal(f"{path} has {sentence}.")


def _check(vocabulary, normalization, special_tokens):
    """Raises Refusal unless ids are 0..n-1, each once, and the tokens that BERT cannot do without are there."""
    for name in normalization:
        if name not in UNCASED:
            raise Refusal(f"BERT's normalisation has no option {name!r}; it has {', '.join(UNCASED)}.")
    for role in special_tokens:
        if role not in ROLES:
            raise Refusal(f"There is no special token for {role!r}; there are {', '.join(ROLES)}.")
    missing = set(range(len(vocabulary))) - set(vocabulary.values())
    if missing:
        ids = f"0..{len(vocabulary) - 1}, each once"
        raise Refusal(f"The vocabulary's ids must be {ids}; id {min(missing)} is missing.")
    for role in NEEDED:
        if special_tokens[role] not in vocabulary:
            raise Refusal(f"The vocabulary has no {special_tokens[role]}, which a WordPiece vocabulary must have.")
