"""Data sets for translation: pairs of a text in one language and the same in another.

A pair of languages is said as TFDS says it, in either direction: `wmt14_translate/en-de` and `wmt14_translate/de-en` are one
TFDS set. A split that a set lacks is cut from the training text, except that the validation text serves as test where TFDS has
only that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tfds_configs.cldr.source import CldrSource
from tfds_configs.sources import TextSource
from zoo.config import Refusal, nearest

GIVEN = {split: split for split in ("train", "validation", "test")}
WITHOUT_TEST = {"train": "train", "validation": "validation", "test": "validation"}
ONLY_TRAIN = {"train": "train[:98%]", "validation": "train[98%:99%]", "test": "train[99%:]"}
WMT = "research use (WMT)"


@dataclass(frozen=True)
class PairsSource(TextSource):
    """A public set of TFDS whose fields are called by languages.

    Attributes:
        directions: what the user says behind the slash -> (config of TFDS, field of the source, field of the target).
    """

    directions: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)

    def with_config(self, config):
        """This set in one direction. Raises Refusal for languages that TFDS does not have in it."""
        base = self.builder.partition("/")[0]
        if config not in self.directions:
            raise Refusal(f"{base} has no {config!r}; {nearest(config, self.directions)}")
        theirs, source, target = self.directions[config]
        features = {"text": target, "source": source, "target": target}
        return replace(self, name=f"{base}/{config}", builder=f"{base}/{theirs}", features=features)


def _pairs(name, licence, directions, default, splits=GIVEN):
    source = PairsSource(
        name=name, features={}, licence=licence, builder=name, splits=splits, directions=directions
    ).with_config(default)  # fmt: skip
    return replace(source, name=name)


def _both(configs, between):
    """Directions of configs that name two languages: `de-en` -> from de to en, and `en-de` the other way."""
    directions = {}
    for config in configs.split():
        one, other = config.split(between) if between else (config[:2], config[2:])
        directions |= {config: (config, one, other), f"{other}{between}{one}": (config, other, one)}
    return directions


def _wmt(year, configs, splits=GIVEN):
    return _pairs(f"wmt{year}_translate", WMT, _both(configs, "-"), "en-de", splits)


# Names of TFDS for sets that join a rare language and a related one: az_tr is Azerbaijani and Turkish.
TED = _both("es_to_pt fr_to_pt he_to_pt it_to_pt pt_to_en ru_to_en ru_to_pt tr_to_en az_to_en be_to_en gl_to_en", "_to_") | {
    "aztr_to_en": ("aztr_to_en", "az_tr", "en"), "beru_to_en": ("beru_to_en", "be_ru", "en"),
    "glpt_to_en": ("glpt_to_en", "gl_pt", "en"),
}  # fmt: skip
OPUS = {
    name: (domain, *languages)
    for domain in ("medical", "law", "koran", "IT", "subtitles")
    for name, languages in ((domain, ("de", "en")), (f"{domain}-en-de", ("en", "de")))
}
PARA_CRAWL = """
    enbg encs enda ende enel enes enet enfi enfr enga enhr enhu enit enlt enlv enmt ennl enpl enpt enro ensk ensl ensv
"""

SOURCES = (
    CldrSource(
        name="cldr", features={"source": "source", "target": "target"}, licence="Unicode-3.0", builder="cldr/en-fr",
        splits=GIVEN, module="tfds_configs.cldr.cldr_dataset_builder",
    ),
    _wmt(13, "cs-en de-en fr-en es-en ru-en"),
    _wmt(14, "cs-en de-en fr-en hi-en ru-en"),
    _wmt(15, "cs-en de-en fi-en fr-en ru-en"),
    _wmt(16, "cs-en de-en fi-en ro-en ru-en tr-en"),
    _wmt(17, "cs-en de-en fi-en lv-en ru-en tr-en zh-en"),
    _wmt(18, "cs-en de-en et-en fi-en ru-en tr-en zh-en"),
    _wmt(19, "cs-en de-en fi-en gu-en kk-en lt-en ru-en zh-en fr-de", WITHOUT_TEST),
    _pairs("ted_hrlr_translate", "CC BY-NC-ND 4.0 (TED)", TED, "ru_to_en"),
    _pairs("opus", "research use (OPUS)", OPUS, "medical", ONLY_TRAIN),
    _pairs("para_crawl", "CC0 1.0", _both(PARA_CRAWL, ""), "enfr", ONLY_TRAIN),
    # It judges what was learnt elsewhere, and has no training text of its own.
    _pairs("flores", "CC BY-SA 4.0", _both("neen sien", ""), "neen",
           {"train": "validation[:90%]", "validation": "validation[90%:]", "test": "test"}),
)  # fmt: skip
