"""Two tokenizers of an encoder-decoder: one reads sources, the other reads and writes targets.

zoo_tokenizer.json    algorithm `pair`
source/  target/      each as its own tokenizer saves it
"""

import json

from zoo.config import Refusal
from zoo.tokenizers import base, pretrained
from zoo.tokenizers.base import Tokenizer


class PairTokenizer(Tokenizer):
    """A tokenizer of sources, whose `target` is another one.

    Everything but `target` is the source's: `encode` reads a source, `target.encode` a target, `target.decode` writes one. The
    ids of the two may be one numbering, as in Marian, or two.

        >>> from zoo.tokenizers.word import WordTokenizer
        >>> pair = PairTokenizer(WordTokenizer(["the", "cat"]), WordTokenizer(["chat", "le"]))
        >>> pair.encode("the cat"), pair.target.encode("le chat"), pair.target.decode([3, 2])
        ([2, 3], [3, 2], 'le chat')

    Args:
        source: a `Tokenizer`.
        target: another one.
    """

    registered_name = "pair"
    huggingface_class = "MarianTokenizer"

    def __init__(self, source, target):
        super().__init__()
        self.source, self._target = source, target
        self.vocab_size, self.eos_id, self.unk_id = source.vocab_size, source.eos_id, source.unk_id
        self.cls_id, self.sep_id, self.mask_id, self.bos_id = source.cls_id, source.sep_id, source.mask_id, source.bos_id
        self.special, self.line_documents, self.cut = source.special, source.line_documents, source.cut

    @property
    def target(self):
        return self._target

    @property
    def shares_ids(self):
        return self.source.vocabulary == self._target.vocabulary

    @property
    def pad_id(self):
        return self.source.pad_id

    @property
    def vocabulary(self):
        return self.source.vocabulary

    @property
    def source_template(self):
        return self.source.source_template

    def begins_word(self):
        return self.source.begins_word()

    def encode_batch(self, texts):
        return self.source.encode_batch(texts)

    def decode(self, ids):
        return self.source.decode(ids)

    def lost_bytes(self, text):
        return self.source.lost_bytes(text)

    def tokenize(self, texts):
        return self.source.tokenize(texts)

    def detokenize(self, token_ids):
        return self.source.detokenize(token_ids)

    def save_huggingface(self, directory):
        from zoo.tokenizers.numbered_pieces import NumberedPieces  # which wants the library sentencepiece

        sides = self.source, self._target
        if not all(isinstance(side, NumberedPieces) for side in sides) or not self.shares_ids:
            raise Refusal(
                "Hugging Face reads a pair of tokenizers if both are pieces of SentencePiece with the same ids; these are not."
            )
        for name, side in zip(pretrained.PAIR[:2], sides, strict=True):
            (directory / name).write_bytes(side.model)
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        (directory / pretrained.PAIR[2]).write_text(json.dumps(ids, ensure_ascii=False, indent=0) + "\n", encoding="utf8")

    def save_assets(self, directory):
        for name, side in (("source", self.source), ("target", self._target)):
            side.save(directory / name)
        return {"target_vocab_size": self._target.vocab_size}

    @classmethod
    def from_directory(cls, directory, config):
        source, target = (base.load(directory / name) for name in ("source", "target"))
        if target.vocab_size != config["target_vocab_size"]:
            raise Refusal(f"the target has {target.vocab_size} ids, and not {config['target_vocab_size']}")
        return cls(source, target)
