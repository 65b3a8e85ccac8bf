"""Language modelling: predict the next token.

Shape letters: B batch, T positions, V vocabulary.
"""

from keras import ops

from zoo.layers.cross_entropy import cross_entropy
from zoo.registry import TASKS
from zoo.tasks.text_generation import language_model_requests, language_model_signatures


@TASKS.register("language_modeling")
class LanguageModeling:
    """loss = -sum_t w_t log p(label_t | tokens up to t), count = sum_t w_t.

    Args:
        label_smoothing: mass that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        z_loss: weight of log^2 Z, which keeps the softmax's normaliser near 1 (de Brebisson and Vincent 2016).
    """

    def __init__(self, label_smoothing=0.0, z_loss=0.0):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
        if z_loss < 0:
            raise ValueError(f"z_loss must not be negative, got {z_loss}.")
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def forward(self, model, batch, state=None, training=False):
        """The model's outputs for a batch, (B, T, V) logits, and the state it leaves (None if none was given)."""
        masks = {name: batch[name] for name in ("padding_mask", "segment_ids", "positions") if name in batch}
        outputs = model(batch["token_ids"], state=state, training=training, **masks)
        return (outputs, None) if state is None else outputs

    def loss(self, batch, outputs):
        """(sum, count): the summed loss of the weighted tokens and their summed weights, float32 scalars."""
        labels, weights = batch["labels"], ops.cast(batch["loss_weights"], "float32")
        losses = cross_entropy(labels, outputs)
        if self.label_smoothing or self.z_loss:
            log_z = ops.logsumexp(outputs, axis=-1)
            even = log_z - ops.mean(outputs, axis=-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * even + self.z_loss * log_z**2
        return ops.sum(losses * weights), ops.sum(weights)

    def score(self, model, batch, state=None):
        """(sum, count, state) of plain negative log-likelihoods: what evaluation reports, and never smoothed."""
        masks = {name: batch[name] for name in ("padding_mask", "segment_ids", "positions") if name in batch}
        weights = ops.cast(batch["loss_weights"], "float32")
        log_probs, state = model.token_log_probs(batch["token_ids"], batch["labels"], state=state, **masks)
        # A padded position may have any log-probability, -inf too; it must not turn the sum into NaN.
        losses = ops.where(weights > 0, -log_probs * weights, 0.0)
        return ops.sum(losses), ops.sum(weights), state

    def signatures(self, model, tokenizer):
        """Name -> tf.function: `serving_default`, `generate`, `score`."""
        return language_model_signatures(model, tokenizer)

    def requests(self, model, tokenizer):
        """(signature, inputs) pairs that exercise every signature: an export is proved with them."""
        return language_model_requests(model, tokenizer)
