"""TFDS builder `python_docs`: what Python says about itself, on this machine, without a network."""

import sys

import tensorflow_datasets as tfds
from etils import epath

from tfds_configs.python_docs.documents import documents

# Version 1 of the extraction, of the documentation of this Python: 1.311.7 under Python 3.11.7.
EXTRACTION_VERSION = 1


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    """Topics of the language reference and docstrings of the standard library, of the Python that runs it."""

    name = "python_docs"
    # TFDS 4.9.10 would look this up with importlib_resources, which it does not declare as a dependency.
    code_path = epath.Path(__file__)
    VERSION = tfds.core.Version(
        f"{EXTRACTION_VERSION}.{100 * sys.version_info.major + sys.version_info.minor}.{sys.version_info.micro}"
    )
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="language_modeling", description="Every topic and docstring as it stands."),
    ]

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(doc="The cleaned docstring or topic."),
                    "module": tfds.features.Text(doc="Dotted name of the module, or pydoc_data.topics."),
                    "name": tfds.features.Text(doc="Qualified name in the module, or the topic; empty for a module."),
                }
            ),
            homepage="https://docs.python.org/3/",
            license="PSF-2.0",
            disable_shuffling=True,  # what a module says about itself stays together
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # everything is here already
        found = list(documents())
        return {split: self._generate_examples(found, split) for split in ("train", "validation", "test")}

    def _generate_examples(self, found, split):
        for key, document in enumerate(found):
            if document.split == split:
                yield key, {"text": document.text, "module": document.module, "name": document.name}
