"""TFDS builder `local_text`: the documents of your own files as a TFDS data set."""

import hashlib
from dataclasses import dataclass

import tensorflow_datasets as tfds
from etils import epath

from tfds_configs.local_text.source import LocalTextSource


@dataclass(kw_only=True)
class LocalTextConfig(tfds.core.BuilderConfig):
    """Which files, in the grammar of --data_path."""

    data_path: str


class LocalText(tfds.core.GeneratorBasedBuilder):
    """`LocalText(data_path="books/*.txt")`, prepared and read like any TFDS data set.

    Its config is named by the content, so changed files are prepared anew.
    """

    name = "local_text"
    VERSION = tfds.core.Version("1.0.0")
    # TFDS 4.9.10 would look this up with importlib_resources, which it does not declare as a dependency.
    code_path = epath.Path(__file__)

    def __init__(self, *, data_path, **kwargs):
        self._source = LocalTextSource.from_data_path(data_path)
        digest = hashlib.sha256(self._source.fingerprint().encode()).hexdigest()
        super().__init__(config=LocalTextConfig(name=f"files-{digest[:16]}", data_path=str(data_path)), **kwargs)

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(doc="One document.")}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # the files are here already
        return {split: self._generate_examples(split) for split in self._source.splits}

    def _generate_examples(self, split):
        for key, text in enumerate(self._source.texts(split)):
            yield key, {"text": text}
