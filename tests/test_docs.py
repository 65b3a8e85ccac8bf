"""What README.md and docs/ promise, as far as it can be checked without training; `python -m tests.docs` runs commands, too."""

import json

import pytest

from benchmarks import family_picture
from tests import docs, tour

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


def test_every_family_has_a_page_that_names_its_presets():
    assert list(docs.wrong_families()) == []


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
    page = f"`python -m a.b --x=1` and\n```\n{block}```\n"
    assert docs.commands(page) == [["c.d", "--y=1 2"], ["g.h", "--z=3"], ["a.b", "--x=1"]]


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


def test_the_first_cell_of_the_notebook_runs(tmp_path):
    docs.make_files(tmp_path, bundles=False)
    cells = json.loads(tour.NOTEBOOK.read_text(encoding="utf8"))["cells"]
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    assert tour.run([{**first, "source": first["source"][:1]}], tmp_path) == 0
    assert (tmp_path / "runs" / "ngram" / "latest" / "bundle").is_dir()


def test_the_picture_of_the_families_shows_the_figures():
    picture = (docs.ROOT / "docs" / "images" / "families.svg").read_text(encoding="utf8")
    runs = family_picture.runs(family_picture.FIGURES.read_text(encoding="utf8"))
    assert {run.name for run in runs} >= {"ngram", "lstm", "gpt"}
    assert [run.name for run in runs if family_picture.label(run) not in picture] == []
