"""TFDS builder `cldr`: the same thing said in two locales, without a network."""

from dataclasses import dataclass

import babel
import tensorflow_datasets as tfds
from etils import epath

from tfds_configs.cldr.phrases import pairs

# Version 1 of what is said, by this version of babel: 1.219.0 under babel 2.19.0.
PHRASES_VERSION = 1
MAJOR, MINOR, PATCH = (int(part) for part in (babel.__version__.split(".") + ["0"])[:3])
SIZES = {"train": 40_000, "validation": 1_000, "test": 1_000}


@dataclass(kw_only=True)
class CldrConfig(tfds.core.BuilderConfig):
    """Two locales; any two, as `Cldr(config=CldrConfig(name="de-ja", source="de", target="ja"))`."""

    source: str
    target: str


class Cldr(tfds.core.GeneratorBasedBuilder):
    """Dates, amounts, measures, lists and names in two locales, from the Unicode CLDR that the package babel carries."""

    name = "cldr"
    # TFDS 4.9.10 would look this up with importlib_resources, which it does not declare as a dependency.
    code_path = epath.Path(__file__)
    VERSION = tfds.core.Version(f"{PHRASES_VERSION}.{100 * MAJOR + MINOR}.{PATCH}")
    BUILDER_CONFIGS = [
        CldrConfig(name=f"{source}-{target}", source=source, target=target, description=f"From {source} to {target}.")
        for source, target in (("en", "fr"), ("en", "de"), ("en", "zh"), ("fr", "en"), ("de", "en"), ("zh", "en"))
    ]

    def _info(self):
        text = tfds.features.Text
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                "source": text(doc="What is said, in the first locale."),
                "target": text(doc="The same in the second."),
                "pattern": text(doc="The kind of thing, and how it is said."),
                "values": tfds.features.Sequence(text(doc="A value, which no other split has.")),
            }),
            homepage="https://cldr.unicode.org/",
            license="Unicode-3.0",
            supervised_keys=("source", "target"),
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        del dl_manager  # everything is here already
        examples = list(pairs(self.builder_config.source, self.builder_config.target, SIZES))
        return {split: self._generate_examples(examples, split) for split in SIZES}

    def _generate_examples(self, examples, split):
        for key, (its_split, pair) in enumerate(examples):
            if its_split == split:
                yield key, {
                    "source": pair.source, "target": pair.target, "pattern": pair.pattern, "values": list(pair.values),
                }  # fmt: skip
