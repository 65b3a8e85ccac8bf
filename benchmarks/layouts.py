"""Layouts of tokenizers that people have: python -m benchmarks.layouts [--peer_python=PYTHON] [LAYOUT ...]

The peer (`transformers`, `tokenizers`, `sentencepiece`) trains a small vocabulary of each kind and writes the directory as its
makers publish it: files, flags and settings are those of the kind, the words are not. Then 200 texts of several languages,
with odd blanks, digits, emoji and the added tokens in them, go through `AutoTokenizer` there and `zoo.tokenizers.base.create`
here. One JSON object a layout: how many texts have other ids, natively, in graph and after the tokenizer went out again; how
many more because two ways to cut a text are equally likely; and how many texts without an unknown token are written otherwise.
Or the sentence of a refusal. A layout with other ids makes the exit status 1.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = """The quick brown fox jumps over the lazy dog, doesn't it? In 1984 it cost $12.50, or 3,000 for 250.
def f(x):\n    return x ** 2  # two  blanks\n\tand a tab
Der schnelle braune Fuchs springt über den faulen Hund; die Straße ist naß.
Voici l'été : déjà vu, garçon, œuvre — « cœur ».
El veloz murciélago hindú comía feliz cardillo y kiwi. ¿Qué tal? ¡Bien!
Съешь же ещё этих мягких французских булок, да выпей чаю.
我能吞下玻璃而不伤身体。今天天气很好，我们去北京大学。
私はガラスを食べられます。それは私を傷つけません。東京タワー
나는 유리를 먹을 수 있어요. 그래도 아프지 않아요
ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ
أنا قادر على أكل الزجاج و هذا لا يؤلمني.
मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती.
Ciao 😀 👍🏽 ½ ² Ⅷ ﬁ ｆｕｌｌ ™ e\u0301 İstanbul ΑΒΓ ßẞ
"""
ODD = [
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u2009",
    "\u200b",
    "\r\n",
    "",
    ".",
    "'s",
    "'S",
    "12345",
    "_",
    "#",
]
PLAIN = ("covid-19", "New York", "<tool_call>", "gpt4")
BERT, ROBERTA = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
# Name -> (function that writes it, its arguments).
LAYOUTS = {
    "BERT, uncased": ("bert", {}),
    "BERT, Chinese": ("bert", dict(strip_accents=None, lowercase=False)),
    "BERT with words added": ("bert", dict(plain=True)),
    "DistilBERT, cased, vocab.txt": ("vocab_txt", dict(do_lower_case=False)),
    "ELECTRA, vocab.txt with a byte order mark": ("vocab_txt", dict(do_lower_case=True, bom=True)),
    "German BERT, vocab.txt": ("vocab_txt", dict(do_lower_case=True, strip_accents=False)),
    "BERT, vocab.txt, Chinese not cut": ("vocab_txt", dict(do_lower_case=True, tokenize_chinese_chars=False)),
    "BERT, vocab.txt and added_tokens.json": ("vocab_txt", dict(do_lower_case=True, added=True)),
    "RoBERTa": ("byte_level", dict(special=ROBERTA, model_type="roberta")),
    "RoBERTa, a blank in front": ("byte_level", dict(special=ROBERTA, model_type="roberta", prefix=True)),
    "RoBERTa, vocab.json and merges.txt": ("byte_level", dict(special=ROBERTA, model_type="roberta", files=True)),
    "GPT-2": ("byte_level", {}),
    "GPT-2 with words added": ("byte_level", dict(plain=PLAIN)),
    "GPT-NeoX, runs of blanks": ("byte_level", dict(nfc=True, plain=[" " * n for n in range(24, 1, -1)])),
    "StarCoder": ("byte_level", dict(words="digits", special=["<|endoftext|>", "<fim_prefix>", "<fim_middle>"])),
    "SmolLM": ("byte_level", dict(words="digits", special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])),
    "Llama 3": ("byte_level", dict(words=LLAMA3, special=["<|begin_of_text|>", "<|endoftext|>"], whole=True)),
    "Qwen2": ("byte_level", dict(words=LLAMA3.replace("{1,3}", ""), nfc=True, plain=["<tool_call>", "<think>"])),
    "Falcon": ("byte_level", dict(words="falcon")),
    "BLOOM": ("byte_level", dict(words=BLOOM)),
    "Llama 2": ("llama", {}),
    "Llama 2, tokenizer.model": ("llama", dict(spm=True)),
    "Llama 2 with words added": ("llama", dict(plain=PLAIN)),
    "Llama of transformers 5": ("llama", dict(words="first")),
    "Llama of transformers 5, words added": ("llama", dict(words="first", plain=PLAIN)),
    "Llama, always": ("llama", dict(words="always", plain=PLAIN)),
    "Llama, never": ("llama", dict(words="never", plain=PLAIN)),
    "CodeLlama": ("llama", dict(special=["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"])),
    "Phi-3": ("llama", dict(special=["<|end|>", "<|user|>"], rstrip=["</s>"])),
    "Gemma": ("llama", dict(words="gemma", plain=["\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>"])),
    "T5": ("spm_class", dict(kind="T5Tokenizer", model_type="t5")),
    "T5 with words added": ("spm_class", dict(kind="T5Tokenizer", model_type="t5", plain=True)),
    "T5, spiece.model": ("spm", dict(name="spiece.model", model_type="t5")),
    "mT5": ("spm_class", dict(kind="T5Tokenizer", model_type="mt5", extra=0)),
    "XLM-R": ("spm_class", dict(kind="XLMRobertaTokenizer", model_type="xlm-roberta")),
    "XLM-R with words added": ("spm_class", dict(kind="XLMRobertaTokenizer", model_type="xlm-roberta", plain=True)),
    "XLM-R, sentencepiece.bpe.model": ("spm", dict(name="sentencepiece.bpe.model", model_type="xlm-roberta")),
    "CamemBERT": ("spm_class", dict(kind="CamembertTokenizer", model_type="camembert")),
    "mBART, sentencepiece.bpe.model": ("spm", dict(name="sentencepiece.bpe.model", model_type="mbart")),
    "ALBERT": ("spm_class", dict(kind="AlbertTokenizer", model_type="albert")),
    "DeBERTa v2": ("spm_class", dict(kind="DebertaV2Tokenizer", model_type="deberta-v2")),
    "Mistral, tekken.json alone": ("other", dict(name="tekken.json", text="{}")),
    "tiktoken file alone": ("other", dict(name="qwen.tiktoken", text="IQ== 0\n")),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layouts", description=__doc__.splitlines()[0])
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help="names of some of them; all by default")
    parser.add_argument("--peer_python", default=sys.executable, help="an interpreter with transformers and sentencepiece")
    parser.add_argument("--keep", help="a directory for the layouts; a temporary one by default")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return _make(Path(args.worker), args.layouts)
    names, wrong = args.layouts or list(LAYOUTS), 0
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(args.keep or scratch)
        subprocess.run([args.peer_python, "-I", __file__, f"--worker={directory}", *names], check=True)
        for name in names:
            found = _compared(directory / name)
            wrong += any(found.get(key) for key in ("ids", "graph ids", "ids of what went out"))
            print(json.dumps({"layout": name, **found}, ensure_ascii=False), flush=True)
    return 1 if wrong else 0


def texts():
    """200 texts of pieces of the corpus."""
    choices = random.Random(0)
    words = [*CORPUS.split(), *CORPUS.splitlines(), *PLAIN, *(word.upper() for word in PLAIN)]
    made = ["", " ", *CORPUS.splitlines(), *(f" {word} {word}" for word in PLAIN)]
    while len(made) < 200:
        made.append("".join(choices.choice(words) + choices.choice(ODD) for _ in range(choices.randint(1, 8))))
    return made


def _compared(directory):
    """What differs here from what the peer wrote down."""
    import tensorflow as tf
    import tokenizers

    from zoo.config import Refusal
    from zoo.tokenizers.base import create

    expected = json.loads(directory.with_name(f"{directory.name}.json").read_text(encoding="utf8"))
    try:
        ours = create(directory)
    except Refusal as error:
        return {"refused": str(error).replace(f"{directory}", directory.name)}
    if "error" in expected:
        return {"peer": expected["error"]}
    made = [ids.tolist() for ids in ours.encode_batch(texts())]
    graph, log_probs = ours.tokenize(tf.constant(texts())).to_list(), []
    with tempfile.TemporaryDirectory() as out:
        try:
            ours.save_huggingface(Path(out))
            native = tokenizers.Tokenizer.from_file(f"{out}/tokenizer.json")
            native.encode_special_tokens, model = True, json.loads(native.to_str())["model"]
            if model["type"] == "Unigram":
                log_probs = [score for _, score in model["vocab"]] + [0.0] * len(ours.added)
            back = [native.encode(text, add_special_tokens=False).ids for text in texts()]
        except Refusal as error:
            back, expected["refused to go out"] = expected["ids"], str(error)
    sides = {"ids": (made, expected["ids"]), "graph ids": (graph, made), "ids of what went out": (back, expected["ids"])}
    pairs = {side: [pair for pair in zip(*both, strict=True) if pair[0] != pair[1]] for side, both in sides.items()}
    equal = {side: [pair for pair in found if log_probs and _equally_likely(log_probs, *pair)] for side, found in pairs.items()}
    counts = {side: len(found) - len(equal[side]) for side, found in pairs.items()}
    known = [(ours.decode(ids), text) for ids, text in zip(made, expected["texts"], strict=True) if ours.unk_id not in ids]
    counts |= {"equally likely": sum(map(len, equal.values())), "written otherwise": sum(a != b for a, b in known)}
    first = next(({"here": a, "there": b} for a, b in pairs["ids"] if (a, b) not in equal["ids"]), {})
    return {**counts, **first, **{key: value for key, value in expected.items() if key == "refused to go out"}}


def _equally_likely(log_probs, *rows):
    one, other = (sum(log_probs[i] for i in ids) for ids in rows)
    return abs(one - other) < 1e-3


def _make(directory, names):
    """In the peer's process: writes each layout, and beside it what `AutoTokenizer` makes of the texts."""
    import transformers

    for name in names:
        where = directory / name
        where.mkdir(parents=True)
        function, arguments = LAYOUTS[name]
        try:
            peer = globals()[f"_{function}"](where, **arguments)
            if peer:  # SentencePiece itself; transformers 5 leaves a blank out where a text begins with one
                ids = peer.encode(texts())
                answer = {"ids": ids, "texts": [peer.decode(row) for row in ids]}
                (directory / f"{name}.json").write_text(json.dumps(answer), encoding="utf8")
                continue
            tokenizer = transformers.AutoTokenizer.from_pretrained(where)
            tokenizer.backend_tokenizer.encode_special_tokens = True
            ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts()]
            plain = dict(skip_special_tokens=True, clean_up_tokenization_spaces=False)
            answer = {"ids": ids, "texts": [tokenizer.decode(row, **plain) for row in ids]}
        except Exception as error:  # of whatever the peer does not make
            answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        (directory / f"{name}.json").write_text(json.dumps(answer), encoding="utf8")


