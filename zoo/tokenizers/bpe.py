"""Byte-level byte-pair encoding, as in GPT-2 (Radford et al. 2019; the merges: Sennrich et al. 2016, arXiv:1508.07909).

A text is cut into words by a pattern (`zoo/tokenizers/bpe_words.py`); each word's bytes are symbols; the pair of neighbours
whose merge was learnt first becomes one symbol, again and again. The native side is the Rust library `tokenizers`; the graph
side is `zoo/tokenizers/bpe_graph.py`.
"""

import json

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers import bpe_words
from zoo.tokenizers.added import Added, AddedTokens, add_to, split_added
from zoo.tokenizers.base import (
    CUT,
    CUT_AT_BLANKS,
    Tokenizer,
    cut_at_spaces,
    encode_pieces,
    read_json,
    read_lines,
    require_list,
    to_text,
    valid_utf8,
)
from zoo.tokenizers.bpe_graph import BPEGraph
from zoo.tokenizers.special import NOTHING, Special, post_processor, sentinels_among

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCAB_SIZE = 4096
# RoBERTa's special tokens, where others are not named; a vocabulary that has all of them is an encoder's.
ROLES = {"cls": "<s>", "sep": "</s>", "mask": "<mask>"}


def _byte_symbols():
    """The printable character that vocabulary files write for each byte 0..255 (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


BYTE_SYMBOLS = _byte_symbols()
BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)}


@TOKENIZERS.register("bpe")
class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding with GPT-2's pattern of words or another; every string can be spelt.

    Some vocabularies of others lack bytes that their text did not have, control characters mostly. What they lack is left out
    of a text before anything is merged, as the Rust library does.

    Args:
        vocabulary: dict, token -> id, each of 0..vocab_size-1 once; all but special tokens in `BYTE_SYMBOLS`.
        merges: list of pairs of tokens, the first learnt first. Several may make one token.
        special_tokens: tokens that no text yields, however it is written.
        eos_token: the special token that separates documents.
        words: how texts are cut into words, a name in `bpe_words.PATTERNS`.
        special: what the special tokens are for, a `Special`.
        ignore_merges: whether a word that is a token becomes that token, whatever the merges make of it.
        nfc: whether texts are brought into Unicode's normal form C first, by tensorflow-text on both sides.
        added: plain text that somebody added, a list of `Added`; the vocabulary need not have it.

    Raises:
        Refusal: the vocabulary and the merges do not fit together.

    Example:
        >>> tokenizer = BPETokenizer.train(["low lower lowest low"], vocab_size=260)
        >>> tokenizer.decode(tokenizer.encode("lowest")), len(tokenizer.encode("low"))
        ('lowest', 1)
    """

    def __init__(
        self, vocabulary, merges, special_tokens=(END_OF_TEXT,), eos_token=END_OF_TEXT, words="gpt2",
        special=NOTHING, ignore_merges=False, nfc=False, added=(),
    ):  # fmt: skip
        super().__init__()
        merges, self.added = [tuple(pair) for pair in merges], tuple(added)
        own = {token.content: token.id for token in self.added if token.content not in vocabulary}
        spoken, vocabulary = vocabulary, {**vocabulary, **own}
        _check(vocabulary, merges, special_tokens, eos_token, own)
        self.vocab_size, self.eos_id = len(vocabulary), vocabulary[eos_token]
        self._eos_token, self._words, self._nfc = eos_token, words, nfc
        # Other patterns than GPT-2's take the ends of lines along with a sign, or want a blank in front.
        self._word_cut = CUT if words in ("gpt2", "digits") else CUT_AT_BLANKS
        self._matched = AddedTokens(self.added, self._normal)
        self.cut = self._matched.cut(self._word_cut)
        encoders = [special.roles.get(role, token) for role, token in ROLES.items()]
        if all(token in special_tokens for token in encoders):
            self.cls_id, self.sep_id, self.mask_id = (vocabulary[token] for token in encoders)
        self.special, self.sentinel_ids = special, sentinels_among({token: vocabulary[token] for token in special_tokens})
        bos, pad = special.roles.get("bos"), special.roles.get("pad", "<pad>")
        if self.cls_id is None and bos in special_tokens and bos != eos_token:
            self.bos_id = vocabulary[bos]
        self._pad_id = vocabulary[pad] if pad in special_tokens else self.eos_id
        self._special_ids = np.sort([vocabulary[token] for token in special_tokens])
        self._native = tokenizers.Tokenizer(tokenizers.models.BPE(spoken, merges, ignore_merges=ignore_merges))
        self._native.pre_tokenizer = bpe_words.pre_tokenizer(words)
        self._vocabulary = tuple(sorted(vocabulary, key=vocabulary.get))
        # From this id on there are added tokens alone.
        self._behind = min(own.values(), default=self.vocab_size)
        self._pieces = np.full(self.vocab_size, b"", object)
        for token, i in spoken.items():
            if token not in special_tokens:
                self._pieces[i] = bytes(map(BYTE_OF_SYMBOL.__getitem__, token))
        whole = self._wholes(special_tokens)
        for i in own.values():
            self._pieces[i] = self._matched.written[i].encode("utf8")
        self._graph = BPEGraph(**_symbols(spoken, merges), pieces=self._pieces, words=words, whole=whole)

    def _wholes(self, special_tokens):
        """Ids of tokens that a word becomes as a whole, and that merges do not make of it. Raises Refusal for special ones."""
        if not self._native.model.ignore_merges:
            return []
        for token in special_tokens:
            spelt = bytes(BYTE_OF_SYMBOL.get(symbol, 0) for symbol in token).decode("utf8", errors="replace")
            if token in [piece for piece, _ in self._native.pre_tokenizer.pre_tokenize_str(spelt)]:
                raise Refusal(f"The special token {token!r} is a word too, and ignore_merges=true makes it of plain text.")
        model = json.loads(self._native.to_str())["model"]
        merged = tokenizers.models.BPE(model["vocab"], [tuple(pair) for pair in model["merges"]])
        others = ((i, token) for i, token in enumerate(self.vocabulary) if self._pieces[i])
        return [i for i, token in others if [part.id for part in merged.tokenize(token)] != [i]]

    @property
    def pad_id(self):
        return self._pad_id

    @property
    def control_ids(self):
        return self._special_ids.tolist()

    @property
    def vocabulary(self):
        return self._vocabulary

    def begins_word(self):
        spoken = np.array([token.startswith(BYTE_SYMBOLS[ord(" ")]) or not token[0].isalnum() for token in self.vocabulary])
        spoken[[token.id for token in self.added]] = True
        return spoken

    @classmethod
    def train(cls, texts, vocab_size=None):
        """Learns merges until there are `vocab_size` ids (4,096 by default), or no pair is there twice."""
        vocab_size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
        if vocab_size < 257:
            needs = f"at least 257 ids (the bytes and {END_OF_TEXT})"
            raise Refusal(f"A byte-level vocabulary has {needs}, got vocab_size {vocab_size}.")
        native = tokenizers.Tokenizer(tokenizers.models.BPE())
        native.pre_tokenizer = bpe_words.pre_tokenizer("gpt2")
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        seen = False

        def pieces():
            nonlocal seen
            for text in texts:
                for piece in cut_at_spaces(to_text(text)):
                    seen = True
                    yield piece

        native.train_from_iterator(pieces(), trainer)
        if not seen:
            raise Refusal("There is no text to learn merges from.")
        model = json.loads(native.to_str())["model"]
        return cls(model["vocab"], model["merges"])

    @classmethod
    def from_huggingface(cls, tokenizer_json, eos_token=None, special=NOTHING, add_prefix_space=None):
        """From a `tokenizer.json` of the `tokenizers` library.

        Args:
            tokenizer_json: path. The model must be BPE, the pre-tokenizer one that `bpe_words.read` knows, the normalizer
                null or NFC. Post-processors are not used: special ids are the caller's to add.
            eos_token: the special token that separates documents; by default the one in `special`, `<|endoftext|>`, `</s>`, or
                the only one.
            special: what the special tokens are for, a `Special`.
            add_prefix_space: whether ByteLevel puts a blank in front; None where the file says so.
        """
        config = read_json(tokenizer_json)
        try:
            model = config["model"]
            _check_supported(config, model, tokenizer_json)
            words = bpe_words.read(config.get("pre_tokenizer"), tokenizer_json)
            if add_prefix_space is not None and words in ("gpt2", "prefixed"):
                words = "prefixed" if add_prefix_space else "gpt2"
            vocabulary = dict(model["vocab"])
            merges = [_pair(merge, tokenizer_json) for merge in model["merges"]]
            named = special if eos_token is None else Special({**special.roles, "eos": eos_token})
            silent, added = split_added(config, named)
            vocabulary.update(silent)
            specials = list(silent)
        except (KeyError, TypeError, AttributeError) as error:
            raise Refusal(f"{tokenizer_json} is not a tokenizer.json of Hugging Face ({error!r}).") from error
        named = special.roles.get("eos")
        candidates = [eos_token] if eos_token else [named, END_OF_TEXT, "</s>", *specials[: len(specials) == 1]]
        for candidate in candidates:
            if candidate in specials:
                whole, nfc = bool(model.get("ignore_merges")), config.get("normalizer") is not None
                return cls(vocabulary, merges, specials, candidate, words, special, whole, nfc, added)
        if eos_token:
            raise Refusal(f"{tokenizer_json} has no special token {eos_token!r} to end a text; it has {specials}.")
        raise Refusal(
            f"{tokenizer_json} does not say which token ends a text; name one of {specials} as eos_token in the file "
            "tokenizer_config.json beside it."
        )

    def encode_batch(self, texts):
        if self.added:
            return self._matched.encode_batch(texts, self._normal, lambda parts, firsts: self._encode(parts))
        return self._encode([self._normal(text) for text in map(to_text, require_list(texts))] if self._nfc else texts)

    def _encode(self, texts):
        return encode_pieces(self._native, texts, self._word_cut)

    def _normal(self, text):
        return _normal_form(text).numpy().decode() if self._nfc and not text.isascii() else text

    def decode(self, ids):
        return b"".join(self._pieces[self.checked_ids(ids)]).decode("utf8", errors="replace")

    def tokenize(self, texts):
        normalize = _normal_form if self._nfc else tf.identity
        if self.added:
            return self._matched.tokenize(valid_utf8(texts), normalize, lambda parts, firsts: self._graph.tokenize(parts))
        return self._graph.tokenize(_normal_form(valid_utf8(texts)) if self._nfc else texts)

    def detokenize(self, token_ids):
        return self._graph.detokenize(token_ids)

    def save_assets(self, directory):
        """Writes `tokenizer.json`, which Hugging Face's libraries read too."""
        self._write(directory)
        return {"eos_token": self._eos_token, **self.special.saved()}

    def save_huggingface(self, directory):
        self._write(directory, post_processor(self.template, self._native.token_to_id))

    def _write(self, directory, processor=None):
        model = self._native.model
        if self._behind < self.vocab_size:  # special tokens that stand behind added ones do not belong to the model
            made = json.loads(self._native.to_str())["model"]
            spoken = {token: i for i, token in enumerate(self._vocabulary[: self._behind])}
            merges = [tuple(pair) for pair in made["merges"]]
            model = tokenizers.models.BPE(spoken, merges, ignore_merges=self._native.model.ignore_merges)
        native = tokenizers.Tokenizer(model)
        native.pre_tokenizer, native.decoder = bpe_words.pre_tokenizer(self._words), tokenizers.decoders.ByteLevel()
        if self._nfc:
            native.normalizer = tokenizers.normalizers.NFC()
        if processor is not None:
            native.post_processor = processor
        lstrip, mask = self.special.mask_lstrip, self.mask_token
        tokens = [(i, self._vocabulary[i]) for i in self._special_ids.tolist()]
        special = [(Added(t, i, lstrip=t == mask and lstrip, normalized=False), True) for i, t in tokens]
        add_to(native, [*special, *((token, False) for token in self.added)], self.vocab_size)
        (directory / "tokenizer.json").write_text(native.to_str(pretty=True), encoding="utf8")

    @classmethod
    def from_directory(cls, directory, config):
        return cls.from_huggingface(directory / "tokenizer.json", config["eos_token"], Special.loaded(config))


