"""Special tokens that come in and go out: what stands around texts, where a text begins, the mask token."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from tests import foreign_models
from zoo import bundle as bundles
from zoo.convert import certificate, huggingface
from zoo.data.examples import framed_texts
from zoo.registry import TOKENIZERS
from zoo.signatures.generation import left_padded
from zoo.tokenizers import base

TEXTS = ["the cat sat", "a dog, 1984", ""]


def edit(path, change):
    """Rewrites a JSON file after `change(value)`."""
    value = json.loads(path.read_text(encoding="utf8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf8")


def roberta(directory):
    """The directory of a RoBERTa as its makers publish it: two separators, a mask that takes the blanks before it."""
    huggingface.write(foreign_models.bundle("roberta"), directory)

    def change(config):
        config["post_processor"] = {
            "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False,
        }  # fmt: skip
        for token in config["added_tokens"]:
            token["lstrip"] = token["content"] == "<mask>"

    edit(directory / "tokenizer.json", change)
    return directory


def llama(directory, bos=True):
    """The directory of a Llama with `<s>` = 0 and `</s>` = 1."""
    trained = base.create("bpe", foreign_models.TEXTS, 270)
    trained.save(directory)
    merges = json.loads((directory / "tokenizer.json").read_text(encoding="utf8"))["model"]["merges"]
    tokens = ["<s>", "</s>", *(token for i, token in enumerate(trained.vocabulary) if i != trained.eos_id)]
    bundle = foreign_models.bundle("llama")
    config = bundle.model.config.replace(vocab_size=len(tokens))
    model = type(bundle.model)(config).build_from_ids()
    tokenizer = TOKENIZERS.get("bpe")({token: i for i, token in enumerate(tokens)}, merges, ["<s>", "</s>"], "</s>")
    written = huggingface.write(bundles.Bundle(model, tokenizer, bundle.task, {}), directory / "llama")
    edit(written / "config.json", lambda config: config.update(bos_token_id=0, eos_token_id=1))
    (written / "tokenizer_config.json").unlink()
    return written


@pytest.mark.parametrize("name", foreign_models.CASES)
def test_every_role_goes_out(name, tmp_path):
    bundle = foreign_models.bundle(name)
    settings = json.loads((huggingface.write(bundle, tmp_path / "out") / "tokenizer_config.json").read_text(encoding="utf8"))
    id_of = {token: i for i, token in enumerate(bundle.tokenizer.vocabulary)}
    ids = {
        role: id_of[settings[f"{role}_token"]]
        for role in ("bos", "eos", "pad", "cls", "sep", "mask")
        if f"{role}_token" in settings
    }
    tokenizer = bundle.tokenizer
    assert ids["pad"] == tokenizer.pad_id
    if bundle.model.kind == "language_model":
        assert ids == {"bos": tokenizer.eos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        assert "token_type_ids" not in settings["model_input_names"]  # GPT-2 would add embeddings of them
    elif bundle.model.kind == "encoder_decoder":
        assert ids["eos"] == tokenizer.eos_id and "token_type_ids" not in settings["model_input_names"]
    else:
        assert (ids["cls"], ids["sep"], ids["mask"]) == (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
        assert ("token_type_ids" in settings["model_input_names"]) == (bundle.model.config.num_segments > 1)


def test_a_roberta_goes_out_as_it_came_in(tmp_path):
    source = roberta(tmp_path / "in")
    bundle = huggingface.read(source)
    bundle.save(tmp_path / "bundle")
    out = huggingface.write(bundles.load(tmp_path / "bundle"), tmp_path / "out")
    theirs, ours = (tokenizers.Tokenizer.from_file(str(path / "tokenizer.json")) for path in (source, out))
    for text in (*TEXTS, "the <mask> sat", "a \n<mask>, <mask>"):
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.encode(text, "a cat").ids == theirs.encode(text, "a cat").ids
    assert ours.encode("", "").ids == [0, 2, 2, 2]
    assert json.loads((out / "tokenizer_config.json").read_text())["mask_token"] == "<mask>"


def test_two_texts_of_a_roberta_have_two_separators_between_them(tmp_path):
    frame = framed_texts("encoder", huggingface.read(roberta(tmp_path / "in")).tokenizer)
    assert (frame.before, frame.between, frame.after) == ((0,), (2, 2), (2,))
    assert framed_texts("encoder", foreign_models.bundle("roberta").tokenizer).between == (2,)  # nobody says so


def test_a_mask_token_takes_the_blanks_before_it_where_its_file_says_so(tmp_path):
    bundle = huggingface.read(roberta(tmp_path / "in"))
    native = tokenizers.Tokenizer.from_file(str(tmp_path / "in" / "tokenizer.json"))
    fill = bundle.task.signatures(bundle.model, bundle.tokenizer)["fill_mask"]
    near, far = (fill(text=tf.constant([text]))["probs"].numpy() for text in ("the<mask> sat", "the \u3000<mask> sat"))
    np.testing.assert_array_equal(near, far)
    assert native.encode("the<mask> sat").ids == native.encode("the \u3000<mask> sat").ids


def test_a_text_begins_with_bos_where_it_is_not_eos(tmp_path):
    source = llama(tmp_path)
    bundle = huggingface.read(source)
    assert (bundle.tokenizer.bos_id, bundle.tokenizer.eos_id) == (0, 1)
    assert bundle.task.frame("language_model", bundle.tokenizer).before == (0,)
    bundle.save(tmp_path / "bundle")
    loaded = bundles.load(tmp_path / "bundle")
    assert loaded.tokenizer.bos_id == 0
    out = huggingface.write(loaded, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"], settings["pad_token"]) == ("<s>", "</s>", "</s>")
    assert huggingface.read(out).tokenizer.bos_id == 0


def test_generation_reads_bos_first(tmp_path):
    bundle = huggingface.read(llama(tmp_path))
    frame = bundle.task.frame("language_model", bundle.tokenizer)
    ids, _, lengths = left_padded(bundle.model, bundle.tokenizer, tf.constant(["", "the"]), frame)
    assert ids.numpy()[0, -1] == 0 and lengths.numpy().tolist() == [1, 1 + len(bundle.tokenizer.encode("the"))]


def test_the_template_of_a_post_processor_is_kept(tmp_path):
    source = llama(tmp_path)
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }  # fmt: skip
    edit(source / "tokenizer.json", lambda config: config.update(post_processor=template))
    bundle = huggingface.read(source)
    out = huggingface.write(bundle, tmp_path / "out")
    theirs, ours = (tokenizers.Tokenizer.from_file(str(path / "tokenizer.json")) for path in (source, out))
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids == [0, *bundle.tokenizer.encode(text)]
        assert ours.encode(text, "a cat").ids == theirs.encode(text, "a cat").ids
    what = certificate.certify(bundle, out)["tokenizer"]
    assert what[:3] == ["texts", "default calls", "pairs"]
    edit(out / "tokenizer.json", lambda config: config.update(post_processor=None))
    with pytest.raises(ValueError, match="gives other ids than transformers for default calls|other ids than"):
        _certify_default_calls(bundle, out)


def _certify_default_calls(bundle, out):
    """Without a post-processor in the file the libraries decide, so this needs one of them."""
    if not certificate._has("transformers"):
        edit(out / "tokenizer.json", lambda config: config.update(post_processor={"type": "ByteLevel"} | dict(
            add_prefix_space=False, trim_offsets=False, use_regex=True)))  # fmt: skip
    certificate.certify(bundle, out)


@pytest.mark.skipif(not certificate._has("transformers"), reason="needs torch and transformers")
def test_auto_tokenizer_gives_the_ids_of_the_original(tmp_path):
    out = huggingface.write(huggingface.read(roberta(tmp_path / "in")), tmp_path / "out")
    program = (
        "import sys, transformers as t\n"
        "a, b = (t.AutoTokenizer.from_pretrained(d) for d in sys.argv[1:])\n"
        "assert a('a')['input_ids'] == b('a')['input_ids']\n"
        "assert a(['a', 'a b c'], padding=True)['input_ids'] == b(['a', 'a b c'], padding=True)['input_ids']\n"
        "t.pipeline('fill-mask', model=sys.argv[2])('the <mask> sat')\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "in"), str(out)], check=True, timeout=120)


def test_a_chat_template_goes_out_and_comes_in_again(tmp_path):
    bundle = foreign_models.bundle("llama")
    tokenizer = foreign_models.chat_tokenizer(foreign_models.CHATML)
    model = type(bundle.model)(bundle.model.config.replace(vocab_size=tokenizer.vocab_size)).build_from_ids()
    out = huggingface.write(bundles.Bundle(model, tokenizer, bundle.task, {}), tmp_path / "out")
    back = huggingface.read(out)
    conversation = [{"role": "user", "content": "the cat"}]
    expected = tokenizer.chat_frame.ids(tokenizer, conversation)
    assert back.tokenizer.chat_frame.ids(back.tokenizer, conversation) == expected
    assert "chat_template" in back.provenance["checklist"]["applied"]["tokenizer_config.json"]
    # In newer directories it is a file of its own, or there are several by their names.
    edit(out / "tokenizer_config.json", lambda settings: settings.pop("chat_template"))
    (out / "chat_template.jinja").write_text(foreign_models.CHATML, encoding="utf8")
    assert huggingface.read(out).tokenizer.special.chat_template == foreign_models.CHATML
    (out / "chat_template.jinja").unlink()
    several = [{"name": "tools", "template": "x"}, {"name": "default", "template": foreign_models.CHATML}]
    edit(out / "tokenizer_config.json", lambda settings: settings.update(chat_template=several))
    assert huggingface.read(out).tokenizer.special.chat_template == foreign_models.CHATML
    bundles.Bundle(back.model, back.tokenizer, back.task, {}).save(tmp_path / "bundle")
    assert bundles.load(tmp_path / "bundle").tokenizer.special == back.tokenizer.special
    result = certificate.certify(back, out)
    assert not result["outputs"]["compared"] or "conversations" in result["tokenizer"]


def test_added_tokens_of_plain_text_go_out_as_they_came_in(tmp_path):
    out = huggingface.write(foreign_models.bundle("llama"), tmp_path / "out")

    def change(config):
        config["added_tokens"].append({**config["added_tokens"][0], "id": 270, "content": "<tool_call>", "special": False})

    edit(out / "tokenizer.json", change)
    edit(out / "config.json", lambda config: config.update(vocab_size=271))
    tokenizer = base.create(out)
    assert tokenizer.vocabulary[270] == "<tool_call>" and tokenizer.encode("a <tool_call> b").count(270) == 1
    tokenizer.save_huggingface(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("a <tool_call> b").ids == tokenizer.encode("a <tool_call> b")