def _settings(where, config, **settings):
    (where / "config.json").write_text(json.dumps(config), encoding="utf8")
    (where / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf8")


def _wordpiece(**normalization):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    native = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    native.normalizer = normalizers.BertNormalizer(**normalization)
    native.pre_tokenizer, native.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    native.train_from_iterator(CORPUS.splitlines(), trainers.WordPieceTrainer(vocab_size=600, special_tokens=BERT))
    return native


def _bert(where, plain=False, **normalization):
    from tokenizers import AddedToken, processors

    native = _wordpiece(**normalization)
    native.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if plain:
        native.add_tokens([*PLAIN[:3], AddedToken(PLAIN[3], single_word=True, lstrip=True)])
    native.save(str(where / "tokenizer.json"))
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT, strict=True))
    _settings(where, {"model_type": "bert"}, tokenizer_class="PreTrainedTokenizerFast", **roles)


def _vocab_txt(where, bom=False, added=False, **settings):
    native = _wordpiece(lowercase=settings["do_lower_case"], strip_accents=settings.get("strip_accents"))
    vocabulary = native.get_vocab()
    text = "\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n"
    (where / "vocab.txt").write_text(text, encoding="utf8")
    if added:
        tokens = {token: len(vocabulary) + i for i, token in enumerate(PLAIN)}
        (where / "added_tokens.json").write_text(json.dumps(tokens), encoding="utf8")
    _settings(where, {"model_type": "bert"}, tokenizer_class="BertTokenizer", **settings)
    if bom:
        (where / "vocab.txt").write_text("\ufeff" + text, encoding="utf8")


