"""Word vectors of an encoder's tokens: a sentence embedder without the encoder (model2vec, Tulkens and van Dongen 2024).

    bundle = distil(zoo.bundle.load("minilm"), 256)

Each token is put alone into the encoder's frame, and the encoder's vector of that row is the token's. The principal components
of these vectors are kept, and weighted by Zipf's law: log(1 + rank) stands for how rare a token is, since a vocabulary begins
with frequent ones. The vector of a text is the mean of its tokens' rows.
"""

import numpy as np

from zoo.bundle import Bundle, aligned_zeros, as_tensor, unfilled
from zoo.config import Refusal
from zoo.data.examples import framed_texts
from zoo.models.word2vec import Word2Vec, Word2VecConfig
from zoo.registry import TASKS
from zoo.signatures.embedding import row_vectors
from zoo.tasks.embedding import EmbeddingConfig

BATCH_SIZE = 256
UNUSED = "[unused"  # BERT's spare tokens, which no text has


def distil(bundle, width, progress=lambda done: None):
    """A bundle of the family `word2vec` with the task `embedding` and the encoder's tokenizer.

    Args:
        bundle: a `Bundle` with an encoder. The pooling is that of its task `embedding`, else `mean`.
        width: how many numbers a vector has in the end.
        progress: called with the number of tokens done.

    Raises:
        Refusal: the model is not an encoder that reads context, or its vectors are not wider than `width`.
    """
    model, tokenizer = bundle.model.without_head(), bundle.tokenizer
    if model.kind != "encoder" or not model.config.contextual:
        raise Refusal(f"--static takes the vectors of an encoder such as bert, and this is {model.registered_name}.")
    is_embedder = bundle.task.registered_name == "embedding"
    pooling, normalize = (bundle.task.config.pooling, bundle.task.config.normalize) if is_embedder else ("mean", True)
    special, spelt = set(tokenizer.special_ids), tokenizer.vocabulary
    ids = [i for i, token in enumerate(spelt) if i not in special and not token.startswith(UNUSED)]
    frame = framed_texts(model.kind, tokenizer)
    vectors = token_vectors(model, ids, frame.before, frame.after, pooling, progress)
    if not 0 < width <= min(vectors.shape):
        there = f"there are {len(ids)} vectors of {vectors.shape[1]} numbers"
        raise Refusal(f"--static={width} is not among 1 to {min(vectors.shape)}: {there}.")
    reduced, kept = principal_components(vectors, width)
    table = aligned_zeros((tokenizer.vocab_size, width))
    # As model2vec ranks them: the special tokens come first.
    table[ids] = reduced * np.log1p(len(special) + np.arange(len(ids)))[:, None].astype(np.float32)
    config = Word2VecConfig(tokenizer.vocab_size, width, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id)
    task = TASKS.get("embedding")(EmbeddingConfig(pooling="mean", normalize=normalize))
    with unfilled():
        static = task.assemble(Word2Vec(config)).build_from_ids()
    static.without_head().embeddings.value.assign(as_tensor(table))
    provenance = {"converted_from": "static", "tokens": len(ids), "variance_kept": kept, "encoder": bundle.provenance}
    return Bundle(static, tokenizer, task, provenance)


def token_vectors(model, ids, before, after, pooling, progress=lambda done: None):
    """float32 (N, D): the encoder's vector of each token alone in its row, `before` + token + `after`.

    Args:
        model: an encoder.
        ids: N ints.
        before, after: tuples of ids.
        pooling: as in `zoo.signatures.embedding.row_vectors`.
        progress: called with the number of tokens done.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def vectors(token_ids):
        mask = tf.ones_like(token_ids, tf.bool)
        return row_vectors(model, model.hidden({"token_ids": token_ids, "padding_mask": mask}), mask, pooling)

    found = []
    for start in range(0, len(ids), BATCH_SIZE):
        rows = [[*before, i, *after] for i in ids[start : start + BATCH_SIZE]]
        found.append(vectors(tf.constant(rows, tf.int32)).numpy())
        progress(start + len(rows))
    return np.concatenate(found)


def principal_components(vectors, width):
    """Vectors without their mean, by the directions in which they differ most (Pearson 1901).

    Args:
        vectors: float (N, D).
        width: K of the D directions; each points to where its largest number is positive.

    Returns:
        float32 (N, K), and the share of the variance that is kept.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    directions = directions[:, ::-1][:, :width]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(width)])
    kept = variances[::-1][:width].sum() / max(variances.sum(), 1e-300)
    return (centred @ directions).astype(np.float32), float(kept)
