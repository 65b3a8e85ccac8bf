"""The vocabularies of ChatGLM and GLM-4 in the files of their makers.

- ChatGLM-6B: `ice_text.model`, a SentencePiece model with pieces for the end of a line, a tab, and runs of blanks
- ChatGLM2 and 3: `tokenizer.model`, a SentencePiece model; special tokens follow its pieces
- GLM-4: `tokenizer.model`, a line for each token of byte-level BPE, in base64, and its rank; special tokens follow
"""

import base64
import re

import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers.base import read_lines, require_list, to_text, valid_utf8
from zoo.tokenizers.bpe import BYTE_SYMBOLS
from zoo.tokenizers.special import Special
from zoo.tokenizers.unigram import UnigramTokenizer

ICE = "ice_text.model"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
BEHIND_PIECES = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *ROLES)
BEHIND_RANKS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLES)
BLANKS = ("[MASK]", "[sMASK]", "[gMASK]", "<sop>", "<eop>")
MOST_BLANKS = 80
# What the programs of ChatGLM2 and 3 put around a conversation, as a template of Hugging Face.
CHATS = {
    "chatglm2": (
        "{% for message in messages %}{% if loop.first %}[gMASK]sop{% endif %}{% if message['role'] == 'user' %}"
        "[Round {{ loop.index0 // 2 + 1 }}]\n\n问：{{ message['content'] }}\n\n答：{% else %}{{ message['content'] }}\n\n"
        "{% endif %}{% endfor %}"
    ),
    "chatglm3": (
        "{% for message in messages %}{% if loop.first %}[gMASK]sop{% endif %}<|{{ message['role'] }}|>\n "
        "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
}
LINE, TAB = "<n>", "<|tab|>"


def from_files(path, beside):
    """The tokenizer of a directory whose `model_type` is chatglm.

    Args:
        path: its `.model` file.
        beside: the `Beside` of the directory.

    Raises:
        Refusal: the file is of another kind, or lacks what a GLM needs.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\n", start):
        return _of_ranks(path, beside)
    if path.name == ICE:
        return IceTokenizer.from_sentencepiece(path, special=Special({"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}))
    begin = ("[gMASK]", "sop")
    chat = next((template for name, template in CHATS.items() if name in beside.named_path), None)
    special = Special({"eos": "</s>", "unk": "<unk>"}, (begin, (), ()), chat_template=chat)
    return UnigramTokenizer.from_sentencepiece(path, behind=BEHIND_PIECES, special=special)


def _of_ranks(path, beside):
    """GLM-4's: words are cut as Llama 3's are, and a word that is a token becomes that token."""
    ranks = {}
    for line in read_lines(path):
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise Refusal(f"{path} must give its {len(ranks)} tokens the ranks 0 to {len(ranks) - 1}, each once.")
    spelt = {token: "".join(BYTE_SYMBOLS[byte] for byte in token) for token in ranks}
    vocabulary = {spelt[token]: rank for token, rank in ranks.items()}
    added, plain = beside.added(vocabulary)
    added = added or {token: len(ranks) + i for i, token in enumerate(BEHIND_RANKS)}
    missing = [token for token in BEHIND_RANKS[:6] if token not in added]
    if missing:
        raise Refusal(f"{path} lacks the token {missing[0]!r}, which a GLM needs; copy the files beside it, too.")
    merges = [(spelt[left], spelt[right]) for left, right in _merges(ranks)]
    special = Special({"eos": "<|endoftext|>"}, (("[gMASK]", "<sop>"), (), ()))
    whole = sorted(added, key=added.get)
    return TOKENIZERS.get("bpe")(vocabulary | added, merges, whole, "<|endoftext|>", "llama3", special, True, added=plain)


def _merges(ranks):
    """Yields the pair that makes each token, in the order of ranks: what the token's bytes become by the merges before it."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            made = [ranks.get(left + right, rank) for left, right in zip(parts, parts[1:], strict=False)]
            lowest = min(made)
            if lowest >= rank:
                break
            i = made.index(lowest)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:  # of others no text makes it, but a word of just these bytes
            yield tuple(parts)


class IceTokenizer(UnigramTokenizer):
    """ChatGLM-6B's: the end of a line, a tab and two or more blanks are pieces of their own. `blank_ids` are the ids of [MASK],
    [sMASK], [gMASK], <sop> and <eop>.

    Args:
        model, special: as of `UnigramTokenizer`.
    """

    registered_name = "ice"

    def __init__(self, model, special):
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        pieces = {piece.piece: (i, piece) for i, piece in enumerate(proto.pieces)}
        missing = [name for name in BLANKS if name not in pieces]
        if missing:
            raise Refusal(f"The vocabulary lacks {missing[0]}, which ChatGLM-6B's has.")
        for name in BLANKS:
            pieces[name][1].type = sentencepiece_model_pb2.ModelProto.SentencePiece.CONTROL
        super().__init__(proto.SerializeToString(), special)
        self.cut = None  # a run of blanks is one piece
        self.blank_ids = tuple(pieces[name][0] for name in BLANKS)
        marks = {LINE: "\n", TAB: "\t"} | {f"<|blank_{i}|>": " " * i for i in range(MOST_BLANKS, 1, -1)}
        self._marks = {mark: text for mark, text in marks.items() if mark in pieces}

    def encode_batch(self, texts):
        texts = [to_text(text) for text in require_list(texts)]
        for mark, text in self._marks.items():
            texts = [one.replace(text, mark) for one in texts]
        return super().encode_batch(texts)

    def decode(self, ids):
        text = super().decode(ids)
        for mark, plain in self._marks.items():
            text = text.replace(mark, plain)
        return text

    def tokenize(self, texts):
        texts = valid_utf8(texts)
        for mark, text in self._marks.items():
            texts = tf.strings.regex_replace(texts, text, mark)
        return super().tokenize(texts)

    def detokenize(self, token_ids):
        texts = super().detokenize(token_ids)
        for mark, plain in self._marks.items():
            texts = tf.strings.regex_replace(texts, re.escape(mark), plain)
        return texts
