"""README.md and docs/ keep what they promise: links lead to files, commands parse, both languages say the same.

    python -m tests.docs                                    all checks, then the cheap commands for real, at tiny settings
    python -m tests.docs --check                            the checks alone
    python -m tests.docs --pages=README.md,docs/tour.ipynb  the commands of these pages

`tests/doc_runs.py` tells in which state a command runs. The last line counts what ran, what failed, and what was left out
and why.
"""

import argparse
import ast
import contextlib
import gzip
import importlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from unittest import mock

from absl import flags

from tests import programs
from trainers import flags as trainer_flags
from trainers import listing
from zoo.config import Refusal
from zoo.registry import MODELS, TASKS, tasks_of

ROOT = Path(__file__).parent.parent
MOST_BYTES = 9_216  # of README.md
CHINESE_ONLY = "## 中文文本"  # the section of README.zh.md that README.md does not have
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
LINK_TEXT = re.compile(r"\[([^\]]*)\]\([^)]*\)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
# What runs begin with on the pages: directory, family, preset.
BUNDLES = (
    ("minilm", "bert", "minilm_l6"),
    ("mine", "bert", "minilm_l6"),
    ("smollm2", "gpt", "default"),
    ("runs/spans", "t5", "default"),
    ("runs/glm/latest", "glm", "default"),
    ("vectors", "word2vec", "default"),
)
INLINE = re.compile(r"`([^`\n]+)`")
OTHERS = re.compile(r"(?:pip|docker|curl|tensorboard|pytest|python [\w/]+\.py) ")
PYTHON_LINE = re.compile(r"""python -c (?:"(.*)"|'(.*)')\)?$""")


def pages():
    """The pages that are checked, the front door first."""
    return [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def without_fences(text):
    return FENCE.sub("", text)


def links(text):
    """(file, anchor) of the links that lead to files; "" for this page, and for no anchor."""
    found = (target.partition("#") for target in LINK.findall(without_fences(text)) if "://" not in target)
    return [(target, anchor) for target, _, anchor in found]


def anchors(text):
    """The names by which GitHub knows the headings of a page.

    >>> sorted(anchors("# In `zoo`: a_b, c-d!" + chr(10) + "## 中文 文本（一）" + chr(10) + "## [A](b.md)" + chr(10) + "## A"))
    ['a', 'a-1', 'in-zoo-a_b-c-d', '中文-文本一']
    """
    names = set()
    for heading in HEADING.findall(without_fences(text)):
        shown = LINK_TEXT.sub(r"\1", heading).strip().lower()
        name = again = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        number = 0
        while again in names:
            number += 1
            again = f"{name}-{number}"
        names.add(again)
    return names


def steps(text):
    """What a page tells to run, in its order: lists of words, `["trainers.run", "--model=gpt"]`, and Python as a string."""
    at = 0
    for found in [*FENCE.finditer(text), None]:
        for line in INLINE.findall(text[at : found.start() if found else None]):
            yield from _calls(line)
        if found is None:
            return
        at = found.end()
        if found[1] == "python":
            yield found[2]
            continue
        for line in found[2].replace("\\\n", " ").splitlines():
            code = PYTHON_LINE.search(line)
            if code:
                yield code[1] or code[2]
            else:
                yield from _calls(line)


def commands(text):
    """The calls among the `steps` of a page."""
    return [step for step in steps(text) if not isinstance(step, str)]


def _calls(line):
    """The words behind each `python -m` of a line, up to `&&`, `;` or a comment."""
    if "python -m " not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    words, call = list(lexer), None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "python" and following == "-m":
            call = []
        elif set(word) <= set("&;|"):
            if call:
                yield call
            call = None
        elif call is not None and word != "-m":
            call.append(word)
    if call:
        yield call


def others(text):
    """The lines of a page that call other programs: pip, docker, curl, tensorboard, pytest, an export's client."""
    lines = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if OTHERS.match(line)]


def figures(text):
    """The numbers of a page, as they are written."""
    return set(NUMBER.findall(text))


def times(text):
    """The times of a page, as they are written.

    >>> sorted(times("2m51s (3m18s in all), 29 s; 12 steps"))
    ['29 s', '2m51s', '3m18s']
    """
    return set(re.findall(r"\b(?:\d+h)?\d+m(?:\d\ds)?\b|\b\d+ s\b", text))


def in_both_languages(text):
    """A page without the section that only the Chinese one has."""
    before, heading, after = text.partition(CHINESE_ONLY)
    return before + "".join(re.split(r"^(?=## )", after, maxsplit=1, flags=re.MULTILINE)[1:]) if heading else text


# The checks: each yields a sentence for what is wrong.


def wrong_links(page):
    for target, anchor in links(page.read_text(encoding="utf8")):
        there = page.parent / target if target else page
        if not there.exists():
            yield f"{name_of(page)}: {target} is not there"
        elif anchor and anchor not in (anchors(there.read_text(encoding="utf8")) if there.suffix == ".md" else ()):
            yield f"{name_of(page)}: {target} has no heading #{anchor}"


def wrong_python(page):
    for step in steps(page.read_text(encoding="utf8")):
        try:
            if isinstance(step, str):
                ast.parse(step)
        except SyntaxError as error:
            yield f"{name_of(page)}: {error}"


def wrong_commands(page):
    for call in commands(page.read_text(encoding="utf8")):
        sentence = wrong_with(call)
        if sentence:
            yield f"{name_of(page)}: {shlex.join(['python', '-m', *call])}: {sentence}"


def wrong_with(call):
    """What a program would refuse in a call, or None. The current directory has the files of `make_files`."""
    module, *arguments = call
    room, _, program = module.partition(".")
    if not (ROOT / Path(*module.split("."))).with_suffix(".py").is_file():
        return None if (ROOT / room / program / "__main__.py").is_file() else f"there is no {module}"
    if room == "tests":
        return None
    try:
        return _wrong_flags(program, arguments) if room == "trainers" else _wrong_options(module, arguments)
    except (flags.Error, Refusal) as error:
        return str(error)


def _wrong_flags(program, arguments):
    if program not in programs.DEFINITIONS:
        return f"trainers.{program} is not a program"
    plain = [argument for argument in arguments if not argument.startswith("--")]
    if plain:
        return f"{plain[0]!r} is not a flag"
    with programs.parsed(program, *arguments):
        if program == "run" and flags.FLAGS.list == "false" and not flags.FLAGS.completion:
            trainer_flags.train_config()
    return None


class _Parsed(Exception):
    """Ends a benchmark as soon as it has read its options; `args` holds those that it does not know."""


def _wrong_options(module, arguments):
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_end(parser, args=None, namespace=None):
        namespace, unknown = parse(parser, arguments if args is None else args, namespace)
        raise _Parsed(*unknown, *getattr(namespace, "flags", ()))

    program = importlib.import_module(module)
    try:
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_and_end),
            mock.patch.object(sys, "argv", [module, *arguments]),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            program.main()
    except _Parsed as end:  # what it does not know goes to a run
        return _wrong_flags("run", [f"--model={_model_of(arguments)}", *end.args]) if end.args else None
    except SystemExit:
        return "its options do not parse"
    return "it reads no options"


