"""Byte-pair encoding of characters, as in GPT (Radford et al. 2018; Sennrich et al. 2016, arXiv:1508.07909).

Words are BERT's, in lower case and without accents. A word begins as its characters, the last one with `</w>` behind it; the
pair of neighbours whose merge was learnt first becomes one symbol, again and again. A character that the vocabulary lacks is
`unk_id`. The native side is the Rust library `tokenizers`. (OpenAI's own program cuts words by spaCy and mends texts by ftfy
first; transformers does as is done here.)

The graph side is that of byte-level BPE, with the byte 0xFF, which no UTF-8 has, for `</w>`: its first merges make characters
of bytes, the next ones put `</w>` behind characters.
"""

import functools

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.config import Refusal
from zoo.tokenizers.added import split_added
from zoo.tokenizers.base import Tokenizer, byte_values, cut_at_spaces, encode_pieces, kept, read_json, row_ids, to_text
from zoo.tokenizers.bpe import read_merges
from zoo.tokenizers.bpe_graph import DEVICE, BPEGraph
from zoo.tokenizers.special import NOTHING, Special
from zoo.tokenizers.wordpiece import UNCASED
from zoo.tokenizers.wordpiece_graph import WordPieceGraph

END_OF_WORD, END = "</w>", b"\xff"
# No text yields the end of a line, as words end there: it ends a text.
UNKNOWN, END_OF_LINE = "<unk>", f"\n{END_OF_WORD}"


class CharacterBPE(Tokenizer):
    """Byte-pair encoding of the characters of lower-cased words. `eos_id` is the end of a line, or else `unk_id`.

    Args:
        vocabulary: dict, token -> id, each of 0..vocab_size-1 once; `<unk>` among them.
        merges: list of pairs of tokens, the first learnt first.
        special: what third-party files say of special tokens, a `Special`.

    Raises:
        Refusal: an id is missing, there is no `<unk>`, or a merge makes what is not a token.

    Example:
        >>> vocabulary = ["<unk>", "a", "b</w>", "ab</w>"]
        >>> tokenizer = CharacterBPE({token: i for i, token in enumerate(vocabulary)}, [("a", "b</w>")])
        >>> tokenizer.encode("AB aab"), tokenizer.decode([3, 1, 3])
        ([3, 1, 3], 'ab aab')
    """

    registered_name = "character_bpe"

    def __init__(self, vocabulary, merges, special=NOTHING):
        super().__init__()
        if sorted(vocabulary.values()) != list(range(len(vocabulary))) or UNKNOWN not in vocabulary:
            raise Refusal(
                f"A vocabulary of {len(vocabulary)} tokens has ids from 0 on, each once, and one of them is {UNKNOWN}."
            )
        self.special, self.vocab_size, self.unk_id = special, len(vocabulary), vocabulary[UNKNOWN]
        self.eos_id = vocabulary.get(END_OF_LINE, self.unk_id)
        try:
            model = tokenizers.models.BPE(
                vocabulary, [tuple(pair) for pair in merges], unk_token=UNKNOWN, end_of_word_suffix=END_OF_WORD
            )
        except Exception as error:  # the library raises nothing narrower
            raise Refusal(f"The merges and the vocabulary do not fit together ({error}).") from error
        self._native = tokenizers.Tokenizer(model)
        self._native.normalizer = tokenizers.normalizers.BertNormalizer(**UNCASED)
        self._native.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        self._native.decoder = tokenizers.decoders.BPEDecoder(suffix=END_OF_WORD)
        self._vocabulary = tuple(sorted(vocabulary, key=vocabulary.get))
        self._written = np.array([token.replace(END_OF_WORD, " ").encode() for token in self._vocabulary], object)
        self._written[self.eos_id] = b""
        if self.eos_id != self.unk_id:
            self._written[self.unk_id] = f"{UNKNOWN} ".encode()
        self._graph = _Graph(vocabulary, merges, self._written, self.unk_id)

    @property
    def vocabulary(self):
        """Every token as vocabulary files write it, in the order of ids."""
        return self._vocabulary

    @classmethod
    def from_files(cls, encoder_json, vocab_bpe, special=NOTHING):
        """From two files: token -> id, and one merge a line in order behind a first line about the version."""
        return cls(read_json(encoder_json), read_merges(vocab_bpe), special)

    @classmethod
    def from_huggingface(cls, tokenizer_json, special=NOTHING):
        """From a `tokenizer.json` of the `tokenizers` library. Raises Refusal for another normalizer or pre-tokenizer than
        those of GPT."""
        config = read_json(tokenizer_json)
        try:
            model, normalizer, words = config["model"], config["normalizer"] or {}, config["pre_tokenizer"] or {}
            accents = normalizer.get("strip_accents")
            options = {**normalizer, "strip_accents": normalizer.get("lowercase") if accents is None else accents}
            for true, sentence in [
                (model.get("end_of_word_suffix") == END_OF_WORD, f"another end_of_word_suffix than {END_OF_WORD!r}"),
                (model.get("unk_token") == UNKNOWN, f"another unk_token than {UNKNOWN!r}"),
                (not model.get("fuse_unk") and not model.get("dropout"), "fuse_unk or dropout"),
                (options == {"type": "BertNormalizer", **UNCASED}, "another normalizer than GPT's"),
                (words.get("type") == "BertPreTokenizer", "another pre-tokenizer than GPT's"),
            ]:
                if not true:
                    raise Refusal(f"{tokenizer_json} has {sentence}; only GPT's BPE of characters is read here.")
            _, plain = split_added(config, special)
            if plain:
                raise Refusal(f"{tokenizer_json} has the added token {plain[0].content!r} of plain text; GPT's BPE has none.")
            vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in config.get("added_tokens") or []}}
            merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise Refusal(f"{tokenizer_json} is not a tokenizer.json of Hugging Face ({error!r}).") from error
        return cls(vocabulary, merges, special)

    def encode_batch(self, texts):
        return encode_pieces(self._native, texts)

    def decode(self, ids):
        """As the contract says: words joined by a space; `unk_id` becomes its own token."""
        return b"".join(self._written[self.checked_ids(ids)]).removesuffix(b" ").decode("utf8")

    def lost_bytes(self, text):
        lost = 0
        for piece in cut_at_spaces(to_text(text)):
            encoding = self._native.encode(piece, add_special_tokens=False)
            for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                lost += len(piece[start:end].encode("utf8")) if i == self.unk_id else 0
        return lost

    def tokenize(self, texts):
        return self._graph.tokenize(texts)

    def detokenize(self, token_ids):
        return self._graph.detokenize(token_ids)

    def save_assets(self, directory):
        """Writes `tokenizer.json`, which Hugging Face's libraries read too."""
        self.save_huggingface(directory)
        return self.special.saved()

    def save_huggingface(self, directory):
        (directory / "tokenizer.json").write_text(self._native.to_str(pretty=True), encoding="utf8")

    @classmethod
    def from_directory(cls, directory, config):
        return cls.from_huggingface(directory / "tokenizer.json", Special.loaded(config))


