"""Proof that a bundle and a directory of CTranslate2's translate alike: the same tokens given to both.

certify(bundle, "ende_ctranslate2", sys.executable) -> {"outputs": {...}, "served": {...}}
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.convert.certificate import NEW_TOKENS, NUM_BEAMS, TEXTS, TOLERANCE, ask


def certify(bundle, directory, peer):
    """Compares log-probabilities of given targets, greedy texts and four beams with those of ctranslate2, in float32.

    Args:
        bundle: a `Bundle` of an encoder-decoder.
        directory: of CTranslate2's.
        peer: an interpreter that has ctranslate2.

    Returns:
        dict of `outputs` and `served`, as a certificate has them. Of the beams it is told how many are the same.

    Raises:
        Refusal: log-probabilities differ, or greedy texts that are not equally likely; or the peer fails.
    """
    model, source, target = bundle.model, bundle.tokenizer, bundle.tokenizer.target
    frame = bundle.task.frame(model.kind, source)
    room = min(model.max_length or 128, 128) - 1
    rows = [(text, source.encode(text)[:room], target.encode(text)[:room]) for text in TEXTS]
    rows = [row for row in rows if row[1] and len(source.encode(row[0])) <= room]  # their program skips an empty source
    request = {
        "library": "ctranslate2", "path": str(Path(directory).resolve()), "num_beams": NUM_BEAMS, "new_tokens": NEW_TOKENS,
        "source_tokens": [[source.vocabulary[i] for i in ids] for _, ids, _ in rows],
        "target_tokens": [[target.vocabulary[i] for i in ids] for _, _, ids in rows],
    }  # fmt: skip
    difference = largest = 0.0
    with ask(peer, request) as answer:
        entry = {"compared": True, "peer": "ctranslate2", "versions": json.loads(str(answer["versions"]))}
        for i, (_, ids, target_ids) in enumerate(rows):
            theirs = answer[f"log_probs_{i}"]
            ours = _log_probs(model, frame, ids, [*target_ids, target.eos_id])[: len(theirs)]
            difference = max(difference, float(np.abs(ours - theirs).max()))
            largest = max(largest, float(np.abs(theirs).max()))
        if not difference <= TOLERANCE * max(1.0, largest):
            raise Refusal(
                f"The model's log-probabilities are up to {difference:.2e} away from those of ctranslate2 ({largest:.2e} at "
                "most); it is not the same model."
            )
        served = _served(bundle, [text for text, _, _ in rows], answer)
    what = {"what": "log-probabilities", "largest_difference": difference, "largest_output": largest}
    return {"texts": len(rows), "dtype": "float32", "outputs": {**what, **entry}, "served": served}


def _log_probs(model, frame, ids, labels):
    source = tf.constant([[*frame.before, *ids, *frame.after]], tf.int32)
    given = tf.constant([[*frame.target_start, *labels[:-1]]], tf.int32)
    return model.token_log_probs(given, tf.constant([labels], tf.int32), source_ids=source)[0][0].numpy()


def _served(bundle, texts, answer):
    """What was compared of the served texts, by signature."""
    signatures, target, count = bundle.task.signatures(bundle.model, bundle.tokenizer), bundle.tokenizer.target, len(texts)
    id_of = {token: i for i, token in enumerate(target.vocabulary)}

    def compared(name, made, what):
        """Whether texts are the same, best first, and how far `what` of them is apart."""
        same, apart = [], []
        for i, (ours, scores) in enumerate(zip(made["text"].numpy(), made[what].numpy(), strict=True)):
            tokens = (hypothesis.split("\n") if hypothesis else [] for hypothesis in answer[f"{name}_{i}"].tolist())
            theirs = [target.decode([id_of[token] for token in some]) for some in tokens]
            same += [one.decode() == other for one, other in zip(np.atleast_1d(ours).tolist(), theirs, strict=True)]
            apart += np.abs(np.atleast_1d(scores) - answer[f"{name}_scores_{i}"]).tolist()
        return np.array(same), np.array(apart)

    text, limits = tf.constant(texts), tf.fill([count], NEW_TOKENS)
    same, apart = compared("greedy", signatures["generate"](text=text, max_new_tokens=limits), "log_prob")
    if (~same & (apart > TOLERANCE)).any():
        number = int(np.argmax(~same & (apart > TOLERANCE)))
        raise Refusal(f"Of {texts[number][:20]!r} generate writes another text than ctranslate2; it is not the same model.")
    served = {"generate": {"texts": count, "same": int(same.sum()), "largest_difference": float(apart[same].max(initial=0))}}
    beams = signatures["beam_search"](
        text=text, max_new_tokens=limits, num_beams=tf.fill([count], NUM_BEAMS), length_penalty=tf.ones([count]),
        beam_rule=tf.fill([count], "ctranslate2"),
    )  # fmt: skip
    same, apart = compared("beams", beams, "score")
    return served | {
        "beam_search": {"texts": len(same), "same": int(same.sum()), "largest_difference": float(apart[same].max(initial=0))}
    }
