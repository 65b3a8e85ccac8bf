"""The tokenizer contract: strings <-> ids, twice.

The *native* side (`encode`, `decode`) prepares training data and talks to people: plain Python strings, fast, no graph.
The *graph* side (`tokenize`, `detokenize`) serves: string tensors in, TensorFlow's core ops only. Both give equal ids.
"""

import json
from pathlib import Path

import tensorflow as tf

from zoo.registry import TOKENIZERS


class Tokenizer(tf.Module):
    """Base class of every tokenizer.

    A subclass sets `vocab_size` and `eos_id`, and implements the four conversions, `save_assets` and `from_directory`.

    Attributes:
        vocab_size: number of ids, special ones included; every id is in [0, vocab_size).
        eos_id: the one id that stands before the first and after every document: beginning- and end-of-text alike.
        pad_id: fills rows to equal length under a mask; it is `eos_id` unless the vocabulary has one of its own.
        unk_id: stands for what the vocabulary does not have, or None when every string can be spelt.
    """

    vocab_size: int
    eos_id: int
    unk_id = None
    # True when each line of a text is a document of its own (the word tokenizer, as KenLM reads text).
    line_documents = False

    @property
    def pad_id(self):
        return self.eos_id

    @classmethod
    def train(cls, texts, vocab_size=None):
        """A tokenizer fitted to an iterable of strings; `vocab_size` None means the algorithm's own default."""
        raise TypeError(f"{cls.__name__} cannot be trained.")

    def encode(self, text):
        """One string -> list of ids, without special ids: plain text never yields one."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts):
        """Strings -> one int32 numpy array of ids for each; in parallel where that pays."""
        raise TypeError(f"{type(self).__name__} cannot encode.")

    def decode(self, ids):
        """Ids -> string. Special ids are left out; bytes that are no UTF-8 become U+FFFD."""
        raise TypeError(f"{type(self).__name__} cannot decode.")

    def lost_bytes(self, text):
        """UTF-8 bytes of `text` that the ids do not tell, as they stand under `unk_id`."""
        return 0

    def tokenize(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None), in graph, equal to `encode` of each row."""
        raise TypeError(f"{type(self).__name__} has no graph side.")

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,), in graph, equal to `decode` of each row."""
        raise TypeError(f"{type(self).__name__} has no graph side.")

    def save(self, directory):
        """Writes `zoo_tokenizer.json`, and the files it names, into an existing or new directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {"algorithm": type(self).registered_name, **self.save_assets(directory)}
        text = json.dumps(config, ensure_ascii=False, indent=1, sort_keys=True)
        (directory / "zoo_tokenizer.json").write_text(text + "\n", encoding="utf8")

    def save_assets(self, directory):
        """Writes vocabulary files and returns the JSON fields that `from_directory` needs besides."""
        raise TypeError(f"{type(self).__name__} cannot be saved.")

    @classmethod
    def from_directory(cls, directory, config):
        """The tokenizer that `save_assets` wrote; `config` is what it returned."""
        raise TypeError(f"{cls.__name__} cannot be loaded.")


def load(directory):
    """The tokenizer saved in `directory`. Raises ValueError when there is none or it is damaged."""
    path = Path(directory) / "zoo_tokenizer.json"
    try:
        config = json.loads(path.read_text(encoding="utf8"))
        algorithm = config.pop("algorithm")
    except FileNotFoundError as error:
        raise ValueError(f"{directory} holds no tokenizer: {path.name} is missing.") from error
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again from where it was made.") from error
    return TOKENIZERS.get(algorithm).from_directory(Path(directory), config)