class _Graph(BPEGraph):
    """The graph side of `CharacterBPE`.

    Args:
        vocabulary, merges, unk_id: as there.
        written: object (V,), the bytes of each id in a text.
    """

    def __init__(self, vocabulary, merges, written, unk_id):
        symbols, pairs, firsts = _symbols(vocabulary, merges)
        id_of = {spelt(token): i for token, i in vocabulary.items() if token != UNKNOWN}
        ids = np.array([id_of.get(symbol, -1) for symbol in symbols], np.int32)
        super().__init__(pairs, ids, np.array(symbols, object), firsts=firsts)
        self._written, self._unk_id = written, unk_id
        # A symbol without an id stands for a character if it begins with the first byte of one.
        self._begins = np.array([symbol[0] & 0xC0 != 0x80 and symbol[:1] != END for symbol in symbols])
        self._cutter = WordPieceGraph(UNCASED, {}, {}, unk_id=unk_id, max_word_length=1, written=written)

    @functools.cached_property
    def _constants(self):
        with tf.init_scope(), tf.device(DEVICE):
            return tf.constant(self._begins), tf.constant(self._written)

    def tokenize(self, texts):
        begins, _ = self._constants
        with tf.device(DEVICE):
            words, text_of_word = self._cutter.words(texts)
            distinct, which = tf.unique(words)
            merged = self._merge(byte_values(tf.strings.join([distinct, END])))
            symbols = kept(merged, (tf.gather(self._tensors["ids"], merged.flat_values) >= 0)
                           | tf.gather(begins, merged.flat_values))  # fmt: skip
            ids = tf.gather(self._tensors["ids"], symbols.flat_values)
            tokens = tf.gather(symbols.with_flat_values(tf.where(ids < 0, self._unk_id, ids)), which)
            counts = tf.math.unsorted_segment_sum(tf.ones_like(which, tf.int64), text_of_word, tf.size(texts))
            splits = tf.gather(tokens.row_splits, tf.concat([[0], tf.cumsum(counts)], 0))
            return tf.RaggedTensor.from_row_splits(tokens.flat_values, splits, validate=False)

    def detokenize(self, token_ids):
        written = tf.gather(self._constants[1], token_ids.flat_values)
        texts = tf.strings.unsorted_segment_join(written, row_ids(token_ids), token_ids.nrows())
        return tf.strings.regex_replace(texts, " $", "")


def spelt(token):
    """A token as bytes, with `END` where a word ends."""
    ends = token.endswith(END_OF_WORD)
    return token.removesuffix(END_OF_WORD).encode() + (END if ends else b"")


def _symbols(vocabulary, merges):
    """(bytes of each symbol, a list; the two symbols that each merge joins, int64 (M, 2); the first symbol of each's bytes)."""
    alphabet = sorted({character for token in vocabulary if token != UNKNOWN for character in token.removesuffix(END_OF_WORD)})
    joins = []
    for character in alphabet:
        data = character.encode()
        joins += [(data[:i], data[i : i + 1]) for i in range(1, len(data))]
    joins = list(dict.fromkeys(joins)) + [(character.encode(), END) for character in alphabet]
    joins += [(spelt(left), spelt(right)) for left, right in merges]
    symbols = [bytes([byte]) for byte in range(256)]
    symbols += [left + right for left, right in joins]
    number = {}
    for i, symbol in enumerate(symbols):
        number.setdefault(symbol, i)
    pairs = np.array([(number[left], number[right]) for left, right in joins], np.int64).reshape(-1, 2)
    return symbols, pairs, np.array([number[symbol] for symbol in symbols], np.int32)
