"""The playground's pictures in docs/images, by a headless Chromium: Debian's packages `chromium` and `fonts-noto-cjk`.

python -m tests.screenshots --gpt=RUN/export --lstm=RUN/export --to=docs/images
"""

import argparse
import sys
import threading
from pathlib import Path

from tests.browser import PROGRAM, Browser
from trainers import playground
from zoo.serving.versions import Versions

ASKED = "prompt=The%20list&max_new_tokens=40&temperature=0.7&seed=2&run=1"
DONE = "document.body.dataset.done == 'true'"
# The token that the model held least likely shows what it held likelier.
CHOOSE = """
[...document.querySelectorAll('#answers section:first-child .token')]
  .reduce((a, b) => Number(b.title) < Number(a.title) ? b : a).click();
document.activeElement.blur();
document.getElementById('request').hidden = true;
"""
# File -> width and height of the window, what stands behind # in the address.
PICTURES = {
    "playground-write.png": (1000, 800, f"model=gpt&tool=write&language=en&theme=light&{ASKED}"),
    "playground-compare.png": (1000, 860, f"model=gpt&beside=lstm&tool=write&language=en&theme=dark&{ASKED}"),
    "playground-phone.png": (390, 1000, f"model=gpt&tool=write&language=zh&theme=dark&{ASKED}"),
}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__.splitlines()[0])
    parser.add_argument("--gpt", required=True, help="the export of a GPT")
    parser.add_argument("--lstm", required=True, help="the export of an LSTM")
    parser.add_argument("--to", required=True, type=Path, help="the folder of the pictures")
    args = parser.parse_args()
    if PROGRAM is None:
        return "There is no Chromium; Debian's package is called chromium."
    bound = playground.listening("127.0.0.1", 0)
    server = playground.server({name: playground.Local(Versions(getattr(args, name))) for name in ("gpt", "lstm")}, 1_000_000)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        with Browser() as browser:
            for name, (width, height, link) in PICTURES.items():
                browser.resize(width, height)
                browser.open(f"http://127.0.0.1:{bound.getsockname()[1]}/#{link}")
                browser.until(DONE)
                browser.evaluate(CHOOSE)
                browser.screenshot(args.to / name)
                print(args.to / name)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