def _model_of(arguments):
    """The family that a benchmark hands to `trainers.run`."""
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("--model=")]
    return named[0] if named else "bag_of_words" if any("analyzer" in argument for argument in arguments) else "gpt"


def wrong_sizes():
    size = len((ROOT / "README.md").read_bytes())
    if size > MOST_BYTES:
        yield f"README.md has {size:,} bytes, and may have {MOST_BYTES:,}"


def wrong_test_command():
    """README.md tells to run the tests as `.ci/run` does."""
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf8").splitlines()
    installs = [line for line in steps if line.startswith("pip install") and line.endswith("-e '.[test]'")]
    told = "pip install -e '.[test]' && pytest" in (ROOT / "README.md").read_text(encoding="utf8").splitlines()
    if not (told and installs and steps[-1] == "pytest"):
        yield "README.md and .ci/run install the test extra and run pytest in different ways"


def wrong_translation():
    """Where README.md and README.zh.md differ in commands or figures."""
    english, chinese = (in_both_languages((ROOT / name).read_text(encoding="utf8")) for name in ("README.md", "README.zh.md"))
    for what, of in (("command", lambda text: {shlex.join(call) for call in commands(text)}), ("figure", figures)):
        for name, more in (("README.md", of(english) - of(chinese)), ("README.zh.md", of(chinese) - of(english))):
            if more:
                yield f"only {name} has the {what}s {', '.join(sorted(more))}"


