"""Every registered model at preset `tiny`, seeded and ready: what conformance tests and goldens are about.

Shape letters: B batch, T positions, V vocabulary.
"""

import contextlib

import keras
import numpy as np

from trainers.engine import loop, optimizers, tuning
from zoo.data.batch import Layout
from zoo.data.parallel import Pair
from zoo.registry import MODELS, TASKS
from zoo.tasks.tagging import TaggedSentences
from zoo.tasks.text_to_text import Pairs
from zoo.tokenizers.base import Tokenizer
from zoo.tokenizers.special import NOTHING

EOS_ID, CLS_ID, MASK_ID = 0, 59, 60
SEQ_LENGTH, BATCH_SIZE = 13, 5
TAGS = ("D", "N", "P", "V")

# Structures that a family has besides its tiny preset and that take other paths through the code.
VARIANTS = {
    "gpt-modern": ("gpt", dict(
        position="rotary", norm="rms", activation="swiglu", use_bias=False, normalize_qk=True, num_heads=6,
        num_kv_heads=2, head_dim=4, mlp_dim=10, tie_embeddings=False,
    )),
    "gpt-2018": ("gpt", dict(norm_first=False)),
    "lstm-gru": ("lstm", dict(cell="gru", tie_embeddings=False, num_layers=3)),
    "lstm-rnn": ("lstm", dict(cell="rnn", num_layers=1)),
    "bag_of_words-vectors": ("bag_of_words", dict(embedding_dim=5)),
    "ngram-unigram": ("ngram", dict(order=1)),
    "t5-1.0": ("t5", dict(activation="relu", tie_embeddings=True)),
    "t5-umt5": ("t5", dict(bias_per_layer=True, num_layers=1, num_decoder_layers=2)),
    "seq2seq-bahdanau": ("seq2seq", dict(cell="gru", attention="additive", tie_embeddings=False, num_layers=1)),
    "seq2seq-no-attention": ("seq2seq", dict(attention="none")),
    "bilstm-gru": ("bilstm", dict(cell="gru", num_layers=2)),
    "bilstm-cnn": ("bilstm", dict(characters="cnn", num_characters=31, character_dim=5, character_hidden_dim=7, case_dim=2)),
    "glm-chatglm": ("glm", dict(position="rotary_2d", num_heads=3, scaled_residual=True)),
    "bert-modern": ("bert", dict(
        modern=True, num_segments=1, activation="geglu_exact", epsilon=1e-5, num_layers=3, window=2, global_every=2, mlp_dim=10,
        rotary_theta=50.0, window_theta=20.0,
    )),
    "bert-roberta": ("bert", dict(num_segments=1, position_offset=2, epsilon=1e-5, pooler=True, num_layers=1)),
}  # fmt: skip
# How the toy language is trained on where the default rule and rate are not the family's.
SETTINGS = {
    "bilstm": dict(learning_rate=0.1),
    **dict.fromkeys(("bilstm-gru", "bilstm-cnn"), dict(learning_rate=0.1)),
    "word2vec": dict(optimizer="plain_sgd", learning_rate=0.1, schedule="constant", weight_decay=0.0, clip_norm=0.0),
    **dict.fromkeys(("seq2seq", "seq2seq-bahdanau", "seq2seq-no-attention"), dict(learning_rate=3e-2)),
    **dict.fromkeys(("glm", "glm-chatglm"), dict(learning_rate=2e-2, schedule="constant")),
    "glove": dict(optimizer="adagrad", learning_rate=0.05, schedule="constant", weight_decay=0.0, clip_norm=0.0),
}
DROPOUT = {
    "bert": dict(dropout=0.3),
    "gpt": dict(dropout=0.3),
    "glm": dict(dropout=0.3),
    "t5": dict(dropout=0.3),
    "seq2seq": dict(dropout=0.3),
    "lstm": dict(embedding_dropout=0.1, input_dropout=0.2, hidden_dropout=0.3, output_dropout=0.4, weight_dropout=0.5),
}


def class_of(case):
    """The registered class of a case."""
    return MODELS.get(VARIANTS.get(case, (case,))[0])


def cases(*kinds):
    """Names of all cases of some kinds: the registered models, then the variants."""
    return [case for case in [*MODELS.names(), *VARIANTS] if class_of(case).config_class.kind in kinds]


class ToyVocabulary:
    """The special ids of a toy vocabulary of 61, of which the last 51 begin a word."""

    registered_name, vocab_size, unk_id, bos_id, special = "toy", 61, None, None, NOTHING
    cls_id, sep_id, eos_id, pad_id, mask_id = CLS_ID, EOS_ID, EOS_ID, EOS_ID, MASK_ID
    special_ids, target = Tokenizer.special_ids, Tokenizer.target
    shares_ids, source_template = Tokenizer.shares_ids, Tokenizer.source_template

    @staticmethod
    def begins_word():
        return np.arange(61) >= 10

    @staticmethod
    def ends_sentence():
        return np.arange(61) == 7


def create(case, seed=7, **fields):
    """The model of a case with seeded weights; an n-gram is fitted to `stream`."""
    name, variant = VARIANTS.get(case, (case, {}))
    model_class = MODELS.get(name)
    keras.utils.set_random_seed(seed)
    model = model_class(model_class.config_class.preset("tiny", **{**variant, **fields}))
    if model.fitted:
        model.fit_closed_form(stream(model.config.vocab_size))
    return model.build_from_ids()


def assembled(case, seed=7, **fields):
    """The model of a case with the head of its first task, if that has one."""
    model = create(case, seed, **fields)
    with_head = first_task(model.config).assemble(model)
    return model if with_head is model else with_head.build_from_ids()


