"""The files of TensorBoard's projector."""

import numpy as np

import zoo
from trainers.reporting import projector
from zoo.tokenizers.word import WordTokenizer


def test_words_and_vectors_line_by_line(tmp_path):
    tokenizer = WordTokenizer(["of", "new_york", "the", "gone"])
    model = zoo.create("glove", "tiny", vocab_size=6, hidden_dim=2)
    words, contexts = np.arange(24, dtype=np.float32).reshape(2, 6, 2)
    words[5] = contexts[5] = 0
    model.embeddings.assign(words)
    model.contexts.assign(contexts)
    assert projector.write(tmp_path / "board", model, tokenizer) == 3
    assert (tmp_path / "board/words.tsv").read_text() == "of\nnew_york\nthe\n"
    assert (tmp_path / "board/vectors.tsv").read_text() == "20\t22\n24\t26\n28\t30\n"
    config = (tmp_path / "board/projector_config.pbtxt").read_text()
    assert 'tensor_path: "vectors.tsv"' in config and 'metadata_path: "words.tsv"' in config