def wrong_chinese_pages():
    """Commands and figures of the pages in docs/zh that the English page of the same name, or one of that folder, lacks.

    What stands under `CHINESE_ONLY` is about Chinese text, and has no English page.
    """
    for page in sorted((ROOT / "docs" / "zh").glob("*.md")):
        chinese = in_both_languages(page.read_text(encoding="utf8"))
        alike = ROOT / "docs" / page.name
        sources = [alike] if alike.is_file() else [ROOT / "README.md", *sorted((ROOT / "docs" / page.stem).glob("*.md"))]
        english = "\n".join(source.read_text(encoding="utf8") for source in sources)
        for what, of in (("command", lambda text: {shlex.join(call) for call in commands(text)}), ("figure", figures)):
            if more := of(chinese) - of(english):
                yield f"only {name_of(page)} has the {what}s {', '.join(sorted(more))}"


def wrong_figures():
    """Figures of README.md's comparison that docs/figures.md, where their commands are, lacks."""
    compared = (ROOT / "README.md").read_text(encoding="utf8").partition("\n## One comparison\n")[2].partition("\n## ")[0]
    kept = (ROOT / "docs" / "figures.md").read_text(encoding="utf8")
    for what, of in (("figures", figures), ("times", times)):
        if more := of(compared) - of(kept):
            yield f"docs/figures.md lacks the {what} {', '.join(sorted(more))} of README.md"


def wrong_families():
    """Families without a page, and what the page lacks: presets, their numbers of parameters, tasks, what to expect."""
    for model in MODELS.names():
        page, config = ROOT / "docs" / "models" / f"{model}.md", MODELS.config(model)
        if not page.is_file():
            yield f"{name_of(page)} is not there"
            continue
        text = page.read_text(encoding="utf8")
        named = set(re.findall(r"`([^`\n]+)`", text))
        if missing := [preset for preset in config.presets if preset not in named]:
            yield f"{name_of(page)} does not name the presets {', '.join(missing)}"
        sizes = [] if config.fitted else [listing.short(listing.preset_config(config, p).num_params()) for p in config.presets]
        if missing := [size for size in sizes if not re.search(rf"\b{re.escape(size)}\b", text)]:
            yield f"{name_of(page)} lacks the numbers of parameters {', '.join(missing)}, which --list shows"
        linked = {there for there, _ in links(text)}
        if missing := [task for task in trained(config) if f"../tasks/{page_of(task)}" not in linked]:
            yield f"{name_of(page)} has no link to the pages of {', '.join(missing)}"
        if "what-to-expect" not in anchors(text):
            yield f"{name_of(page)} does not say what to expect"


def trained(config):
    """The tasks that a family is trained on."""
    return [task for task in tasks_of(config) if TASKS.config(task).trains]


def page_of(task):
    """The name of a task's page.

    >>> page_of("question_answering"), page_of("masked_lm")
    ('question-answering.md', 'masked-language-modelling.md')
    """
    british = {"masked_lm": "masked-language-modelling", "language_modeling": "language-modelling"}
    return f"{british.get(task, task.replace('_', '-'))}.md"


