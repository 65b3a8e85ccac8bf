"""A tokenizer in third-party files, read together with the files beside it.

A vocabulary does not say all: which token begins a text stands in `tokenizer_config.json` or `config.json`, how pieces are
numbered in the kind of the model, further tokens in `added_tokens.json`.

    tokenizer = from_files(Path("xlm-roberta-base"))
"""

import dataclasses
import functools
from pathlib import Path

import tokenizers

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers.added import Added
from zoo.tokenizers.base import read_json, read_text
from zoo.tokenizers.special import NOTHING, ROLES, Special, sentinel_name, template_of

# The ids that transformers takes where a config.json does not give them.
DEFAULT_IDS = {
    "llama": {"bos": 1, "eos": 2},
    "mistral": {"bos": 1, "eos": 2},
    "gpt2": {"bos": 50_256, "eos": 50_256},
    "roberta": {"bos": 0, "eos": 2, "pad": 1},
    "xlm-roberta": {"bos": 0, "eos": 2, "pad": 1},
}
# The files that `Beside` reads.
BESIDE = ("tokenizer_config.json", "config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json")
CHAT_TEMPLATE = "chat_template.jinja"
# Models of SentencePiece whose ids are those of fairseq; by this name their files are known where no config.json is.
FAIRSEQ, FAIRSEQ_FILE = "xlm-roberta", "sentencepiece.bpe.model"
ROBERTA = Special(
    roles={"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"},
    template=(("<s>",), ("</s>", "</s>"), ("</s>",)),
    mask_lstrip=True,
)
# Models whose decoder writes text for text, and how many sentinels stand behind the pieces of a SentencePiece model of theirs
# that has none, where no file says so.
T5_TYPES, NUM_SENTINELS = ("t5", "mt5", "umt5"), 100
T5_TEMPLATE = ((), ("</s>",), ("</s>",))
# The files of Marian's vocabulary: pieces of sources, pieces of targets, and the ids of both.
PAIR = ("source.spm", "target.spm", "vocab.json")
MARIAN_ROLES = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
# Settings of tokenizer_config.json that change ids, and the values under which they do not.
UNCHANGING = {
    "do_basic_tokenize": (None, True),
    "never_split": (None, []),
    "sp_model_kwargs": (None, {}),
    "split_special_tokens": (None, False),
}
# Tokenizers whose classes add nothing to a `vocab.txt`, and to a SentencePiece model that is none of T5's or XLM-R's; the names
# stand for "BertTokenizer", "BertTokenizerFast" and so on.
GENERAL = ("PreTrained", "TokenizersBackend")
WORDPIECES = (
    *GENERAL,
    "Bert",
    "DistilBert",
    "Electra",
    "MobileBert",
    "ConvBert",
    "SqueezeBert",
    "RetriBert",
    "Lxmert",
    "DPRContextEncoder",
    "DPRQuestionEncoder",
    "DPRReader",
)
BYTE_LEVEL = (*GENERAL, "GPT2", "Roberta", "Qwen2", "Bart", "Longformer")
LLAMAS = ("Llama", "CodeLlama", "Gemma")
# Models whose tokenizers begin a text with `<s>`, unless a file says otherwise.
WITH_BOS = ("llama", "mistral")