def _byte_level(where, words="gpt2", special=("<|endoftext|>",), model_type="gpt2", plain=(), **options):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    split, native = pre_tokenizers, Tokenizer(models.BPE(ignore_merges=options.get("whole", False)))
    bytes_ = split.ByteLevel(add_prefix_space=options.get("prefix", False), use_regex=words in ("gpt2", "digits", "falcon"))
    others = {
        "gpt2": [], "digits": [split.Digits(individual_digits=True)], "falcon": [split.Punctuation(behavior="contiguous")],
    }.get(words, [])  # fmt: skip
    others = others if words in ("gpt2", "digits", "falcon") else [split.Split(Regex(words), "isolated")]
    native.pre_tokenizer = split.Sequence([*others, bytes_]) if others else bytes_
    native.normalizer = normalizers.NFC() if options.get("nfc") else None
    native.decoder = decoders.ByteLevel()
    alphabet = split.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=list(special), initial_alphabet=alphabet)
    native.train_from_iterator(CORPUS.splitlines(), trainer)
    native.add_tokens([AddedToken(token) for token in plain])
    if options.get("files"):
        model = json.loads(native.to_str())["model"]
        (where / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        (where / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf8")
    else:
        native.save(str(where / "tokenizer.json"))
    names = ("bos", "pad", "eos", "unk", "mask") if model_type == "roberta" else ("bos", "eos")
    roles = dict(zip(names, special if len(special) >= len(names) else [special[-1]] * 2, strict=False))
    roles = {f"{role}_token": token for role, token in roles.items()}
    roles |= {"eos_token": "<|endoftext|>"} if model_type == "gpt2" else {"cls_token": "<s>", "sep_token": "</s>"}
    roles |= {"add_prefix_space": True} if options.get("prefix") else {}
    kind = "RobertaTokenizer" if model_type == "roberta" else "PreTrainedTokenizerFast"
    _settings(where, {"model_type": model_type}, tokenizer_class=kind, **roles)


def _spm_model(model_type, **options):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines() * 3), model_writer=model, model_type=model_type, hard_vocab_limit=False,
        minloglevel=2, **options,
    )  # fmt: skip
    return model.getvalue()


