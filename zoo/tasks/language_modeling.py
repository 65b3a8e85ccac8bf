"""Language modelling: predict the next token.

Shape letters: B batch, T positions, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from keras import ops

from zoo import metrics
from zoo.config import Output, TaskConfig
from zoo.data.examples import Frame
from zoo.data.packing import PackedBatches, evaluation_batches
from zoo.layers.chunked_cross_entropy import Unprojected, resolve_logits, summed_cross_entropy
from zoo.registry import TASKS
from zoo.tasks.base import Task


@dataclass(frozen=True)
class LanguageModelingConfig(TaskConfig):
    """How the loss is computed: `logits` held `whole`, made in `chunks` of positions and forgotten, or `auto`, which goes by
    their size. The numbers are the same."""

    logits: str = "auto"

    kinds: ClassVar = ("language_model",)

    def validate(self):
        choices = ("auto", "whole", "chunks")
        self.require(self.logits in choices, f"logits must be {' or '.join(choices)}, got {self.logits!r}.")

    def output(self, model_config, seq_length, facts=None):
        chunks = {"auto": None, "chunks": True, "whole": False}[self.logits]
        return Output.of_tokens(model_config, seq_length, seq_length, chunks)


@TASKS.register("language_modeling", LanguageModelingConfig)
class LanguageModeling(Task):
    """loss = -sum_t w_t log p(label_t | tokens up to t), count = sum_t w_t.

    Example:
        >>> import numpy as np
        >>> batch = {"labels": np.array([[3, 0]]), "loss_weights": np.ones((1, 2), "float32")}
        >>> total, count = LanguageModeling().loss(batch, ops.zeros((1, 2, 4)))  # 2 log 4, of two tokens
        >>> round(float(total), 4), float(count)
        (2.7726, 2.0)
    """

    shown = ("loss", "perplexity", "bits_per_byte")
    generates = True

    def frame(self, kind, tokenizer):
        """A text is the beginning of a document. Where a vocabulary has several tokens for that, as GLM-4's, they all stand
        there."""
        begin = (tokenizer.special.template or ((),))[0]
        if len(begin) > 1:
            return Frame(before=tuple(map(tokenizer.vocabulary.index, begin)))
        return Frame(before=(tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,))

    def training_batches(self, data, model, tokenizer, layout):
        return PackedBatches(
            data, layout.seq_length, layout.batch_size, layout.seed,
            separate_documents=layout.separate_documents, contiguous=model.carries_state,
        )  # fmt: skip

    def evaluation_batches(self, data, model, tokenizer, layout):
        return evaluation_batches(
            data, layout.seq_length, layout.batch_size,
            context_tokens=model.context_tokens, contiguous=model.carries_state,
            separate_documents=layout.separate_documents,
        )  # fmt: skip

    def forward(self, model, batch, state=None, training=False):
        """What `loss` is taken of, (B, T, V) logits or `Unprojected`, and the state that is left (None if none was given)."""
        projection = model.projection()
        if resolve_logits(self.config.logits, projection, batch["token_ids"]):
            inputs = model.taken(batch)
            features, state = model.features(inputs.pop("token_ids"), state, training=training, **inputs)
            return Unprojected(features, projection), state
        outputs = model(batch, state=state, training=training)
        return (outputs, None) if state is None else outputs

    def loss(self, batch, outputs):
        """(sum, count): the summed loss of the weighted tokens and their summed weights, float32 scalars."""
        if not isinstance(outputs, Unprojected):
            return super().loss(batch, outputs)
        weights = ops.cast(batch["loss_weights"], "float32")
        smoothing = dict(label_smoothing=self.label_smoothing, z_loss=self.z_loss)
        return summed_cross_entropy(outputs, batch["labels"], weights, **smoothing), ops.sum(weights)

    def score(self, model, batch, state=None):
        """Plain negative log-likelihoods and their number: what evaluation reports, and never smoothed."""
        inputs, weights = model.taken(batch), ops.cast(batch["loss_weights"], "float32")
        log_probs, state = model.token_log_probs(inputs.pop("token_ids"), batch["labels"], state=state, **inputs)
        # A padded position may have any log-probability, -inf too; it must not turn the sum into NaN.
        losses = ops.where(weights > 0, -log_probs * weights, 0.0)
        return {"nats": ops.sum(losses), "tokens": ops.sum(weights)}, {}, state

    def class_logits(self, model, batch, state=None):
        outputs = model(batch, state=state)
        logits, state = (outputs, None) if state is None else outputs
        return model.limited(logits), batch["labels"], batch["loss_weights"], state

    def metrics(self, totals, rows, data):
        """`loss` in nats a token, `perplexity`, `num_tokens`, and `bits_per_byte` if the data knows its bytes; over a part of
        the data they are counted in proportion to its tokens."""
        nats, count = float(totals["nats"]), float(totals["tokens"])
        scores = {"loss": nats / count, "perplexity": metrics.perplexity(nats / count), "num_tokens": int(count)}
        share = count / max(len(data) - 1, 1)
        num_bytes = getattr(data, "num_bytes", 0) * share
        if num_bytes:
            scores["bits_per_byte"] = metrics.bits_per_byte(nats, num_bytes, getattr(data, "lost_bytes", 0) * share)
        return scores

    def training_metrics(self, loss, data):
        tokens_per_byte = (len(data) - 1) / max(data.num_bytes, 1)
        return {"bits_per_byte": loss / math.log(2) * tokens_per_byte, "perplexity": metrics.perplexity(loss)}

    def signatures(self, model, tokenizer):
        """Name -> tf.function: `serving_default`, `generate`, `score`, `prefill`, `decode_step`."""
        # Serving needs TensorFlow, which the loss does not.
        from zoo.signatures.generation import language_model_signatures
        from zoo.signatures.streaming import streaming_signatures

        frame = self.frame(model.kind, tokenizer)
        signatures = language_model_signatures(model, tokenizer, frame, self.draft)
        return {**signatures, **streaming_signatures(model, tokenizer, frame)}

    def requests(self, model, tokenizer):
        """(signature, inputs) that exercise every signature at every length; an export is proved and warmed up with them.

        A third element is the number of an earlier request whose answer is fed in besides.
        """
        from zoo.signatures.generation import language_model_requests
        from zoo.signatures.streaming import streaming_requests

        requests = language_model_requests(model, tokenizer)
        return requests + streaming_requests(model, tokenizer, first=len(requests))

    def sample(self, loaded, seed):
        # Piece by piece, which writes the same: to trace `generate` takes several times as long as its 60 tokens.
        begin = "The" if loaded.tokenizer.spells("The") else ""
        return repr(begin + "".join(loaded.stream(begin, max_new_tokens=60, temperature=0.8, top_k=40, seed=seed)))
