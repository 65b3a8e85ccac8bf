"""What the files beside a vocabulary and its weights say is applied, or refused: ends of a text, classes, names of fields."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from tests import foreign_models
from tests.zoo.convert.test_checklist import edit, plain, sentence_transformer
from zoo import bundle as bundles
from zoo.convert import huggingface
from zoo.convert.llama_like import QWEN2
from zoo.tokenizers import base as tokenizers


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Case -> the directory of a model, not to be changed."""
    base = tmp_path_factory.mktemp("written")
    return {name: huggingface.write(foreign_models.bundle(name), base / name) for name in ("bert", "llama", "gpt2", "t5")}


@pytest.fixture
def llama(written, tmp_path):
    return shutil.copytree(written["llama"], tmp_path / "llama")


@pytest.fixture
def bert(written, tmp_path):
    return plain(shutil.copytree(written["bert"], tmp_path / "bert"))


def byte_level(directory, front=()):
    """Writes vocab.json and merges.txt, and no tokenizer.json; the vocabulary."""
    trained, merges = foreign_models.trained_bpe()
    tokens = [*front, *(token for token in trained.vocabulary if not front or token != "<|endoftext|>")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    directory.mkdir(exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    return vocabulary


def test_a_text_ends_at_each_end_that_the_files_name(llama, tmp_path):
    eos_id, end = huggingface.read(llama).tokenizer.eos_id, 7
    edit(llama / "generation_config.json", eos_token_id=[eos_id, end, 10**6])
    bundle = huggingface.read(llama)
    assert bundle.tokenizer.stop_ids == (eos_id, end) and bundle.tokenizer.eos_id == eos_id
    bundle.save(tmp_path / "bundle")
    again = huggingface.write(bundles.load(tmp_path / "bundle"), tmp_path / "again")
    assert json.loads((again / "config.json").read_text())["eos_token_id"] == [eos_id, end]
    assert huggingface.read(again).tokenizer.stop_ids == (eos_id, end)
    # generation_config.json is the one that transformers follows.
    edit(again / "generation_config.json", eos_token_id=end)
    assert huggingface.read(again).tokenizer.stop_ids == (end,)


def test_two_ends_of_a_target_are_refused(written, tmp_path):
    directory = shutil.copytree(written["t5"], tmp_path / "t5")
    edit(directory / "generation_config.json", eos_token_id=[1, 5])
    with pytest.raises(ValueError, match=r"ends a text at the ids \[1, 5\]; one end, 1, is known here"):
        huggingface.read(directory)


@pytest.mark.parametrize(("file", "fields", "message"), [
    ("generation_config.json", dict(suppress_tokens=[5]), r"generation_config.json has suppress_tokens=\[5\], which is not"),
    ("generation_config.json", dict(bad_words_ids=[[5]]), "has bad_words_ids="),
    ("generation_config.json", dict(forced_bos_token_id=5), "has forced_bos_token_id=5"),
    ("generation_config.json", dict(stop_strings=["x"]), "has stop_strings="),
    ("generation_config.json", dict(novelty=1), "has the field novelty=1, which is not known here"),
    ("tokenizer_config.json", dict(pad_token="[PAD]"), r"names '\[PAD\]' as its pad_token, which the vocabulary lacks"),
    ("tokenizer_config.json", dict(eos_token="a"), "names 'a' as its eos_token, which the vocabulary does not list"),
    ("special_tokens_map.json", dict(additional_special_tokens=["<y>"]), "names the special token '<y>', which the vocabulary"),
    ("config.json", dict(head_dim=4, max_position_embeddings=0), None),
])  # fmt: skip
def test_what_a_file_beside_says_is_not_passed_over(file, fields, message, llama):
    edit(llama / file, **fields)
    if message is None:  # a null stands in the file itself
        config = json.loads((llama / file).read_text()) | {"max_position_embeddings": None}
        (llama / file).write_text(json.dumps(config))
        message = "has max_position_embeddings=null in config.json; write the number there"
    with pytest.raises(ValueError, match=message):
        huggingface.read(llama)


def test_options_of_a_request_are_listed(llama):
    edit(llama / "generation_config.json", repetition_penalty=1.05, top_k=20, do_sample=True, bos_token_id=0)
    report = huggingface.read(llama).provenance["checklist"]
    assert "bos_token_id" in report["applied"]["generation_config.json"]
    assert "generation_config.json: repetition_penalty" in report["irrelevant"]["an option of a request"]


def test_rope_scaling_goes_before_rope_parameters(llama):
    edit(llama / "config.json", rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters={"rope_type": "default"})
    config = huggingface.read(llama).model.config
    assert (config.rotary_scaling, config.rotary_numbers) == ("linear", (2.0,))


def test_other_names_of_sizes_are_read(written, tmp_path):
    directory = shutil.copytree(written["gpt2"], tmp_path / "gpt2")
    expected, theirs = huggingface.read(directory).model.config, json.loads((directory / "config.json").read_text())
    edit(
        directory / "config.json", hidden_size=theirs["n_embd"], num_attention_heads=theirs["n_head"], n_head=None, n_embd=None
    )
    assert huggingface.read(directory).model.config == expected
    edit(directory / "config.json", n_head=2 * theirs["n_head"])
    with pytest.raises(ValueError, match="has num_attention_heads=.* and n_head=.*, two names of one field"):
        huggingface.read(directory)


def test_a_qwen2_with_windows_has_4096_tokens_where_it_does_not_say():
    theirs = {**QWEN2.defaults, "use_sliding_window": True, "max_window_layers": 0, "num_hidden_layers": 2}
    assert QWEN2.config(theirs, set(), "x").window == 4_096


def test_two_names_of_one_tensor_are_refused(bert):
    tensors = load_file(bert / "model.safetensors")
    save_file({**tensors, "embeddings.LayerNorm.gamma": tensors["embeddings.LayerNorm.weight"]}, bert / "model.safetensors")
    with pytest.raises(ValueError, match="has the tensors embeddings.LayerNorm.gamma and embeddings.LayerNorm.weight, two"):
        huggingface.read(bert)


@pytest.mark.parametrize("name", ["strip_accents", "tokenize_chinese_chars"])
def test_two_files_that_disagree_about_letters_are_refused(name, bert):
    edit(bert / "tokenizer_config.json", tokenizer_class="BertTokenizer", **{name: False})
    with pytest.raises(ValueError, match=f"tokenizer_config.json beside it {name}=False; make them equal"):
        huggingface.read(bert)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_class_that_knows_more_than_its_vocabulary_is_refused(file, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (tmp_path / file).write_text('{"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}')
    with pytest.raises(ValueError, match="is to be read by the class BertJapaneseTokenizer, which is not known here"):
        tokenizers.create(tmp_path)
    (tmp_path / file).write_text('{"model_type": "bert", "tokenizer_class": "BertTokenizerFast"}')
    assert tokenizers.create(tmp_path).encode("A") == [5]


def test_byte_level_files_alone_follow_the_config_beside_them(tmp_path):
    text = "the cat 1984"
    byte_level(tmp_path)
    plain = tokenizers.create(tmp_path)
    edit(tmp_path / "config.json", model_type="qwen2")
    qwen2 = tokenizers.create(tmp_path)
    digits = [i for part in ("the cat", " ", *"1984") for i in plain.encode(part)]
    assert qwen2.encode(text) == digits != plain.encode(text)
    assert qwen2.tokenize([text])[0].numpy().tolist() == digits
    # OPT's: one token begins and ends a text.
    opt = tmp_path / "opt"
    vocabulary = byte_level(opt, ["<s>", "<pad>", "</s>", "<unk>"])
    edit(opt / "config.json", model_type="opt")
    named = dict(bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>")
    edit(opt / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", add_bos_token=True, **named)
    tokenizer = tokenizers.create(opt)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.template) == (2, 1, (("</s>",), ("</s>",), ()))
    assert tokenizer.encode("</s>") != [2] and max(tokenizer.encode(text)) < len(vocabulary)


def test_an_added_token_with_other_properties_in_two_files_is_refused(llama):
    whole = json.loads((llama / "tokenizer.json").read_text())
    token = dict(id=len(whole["model"]["vocab"]), content="zzcat", single_word=False, lstrip=False, rstrip=False)
    token |= dict(normalized=False, special=False)
    whole["added_tokens"].append(token)
    (llama / "tokenizer.json").write_text(json.dumps(whole))
    edit(llama / "config.json", vocab_size=token["id"] + 1)
    listed = {key: value for key, value in token.items() if key != "id"}
    edit(llama / "tokenizer_config.json", added_tokens_decoder={str(token["id"]): listed})
    assert tokenizers.create(llama).encode("a zzcat")[-1] == token["id"]
    edit(llama / "tokenizer_config.json", added_tokens_decoder={str(token["id"]): {**listed, "lstrip": True}})
    with pytest.raises(ValueError, match="has 'zzcat' with other properties"):
        tokenizers.create(llama)


def test_lower_case_before_a_tokenizer_that_keeps_the_case_is_refused(bert):
    sentence_transformer(bert, "Transformer", "Pooling", do_lower_case=True)
    huggingface.read(bert)
    whole = json.loads((bert / "tokenizer.json").read_text())
    whole["normalizer"]["lowercase"] = False
    (bert / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="sentence_bert_config.json has do_lower_case=True"):
        huggingface.read(bert)


@pytest.mark.parametrize(("pooling", "expected"), [
    ({"word_embedding_dimension": 12}, "mean"), ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "first"),
    ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": 1}, "first"),
])  # fmt: skip
def test_the_pooling_is_the_one_that_its_class_takes(pooling, expected, bert):
    sentence_transformer(bert, "Transformer", "Pooling", pooling=pooling)
    modality = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    edit(bert / "sentence_bert_config.json", modality_config=modality, module_output_name="token_embeddings")
    assert huggingface.read(bert).task.config.pooling == expected
    edit(bert / "sentence_bert_config.json", module_output_name="sentence_embedding")
    with pytest.raises(ValueError, match="has module_output_name=sentence_embedding, which is not supported"):
        huggingface.read(bert)
