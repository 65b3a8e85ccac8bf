"""A version for servers with XLA: the passes of an encoder-decoder are compiled, and give what the plain ones give."""

import numpy as np

from tests import tiny_models
from zoo.models.base import EncoderDecoder
from zoo.serving.compiled import COLUMNS, WRAPPED, compiled

CLOSE = dict(rtol=1e-5, atol=1e-5)


def test_every_pass_of_an_encoder_decoder_has_its_compiled_form():
    assert set(EncoderDecoder.passes) <= WRAPPED.keys()


def passes(model, source, mask, start, target):
    """What each pass gives: hidden states of the source, logits of two steps, and log-probabilities of a target."""
    memory = model.encode(source, mask)
    first, state = model.next_logits(start, model.init_state(2, 5, memory))
    second, _ = model.next_logits(start + 3, state)
    log_probs, _ = model.token_log_probs(target[:, :-1], target[:, 1:], source_ids=source, source_mask=mask)
    return memory.values, first, second, log_probs


def test_the_passes_of_an_encoder_decoder_give_the_same_when_they_are_compiled():
    model = tiny_models.strengthen(tiny_models.create("t5", num_layers=1).build_from_ids())
    source, mask = np.array([[5, 7, 2, 9], [8, 3, 0, 0]], np.int32), np.array([[True] * 4, [True, True, False, False]])
    start, target = np.array([[0], [0]], np.int32), np.array([[0, 4, 6, 1], [0, 2, 5, 1]], np.int32)
    plain = passes(model, source, mask, start, target)
    with compiled(model):
        got = passes(model, source, mask, start, target)
    assert got[0].shape[1] == COLUMNS  # of few sizes: each is compiled anew
    np.testing.assert_allclose(np.asarray(got[0])[:, :4][mask], np.asarray(plain[0])[mask], **CLOSE)
    for here, there in zip(got[1:], plain[1:], strict=True):
        np.testing.assert_allclose(here, there, **CLOSE)
    assert not any(name in vars(model) for name in EncoderDecoder.passes)
