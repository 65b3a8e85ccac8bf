"""Conversations as one text: what stands around each turn, by the template that came with a vocabulary.

frame = ChatFrame.of("{% for message in messages %}{{'<|im_start|>' + ...", bos="<s>")
frame.text([{"role": "user", "content": "Hi"}])   ->   "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"

A template is a program (Jinja), which is not run here. Its marks tell which of the known frames it makes.
"""

import re
from dataclasses import dataclass, replace
from datetime import date

from zoo.config import Refusal

ROLES = ("system", "user", "assistant")
TODAY, ROUND = "{today}", "{round}"
# Between a system text and the user's, where there are no turns of the system.
BETWEEN = "\n\n"


@dataclass(frozen=True)
class ChatFrame:
    """What stands around the turns of a conversation: strings in which special tokens are written out.

    Attributes:
        name: of the kind of frame.
        user, assistant: what stands before and behind a text of theirs.
        answer: what stands before the text that the model is to write.
        ends: the tokens that end it.
        begin: before the first turn.
        system: before and behind a system text; or `first` or `last`, the user's text that it is put in front of; or None: no
            place for it.
        default_system: the system text of a conversation that has none; None for no such turn.
        stripped: roles whose texts lose white space at both ends.
        thoughts: a mark up to which the texts of an assistant are left out, or None.
        swallows: whether a special token takes the white space behind it along, as Phi-3's do.
    """

    name: str
    user: tuple
    assistant: tuple
    answer: str
    ends: tuple
    begin: str = ""
    system: tuple | str | None = None
    default_system: str | None = None
    stripped: tuple = ()
    thoughts: str | None = None
    swallows: bool = False

    @classmethod
    def of(cls, template, bos=None):
        """The frame of a chat template of Hugging Face.

        Args:
            template: string.
            bos: the token that the template calls `bos_token`, or None.

        Raises:
            Refusal: the template is not of a known kind.

        Example:
            >>> ChatFrame.of("{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>' }}").name
            'Gemma'
        """
        kind = next((make for marks, make in KINDS if all(mark in template for mark in marks)), None)
        frame = None if kind is None else kind(template)
        if frame is None:
            known = "ChatML, Llama 3, Mistral, Gemma, Phi-3, GLM-4, ChatGLM3 and ChatGLM2"
            raise Refusal(f"The chat template is of no known kind ({known}): it begins with {template[:60]!r}.")
        return replace(frame, begin=bos + frame.begin) if bos and re.search(r"\bbos_token\b", template) else frame

    def pieces(self, messages):
        """A conversation as a list of (string, whether it is of the frame), up to where the answer begins.

        Args:
            messages: list of dicts with `role`, `system`, `user` or `assistant`, and `content`, a string. A system text stands
                first; users and assistants take turns, a user first and last.

        Raises:
            Refusal: another order, or a role or a system text that the frame has no place for.
        """
        turns, system = self._turns(messages)
        made = [(self.begin, True)]
        if isinstance(self.system, tuple) and system is not None:
            made += self._around(self.system, system)
        elif system is not None:
            if self.system is None:
                raise Refusal(
                    f"A conversation of the kind {self.name} has no place for a system text; put it before the first."
                )
            at = 0 if self.system == "first" else len(turns) - 1
            turns[at] = turns[at][0], system + BETWEEN + turns[at][1]
        for number, (role, content) in enumerate(turns):
            made += self._around(self.user if role == "user" else self.assistant, content, number // 2 + 1)
        return [*made, (self.answer, True)]

    def text(self, messages):
        """A conversation as one string, special tokens written out: see `pieces`."""
        return "".join(part for part, _ in self.pieces(messages))

    def ids(self, tokenizer, messages):
        """A conversation as a list of ids. A special token that is written in a message is plain text.

        Raises:
            Refusal: as `pieces`; or the vocabulary lacks the token that ends an answer.
        """
        self.end_ids(tokenizer)
        return ids_of(tokenizer, self.pieces(messages), self.swallows)

    def end_ids(self, tokenizer):
        """The ids that end an answer.

        Raises:
            Refusal: the vocabulary has none of them.
        """
        special = _special_tokens(tokenizer)
        found = tuple(special[token] for token in self.ends if token in special)
        if not found:
            raise Refusal(f"An answer of the kind {self.name} ends with {self.ends[0]}, which is not a special token here.")
        return found

    def _turns(self, messages):
        """([(role, text), ...] of users and assistants, the system text or None)."""
        for message in messages:
            if not (isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)):
                raise Refusal(
                    f"A message is a dict of a role ({', '.join(ROLES)}) and a content, a string, got {message!r:.80}."
                )
        turns = [(message["role"], self._content(**message)) for message in messages]
        system = turns.pop(0)[1] if turns and turns[0][0] == "system" else self.default_system
        wanted = ["user", "assistant"] * len(turns)
        if not turns or len(turns) % 2 == 0 or [role for role, _ in turns] != wanted[: len(turns)]:
            raise Refusal(
                "A conversation is a system text, if any, then user and assistant in turn, a user first and last; "
                f"got {', '.join(message['role'] for message in messages) or 'no message'}."
            )
        return turns, system

    def _content(self, role, content, **_):
        if role == "assistant" and self.thoughts and self.thoughts in content:
            content = content.split(self.thoughts)[-1].lstrip("\n")
        return content.strip() if role in self.stripped else content

    def _around(self, marks, content, number=1):
        before, behind = (mark.replace(TODAY, f"{date.today():%d %b %Y}").replace(ROUND, str(number)) for mark in marks)
        return [(before, True), (content, False), (behind, True)]


