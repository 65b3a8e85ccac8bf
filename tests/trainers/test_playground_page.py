"""The page of the playground: its text, and what a headless Chromium shows and does."""

import contextlib
import html.parser
import re
import threading
import urllib.request

import pytest

from tests import exports
from tests.browser import PROGRAM, Browser
from tests.served import serving
from trainers import playground
from zoo.serving.versions import Versions

CASES = {"bag_of_words": "classification", "gpt": "language_modeling"}
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium; Debian's package is called chromium")


@pytest.fixture(scope="module")
def port():
    directories = {name: exports.directory(name, task) for name, task in CASES.items()}
    with serving({name: playground.Local(Versions(path)) for name, path in directories.items()}) as number:
        yield number


class Balanced(html.parser.HTMLParser):
    """Raises where an element is closed that was not the last to be opened; gathers ids and what is loaded from elsewhere."""

    VOID = {"meta", "link", "input", "br", "hr", "img"}

    def __init__(self, text):
        super().__init__()
        self.opened, self.ids, self.loaded = [], [], []
        self.feed(text)
        assert not self.opened

    def handle_starttag(self, tag, attributes):
        self.opened += [tag] * (tag not in self.VOID)
        self.ids += [value for name, value in attributes if name == "id"]
        self.loaded += [value for name, value in attributes if name in ("src", "href", "action")]

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag


