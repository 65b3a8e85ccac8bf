"""Vocabularies read together with the files beside them: numbering, BOS, added tokens, a byte order mark."""

import io
import json

import pytest
import sentencepiece
import tensorflow as tf
import tokenizers

from tests import foreign_models
from zoo.tokenizers.base import create, load
from zoo.tokenizers.special import post_processor, template_of

TEXTS = ["the cat sat on the mat .", "a naive dog", "", "  a   b ", "zebra é 😀"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "e", "##1", "##a", "1", "[", "]"]


def spm(path, **options):
    """Trains a SentencePiece model into a file; returns its processor."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(foreign_models.TEXTS), model_writer=model, hard_vocab_limit=False, minloglevel=2, **options
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write(directory, name, value):
    (directory / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf8")


@pytest.mark.parametrize("config", [{"model_type": "xlm-roberta"}, None])
def test_pieces_of_an_xlm_r_are_numbered_as_fairseq_does(config, tmp_path):
    native = spm(tmp_path / "sentencepiece.bpe.model", vocab_size=40, model_type="unigram")
    if config:
        write(tmp_path, "config.json", config)
    made = create(tmp_path)
    made.save(tmp_path / "saved")
    for tokenizer in (made, load(tmp_path / "saved")):
        size = native.get_piece_size()
        assert tokenizer.vocabulary[:4] == ("<s>", "<pad>", "</s>", "<unk>") and tokenizer.vocab_size == size + 2
        assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
        assert tokenizer.mask_id == size + 1 and tokenizer.special.mask_lstrip
        for text in TEXTS:
            assert tokenizer.encode(text) == [{0: 3}.get(i, i + 1) for i in native.encode(text)]
    assert made.tokenize(tf.constant(TEXTS)).to_list() == [made.encode(text) for text in TEXTS]


def test_pieces_that_nobody_knows_to_number_are_refused(tmp_path):
    spm(tmp_path / "sentencepiece.bpe.model", vocab_size=40, model_type="unigram")
    write(tmp_path, "config.json", {"model_type": "mbart"})
    with pytest.raises(ValueError, match="belongs to a mbart, whose numbering of pieces is not known"):
        create(tmp_path)


def test_a_llama_begins_texts_with_its_bos(tmp_path):
    native = spm(tmp_path / "tokenizer.model", vocab_size=300, model_type="bpe", byte_fallback=True)
    write(tmp_path, "config.json", {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2})
    made = create(tmp_path)
    assert (made.bos_id, made.eos_id, made.pad_id) == (1, 2, 2)
    assert made.template == (("<s>",), ("<s>",), ())
    made.save(tmp_path / "saved")
    assert load(tmp_path / "saved").bos_id == 1
    made.save_huggingface(tmp_path / "saved")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False).ids == native.encode(text) == made.encode(text)
        assert theirs.encode(text).ids == [1, *native.encode(text)]
        assert theirs.decode(native.encode(text)) == native.decode(native.encode(text))
    write(tmp_path, "tokenizer_config.json", {"add_bos_token": False, "add_eos_token": True})
    made = create(tmp_path)
    assert (made.bos_id, made.template) == (1, ((), ("</s>",), ("</s>",)))
    (tmp_path / "out").mkdir()  # as Llama 2 is published, both files side by side
    made.save_huggingface(tmp_path / "out")
    write(tmp_path / "out", "config.json", {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2})
    again = create(tmp_path / "out")
    assert (again.bos_id, again.eos_id, again.template) == (1, 2, made.template)
    assert [again.encode(text) for text in TEXTS] == [native.encode(text) for text in TEXTS]


def test_bos_of_the_settings_comes_before_that_of_the_config(tmp_path):
    native = tokenizers.Tokenizer(tokenizers.models.BPE({"<a>": 0, "<b>": 1, "<c>": 2, "x": 3}, []))
    native.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.add_special_tokens(["<a>", "<b>", "<c>"])
    native.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "config.json", {"model_type": "llama", "bos_token_id": 2, "eos_token_id": [1, 0]})
    assert (create(tmp_path).bos_id, create(tmp_path).eos_id) == (2, 1)
    write(tmp_path, "tokenizer_config.json", {"bos_token": {"content": "<a>"}})
    assert (create(tmp_path).bos_id, create(tmp_path).eos_id) == (0, 1)
    write(tmp_path, "config.json", {"model_type": "llama", "bos_token_id": 3, "eos_token_id": 1})
    (tmp_path / "tokenizer_config.json").unlink()
    assert create(tmp_path).bos_id is None  # 3 is a piece of text


def bert(directory, special=(), plain=()):
    native = tokenizers.Tokenizer(tokenizers.models.WordPiece({t: i for i, t in enumerate(BERT)}, unk_token="[UNK]"))
    native.normalizer = tokenizers.normalizers.BertNormalizer()
    native.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    native.add_special_tokens([*BERT[:5], *special])
    native.add_tokens(list(plain))
    native.save(str(directory / "tokenizer.json"))


def test_added_tokens_of_plain_text_are_found_in_texts(tmp_path):
    first, bracket = len(BERT), BERT.index("[")
    bert(tmp_path, plain=["covid-19", "new york"])
    assert create(tmp_path).encode("the Covid-19 [New York]") == [5, first, bracket, first + 1, bracket + 1]
    (tmp_path / "tokenizer.json").unlink()
    write(tmp_path, "vocab.txt", "\n".join(BERT) + "\n")
    write(tmp_path, "added_tokens.json", {"covid-19": first, "[E1]": first + 1})
    assert create(tmp_path).encode("the Covid-19 [e1]") == [5, first, first + 1]  # nothing says that the second is special
    token = {"content": "covid-19", "normalized": False, "single_word": True, "special": False}
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": {str(first): token}})
    assert create(tmp_path).encode("covid-19 covid-19a Covid-19").count(first) == 1


@pytest.mark.parametrize("config", [{"model_type": "xlm-roberta"}, {"model_type": "t5"}])
def test_added_tokens_of_plain_text_stand_behind_pieces(config, tmp_path):
    name = "sentencepiece.bpe.model" if config["model_type"] == "xlm-roberta" else "spiece.model"
    native = spm(tmp_path / name, vocab_size=40, model_type="unigram")
    write(tmp_path, "config.json", config)
    bare = create(tmp_path)
    token = {"content": "covid-19", "normalized": True, "special": False}
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": {str(bare.vocab_size): token}})
    made = create(tmp_path)
    made.save(tmp_path / "saved")
    for tokenizer in (made, load(tmp_path / "saved")):
        for text in ("the\u00a0cat covid-19  sat", "covid-19the cat", "a \n b"):
            parts = text.split("covid-19")
            expected = [bare.encode(part) for part in parts]
            between = [[bare.vocab_size]] * (len(parts) - 1) + [[]]
            assert tokenizer.encode(text) == sum((a + b for a, b in zip(expected, between, strict=True)), [])
    assert native.get_piece_size() < bare.vocab_size


def test_a_llama_of_pieces_alone_has_no_place_for_plain_text(tmp_path):
    native = spm(tmp_path / "tokenizer.model", vocab_size=300, model_type="bpe", byte_fallback=True)
    write(tmp_path, "config.json", {"model_type": "llama"})
    write(tmp_path, "added_tokens.json", {"covid-19": native.get_piece_size()})
    with pytest.raises(ValueError, match="lacks the token 'covid-19', which a file beside it adds; save the tokenizer as"):
        create(tmp_path)


def test_added_tokens_that_are_special_keep_their_ids_and_no_text_spells_them(tmp_path):
    bert(tmp_path, special=["[E1]", "ea"])
    made = create(tmp_path)
    assert made.vocabulary[-2:] == ("[E1]", "ea")
    assert len(BERT) not in made.encode("the [E1] cat") and len(BERT) + 1 not in made.encode("ea")
    assert made.tokenize(tf.constant(["the [E1] ea"])).to_list() == [made.encode("the [E1] ea")]
    made.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.vocabulary == made.vocabulary and again.encode("ea [E1]") == made.encode("ea [E1]")


def test_special_tokens_of_a_file_beside_a_vocabulary_are_added(tmp_path):
    write(tmp_path, "vocab.txt", "\n".join(BERT) + "\n")
    write(tmp_path, "added_tokens.json", {"[E1]": len(BERT)})
    write(tmp_path, "special_tokens_map.json", {"additional_special_tokens": ["[E1]"]})
    assert create(tmp_path).vocabulary == (*BERT, "[E1]")
    write(tmp_path, "added_tokens.json", {"[E1]": 3})
    with pytest.raises(ValueError, match=r"adds the token '\[E1\]' as id 3, which its vocabulary has otherwise"):
        create(tmp_path)


def test_files_that_are_not_read_are_named(tmp_path):
    write(tmp_path, "tekken.json", {})
    with pytest.raises(ValueError, match=r"has a vocabulary of tiktoken's alone \(tekken.json\); save it as tokenizer.json"):
        create(tmp_path)


def test_pieces_without_the_blank_that_a_file_does_not_want_are_refused(tmp_path):
    spm(tmp_path / "tokenizer.model", vocab_size=300, model_type="bpe", byte_fallback=True)
    write(tmp_path, "config.json", {"model_type": "llama"})
    write(tmp_path, "tokenizer_config.json", {"add_prefix_space": False})
    with pytest.raises(ValueError, match="puts a blank before a text, and tokenizer_config.json has add_prefix_space=False"):
        create(tmp_path)


def test_a_byte_order_mark_and_other_line_ends_change_nothing(tmp_path):
    for name, text in (("bom", "\ufeff" + "\n".join(BERT)), ("crlf", "\r\n".join(BERT) + "\r\n"), ("plain", "\n".join(BERT))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_bytes(text.encode("utf8"))
        made = create(tmp_path / name)
        assert (made.pad_id, made.vocabulary) == (0, tuple(BERT)), name


@pytest.mark.parametrize("template", [
    ((), (), ()), (("[CLS]",), ("[SEP]",), ("[SEP]",)), (("<s>",), ("</s>", "</s>"), ("</s>",)), (("<s>",), ("<s>",), ()),
    ((), ("</s>",), ("</s>",)),
])  # fmt: skip
def test_a_template_survives_its_post_processor(template):
    tokens = ["a", "b", "[CLS]", "[SEP]", "<s>", "</s>"]
    native = tokenizers.Tokenizer(tokenizers.models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="b"))
    processor = post_processor(template, native.token_to_id)
    if processor is None:
        assert template == ((), (), ()) and template_of(native, "x") is None
    else:
        native.post_processor = processor
        assert template_of(native, "x") == template


def test_two_texts_that_begin_otherwise_than_one_are_refused():
    native = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "<s>": 1}, unk_token="a"))
    native.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="$A <s> $B", special_tokens=[("<s>", 1)]
    )
    with pytest.raises(ValueError, match="puts other tokens around two texts than around one"):
        template_of(native, "x")
