"""Data sets for translation: pairs of a text in one language and the same in another."""

from tfds_configs.cldr.source import CldrSource

SOURCES = (
    CldrSource(
        name="cldr", features={"source": "source", "target": "target"}, licence="Unicode-3.0", builder="cldr/en-fr",
        splits={split: split for split in ("train", "validation", "test")},
        module="tfds_configs.cldr.cldr_dataset_builder",
    ),
)  # fmt: skip
