"""Static vectors of an encoder's tokens: components beside numpy's SVD, each step by hand, and what a text is then."""

import json

import numpy as np
import pytest

import zoo
from tests import foreign_models, programs
from zoo import bundle as bundles
from zoo.convert import static

TEXTS = ["the cat sat on the mat .", "a dog , 1984", "dog"]


def test_components_are_those_of_the_singular_value_decomposition():
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(37, 9)) * np.arange(1, 10) + 5).astype(np.float32)
    ours, kept = static.principal_components(vectors, 4)
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(0)
    u, s, directions = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign([row[np.abs(row).argmax()] for row in directions])
    np.testing.assert_allclose(ours, (u * s * signs)[:, :4], atol=1e-4)
    np.testing.assert_allclose(kept, (s[:4] ** 2).sum() / (s**2).sum(), rtol=1e-6)


def test_every_row_by_hand():
    bundle = foreign_models.bundle("bert")
    model, tokenizer = bundle.model.without_head(), bundle.tokenizer
    made = static.distil(bundle, 6)
    table = np.asarray(made.model.without_head().embeddings)
    ids = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids]
    alone = [np.asarray(model({"token_ids": np.array([[tokenizer.cls_id, i, tokenizer.sep_id]])}))[0].mean(0) for i in ids]
    components, kept = static.principal_components(np.stack(alone), 6)
    rank = np.arange(len(ids)) + len(tokenizer.special_ids)
    np.testing.assert_allclose(table[ids], components * np.log(1 + rank)[:, None], atol=2e-4)
    assert not table[tokenizer.special_ids].any()
    assert made.provenance["tokens"] == len(ids) and abs(made.provenance["variance_kept"] - kept) < 1e-5


def test_a_text_is_the_mean_of_its_rows(tmp_path, capfd):
    foreign_models.bundle("bert").save(tmp_path / "bert")
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'bert'}", f"--to={tmp_path / 'static'}", "--static=5")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out[: answer.out.index("}") + 1])["tokens"] > 40
    loaded = zoo.load(tmp_path / "static")
    made = bundles.load(tmp_path / "static")
    table, tokenizer = np.asarray(made.model.without_head().embeddings), made.tokenizer
    means = np.stack([table[tokenizer.encode(text)].mean(0) for text in TEXTS])
    np.testing.assert_allclose(loaded.embed(TEXTS), means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(loaded.embed(["", "cat dog"])[0], np.zeros(5))


@pytest.mark.parametrize(("source", "width", "sentence"), [
    ("bert", 13, "--static=13 is not among 1 to 12"),
    ("bert", 0, "--static=0 is not among 1 to 12"),
    ("word2vec", 3, "--static takes the vectors of an encoder such as bert, and this is word2vec."),
])  # fmt: skip
def test_what_has_no_static_vectors_is_told(source, width, sentence, tmp_path, capfd):
    bundle = foreign_models.bundle("bert")
    if source == "word2vec":
        bundle = static.distil(bundle, 4)
    bundle.save(tmp_path / "from")
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'from'}", f"--to={tmp_path / 'to'}", f"--static={width}")
    assert answer.status == 2 and sentence in answer.err
    assert not (tmp_path / "to").exists()