def first_task(config):
    """The first task of models with a config; tagging as the family's recipe sets it, and with the tags of `toy_sentences`."""
    task_class = TASKS.get(config.default_task)
    if config.default_task != "tagging":
        return task_class()
    return task_class(task_class.config_class(labels=TAGS, head_dropout=0.0).override(config.recipe["set"]))


def strengthen(model):
    """Moves every trainable weight by a seeded normal draw, so that no bias is 0, no gain 1 and attention uneven."""
    random = np.random.default_rng(11)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(0, 0.3, variable.shape).astype("float32"))
    return model


def stream(vocab_size, num_tokens=800):
    """int32 (num_tokens,): documents of a toy language of nine words; the next mostly follows from the last two."""
    random = np.random.default_rng(3)
    ids = [EOS_ID, 1]
    while len(ids) < num_tokens:
        follows = 1 + (3 * ids[-1] + 5 * ids[-2]) % 9
        ids.append(random.choice([follows, random.integers(1, 10), EOS_ID], p=[0.8, 0.15, 0.05]) % vocab_size)
    return np.array([*ids[:-1], EOS_ID], np.int32)


def token_ids(model, batch_size=3, length=7, seed=0):
    """Random int32 (B, T) without `EOS_ID`."""
    return np.random.default_rng(seed).integers(1, model.config.vocab_size, (batch_size, length)).astype(np.int32)


def inputs(model, batch_size=3, length=7):
    """Random inputs that a model can be called with: token ids, and for an encoder-decoder a source of two tokens less."""
    ids = token_ids(model, batch_size, length)
    return {"token_ids": ids, "source_ids": token_ids(model, batch_size, length - 2, 1)} if "source_ids" in model.takes else ids


def trainer(model, steps=10, *, task=None, xla=False, placement=None, grad_accumulation=1, tuned=None, **settings):
    """A `loop.Trainer` for the family's first task (or the one given) with the default update rule, by default on one replica
    and not compiled by XLA."""
    flags = dict(
        optimizer="adamw",
        learning_rate=1e-2,
        schedule="cosine",
        warmup_steps=2,
        steps=steps,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    with placement.scope() if placement else contextlib.nullcontext():
        rates, l1 = (tuning.rates(model, tuned), tuned.l1) if tuned else (None, 0.0)
        optimizer = optimizers.create(_Settings({**flags, **settings}), model.trainable_variables, rates, l1)
    task = task or first_task(model.config)
    return loop.Trainer(
        model, task, optimizer, tokenizer=ToyVocabulary(), batch_size=BATCH_SIZE, seq_length=SEQ_LENGTH, xla=xla,
        placement=placement, grad_accumulation=grad_accumulation,
    )  # fmt: skip


def uneven_batches(trainer):
    """`batch(step)` and `starts_epoch(step)` for a trainer, the rows with unequal numbers of tokens that count."""
    return UnevenBatches(batches(trainer.model, seed=1))


class UnevenBatches:
    """Batches in which fewer labels count, in every row another number, and in some rows none."""

    def __init__(self, batches):
        self._batches, self.starts_epoch = batches, batches.starts_epoch

    def batch(self, step):
        batch = self._batches.batch(step)
        weights = batch["loss_weights"]
        kept = np.random.default_rng([17, step]).integers(0, weights.size // len(weights) + 1, len(weights))
        kept[step % len(weights)] = max(kept[step % len(weights)], 1)
        counted = np.arange(weights.size // len(weights)) < kept[:, None]
        return {**batch, "loss_weights": weights * counted.reshape(weights.shape).astype(weights.dtype)}


def batches(model, seed=0):
    """Training batches of the toy language for a model's first task."""
    task = first_task(model.config)
    if task.reads == "examples":
        data = toy_sentences() if model.config.default_task == "tagging" else toy_pairs(model.config.vocab_size)
        return task.training_batches(data, model, ToyVocabulary(), Layout(SEQ_LENGTH, BATCH_SIZE, seed))
    ids = stream(model.config.vocab_size).view(_Stream)
    return task.training_batches(ids, model, ToyVocabulary(), Layout(SEQ_LENGTH, BATCH_SIZE, seed))


def toy_pairs(vocab_size, count=40):
    """Pairs whose target is the source with each id doubled, for models that turn one text into another."""
    random, pairs = np.random.default_rng(5), []
    for _ in range(count):
        source = random.integers(1, 20, random.integers(2, 7)).astype(np.int32)
        pairs.append(Pair(source, (2 * source % vocab_size).astype(np.int32)))
    texts = ["a"] * count
    return Pairs(pairs, texts, [[text] for text in texts], 0, ToyVocabulary())


def toy_sentences(count=40):
    """Sentences in which the tag of a word follows from its id."""
    random, rows = np.random.default_rng(5), []
    for _ in range(count):
        ids = random.integers(1, 20, random.integers(2, 9)).astype(np.int32)
        rows.append((ids, np.arange(len(ids), dtype=np.int32), (ids % len(TAGS)).astype(np.int32)))
    words = [tuple(f"w{i}{'X' * (i % 3)}" for i in ids) for ids, _, _ in rows]
    return TaggedSentences(rows, list(range(count)), words)


class _Stream(np.ndarray):
    """An array of ids that knows what separates documents."""

    eos_id = EOS_ID


class _Settings:
    """Flags by attribute, as `optimizers.create` reads them."""

    def __init__(self, values):
        self.__dict__.update(values)
