"""TFDS builder `python_docs`: what Python says about itself, on this machine, without a network."""

import sys

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_configs.python_docs import calls
from tfds_configs.python_docs.documents import documents
from tfds_configs.python_docs.labelled import LEXICAL_CLASSES, PACKAGES, classified, questions, summarized, tagged

# Version 2 of the extraction, of the documentation of this Python: 2.311.7 under Python 3.11.7.
EXTRACTION_VERSION = 2


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
        tfds.core.BuilderConfig(name="classification", description="Which package a docstring belongs to."),
        tfds.core.BuilderConfig(name="tagging", description="The lexical class of each token of source."),
        tfds.core.BuilderConfig(name="question_answering", description="Which sentence describes a function."),
        tfds.core.BuilderConfig(name="summaries", description="The first line of a docstring, and what follows it."),
        tfds.core.BuilderConfig(name="calls", description="What is called, on what and with what, in lines of source."),
    ]

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(_features()[self.builder_config.name]),
            homepage="https://docs.python.org/3/",
            license="PSF-2.0",
            disable_shuffling=True,  # what a module says about itself stays together
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # everything is here already
        examples = list(self._examples())
        return {split: self._generate_examples(examples, split) for split in ("train", "validation", "test")}

    def _examples(self):
        """(split, example) of the config."""
        match self.builder_config.name:
            case "classification":
                yield from classified(documents())
            case "tagging":
                yield from tagged()
            case "question_answering":
                yield from questions(documents())
            case "summaries":
                yield from summarized(documents())
            case "calls":
                for split, example in calls.called():
                    yield split, {**example, "tags": [" ".join(tags) for tags in example["tags"]]}
            case _:
                for document in documents():
                    yield document.split, {"text": document.text, "module": document.module, "name": document.name}

    def _generate_examples(self, examples, split):
        for key, (its_split, example) in enumerate(examples):
            if its_split == split:
                yield key, example


def _features():
    text = tfds.features.Text
    return {
        "language_modeling": {
            "text": text(doc="The cleaned docstring or topic."),
            "module": text(doc="Dotted name of the module, or pydoc_data.topics."),
            "name": text(doc="Qualified name in the module, or the topic; empty for a module."),
        },
        "classification": {
            "text": text(doc="The cleaned docstring."),
            "label": tfds.features.ClassLabel(names=PACKAGES),
        },
        "tagging": {
            "tokens": tfds.features.Sequence(text(doc="Tokens of a logical line, cut at white space.")),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=LEXICAL_CLASSES)),
        },
        "summaries": {
            "source": text(doc="The docstring below its first line."),
            "target": text(doc="The first line."),
        },
        "calls": {
            "tokens": tfds.features.Sequence(text(doc="Tokens of a logical line.")),
            "predicates": tfds.features.Sequence(tfds.features.Scalar(np.int32, doc="The index of each called name.")),
            "tags": tfds.features.Sequence(text(doc="For each predicate the BIO tags of roles, with blanks between them.")),
        },
        "question_answering": {
            "id": text(doc="Module and qualified name of the function."),
            "question": text(doc="What does it do?"),
            "context": text(doc="Names and the sentences that describe them, a line each."),
            "answers": tfds.features.Sequence(text(doc="The sentence.")),
            "answer_starts": tfds.features.Sequence(tfds.features.Scalar(np.int32, doc="Where it starts, in characters.")),
        },
    }