class Beside:
    """What the files beside a vocabulary say.

    Args:
        directory: where they lie; each may be missing.

    Attributes:
        settings: `tokenizer_config.json`, a dict.
        model_type: of `config.json`, or None.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        self.settings, self._config, self._generation, self._map, self._added = map(self._read, BESIDE)
        self.model_type = self._config.get("model_type")
        for name, allowed in UNCHANGING.items():
            value = self.settings.get(name)
            if value not in allowed:
                raise Refusal(f"{self.directory / 'tokenizer_config.json'} has {name}={value!r}, which is not supported.")

    @property
    def is_general(self):
        """Whether other libraries follow `tokenizer.json` alone, and add nothing by the kind of the model."""
        return self.settings.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")

    @property
    def class_name(self):
        """The class of the tokenizer without "Tokenizer" and "Fast", such as `Bert`; None where the files name none."""
        name = self.settings.get("tokenizer_class") or self._config.get("tokenizer_class")
        return None if name is None else str(name).removesuffix("Fast").removesuffix("Tokenizer")

    def check_class(self, path, known):
        """Raises Refusal where the files want a class of tokenizer that knows more than the vocabulary at `path` says."""
        if self.class_name not in (None, *known):
            raise Refusal(
                f"{path} is to be read by the class {self.class_name}Tokenizer, which is not known here for such a file; "
                "tokenizer_config.json or config.json beside it names it."
            )

    def _read(self, name):
        path = self.directory / name
        return read_json(path) if path.is_file() else {}

    @functools.cached_property
    def named(self):
        """Role -> token, as the files name them."""
        found = {}
        for role in ROLES:
            for source in (self.settings, self._map):
                token = source.get(f"{role}_token")
                token = token.get("content") if isinstance(token, dict) else token  # older files write its properties too
                if isinstance(token, str):
                    found.setdefault(role, token)
        return found

    def roles(self, special):
        """Role -> token.

        Args:
            special: dict, id -> token, of the special tokens of the vocabulary. An id in config.json that is none of them
                names no role.
        """
        found = {role: token for role, token in self.named.items() if token in special.values()}
        for source in (self._generation, self._config, self._default_ids):
            for role in ("bos", "eos", "pad"):
                i = source.get(f"{role}_token_id")
                i = i[0] if isinstance(i, list) and i else i
                if role not in self.named and isinstance(i, int) and i in special:
                    found.setdefault(role, special[i])
        return found

    def ends(self, tokenizer):
        """The ids that end what a model writes, where the files say other ones than `tokenizer.eos_id`; () where not."""
        for source in (self._generation, self._config, self._default_ids):
            ids = source.get("eos_token_id")
            ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
            ids = [i for i in dict.fromkeys(ids) if isinstance(i, int) and 0 <= i < tokenizer.vocab_size]
            if ids:
                return () if ids == [tokenizer.eos_id] else tuple(ids)
        return ()

    def check_named(self, tokenizer):
        """Raises Refusal for a token that a file beside a vocabulary names, and the tokenizer made of both does not have."""
        known = set(tokenizer.vocabulary)
        for role, token in self.named.items():
            if token not in known or role in ("bos", "eos") and tokenizer.roles.get(role, token) != token:
                lacks = "lacks" if token not in known else "does not list as a special token (added_tokens)"
                raise Refusal(
                    f"{self.directory} names {token!r} as its {role}_token, which the vocabulary {lacks}; save the tokenizer "
                    "anew: AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW)."
                )
        lacking = min((token for token in self._further if token not in known), default=None)
        if lacking is not None:
            raise Refusal(f"{self.directory} names the special token {lacking!r}, which the vocabulary lacks; take it out.")

    @property
    def _further(self):
        """Special tokens without a role that the files name, a set."""
        found = set()
        for source in (self.settings, self._map):
            listed = source.get("additional_special_tokens") or source.get("extra_special_tokens") or []
            listed = listed.values() if isinstance(listed, dict) else listed
            found |= {token.get("content") if isinstance(token, dict) else token for token in listed}
        return found

    @property
    def chat_template(self):
        """The template of conversations, a string; None where the files have none."""
        path, given = self.directory / CHAT_TEMPLATE, self.settings.get("chat_template")
        if path.is_file():
            return read_text(path)
        if isinstance(given, list):  # several, by their names
            given = {one.get("name"): one.get("template") for one in given}.get("default")
        return given

    @property
    def named_path(self):
        """Where config.json says that the model came from, in small letters; "" where it does not."""
        return str(self._config.get("_name_or_path", "")).lower()

    @property
    def _default_ids(self):
        defaults = DEFAULT_IDS.get(self.model_type, {})
        return {f"{role}_token_id": i for role, i in defaults.items() if f"{role}_token_id" not in self._config}

    def added(self, vocabulary):
        """Tokens that the files beside add to a vocabulary: (dict, token -> id, of special ones; list of `Added`, of plain
        text, which the vocabulary may have).

        Args:
            vocabulary: dict, token -> id.

        Raises:
            Refusal: one has an id that is taken.
        """
        special = {*self.named.values(), *self._further}
        found = {token: Added(token, i, normalized=token not in special) for token, i in self._added.items()}
        for i, token in (self.settings.get("added_tokens_decoder") or {}).items():
            found[token["content"]] = Added.of(token, i)
            if token.get("special"):
                special.add(token["content"])
        taken = {i: token for token, i in vocabulary.items()}
        for token in found.values():
            if vocabulary.get(token.content) != token.id and (token.id in taken or token.content in vocabulary):
                raise Refusal(
                    f"{self.directory} adds the token {token.content!r} as id {token.id}, which its vocabulary has otherwise."
                )
        silent = {token.content: token.id for token in found.values() if token.content in special}
        silent = {token: i for token, i in silent.items() if token not in vocabulary}
        return silent, [token for token in found.values() if token.content not in special]


def vocabulary_files(directory):
    """Names of the files in a directory that `from_files` takes the vocabulary from; none where there is no vocabulary."""
    if all((directory / name).is_file() for name in PAIR):
        return list(PAIR)
    models = sorted(directory.glob("*.model"))
    if (directory / "tokenizer.json").is_file() and not (models and _says_less(directory / "tokenizer.json")):
        return ["tokenizer.json"]
    if models:
        return [models[0].name]
    for names in (["encoder.json", "vocab.bpe"], ["vocab.json", "merges.txt"], ["vocab.txt"]):
        if all((directory / name).is_file() for name in names):
            return names
    return []


def _is_sentencepiece(config):
    """Whether a tokenizer.json, as JSON, spells SentencePiece's BPE, as Llama's does."""
    model = config.get("model")
    return isinstance(model, dict) and model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def _says_less(path):
    """Whether a tokenizer.json spells SentencePiece's BPE, and no more: the `.model` beside it says the same better."""
    config = read_json(path)
    if not _is_sentencepiece(config):
        return False
    TOKENIZERS.get("unigram")  # says what to install where the library sentencepiece is missing
    from zoo.tokenizers.sentencepiece_bpe import says_less

    return says_less(config)


