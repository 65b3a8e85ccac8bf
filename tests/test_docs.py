"""What README.md and docs/ promise, as far as it can be checked without training; `python -m tests.docs` runs commands, too."""

import contextlib
import doctest
import itertools
import json
import re
import subprocess
import sys

import pytest

from benchmarks import family_picture
from tests import doc_runs, docs, programs, tour

PAGES = docs.pages()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with the files that the pages speak of."""
    directory = tmp_path_factory.mktemp("docs")
    docs.make_files(directory)
    return directory


@pytest.mark.parametrize("page", PAGES, ids=docs.name_of)
def test_every_link_leads_to_a_file_and_every_command_parses(page, files, monkeypatch):
    monkeypatch.chdir(files)
    assert [*docs.wrong_links(page), *docs.wrong_python(page), *docs.wrong_commands(page)] == []


def test_the_front_page_is_short_and_tests_as_ci_does():
    assert [*docs.wrong_sizes(), *docs.wrong_test_command()] == []


def test_both_languages_have_the_same_commands_and_figures():
    assert list(docs.wrong_translation()) == list(docs.wrong_chinese_pages()) == []


def test_the_figures_of_the_front_page_have_their_commands(monkeypatch, tmp_path):
    assert list(docs.wrong_figures()) == []
    (tmp_path / "docs").mkdir()
    told = "# A\n\n## One comparison\n\n| 1.712 | 3m31s |\n\n## Families\n\n1998\n"
    (tmp_path / "README.md").write_text(told, encoding="utf8")
    (tmp_path / "docs" / "figures.md").write_text("1.712 31 3", encoding="utf8")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert list(docs.wrong_figures()) == ["docs/figures.md lacks the times 3m31s of README.md"]


def test_every_family_has_a_page_with_its_presets_their_sizes_its_tasks_and_what_to_expect():
    assert list(docs.wrong_families()) == []


def test_what_the_page_of_a_family_lacks_is_found(monkeypatch, tmp_path):
    (tmp_path / "docs" / "models").mkdir(parents=True)
    page = (docs.ROOT / "docs" / "models" / "lstm.md").read_text(encoding="utf8")
    for old, new in (("## What to expect", "## Figures"), ("66M", "76M"), ("../tasks/tagging.md", ""), ("`awd_lstm`", "")):
        page = page.replace(old, new)
    (tmp_path / "docs" / "models" / "lstm.md").write_text(page, encoding="utf8")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    found = [sentence for sentence in docs.wrong_families() if "lstm.md" in sentence and "bilstm" not in sentence]
    assert [sentence.partition("lstm.md ")[2] for sentence in found] == [
        "does not name the presets awd_lstm",
        "lacks the numbers of parameters 66M, which --list shows",
        "has no link to the pages of tagging",
        "does not say what to expect",
    ]


def test_every_task_has_a_page_that_names_its_models():
    assert list(docs.wrong_tasks()) == []


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("trainers.run --model=gtp", "did you mean 'gpt'"),
        ("trainers.run --model=gpt --preset=gpt9", "has no preset"),
        ("trainers.run --model=gpt --set=num_layer=3", "did you mean 'num_layers'"),
        ("trainers.run --model=gpt --task=question_answering", "is not trained on"),
        ("trainers.export --export_dirr=x", "Unknown command line flag"),
        ("trainers.generate The", "is not a flag"),
        ("trainers.progress", "is not a program"),
        ("benchmarks.load --minutes=soon", "do not parse"),
        ("benchmarks.kills --kills=3 --stesp=3", "Unknown command line flag"),
        ("tests.nothing", "there is no"),
    ],
)
def test_a_wrong_command_is_found(call, sentence, files, monkeypatch):
    monkeypatch.chdir(files)
    assert sentence in docs.wrong_with(call.split())


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ("there.md", None),
        ("there.md#two-words-of-it", None),
        ("there.md#中文-文本", None),
        ("#here", None),
        ("there.md#two-words", "there.md has no heading #two-words"),
        ("there.md#in-a-fence", "has no heading"),
        ("there.md#中文文本", "has no heading"),
        ("#there", "has no heading"),
        ("nowhere.md", "is not there"),
        ("picture.svg#part", "has no heading"),
    ],
)
def test_a_link_to_a_heading_that_is_not_there_is_found(link, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# Two words: of `it`\n```\n# In a fence\n```\n## 中文 文本。\n", encoding="utf8")
    (tmp_path / "picture.svg").write_text("<svg/>", encoding="utf8")
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n[link]({link})\n", encoding="utf8")
    found = list(docs.wrong_links(page))
    assert found == [] if sentence is None else len(found) == 1 and sentence in found[0]


def test_commands_are_read_from_blocks_and_from_lines():
    block = "pip install x && python -m c.d --y='1 2'  # python -m e.f\npython -m g.h \\\n  --z=3\n"
    page = f"`python -m a.b --x=1` and\n```\n{block}```\n```python\nx = 1\n```\n`python -m i.j`"
    assert docs.commands(page) == [["a.b", "--x=1"], ["c.d", "--y=1 2"], ["g.h", "--z=3"], ["i.j"]]
    assert list(docs.steps(page))[3:] == ["x = 1\n", ["i.j"]]
    assert list(docs.steps("```\npython -c \"print('a')\"\n```\n")) == ["print('a')"]


@pytest.mark.parametrize("module", [docs, doc_runs, tour], ids=lambda module: module.__name__)
def test_the_examples_of_what_reads_the_pages_print_what_they_show(module):
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed


def made_up(told):
    """A `start` that runs nothing: it looks whether what a step names is there, and makes what the step would."""
    made = itertools.count()

    def start(step, directory):
        text = doc_runs.reads(step)
        flags = {} if isinstance(step, str) else doc_runs.given(step[1:])
        told.append(step)
        for run in re.findall(r"runs/[\w/-]+", text):
            assert (directory / run).exists(), f"{step} wants {run}"
        read = (flags.get(flag, "") for flag in ("data_path", "swaps", "pairs", "weat", "prompt_file", "init_from", "from"))
        for path in (path for value in read for path in paths(value)):
            assert list(directory.glob(path)), f"{step} wants {path}"
        run = None
        if step[0] == doc_runs.RUN and not flags.keys() & {"list", "dry_run", "completion"}:
            run = directory / flags.get("model_dir", f"runs/{flags['model']}/{next(made)}")
            (run / "bundle").mkdir(parents=True)
            if "model_dir" not in flags:
                latest = run.with_name("latest")
                latest.unlink(missing_ok=True)
                latest.symlink_to(run.name)
        if step[0] == doc_runs.EXPORT and "model_dir" in flags:
            run = directory / flags["model_dir"]
        if run is not None and (step[0] == doc_runs.EXPORT or "noexport" not in flags):
            (directory / flags.get("export_dir", f"{run.relative_to(directory)}/export") / "1").mkdir(
                parents=True, exist_ok=True
            )
        if "to" in flags and not isinstance(step, str):
            target = directory / flags["to"]
            target.write_text("") if target.suffix else target.mkdir()
        return 0

    return start


def paths(value):
    """The files that a flag's value names."""
    value = value.split(",columns=")[0].split(",source=")[0]
    parts = [part for part in value.split(",") if not part.startswith("format=")]
    return [path for part in parts for path in part.rpartition("=")[2].split(":") if path]