def _normal_form(texts):
    """Unicode's normal form C of valid UTF-8: a string or a tensor of strings -> a tensor."""
    import tensorflow_text

    return tensorflow_text.normalize_utf8(texts, "NFC")


def _symbols(vocabulary, merges):
    """What `BPEGraph` is told of merges. One with a part that nothing makes can never be applied, and is left out."""
    count = None
    while count != len(merges):  # what is left out may have been the only maker of another's part
        count, made = len(merges), {*BYTE_SYMBOLS, *(left + right for left, right in merges)}
        merges = [(left, right) for left, right in merges if left in made and right in made]
    tokens = [*BYTE_SYMBOLS, *(left + right for left, right in merges)]
    symbols = {}
    for i, token in enumerate(tokens):
        symbols.setdefault(token, i)
    return {
        "pairs": np.array([(symbols[left], symbols[right]) for left, right in merges], np.int64).reshape(-1, 2),
        "ids": np.array([vocabulary.get(token, -1) for token in tokens], np.int32),
        "firsts": np.array([symbols[token] for token in tokens], np.int32),
    }


def read_merges(path):
    """The merges in a file that has one a line, in order: list of pairs of tokens."""
    lines = read_lines(path)
    lines = [line for line in lines[1 if lines[0].startswith("#version") else 0 :] if line]
    return [_pair(line, path) for line in lines]


