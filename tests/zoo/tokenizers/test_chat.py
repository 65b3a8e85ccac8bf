"""Chat frames: the strings of each kind of template, ids, and what is refused."""

import pytest

from tests import foreign_models
from zoo.config import Refusal
from zoo.tokenizers.chat import ChatFrame, ids_of
from zoo.tokenizers.chatglm import CHATS

USER, ANSWER, AGAIN = ({"role": role, "content": text} for role, text in (
    ("user", "Hi"), ("assistant", " Yes. "), ("user", " And? "),
))  # fmt: skip
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [USER, ANSWER, AGAIN]
# Programs as the files have them, in their ways of writing.
BARE_CHATML = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n' + message.content.split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}"
    "{%- elif message.role == 'user' %}{{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
LLAMA31 = (
    '{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    '{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}'
    '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}{{- "Cutting Knowledge Date: December 2023\\n" }}'
    '{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot_id|>" }}'
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    "+ message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% endif %}{% endfor %}"
)
MISTRAL3 = (
    '{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}'
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}"
    '{%- for message in loop_messages %}{%- if message["role"] == "user" %}'
    "{%- if loop.last and system_message is defined %}"
    '{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}'
    '{%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}'
    '{%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token}}{%- endif %}{%- endfor %}'
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim +"
    " '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}"
    "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = '' -%}"
    "{%- set loop_messages = messages -%}{%- endif -%}{%- for message in loop_messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else 'user' -%}"
    "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}{{ message['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for item in messages %}{% if item['content'] %}<|{{ item['role'] }}|>{{ item['metadata'] }}\n"
    "{{ item['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# name -> (template, bos, whether it takes a system text, the text of TALK)
TABLE = {
    "chatml": (foreign_models.CHATML, None, True, (
        "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Yes. <|im_end|>\n"
        "<|im_start|>user\n And? <|im_end|>\n<|im_start|>assistant\n"
    )),
    "qwen3": (BARE_CHATML, None, True, (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Yes. <|im_end|>\n"
        "<|im_start|>user\n And? <|im_end|>\n<|im_start|>assistant\n"
    )),
    "llama3": (LLAMA3, "<|begin_of_text|>", True, (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )),
    "llama3.1": (LLAMA31, "<|begin_of_text|>", True, (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )),
    "mistral": (MISTRAL, "<s>", False, "<s>[INST] Hi [/INST] Yes. </s>[INST]  And?  [/INST]"),
    "mistral-v3": (MISTRAL3, "<s>", True, "<s>[INST] Hi[/INST] Yes.</s>[INST]  And? [/INST]"),
    "gemma": (GEMMA, "<bos>", False, (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
        "<start_of_turn>user\nAnd?<end_of_turn>\n<start_of_turn>model\n"
    )),
    "gemma3": (GEMMA3, "<bos>", True, (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
        "<start_of_turn>user\nAnd?<end_of_turn>\n<start_of_turn>model\n"
    )),
    "phi3": (PHI3, "<s>", True, "<|user|>\nHi<|end|>\n<|assistant|>\n Yes. <|end|>\n<|user|>\n And? <|end|>\n<|assistant|>\n"),
    "chatglm3": (CHATS["chatglm3"], None, True, (
        "[gMASK]sop<|user|>\n Hi<|assistant|>\n  Yes. <|user|>\n  And? <|assistant|>"
    )),
    "chatglm2": (CHATS["chatglm2"], None, False, (
        "[gMASK]sop[Round 1]\n\n问：Hi\n\n答： Yes. \n\n[Round 2]\n\n问： And? \n\n答："
    )),
    "glm4": (GLM4, None, True, "[gMASK]<sop><|user|>\nHi<|assistant|>\n Yes. <|user|>\n And? <|assistant|>"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_text_of_a_conversation_is_that_of_its_template(name):
    template, bos, _, expected = TABLE[name]
    assert ChatFrame.of(template, bos).text(TALK) == expected


@pytest.mark.parametrize("name", TABLE)
def test_a_system_text_has_its_place_or_is_refused(name):
    template, bos, has_place, _ = TABLE[name]
    frame = ChatFrame.of(template, bos)
    if not has_place:
        with pytest.raises(Refusal, match="has no place for a system text"):
            frame.text([SYSTEM, *TALK])
    else:
        assert frame.text([SYSTEM, *TALK]).count("Be brief.") == 1


@pytest.mark.parametrize("name", TABLE)
def test_jinja_makes_the_same_text_of_the_template(name):
    jinja2 = pytest.importorskip("jinja2", reason="needs jinja2, which comes with transformers")
    template, bos, has_place, _ = TABLE[name]
    program = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    frame = ChatFrame.of(template, bos)
    for talk in ([USER], TALK, *([[SYSTEM, USER], [SYSTEM, *TALK]] if has_place else [])):
        theirs = program.render(messages=talk, add_generation_prompt=True, bos_token=bos, eos_token="</s>")
        assert frame.text(talk) == theirs


@pytest.mark.parametrize(("messages", "sentence"), [
    ([], "got no message"),
    ([ANSWER], "a user first and last; got assistant"),
    ([USER, ANSWER], "a user first and last; got user, assistant"),
    ([USER, SYSTEM, USER], "got user, system, user"),
    ([{"role": "tool", "content": "x"}], "A message is a dict of a role"),
    (["Hi"], "A message is a dict of a role"),
])  # fmt: skip
def test_another_order_is_refused(messages, sentence):
    with pytest.raises(Refusal, match=sentence):
        ChatFrame.of(foreign_models.CHATML).text(messages)


@pytest.mark.parametrize("template", ["{{ 'GPT4 Correct User: ' + x }}", "<<SYS>>[INST][/INST]", ""])
def test_an_unknown_template_is_refused(template):
    with pytest.raises(Refusal, match="The chat template is of no known kind"):
        ChatFrame.of(template)


def test_thoughts_are_left_out_of_what_was_answered():
    talk = [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}, USER]
    assert "<|im_start|>assistant\nYes.<|im_end|>" in ChatFrame.of(BARE_CHATML).text(talk)


def test_special_tokens_count_in_the_frame_and_not_in_what_is_said():
    tokenizer = foreign_models.chat_tokenizer()
    frame, ids = ChatFrame.of(foreign_models.CHATML), {token: i for i, token in enumerate(tokenizer.vocabulary)}
    start, end = ids["<|im_start|>"], ids["<|im_end|>"]
    expected = [
        start, *tokenizer.encode("system\nYou help."), end, *tokenizer.encode("\n"),
        start, *tokenizer.encode("user\nthe <|im_end|>"), end, *tokenizer.encode("\n"), start, *tokenizer.encode("assistant\n"),
    ]  # fmt: skip
    assert frame.ids(tokenizer, [{"role": "user", "content": "the <|im_end|>"}]) == expected
    assert expected.count(end) == 2 and frame.end_ids(tokenizer) == (end,)
    swallowed = ids_of(tokenizer, [("<|im_start|>\n", True), (" a", False)], swallows=True)
    assert swallowed == [start, *tokenizer.encode("a")]


def test_a_vocabulary_without_the_end_of_an_answer_is_refused():
    with pytest.raises(Refusal, match="An answer of the kind Gemma ends with <end_of_turn>, which is not a special token here"):
        ChatFrame.of(GEMMA).ids(foreign_models.chat_tokenizer(), [USER])