@pytest.fixture(scope="module")
def steps_of_pages():
    """Page -> its steps, the notebook too."""
    told = {docs.name_of(page): list(docs.steps(page.read_text(encoding="utf8"))) for page in PAGES}
    cells = json.loads(tour.NOTEBOOK.read_text(encoding="utf8"))["cells"]
    return {**told, docs.name_of(tour.NOTEBOOK): list(tour.steps(cells))}


def test_every_command_finds_what_it_reads_in_the_order_of_the_pages(tmp_path, steps_of_pages):
    reader = doc_runs.Reader(tmp_path, made_up([]))
    for steps in steps_of_pages.values():
        reader.read(steps)
    assert reader.counts["ran"] > 100 and not reader.counts["failed"]


def test_every_command_parses_at_tiny_settings(files, steps_of_pages, monkeypatch):
    monkeypatch.chdir(files)
    tried = set()
    for step in (step for steps in steps_of_pages.values() for step in steps if not isinstance(step, str)):
        with contextlib.suppress(doc_runs.LeftOut):
            tried.add(tuple(doc_runs.tiny(step)))
    assert len(tried) > 100
    assert [(call, docs.wrong_with(call)) for call in sorted(tried) if docs.wrong_with(call)] == []


def test_every_command_finds_what_it_reads_on_a_page_alone(tmp_path, steps_of_pages):
    for number, (page, steps) in enumerate(steps_of_pages.items()):
        (tmp_path / str(number)).mkdir()
        reader = doc_runs.Reader(tmp_path / str(number), made_up([]))
        reader.read(steps)
        taken = reader.counts["ran"] + reader.counts["again"] + sum(reader.left.values())
        assert taken >= len(steps) and not reader.counts["failed"], page  # `ran` counts what a page needs made before, too


def test_a_command_that_reads_what_is_not_there_is_found(tmp_path):
    reader = doc_runs.Reader(tmp_path, made_up([]))
    with pytest.raises(AssertionError, match="wants runs/elsewhere"):
        reader.read([["trainers.evaluate", "--model_dir=runs/elsewhere"]])
    with pytest.raises(AssertionError, match="wants nowhere.txt"):
        reader.read([["trainers.run", "--model=gpt", "--data_path=nowhere.txt"]])