def wrong_tasks():
    """Tasks without a page, and models that a page does not name before its first commands."""
    for task in (name for name in TASKS.names() if TASKS.config(name).trains):
        page = ROOT / "docs" / "tasks" / page_of(task)
        if not page.is_file():
            yield f"{name_of(page)} is not there"
            continue
        named = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf8").partition("```")[0]))
        if missing := [model for model in MODELS.names() if task in tasks_of(MODELS.config(model)) and model not in named]:
            yield f"{name_of(page)} does not name the models {', '.join(missing)}"


def wrong():
    """Everything that is wrong, sentences. The current directory has the files of `make_files`."""
    found = [
        *wrong_sizes(),
        *wrong_test_command(),
        *wrong_translation(),
        *wrong_chinese_pages(),
        *wrong_figures(),
        *wrong_families(),
        *wrong_tasks(),
    ]
    for page in pages():
        found += [*wrong_links(page), *wrong_python(page), *wrong_commands(page)]
    return found


# What the pages speak of: small files of the user, and bundles that are begun from.


def make_files(directory, bundles=True):
    """Writes the files that the commands name.

    Args:
        directory: a directory that is empty.
        bundles: whether to write descriptions of bundles, without weights; enough for flags, not for a run.
    """
    directory, sentence = Path(directory), "The list of all {} values is empty, and the function returns it.\n"
    text = "".join(sentence.format(i) for i in range(400))
    poem = "".join(f"春风又绿江南岸，明月何时照我还。第{i}首。\n" for i in range(200))
    plain = {name: text for name in ("notes.txt", "other.txt", "a/one.txt", "b.txt", "brown.txt")}
    plain |= {"songci.txt": poem}
    for name in ("train.tsv", "test.tsv", "dev.tsv"):
        plain[name] = "".join(f"{label}\t{sentence.format(i)}" for i in range(40) for label in ("good", "bad"))
    plain["pairs.tsv"] = "The list is empty.\tThe list is long.\tlength\n"
    roles = "The\t-\tB-A0\nlist\t-\tI-A0\nholds\thold\tB-V\nvalues\t-\tB-A1\n\n"
    plain |= dict.fromkeys(("train.conll", "dev.conll", "test.conll"), roles * 40)
    for name in "abc":
        plain |= {f"{name}.en": text[:5_000], f"{name}.de": text[:5_000]}
    record = {"text": "The list.", "article": "The list is long and empty.", "summary": "The list."}
    plain["posts.jsonl"] = f"{json.dumps(record)}\n" * 50
    abstract = json.dumps({"source": "The list is long and empty. The function returns it.", "target": ["The list."]})
    plain |= dict.fromkeys(("train.jsonl", "validation.jsonl", "test.jsonl"), f"{abstract}\n" * 40)
    answers = [{"text": "空的", "answer_start": 3}]
    questions = [{"id": str(i), "question": "列表是什么？", "answers": answers} for i in range(20)]
    squad = {"data": [{"paragraphs": [{"context": "列表是空的。 Its values are functions.", "qas": questions}]}]}
    plain |= dict.fromkeys(("train.json", "test.json"), json.dumps(squad, ensure_ascii=False))
    plain |= {"text.txt": text, "prompts.txt": "The list\nThe function\n"}
    words = ("the", "list", "values", "is")
    plain["glove.6B.100d.txt"] = "".join(f"{word} {i}.5 0.25 -1 {i}\n" for i, word in enumerate(words))
    plain |= {"questions-words.txt": ": all\nlist values function empty\n", "wordsim353.tsv": "list\tvalues\t5\n"}
    plain |= _of_people()
    for name, content in plain.items():
        (directory / name).parent.mkdir(exist_ok=True, parents=True)
        (directory / name).write_text(content, encoding="utf8")
    with gzip.open(directory / "reviews.jsonl.gz", "wt", encoding="utf8") as file:
        file.write(plain["posts.jsonl"])
    if bundles:
        for name, model, preset in BUNDLES:
            _describe(directory / name, model, preset)


def _of_people():
    """The files of docs/fairness.md."""
    test = {"name": "things", "X": ["list", "tuple"], "Y": ["file", "path"], "A": ["value", "item"], "B": ["name", "directory"]}
    rows = [f"The {who} list of {i} is long.,{label},{who}" for i in range(8) for who in "ab" for label in ("good", "bad")]
    return {
        "tests.jsonl": f"{json.dumps(test)}\n",
        "swaps.tsv": "list\tfunction\tkind\nempty\tlong\n",
        "people.csv": "\n".join(["text,label,group", *rows, ""]),
    }


def _describe(bundle, model, preset):
    (bundle / "tokenizer").mkdir(parents=True)
    config = MODELS.config(model)
    described = {
        "format_version": 1,
        "model": model,
        "task": config.default_task,
        "model_config": config.preset(preset).to_dict(),
    }
    (bundle / "config.json").write_text(json.dumps(described), encoding="utf8")


@contextlib.contextmanager
def workplace(bundles=True):
    """A directory with the files of `make_files`, which is the current one meanwhile."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as directory:
        make_files(directory, bundles)
        os.chdir(directory)
        try:
            yield Path(directory)
        finally:
            os.chdir(before)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="run no command")
    parser.add_argument("--pages", help="whose commands to run, by commas; all if not given")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with workplace():
        found = wrong()
    print("\n".join(found) or "Links, commands, Python, sizes and translation are right.")
    if args.check or found:
        return int(bool(found))
    from tests import doc_runs, tour

    chosen = [ROOT / name for name in args.pages.split(",")] if args.pages else [*pages(), tour.NOTEBOOK]
    told, num_others = {}, 0
    for page in chosen:
        text = page.read_text(encoding="utf8")
        told[name_of(page)] = list(tour.steps(json.loads(text)["cells"]) if page.suffix == ".ipynb" else steps(text))
        num_others += len(others(text))
    return int(doc_runs.run(told, num_others) > 0)


if __name__ == "__main__":
    sys.exit(main())
