"""Word vectors for TensorBoard's projector: tensorboard --logdir RUN/tensorboard

projector_config.pbtxt   which files belong together
vectors.tsv              a vector a line
words.tsv                its word
"""

import io

import numpy as np

from zoo.files import replace_file

MOST_WORDS = 10_000  # TensorBoard's page draws about so many
CONFIG = 'embeddings {\n  tensor_name: "words"\n  tensor_path: "vectors.tsv"\n  metadata_path: "words.tsv"\n}\n'


def write(directory, model, tokenizer):
    """Writes the three files into a directory, which is made.

    Args:
        directory: a `Path`, such as RUN/tensorboard.
        model: a model whose vectors do not depend on context, perhaps with a head.
        tokenizer: its `Tokenizer`.

    Returns:
        How many words were written: the most frequent ones, where the head knows their counts, else those of the lowest ids.
    """
    table = sum(np.asarray(side, np.float32) for side in model.without_head().sides())
    ids = np.flatnonzero(table.any(axis=1))
    ids = ids[~np.isin(ids, tokenizer.special_ids)]
    head = None if model.without_head() is model else model.head
    if (counts := getattr(head, "counts", None)) is not None:
        ids = ids[np.argsort(-np.asarray(counts)[ids], kind="stable")]
    ids = ids[:MOST_WORDS]
    vectors = io.StringIO()
    np.savetxt(vectors, table[ids], "%.5g", "\t")
    vocabulary = tokenizer.vocabulary
    words = "".join(f"{' '.join(str(vocabulary[i]).split()) or repr(vocabulary[i])}\n" for i in ids)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (("vectors.tsv", vectors.getvalue()), ("words.tsv", words), ("projector_config.pbtxt", CONFIG)):
        replace_file(directory / name, lambda path, text=text: path.write_text(text, encoding="utf8"))
    return len(ids)