def from_files(path):
    """The tokenizer in third-party files. Raises Refusal when there is none.

    Args:
        path: a directory, or one of the files that hold a vocabulary.
    """
    directory = path if path.is_dir() else path.parent
    names = vocabulary_files(path) if path.is_dir() else [path.name]
    if not names:
        other = next(
            (file.name for file in sorted(directory.glob("*")) if file.name.endswith(("tekken.json", ".tiktoken"))), None
        )
        if other is not None:
            raise Refusal(
                f"{path} has a vocabulary of tiktoken's alone ({other}); save it as tokenizer.json, which is read here."
            )
        files = "zoo_tokenizer.json, tokenizer.json, vocab.txt, a .model, nor encoder.json with vocab.bpe"
        raise Refusal(f"{path} holds no tokenizer: it has neither {files}.")
    first, beside = directory / names[0], Beside(directory)
    if len(names) == 3:
        return _marian(directory, beside)
    if len(names) == 2:
        tokenizer = _byte_level(first, directory / names[1], beside)
    elif first.name == "vocab.txt":
        tokenizer = _vocab_txt(directory, beside)
    else:
        tokenizer = _sentencepiece(first, beside) if first.suffix == ".model" else _tokenizer_json(first, beside)
    beside.check_named(tokenizer)
    ends = beside.ends(tokenizer)
    if beside.chat_template is not None or ends:
        chat = beside.chat_template or tokenizer.special.chat_template
        tokenizer.special = dataclasses.replace(tokenizer.special, chat_template=chat, ends=ends)
    return tokenizer


def _tokenizer_json(path, beside):
    config = read_json(path)
    model = config.get("model")
    algorithm = str(model.get("type") if isinstance(model, dict) else None).lower()
    algorithm = "unigram" if _is_sentencepiece(config) else algorithm
    tokenizer_class = TOKENIZERS.get(algorithm if algorithm in ("wordpiece", "unigram") else "bpe")
    if algorithm == "bpe" and model.get("end_of_word_suffix"):
        from zoo.tokenizers.character_bpe import CharacterBPE as tokenizer_class
    added = [token for token in config.get("added_tokens") or [] if isinstance(token, dict)]
    try:
        specials = {token["id"]: token["content"] for token in added}
    except KeyError as error:
        raise Refusal(f"{path} is not a tokenizer.json of Hugging Face ({error!r}).") from error
    special, prefix = _special(path, added, beside, specials), beside.settings.get("add_prefix_space")
    if prefix is None and beside.model_type in ("gpt2", "roberta") and not beside.is_general:
        prefix = False  # what their own classes take, whatever the file says
    options = {"add_prefix_space": prefix} if tokenizer_class.registered_name == "bpe" else {}
    tokenizer = tokenizer_class.from_huggingface(path, special=special, **options)
    if algorithm == "unigram":
        _check_prefix(tokenizer, prefix, path)
    extra, plain = beside.added({token: i for i, token in enumerate(tokenizer.vocabulary)})
    known = {token.content for token in tokenizer.added}.union(map(tokenizer.vocabulary.__getitem__, tokenizer.control_ids))
    extra = sorted([*extra, *(token.content for token in plain if token.content not in known)])
    if extra:
        raise Refusal(f"{path} lacks the token {extra[0]!r}, which a file beside it adds; save the tokenizer anew.")
    _check_flags(tokenizer.added, plain, beside, path)
    return tokenizer


