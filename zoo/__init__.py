"""A zoo of language models on TensorFlow and Keras, from the n-gram to GPT.

    zoo.list_models()              names of the registered families
    zoo.create("gpt", "gpt2_small")  a model with fresh weights
    zoo.load("runs/gpt/latest")    a trained model with its tokenizer: .generate, .score, .export

Names are imported on first use, so `import zoo` stays light.
"""

import sys

from zoo.version import __version__

__all__ = ["__version__", "create", "list_models", "load"]

# Runs are locked by flock, memory is read in /proc, and exports are proved by Linux's libtensorflow.
ELSEWHERE = {
    "win32": "The zoo runs on Linux, and Windows lacks what its programs need: install it in WSL (`wsl --install`).",
    "darwin": "The zoo is made for Linux; on macOS exports cannot be proved: train with --noexport, or in a Linux container.",
}


def _say_what_cannot_work(platform):
    """Writes a sentence for a system on which a part of the zoo does not run."""
    if platform in ELSEWHERE:
        print(f"note: {ELSEWHERE[platform]}", file=sys.stderr)


_say_what_cannot_work(sys.platform)


def __getattr__(name):
    if name in __all__:
        from zoo import api

        return getattr(api, name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