def _llama(where, words=None, special=(), plain=(), rstrip=(), spm=False):
    """SentencePiece's BPE, spelt as a tokenizer.json."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    identity = dict(normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=True)
    model = _spm_model("bpe", vocab_size=900, allow_whitespace_only_pieces=True, **identity)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if spm:
        (where / "tokenizer.model").write_bytes(model)
        _settings(where, {"model_type": "llama"}, tokenizer_class="LlamaTokenizer", legacy=True, **roles)
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = []
    for token, i in vocabulary.items():
        if i >= 259:
            pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            pairs = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
            merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    native = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] * (words is None) + [normalizers.Replace(" ", "▁")]
    if words in (None, "gemma"):
        native.normalizer = normalizers.Sequence(steps) if words is None else steps[0]
        native.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous") if words else None
    else:
        native.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=words, split=False)
    lead = [] if words in ("gemma", "never") else [decoders.Strip(" ", 1, 0)]
    native.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *lead])
    native.add_special_tokens(["<unk>", "<s>", *(["</s>"] if "</s>" not in rstrip else []), *special])
    native.add_tokens([*(AddedToken(token, normalized=words != "gemma") for token in plain),
                       *(AddedToken(token, rstrip=True, normalized=False) for token in rstrip)])  # fmt: skip
    native.save(str(where / "tokenizer.json"))
    roles |= {"eos_token": special[0]} if rstrip else {}
    _settings(where, {"model_type": "llama"}, tokenizer_class="PreTrainedTokenizerFast", **roles)


def _unigram_model(model_type):
    options = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1) if "t5" in model_type else {}
    if model_type == "albert":
        options = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"])
    if model_type == "deberta-v2":
        options = dict(pad_id=0, unk_id=3, bos_id=1, eos_id=2, bos_piece="[CLS]", eos_piece="[SEP]", pad_piece="[PAD]",
                       unk_piece="[UNK]")  # fmt: skip
    return _spm_model("unigram", vocab_size=600, **options)


def _spm(where, name, model_type):
    (where / name).write_bytes(_unigram_model(model_type))
    kinds = {"t5": "T5Tokenizer", "xlm-roberta": "XLMRobertaTokenizer", "mbart": "MBartTokenizer"}
    _settings(where, {"model_type": model_type}, tokenizer_class=kinds[model_type])


def _spm_class(where, kind, model_type, plain=False, extra=None):
    """As `save_pretrained` of the peer's own class writes a SentencePiece model."""
    import transformers

    name = {"t5": "spiece.model", "mt5": "spiece.model", "albert": "spiece.model", "deberta-v2": "spm.model"}
    with tempfile.TemporaryDirectory() as source:
        path = Path(source) / name.get(model_type, "sentencepiece.bpe.model")
        path.write_bytes(_unigram_model(model_type))
        (Path(source) / "config.json").write_text(json.dumps({"model_type": model_type}))
        options = {} if extra is None else {"extra_ids": extra}
        tokenizer = getattr(transformers, kind).from_pretrained(source, **options)
        if plain:
            tokenizer.add_tokens(list(PLAIN))
        tokenizer.save_pretrained(where)
    (where / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf8")


def _other(where, name, text):
    (where / name).write_text(text, encoding="utf8")
    raise ValueError("nothing to compare with")


if __name__ == "__main__":
    sys.exit(main())
