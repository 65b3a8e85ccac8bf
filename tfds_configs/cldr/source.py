"""The `TextSource` of the pairs from CLDR, for any two locales: `cldr/en-fr`, `cldr/pt_BR-zh_Hant`."""

from dataclasses import dataclass

from tfds_configs.sources import TextSource
from zoo.config import Refusal, nearest


@dataclass(frozen=True)
class CldrSource(TextSource):
    """Pairs of texts that say the same thing in the two locales that the builder's config names."""

    def with_config(self, config):
        locales_of(config)
        return super().with_config(config)

    def _builder(self):
        import tensorflow_datasets as tfds

        from tfds_configs.cldr.cldr_dataset_builder import Cldr, CldrConfig

        name = self.builder.partition("/")[2]
        source, target = locales_of(name)
        tfds.disable_progress_bar()
        return Cldr(
            config=name if name in Cldr.builder_configs else CldrConfig(name=name, source=source, target=target),
            data_dir=self.data_dir,
        )


def locales_of(config):
    """The two locales of a config such as `en-fr` or `pt_BR-zh_Hant`.

    Raises:
        Refusal: not two names with a hyphen between them, one that CLDR does not have, or the same one twice.
    """
    from babel import localedata

    names = config.split("-")
    if len(names) != 2:
        raise Refusal(
            f"cldr takes two locales with a hyphen between them, such as cldr/en-fr or cldr/pt_BR-de, got {config!r}."
        )
    for name in names:
        known = localedata.locale_identifiers()
        if name not in known:
            raise Refusal(f"CLDR has no locale {name!r}; {_hint(name, known)}")
    if names[0] == names[1]:
        raise Refusal(f"cldr says things in two locales; {config!r} names one.")
    return tuple(names)


def _hint(name, known):
    hint = nearest(name, known)
    return hint if hint.startswith("did you mean") else f"it has {len(known):,}, such as en, fr, de, zh and pt_BR."