def ids_of(tokenizer, pieces, swallows=False):
    """Ids of strings that stand side by side.

    Args:
        tokenizer: a `Tokenizer`.
        pieces: list of (string, whether special tokens are written in it).
        swallows: as of a `ChatFrame`.
    """
    special = _special_tokens(tokenizer)
    pattern = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) or r"(?!)")
    ids, plain = [], ""
    for text, marked in pieces:
        at = 0
        for match in pattern.finditer(text) if marked else ():
            plain += text[at : match.start()]
            ids += [*_plain_ids(tokenizer, plain, swallows and ids), special[match[0]]]
            plain, at = "", match.end()
        plain += text[at:]
    return [*ids, *_plain_ids(tokenizer, plain, swallows and ids)]


def _plain_ids(tokenizer, text, stripped):
    text = text.lstrip() if stripped else text
    return tokenizer.encode(text) if text else []


def _special_tokens(tokenizer):
    """Token -> id, of special ones, and of others that end an answer or stand in a template."""
    written = tokenizer.vocabulary
    return {written[i]: i for i in (*tokenizer.control_ids, *(token.id for token in tokenizer.added))}


def _chatml(template):
    if "strftime_now" in template:  # SmolLM3 writes of its day and of how it is to think
        return None
    turn = {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ROLES}
    default = re.search(r"<\|im_start\|>system(?:\\n|\n)([^'\"<{]+)<\|im_end\|>", template)
    return ChatFrame(
        "ChatML", turn["user"], turn["assistant"], "<|im_start|>assistant\n", ("<|im_end|>",), system=turn["system"],
        default_system=default and default[1], stripped=ROLES if "trim" in template else (),
        thoughts="</think>" if "</think>" in template else None,
    )  # fmt: skip


def _llama3(template):
    turn = {role: (f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>") for role in ROLES}
    # From 3.1 on every conversation has a system turn, which begins with two dates.
    dated = "Cutting Knowledge Date" in template
    fixed = re.search(r'date_string = "([^"]+)"', template)
    if dated and fixed is None:
        return None
    today = TODAY if "strftime_now" in template else fixed and fixed[1]
    before, behind = turn["system"]
    note = f"Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n" if dated else ""
    return ChatFrame(
        "Llama 3", turn["user"], turn["assistant"], turn["assistant"][0], ("<|eot_id|>", "<|eom_id|>"),
        system=(before + note, behind), default_system="" if dated else None, stripped=ROLES,
    )  # fmt: skip


def _mistral(template):
    if "<<SYS>>" in template or "[SYSTEM_PROMPT]" in template:  # Llama 2, and Mistral's of 2025
        return None
    written = [re.search(rf"['\"]( ?\[{name}\] ?)", template) for name in ("INST", "/INST")]
    before, behind = (match[1] if match else name for match, name in zip(written, ("[INST]", "[/INST]"), strict=True))
    blank = " " if re.search(r"['\"] ['\"] *\+ *message", template) else ""
    place = None if "system_message" not in template else "last" if "loop.last" in template else "first"
    return ChatFrame(
        "Mistral", (before, behind), (blank, "</s>"), "", ("</s>",), system=place,
        stripped=("assistant",) if "trim" in template else (),
    )  # fmt: skip


def _gemma(template):
    user, assistant = ((f"<start_of_turn>{name}\n", "<end_of_turn>\n") for name in ("user", "model"))
    place = "first" if "first_user_prefix" in template else None
    return ChatFrame("Gemma", user, assistant, assistant[0], ("<end_of_turn>",), system=place, stripped=("user", "assistant"))


def _phi3(template):
    # Phi-4-mini has no ends of lines.
    line = "\n" if re.search(r"<\|end\|>(\\n|\n|['\"] *\+ *['\"]\\n)", template) else ""
    turn = {role: (f"<|{role}|>{line}", f"<|end|>{line}") for role in ROLES}
    has_system = "system" in template or re.search(r"'<\|' *\+ *message", template)
    return ChatFrame(
        "Phi-3", turn["user"], turn["assistant"], turn["assistant"][0], ("<|end|>",), swallows=bool(line),
        system=turn["system"] if has_system else None,
    )  # fmt: skip


def _glm(name, line, begin, end):
    """What makes the frame of GLM-4 and of ChatGLM3, which differ in what stands behind a role and around a conversation."""
    turn = {role: (f"<|{role}|>{line}", "") for role in ROLES}
    frame = ChatFrame(
        name, turn["user"], turn["assistant"], "<|assistant|>", ("<|user|>", "<|observation|>", end), begin=begin,
        system=turn["system"],
    )  # fmt: skip
    return lambda template: frame


def _chatglm2(template):
    asked = (f"[Round {ROUND}]\n\n问：", "\n\n答：")
    return ChatFrame("ChatGLM2", asked, ("", "\n\n"), "", ("</s>",), begin="[gMASK]sop")


# What a template has in it, and what makes its frame; the first that fits.
KINDS = (
    (("<|im_start|>", "<|im_end|>"), _chatml),
    (("<|start_header_id|>", "<|eot_id|>"), _llama3),
    (("[gMASK]<sop>",), _glm("GLM-4", "\n", "[gMASK]<sop>", "<|endoftext|>")),
    (("[gMASK]sop", "[Round ", "问："), _chatglm2),
    (("[gMASK]sop", "<|assistant|>"), _glm("ChatGLM3", "\n ", "[gMASK]sop", "</s>")),
    (("<start_of_turn>", "<end_of_turn>"), _gemma),
    (("<|end|>", "assistant"), _phi3),
    (("[INST]", "[/INST]"), _mistral),
)
