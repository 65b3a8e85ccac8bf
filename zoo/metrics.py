"""Scores of language models, from sums of negative log-likelihoods."""

import math


def perplexity(nats_per_token):
    """exp of the mean negative log-likelihood a token; infinity where it overflows."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def bits_per_byte(nats, num_bytes, lost_bytes=0):
    """Bits a UTF-8 byte of the original text, so that models with different tokenizers compare.

    Args:
        nats: summed negative log-likelihood of every token of the text, ends of documents included.
        num_bytes: UTF-8 bytes of the text.
        lost_bytes: how many of them stand under the unknown token. A closed vocabulary does not tell them; they are
            charged 8 bits each, what it costs to spell them with no model at all.

    Raises:
        ValueError: if `num_bytes` is not positive.
    """
    if num_bytes <= 0:
        raise ValueError(f"bits_per_byte needs a text of at least one byte, got {num_bytes}.")
    return (nats / math.log(2) + 8 * lost_bytes) / num_bytes
