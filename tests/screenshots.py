"""The pictures of docs/images that a headless Chromium takes: Debian's packages `chromium` and `fonts-noto-cjk`.

python -m trainers.report --model_dir=runs/gpt/latest --model_dir=runs/lstm/latest --model_dir=runs/ngram/latest
python -m tests.screenshots --gpt=runs/gpt/latest/export --lstm=runs/lstm/latest/export \\
    --bag_of_words=runs/bag_of_words/latest/export --report=runs/gpt/latest/report.html --to=docs/images

A picture is taken where all that it shows is given.
"""

import argparse
import asyncio
import inspect
import sys
import urllib.parse
from pathlib import Path

from tests.browser import PROGRAM, Browser
from tests.served import serving
from trainers import playground
from zoo.serving.versions import Versions

ASKED = "prompt=The%20list&max_new_tokens=40&temperature=0.7&seed=2&run=1"
# The default bag of words tells the modules of Python's library apart by such texts; this one is of asyncio.
DOCSTRING = inspect.getdoc(asyncio.wait_for)
CLASSIFIED = urllib.parse.urlencode({"text": " ".join(DOCSTRING.split()), "run": 1}, quote_via=urllib.parse.quote)
DONE = "document.body.dataset.done == 'true'"
ALONE = "document.activeElement.blur(); document.getElementById('request').hidden = true;"
# The token that the model held least likely shows what it held likelier.
CHOOSE = f"""
[...document.querySelectorAll('#answers section:first-child .token')]
  .reduce((a, b) => Number(b.title) < Number(a.title) ? b : a).click();
{ALONE}
"""
# File -> models, width and most height of the window, what stands behind # in the address, what is done before it is taken.
PICTURES = {
    "playground-write.png": (("gpt",), 1000, 1000, f"model=gpt&tool=write&language=en&theme=light&{ASKED}", CHOOSE),
    "playground-compare.png": (
        ("gpt", "lstm"), 1000, 1000, f"model=gpt&beside=lstm&tool=write&language=en&theme=dark&{ASKED}", CHOOSE
    ),
    "playground-phone.png": (("gpt",), 390, 1200, f"model=gpt&tool=write&language=zh&theme=dark&{ASKED}", CHOOSE),
    "playground-classify.png": (
        ("bag_of_words",), 900, 1200, f"model=bag_of_words&tool=classify&language=en&theme=light&{CLASSIFIED}", ALONE
    ),
}  # fmt: skip
REPORT = ("report.png", 900, 1250)
HEIGHT = "document.documentElement.getBoundingClientRect().height"


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.screenshots", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpt", help="the export of a GPT")
    parser.add_argument("--lstm", help="the export of an LSTM")
    parser.add_argument("--bag_of_words", help="the export of a classifier of Python's modules")
    parser.add_argument("--report", type=Path, help="the page that trainers.report has written")
    parser.add_argument("--to", required=True, type=Path, help="the folder of the pictures")
    args = parser.parse_args()
    if PROGRAM is None:
        return "There is no Chromium; Debian's package is called chromium."
    exports = {name: path for name in ("gpt", "lstm", "bag_of_words") if (path := getattr(args, name))}
    models = {name: playground.Local(Versions(path)) for name, path in exports.items()}
    with Browser() as browser:
        for name, (shown, width, height, link, prepare) in PICTURES.items():
            if set(shown) <= set(models):
                with serving({model: models[model] for model in shown}) as port:
                    browser.resize(width, height)
                    for _ in range(2):  # the first answer of a model takes seconds more
                        browser.open(f"http://127.0.0.1:{port}/#{link}")
                        browser.until(DONE)
                    browser.evaluate(prepare)
                    browser.resize(width, min(height, round(browser.evaluate(HEIGHT))))
                    browser.screenshot(args.to / name)
                print(args.to / name)
        if args.report:
            name, width, height = REPORT
            browser.resize(width, height)
            browser.open(args.report.absolute().as_uri())
            browser.screenshot(args.to / name)
            print(args.to / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