def _check_flags(added, plain, beside, path):
    """Raises Refusal where two files say in different ways how an added token is found in a text."""
    listed = {token["content"] for token in (beside.settings.get("added_tokens_decoder") or {}).values()}
    here = {token.content: token for token in added}
    for token in plain:
        if token.content in listed and here.get(token.content, token) != token:
            raise Refusal(
                f"{path} has {token.content!r} with other properties (lstrip, rstrip, single_word, normalized) than "
                "tokenizer_config.json beside it; make them equal."
            )


def _check_prefix(tokenizer, asked, path):
    """Raises Refusal where tokenizer_config.json wants no blank in front of a text and SentencePiece's pieces have one."""
    if asked is False and tokenizer.prepends:
        raise Refusal(
            f"{path} puts a blank before a text, and tokenizer_config.json has add_prefix_space=False; make them equal."
        )


def _special(path, added, beside, specials):
    """The `Special` of a tokenizer.json and the files beside it."""
    roles = beside.roles(specials)
    template = template_of(_native(path), path)
    mask = roles.get("mask")
    strips = any(token.get("lstrip") for token in added if token["content"] == mask)
    if template is None and beside.is_general:
        template = (), (), ()
    if template is None and beside.model_type in ("roberta", "xlm-roberta"):
        template = ROBERTA.template
    if beside.settings.get("add_bos_token") and "bos" in roles and template in (None, ((), (), ())):
        template = (roles["bos"],), (roles["bos"],), ()
    return Special(roles, template, strips)


def _native(path):
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise Refusal(f"{path} is not a tokenizer.json of Hugging Face ({error}).") from error


def _byte_level(vocabulary, merges, beside):
    from zoo.tokenizers.bpe import END_OF_TEXT, read_merges

    beside.check_class(vocabulary, BYTE_LEVEL)
    vocabulary, roberta = read_json(vocabulary), beside.model_type == "roberta"
    qwen2 = "Qwen2" in (beside.class_name, "Qwen2" if beside.model_type in ("qwen2", "qwen3") else None)
    added, plain = beside.added(vocabulary)
    named = {} if roberta else {role: token for role, token in beside.named.items() if token in vocabulary | added}
    known = ROBERTA.roles.values() if roberta else [END_OF_TEXT, *named.values()]
    specials = [token for token in dict.fromkeys((*known, *added)) if token in vocabulary or token in added]
    end = "</s>" if roberta else named.get("eos", END_OF_TEXT)
    special = ROBERTA if roberta else Special(named) if named else NOTHING
    if beside.settings.get("add_bos_token") and not roberta:
        begin = (named.get("bos", end),)
        special = Special(special.roles, (begin, begin, ()))
    words = "qwen2" if qwen2 else "prefixed" if beside.settings.get("add_prefix_space") else "gpt2"
    merges = read_merges(merges)
    return TOKENIZERS.get("bpe")(vocabulary | added, merges, specials, end, words, special, nfc=qwen2, added=plain)


def _vocab_txt(directory, beside):
    wordpiece = TOKENIZERS.get("wordpiece")
    beside.check_class(directory / "vocab.txt", WORDPIECES)
    lowercase, accents = beside.settings.get("do_lower_case", True), beside.settings.get("strip_accents")
    normalization = {
        "lowercase": lowercase,
        "strip_accents": lowercase if accents is None else accents,
        "handle_chinese_chars": beside.settings.get("tokenize_chinese_chars", True),
    }
    named = {role: token for role, token in beside.named.items() if role in ("pad", "unk", "cls", "sep", "mask")}
    return wordpiece.from_vocabulary(directory / "vocab.txt", normalization, named, beside.added)