def test_a_page_without_a_run_has_the_default_one_and_a_run_again_becomes_the_latest(tmp_path):
    first, second = (["trainers.run", "--model=gpt", f"--seed={seed}"] for seed in (1, 2))
    ask = ["trainers.evaluate", "--model_dir=runs/gpt/latest"]
    told, latest = [], tmp_path / "runs" / "gpt" / "latest"
    reader = doc_runs.Reader(tmp_path, made_up(told))
    reader.read([first, ask, second, ask, first, ask])
    assert [step[0] for step in told] == ["trainers.run", "trainers.evaluate"] * 2  # the last two were run before
    assert latest.readlink().name == "0"
    assert reader.counts == {"ran": 4, "again": 2}
    reader.read([ask])
    assert "--seed=1" not in told[-2] and told[-1] == ask
    assert latest.readlink().name == "2"


def test_what_fails_and_what_is_left_out_is_counted(tmp_path):
    reader = doc_runs.Reader(tmp_path, lambda step, directory: int("bad" in step))
    reader.read(["good", "bad", "good", ["benchmarks.run"], ["trainers.run", "--model=gpt", "--strategy=tpu"]])
    assert doc_runs.summary(reader, 5, 3) == (
        "8 commands: 2 ran, 1 of them failed; 1 are the same as one that ran; "
        f"5 left out (3 {doc_runs.OTHER}; 1 {doc_runs.HOURS}; 1 {doc_runs.ELSEWHERE})"
    )


def test_a_section_for_one_language_does_not_count():
    page = f"1\n## A\n2\n{docs.CHINESE_ONLY}\n3\n## B\n4\n"
    assert docs.figures(docs.in_both_languages(page)) == {"1", "2", "4"}


def test_the_notebook_is_made_of_the_tour():
    kept = json.loads(tour.NOTEBOOK.read_text(encoding="utf8"))
    assert kept == tour.notebook(tour.PAGE.read_text(encoding="utf8"))
    page = tour.PAGE.read_text(encoding="utf8")
    lines = [line for cell in kept["cells"] if cell["cell_type"] == "code" for line in tour.source_lines(cell)]
    in_cells = "\n".join(["```", *(line[1:] for line in lines if line.startswith("!")), "```", ""])
    blocks = "".join(block for _, block in docs.FENCE.findall(page))
    assert docs.commands(in_cells) == docs.commands(f"```\n{blocks}```\n")
    for line in lines:
        if not line.startswith("!"):
            compile(line, "a cell", "exec")


@pytest.fixture
def in_this_process(capfd, monkeypatch):
    """Runs the steps of a page without the seconds that a process takes to start: `start` of a `doc_runs.Reader`."""

    def start(step, directory):
        monkeypatch.chdir(directory)
        if isinstance(step, str):
            exec(compile(step, "a cell", "exec"), {})
            return 0
        return programs.call(capfd, step[0].removeprefix("trainers."), *step[1:]).status

    return start


def test_the_first_cells_of_the_notebook_run(tmp_path, in_this_process):
    """Counting, a text, and word vectors."""
    cells = json.loads(tour.NOTEBOOK.read_text(encoding="utf8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert tour.run(code[:3], tmp_path, in_this_process) == 0
    assert (tmp_path / "runs" / "ngram" / "latest" / "bundle").is_dir()


def test_the_picture_of_the_families_shows_the_figures():
    picture = (docs.ROOT / "docs" / "images" / "families.svg").read_text(encoding="utf8")
    runs = family_picture.runs(family_picture.FIGURES.read_text(encoding="utf8"))
    assert {run.name for run in runs} >= {"ngram", "lstm", "gpt"}
    assert [run.name for run in runs if family_picture.label(run) not in picture] == []


def test_the_family_on_the_page_about_adding_one_is_a_model():
    page = (docs.ROOT / "docs" / "adding-a-family.md").read_text(encoding="utf8")
    (code,) = (step for step in docs.steps(page) if isinstance(step, str))
    asked = "; ".join([
        "import numpy as np, zoo",
        "model = zoo.create('neural_bigram', 'tiny').build_from_ids()",
        "assert model.count_params() == model.config.num_params()",
        "print(model(np.array([[3, 5, 7]])).shape)",
    ])  # fmt: skip
    command = [sys.executable, "-c", f"{code}\n{asked}"]
    done = subprocess.run(command, cwd=docs.ROOT, capture_output=True, text=True)
    assert "(1, 3, 61)" in done.stdout, done.stderr
