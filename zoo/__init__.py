"""A zoo of language models on TensorFlow and Keras, from the n-gram to GPT.

    zoo.list_models()              names of the registered families
    zoo.create("gpt", "gpt2_small")  a model with fresh weights
    zoo.load("runs/gpt/latest")    a trained model with its tokenizer: .generate, .score, .export

Names are imported on first use, so `import zoo` stays light.
"""

from zoo.version import __version__

__all__ = ["__version__", "create", "list_models", "load"]


def __getattr__(name):
    if name in __all__:
        from zoo import api

        return getattr(api, name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