def _pair(merge, path):
    """A merge as the files write it, "left right" or [left, right] -> (left, right)."""
    pair = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
    if len(pair) != 2:
        raise Refusal(f"{path} has the merge {merge!r}; a merge is two tokens with one space between.")
    return pair


def _check_supported(config, model, path):
    """Raises Refusal for what a tokenizer.json may ask and this class does not do."""
    for true, sentence in [
        (model.get("type", "BPE") == "BPE", f"a {model.get('type')} model; only BPE is read here"),
        (config.get("normalizer") in (None, {"type": "NFC"}), "a normalizer; only null and NFC are supported"),
        (not model.get("dropout"), "BPE dropout; only null is supported"),
        (not model.get("continuing_subword_prefix"), "a continuing_subword_prefix; only an empty one is supported"),
        (not model.get("end_of_word_suffix"), "an end_of_word_suffix; only an empty one is supported"),
    ]:
        if not true:
            raise Refusal(f"{path} has {sentence}.")


def _check(vocabulary, merges, special_tokens, eos_token, added):
    """Raises Refusal unless ids are 0..n-1, every merge has one, and no merge comes before its parts."""
    missing = set(range(len(vocabulary))) - set(vocabulary.values())
    if missing:
        ids = f"0..{len(vocabulary) - 1}, each once"
        raise Refusal(f"The vocabulary's ids must be {ids}; id {min(missing)} is missing.")
    if eos_token not in special_tokens:
        raise Refusal(f"The end of text {eos_token!r} must be one of the special tokens {list(special_tokens)}.")
    made = dict.fromkeys(symbol for symbol in BYTE_SYMBOLS if symbol in vocabulary)
    seen = set()
    for left, right in merges:
        lacking = next((part for part in (left, right) if part not in vocabulary), None)
        if lacking is not None or (left, right) in seen:
            why = "is there twice" if lacking is None else f"joins {lacking!r}, which the vocabulary does not have"
            raise Refusal(f"The merge {left!r} {right!r} {why}.")
        seen.add((left, right))
        made[left + right] = None
    for token in (*made, *special_tokens):
        if token not in vocabulary and token not in BYTE_OF_SYMBOL:
            raise Refusal(f"The vocabulary has no id for {token!r}, a special token or made by a merge.")
    for token in vocabulary:
        if token in special_tokens and token in made:
            raise Refusal(f"The special token {token!r} is also made by merges, so plain text would yield it.")
        if token not in special_tokens and token not in added and not BYTE_OF_SYMBOL.keys() >= set(token):
            raise Refusal(f"The token {token!r} is neither special nor in byte symbols; only these are read.")