def _sentencepiece(path, beside):
    """A SentencePiece model, numbered as the model beside it wants."""
    if beside.model_type == "chatglm":
        from zoo.tokenizers import chatglm

        return chatglm.from_files(path, beside)
    t5 = beside.model_type in T5_TYPES
    fairseq = beside.model_type == FAIRSEQ or (beside.model_type is None and path.name == FAIRSEQ_FILE)
    if path.name == FAIRSEQ_FILE and not fairseq:
        raise Refusal(f"{path} belongs to a {beside.model_type}, whose numbering of pieces is not known here.")
    beside.check_class(path, (*GENERAL, *(("XLMRoberta",) if fairseq else ("T5", "MT5") if t5 else LLAMAS)))
    unigram, special = TOKENIZERS.get("unigram"), ROBERTA if fairseq else NOTHING
    tokenizer = unigram.from_sentencepiece(path, fairseq=fairseq, special=special)
    _check_prefix(tokenizer, beside.settings.get("add_prefix_space"), path)
    extra, plain = beside.added({token: i for i, token in enumerate(tokenizer.vocabulary)})
    if t5:
        return _t5(path, tokenizer, extra, plain, beside)
    behind = _behind(path, tokenizer, {**extra, **{token.content: token.id for token in plain}})
    if fairseq:
        return unigram.from_sentencepiece(path, fairseq=True, behind=behind, special=special, added=plain, blanks=_words(plain))
    if behind or plain:
        raise Refusal(
            f"{path} lacks the token {min([*behind, *(token.content for token in plain)])!r}, which a file beside it adds; "
            "save the tokenizer as tokenizer.json."
        )
    roles = beside.roles(tokenizer.control_tokens)
    template = None
    if beside.model_type in WITH_BOS or "add_bos_token" in beside.settings:
        asked = [beside.settings.get(f"add_{role}_token", role == "bos") for role in ("bos", "eos")]
        before, after = ((roles[role],) if on and role in roles else () for role, on in zip(("bos", "eos"), asked, strict=True))
        template = before, (*after, *before), after
    spelt = beside.directory / "tokenizer.json"
    if spelt.is_file():
        template = template_of(_native(spelt), spelt) or ((), (), ())
    return unigram.from_sentencepiece(path, special=Special(roles, template))


def _marian(directory, beside):
    """The two SentencePiece models of a Marian, with the ids of its one list of tokens."""
    TOKENIZERS.get("unigram")  # says what to install where the library sentencepiece is missing
    from zoo.tokenizers.numbered_pieces import NumberedPieces
    from zoo.tokenizers.pair import PairTokenizer

    ids = read_json(directory / PAIR[2])
    if sorted(ids.values()) != list(range(len(ids))):
        raise Refusal(f"{directory / PAIR[2]} must give its {len(ids)} tokens the ids 0 to {len(ids) - 1}, each once.")
    if beside.settings.get("separate_vocabs"):
        raise Refusal(f"{directory} has a vocabulary of its own for targets (separate_vocabs); only a common one is read.")
    extra, plain = beside.added(ids)
    extra = [*extra, *(token.content for token in plain)]
    if extra:
        raise Refusal(f"{directory} adds the token {min(extra)!r} to its vocab.json in a file beside it; take it out there.")
    roles = MARIAN_ROLES | {role: token for role, token in beside.named.items() if role in MARIAN_ROLES}
    special = Special(roles, ((), (), (roles["eos"],)))
    tokens = sorted(ids, key=ids.get)
    return PairTokenizer(*(NumberedPieces((directory / name).read_bytes(), tokens, special) for name in PAIR[:2]))


def _words(plain):
    """How blanks are treated around added tokens of plain text in T5 and XLM-R, a `Blanks`; None without such tokens."""
    from zoo.tokenizers.sentencepiece_bpe import Blanks

    return Blanks(words=True) if plain else None


def _behind(path, tokenizer, added):
    """The tokens of a dict, token -> id, that stand behind a vocabulary. Raises Refusal where their ids do not follow."""
    size, known = tokenizer.vocab_size, set(tokenizer.vocabulary)
    behind = sorted(added.keys() - known, key=added.get)
    if [added[token] for token in behind] != list(range(size, size + len(behind))):
        raise Refusal(f"{path} has {size} pieces, and the tokens that files beside it add do not have the ids that follow.")
    return behind


def _t5(path, tokenizer, extra, plain, beside):
    """A SentencePiece model with the sentinels that T5's program adds behind its pieces, that of number 0 last.

    Args:
        path: the `.model` file.
        tokenizer: made of it alone.
        extra: dict, token -> id, what the files beside it add.
        plain: list of `Added`, the plain text that they add.
        beside: a `Beside`.
    """
    size = tokenizer.vocab_size
    if not tokenizer.sentinel_ids and sentinel_name(0) not in extra:
        count = beside.settings.get("extra_ids", NUM_SENTINELS)
        extra = {sentinel_name(number): size + count - 1 - number for number in range(count)} | extra
    behind = _behind(path, tokenizer, {**extra, **{token.content: token.id for token in plain}})
    special = Special(beside.roles(tokenizer.control_tokens), T5_TEMPLATE)
    return type(tokenizer).from_sentencepiece(path, behind=behind, special=special, added=plain, blanks=_words(plain))
