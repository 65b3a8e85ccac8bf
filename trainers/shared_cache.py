"""Tokens that machines without a common disk share: ZOO_SHARED_CACHE=gs://bucket/tokens

Whoever prepares a text first puts tokenizer and tokens there. The others read them from there, each only the ids that it asks
for. Any place does that TensorFlow's file system layer can write.
"""

import os

from zoo.config import Refusal
from zoo.files import appearing

COMPLETE = "complete"  # a file that is written last


def url_of(directory):
    """Where the directory `<key>/<name>` of the cache is shared, a URL; None where nothing is shared.

    Raises:
        Refusal: ZOO_SHARED_CACHE is not a URL.
    """
    root = os.environ.get("ZOO_SHARED_CACHE")
    if not root:
        return None
    if "://" not in root:
        raise Refusal(f"ZOO_SHARED_CACHE={root} is not a URL such as gs://bucket/tokens; a common disk is for ZOO_CACHE.")
    return f"{root.rstrip('/')}/{directory.parent.name}/{directory.name}"


def is_there(url):
    """Whether a directory was shared whole."""
    return url is not None and _asked(lambda files: files.exists(f"{url}/{COMPLETE}"), url)


def publish(directory, url):
    """Copies the files of a directory to `url`, unless that is None or has them."""
    if url is None or is_there(url):
        return

    def copy(files):
        files.makedirs(url)
        for path in sorted(directory.iterdir()):
            files.copy(str(path), f"{url}/{path.name}", overwrite=True)
        with files.GFile(f"{url}/{COMPLETE}", "w") as file:
            file.write("")

    _asked(copy, url)


def fetch(url, directory):
    """Makes a directory of the files at `url`."""
    with appearing(directory) as partial:
        _asked(lambda files: [files.copy(f"{url}/{n}", str(partial / n)) for n in files.listdir(url) if n != COMPLETE], url)


def _asked(work, url):
    import tensorflow as tf

    try:
        return work(tf.io.gfile)
    except tf.errors.OpError as error:
        raise Refusal(f"{url} cannot be reached: {error.message}") from error