def test_the_page_stands_alone(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        text, policy = answer.read().decode("utf8"), answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert text == playground.PAGE.read_text(encoding="utf8")
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "http" not in policy
    page = Balanced(text)
    assert page.loaded == ["data:,"] and "http:" not in text and "https:" not in text and "@import" not in text
    assert len(set(page.ids)) == len(page.ids)
    assert set(re.findall(r'\$\("([a-z]+)"\)', text)) <= {*page.ids, "run", "stop"}  # those two stand in the form


def test_the_page_says_everything_in_both_languages():
    text = playground.PAGE.read_text(encoding="utf8")
    tables = re.search(r"const TEXTS = \{\n  en: \{(.*?)\},\n  zh: \{(.*?)\},\n\};", text, re.DOTALL).groups()
    english, chinese = (re.findall(r"(\w+): ", re.sub(r'"[^"]*"', "", table)) for table in tables)
    assert english == chinese and len(english) > 50
    assert set(re.findall(r'\bt\("(\w+)"\)', text)) | set(re.findall(r'data-text="(\w+)"', text)) <= set(english)


SHOWN = {  # model, task, tool of the page, what else the link says -> an expression that is true once the answer is seen
    ("gpt", "language_modeling", "write", ""): "document.querySelectorAll('.token').length > 1",
    ("gpt", "language_modeling", "write", "num_beams=3"): "document.querySelectorAll('#answers li').length == 3",
    ("gpt", "language_modeling", "score", ""): "document.querySelectorAll('td').length == 3",
    ("gpt", "language_modeling", "raw", ""): "document.querySelector('#answers pre').innerText.includes('text')",
    ("bag_of_words", "classification", "classify", ""): "document.querySelectorAll('.bar').length == 3 && "
    "document.querySelectorAll('.text span[title]').length > 1",
    ("bert", "masked_lm", "mask", ""): "document.querySelectorAll('.bar').length == 10",
    ("bert", "masked_lm", "similar", ""): "document.querySelectorAll('td').length > 1",
    ("bert", "tagging", "tag", ""): "document.querySelectorAll('.chip').length == 6",
    ("bert", "semantic_roles", "roles", "predicate=2"): "document.querySelectorAll('.chip').length == 6",
    ("bert", "question_answering", "answer", ""): "document.querySelector('mark') != null",
    ("transformer", "translation", "rewrite", ""): "document.querySelectorAll('td[title]').length > 1",
    ("transformer", "translation", "rewrite", "num_beams=2"): "document.querySelectorAll('#answers li').length == 2",
    ("transformer", "summarization", "rewrite", ""): "document.querySelectorAll('td[title]').length > 1",
    ("t5", "span_corruption", "fill", ""): "document.querySelector('#answers .text').innerText.startsWith('the')",
    ("glm", "blank_infilling", "fill", ""): "document.querySelector('#answers .text').innerText.length > 1",
    ("word2vec", "word_vectors", "nearest", "word=a&k=5"): "document.querySelectorAll('.bar').length == 5",
    ("word2vec", "word_vectors", "analogy", "a=a&b=b&c=c&k=5"): "document.querySelectorAll('.bar').length == 5",
}


class Page(Browser):
    """The page of a playground on a port. Once it is closed, its console must have held no errors."""

    def __init__(self, port, *size):
        super().__init__(*size)
        self.address = f"http://127.0.0.1:{port}/#"

    def __exit__(self, kind, error, trace):
        super().__exit__(kind, error, trace)
        if kind is None:
            assert not self.errors

    def show(self, link):
        """Opens a link, whose tool is then there to be filled in."""
        self.open(self.address + link)
        self.until("document.getElementById('run') != null")

    def ask(self, link):
        """Opens a link that asks the model, and waits for the whole answer."""
        self.open(f"{self.address}{link}&run=1")
        self.until_answered()

    def until_answered(self):
        self.until("document.body.dataset.done == 'true'")


@needs_browser
def test_a_browser_shows_an_answer_of_every_kind_of_signature():
    cases = {f"{name}-{task}": exports.directory(name, task) for name, task, _, _ in SHOWN}
    models = {name: playground.Local(Versions(path)) for name, path in cases.items()}
    with serving(models) as number, Page(number) as browser:
        for (name, task, tool, link), shown in SHOWN.items():
            browser.ask(f"model={name}-{task}&tool={tool}&max_new_tokens=9&{link}")
            assert browser.evaluate(shown), (tool, link, browser.evaluate("document.getElementById('answers').innerText"))
            assert browser.evaluate("document.querySelector('#answers .error') == null")
            if (tool, link) == ("write", ""):
                _choose_tokens(browser)


def _choose_tokens(browser):
    """A click and the arrow keys choose a token, whose alternatives are shown."""
    browser.evaluate("document.querySelector('.token').click()")
    chosen = "[...document.querySelectorAll('.token')].map(node => node.classList.contains('chosen'))"
    assert browser.evaluate(chosen)[:2] == [True, False]
    browser.evaluate("document.querySelector('#answers .text').focus()")
    browser.press("ArrowRight", 39)
    assert browser.evaluate(chosen)[:2] == [False, True]
    assert browser.evaluate("document.querySelectorAll('#answers .bar').length") in (0, 5)  # a character of several bytes: 0


SLIDERS = """[...document.querySelectorAll('input[type=range]')].map(node => {
  const caption = node.previousSibling, [name, value] = caption.children;
  return [node.id, caption.offsetHeight, Math.round(node.getBoundingClientRect().width), value.innerText,
    name.offsetWidth + value.offsetWidth <= caption.offsetWidth]; })"""


@needs_browser
def test_a_browser_has_even_sliders_and_nothing_to_compare_where_there_is_one_model():
    model = playground.Local(Versions(exports.directory("gpt", "language_modeling")))
    with serving({"gpt": model}) as number, Page(number) as browser:
        for width in (1000, 390):
            for look in ("language=en&theme=light", "language=zh&theme=dark"):
                browser.resize(width, 800)
                browser.show(f"tool=write&top_k=500&num_beams=0&{look}")
                assert browser.evaluate("getComputedStyle(document.getElementById('compare')).display") == "none"
                names, heights, widths, values, fit = zip(*browser.evaluate(SLIDERS), strict=True)
                options = ("temperature", "top_k", "top_p", "num_beams", "length_penalty")
                assert names == tuple(f"field-{name}" for name in options)
                assert len(set(heights)) == 1 and heights[0] < 30 and len(set(widths)) == 1 and all(fit)  # one line each
                assert values == ("0.8", "200", "1", "1", "0.6")  # what stands in the address is held within a slider's ends
        browser.evaluate("document.getElementById('field-top_k').focus()")
        browser.press("ArrowLeft", 37)
        assert browser.evaluate(SLIDERS)[1][3] == "199"


@needs_browser
def test_a_browser_fills_holes_first_and_writes_the_likeliest_of_another_text():
    """As `trainers.generate` does; a language model varies what it writes."""
    models = {name: playground.Local(Versions(exports.directory(name, task)))
              for name, task in (("t5", "span_corruption"), ("gpt", "language_modeling"))}  # fmt: skip
    with serving(models) as number, Page(number) as browser:
        browser.show("model=t5")
        assert browser.evaluate("document.querySelector('[role=tab]').id") == "tab-fill"
        assert browser.evaluate("document.querySelector('[aria-selected=true]').id") == "tab-fill"
        for link, temperature in (("model=t5&tool=rewrite", "0"), ("model=t5&tool=rewrite&temperature=0.5", "0.5"),
                                  ("model=gpt&tool=write", "0.8")):  # fmt: skip
            browser.show(link)
            assert browser.evaluate("document.getElementById('field-temperature').value") == temperature, link


@needs_browser
def test_a_browser_is_worked_by_keys_on_a_phone_in_chinese_and_compares(port):
    with Page(port, 390, 800) as browser:
        browser.show("model=gpt&tool=score&language=zh&theme=dark&beside=bag_of_words")
        assert browser.evaluate("document.documentElement.lang") == "zh-CN"
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"
        browser.evaluate("document.getElementById('field-text').focus()")
        browser.call("Input.insertText", text="猫")
        browser.press("Enter", 13, modifiers=2)
        browser.until_answered()
        assert browser.evaluate("document.querySelectorAll('#answers section').length") == 2
        assert browser.evaluate("document.querySelectorAll('#answers .error').length") == 1  # it has no such signature
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        assert browser.evaluate("getComputedStyle(document.getElementById('compare')).display") == "block"
        browser.evaluate("document.getElementById('tab-score').focus()")
        browser.press("ArrowRight", 39)
        assert browser.evaluate("document.activeElement.id") == "tab-raw"
        browser.evaluate("document.getElementById('language').click()")
        assert browser.evaluate("document.getElementById('run').innerText") == "Run"


class Steps:
    """A predict function that waits for `gate` at every call."""

    def __init__(self, predict, gate):
        self.predict, self.gate, self.first = predict, gate, predict.first

    def __call__(self, signature, inputs):
        assert self.gate.acquire(timeout=60)
        return self.predict(signature, inputs)


class Gated(playground.Local):
    """A model that takes a step of writing whenever `gate` lets one through."""

    def __init__(self, versions):
        super().__init__(versions)
        self.gate = threading.Semaphore(0)

    @contextlib.contextmanager
    def predicting(self, name):
        with super().predicting(name) as predict:
            yield Steps(predict, self.gate)


@needs_browser
def test_a_browser_stops_a_text_by_a_key_and_shows_two_models_side_by_side():
    export = exports.directory("gpt", "language_modeling")
    model, other = Gated(Versions(export)), playground.Local(Versions(export))
    with serving({"gpt": model, "other": other}) as number, Page(number) as browser:
        asked = "tool=write&temperature=1.5&seed=3&max_new_tokens=40"
        browser.open(f"{browser.address}model=gpt&{asked}&run=1")
        model.gate.release(12)
        browser.until("document.querySelectorAll('.token').length > 2")
        assert not browser.evaluate("document.getElementById('stop').disabled || document.body.dataset.done == 'true'")
        browser.press("Escape", 27)
        browser.until_answered()
        assert browser.evaluate("document.querySelector('#answers section').lastChild.innerText").endswith("Stopped.")
        assert browser.evaluate("document.querySelector('#answers .error') == null && document.getElementById('stop').disabled")
        kept = browser.evaluate("document.querySelector('#answers .text').innerText")
        model.gate.release(1_000)
        browser.ask(f"model=gpt&beside=other&{asked}")
        one, two = browser.evaluate("[...document.querySelectorAll('#answers section .text')].map(node => node.innerText)")
        assert one == two and one.startswith(kept) and len(one) > len(kept)
        heads = browser.evaluate("[...document.querySelectorAll('#answers h2')].map(node => node.innerText)")
        assert heads == ["gpt · 1", "other · 1"] and browser.evaluate("document.querySelector('#answers .error') == null")
        left, right = browser.evaluate("[...document.querySelectorAll('#answers section')].map(node => node.offsetLeft)")
        assert right > left + 300
