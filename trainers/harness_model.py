"""A bundle as a model of EleutherAI's lm_eval, under the name `zoo`; importing this file registers it.

    import trainers.harness_model
    lm_eval.simple_evaluate("zoo", model_args={"model_dir": "runs/gpt/latest"}, tasks=["mine"], task_manager=...)

Numbers are those of lm_eval's own backend for Hugging Face's models: a context is cut into tokens as it is, and where it is$
the token that opens a document stands in its place.

Shape letters: B rows, T positions, V vocabulary.
"""

import numpy as np
import tensorflow as tf
from lm_eval import utils
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.registry import register_model

from zoo import bundle as bundles
from zoo import decoding
from zoo.config import Refusal

MOST_NEW_TOKENS = 256  # where a task does not say
WINDOW = 1_024  # tokens that a model without a longest text reads at once


@register_model("zoo")
class ZooLM(TemplateLM):
    """A language model of the zoo.

    Args:
        model_dir: a bundle, or the run that holds one.
        batch_size: rows at a time.
        **ignored: what lm_eval gives every model: `device`, `max_batch_size`.

    Raises:
        Refusal: the model is not one for language_modeling.
    """

    def __init__(self, model_dir, batch_size=16, **ignored):
        super().__init__()
        bundle = bundles.load(bundles.find(model_dir))
        if bundle.task.registered_name != "language_modeling":
            raise Refusal(f"{model_dir} was made for {bundle.task.registered_name}; lm_eval asks models of language_modeling.")
        self.model, self._words = bundle.model, bundle.tokenizer
        self._opening = bundle.task.frame(bundle.model.kind, bundle.tokenizer).before[-1]
        self.batch_size, self.max_length = int(batch_size), bundle.model.max_length or WINDOW
        self._score = tf.function(self._scored, reduce_retracing=True, autograph=False)
        self._write = tf.function(self._written, reduce_retracing=True, autograph=False)

    @property
    def eot_token_id(self):
        return self._words.eos_id

    @property
    def prefix_token_id(self):
        return self._opening

    def tok_encode(self, string, add_special_tokens=None, **ignored):
        return [int(i) for i in self._words.encode(string)]

    def _scored(self, token_ids, labels):
        """float32 (B, T) log-probabilities of the labels, and bool (B, T): whether each is the likeliest."""
        log_probs = tf.nn.log_softmax(self.model.limited(self.model(token_ids)))
        best = tf.argmax(log_probs, -1, output_type=tf.int32) == labels
        return tf.gather(log_probs, labels, axis=2, batch_dims=2), best

    def _loglikelihood_tokens(self, requests, **ignored):
        rows = []
        for _, context, continuation in requests:
            if not continuation:
                raise Refusal("A task asks for the likelihood of an empty text; each answer must have a token.")
            if len(continuation) > self.max_length:
                raise Refusal(f"A task asks for {len(continuation)} tokens; this model takes {self.max_length}.")
            rows.append(([*context, *continuation][-(self.max_length + 1) :], len(continuation)))
        found = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            width = len(rows[chosen[0]][0])
            batch = np.full(
                (len(chosen), width), self.eot_token_id, np.int32
            )  # what stands behind a text changes nothing in it
            for row, i in enumerate(chosen):
                batch[row, : len(rows[i][0])] = rows[i][0]
            log_probs, best = self._score(batch[:, :-1], batch[:, 1:])
            for row, i in enumerate(chosen):
                end, count = len(rows[i][0]) - 1, rows[i][1]
                asked = slice(end - count, end)
                found[i] = float(tf.reduce_sum(log_probs[row, asked])), bool(tf.reduce_all(best[row, asked]))
        return found

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        windows, owners = [], []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            cut = utils.get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            made = [(None, *utils.make_disjoint_window(window)) for window in cut]
            windows += made
            owners += [number] * len(made)
        totals = np.zeros(len(requests))
        np.add.at(totals, owners, [value for value, _ in self._loglikelihood_tokens(windows)])
        return totals.tolist()

    def _written(self, token_ids, mask, room, temperature):
        def step(ids, state, padding_mask):
            return self.model.next_logits(ids, state, padding_mask=padding_mask)

        state = self.model.init_state(tf.shape(token_ids)[0], tf.shape(token_ids)[1] + room)
        written = decoding.generate(
            step, state, token_ids, mask, max_new_tokens=room, stop_ids=self._words.stop_ids, pad_id=self._words.eos_id,
            sampling=decoding.Sampling(temperature=temperature, seed=tf.range(tf.shape(token_ids)[0])),
        )  # fmt: skip
        return written.token_ids, written.lengths

    def generate_until(self, requests, disable_tqdm=False):
        answers = [None] * len(requests)
        contexts = [self.tok_encode(request.args[0]) or [self.prefix_token_id] for request in requests]
        order = sorted(range(len(requests)), key=lambda i: (repr(requests[i].args[1]), -len(contexts[i])))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            asked = requests[chosen[0]].args[1]
            chosen = [i for i in chosen if requests[i].args[1] == asked]
            for i, text in zip(chosen, self._texts([contexts[i] for i in chosen], asked), strict=True):
                answers[i] = text
        for i in order:  # those of a batch that asked otherwise than its first
            if answers[i] is None:
                (answers[i],) = self._texts([contexts[i]], requests[i].args[1])
        return answers

    def _texts(self, contexts, asked):
        """What follows each context, up to the first of the strings at which the task ends."""
        room = int(asked.get("max_gen_toks", asked.get("max_tokens", MOST_NEW_TOKENS)))
        room = min(room, self.max_length - 1)
        until = asked.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        temperature = float(asked.get("temperature", 0.0)) if asked.get("do_sample") else 0.0
        contexts = [context[-(self.max_length - room) :] for context in contexts]
        width = max(map(len, contexts))
        ids, mask = np.full((len(contexts), width), self.eot_token_id, np.int32), np.zeros((len(contexts), width), bool)
        for row, context in enumerate(contexts):
            ids[row, width - len(context) :], mask[row, width - len(context) :] = context, True
        token_ids, lengths = (np.asarray(part) for part in self._write(ids, mask, room, temperature))
        found = []
        for row, length in zip(token_ids, lengths.tolist(), strict=True):
            kept = [int(i) for i in row[:length] if i not in self._words.stop_ids]
            text = self._words.decode(kept)
            found.append(text[: min([text.find(end) for end in until if end and end in text], default=len(text))])
        return found


@register_model("zoo_export")
class ServedLM(LM):
    """An exported language model, asked through its signatures `score` and `generate` as a server would be.

    A text is scored as a document, so a mark stands before each context, as it does not in `ZooLM`; and what the log-likelihood
    of an answer is, is that of context and answer less that of the context.

    Args:
        served: a `trainers.served.Served`, or whatever has its `predict`.
        batch_size: texts at a time.

    Raises:
        Refusal: it has no `score` of a text alone.
    """

    def __init__(self, served, batch_size=16):
        super().__init__()
        self.served, self.batch_size = served, int(batch_size)
        try:
            self._scores([""])
        except (Refusal, KeyError) as error:
            raise Refusal("lm_eval asks exports of language_modeling; this one scores no text.") from error

    def _scores(self, texts):
        """(log-probability, number of tokens) of each text."""
        distinct = sorted(set(texts), key=len)
        found = {}
        for start in range(0, len(distinct), self.batch_size):
            some = distinct[start : start + self.batch_size]
            answer = self.served.predict("score", text=some)
            found |= zip(some, zip(answer["log_prob"].tolist(), answer["num_tokens"].tolist(), strict=True), strict=True)
        return [found[text] for text in texts]

    def loglikelihood(self, requests, disable_tqdm=False):
        contexts, wholes = [request.args[0] for request in requests], ["".join(request.args[:2]) for request in requests]
        before, behind = self._scores(contexts), self._scores(wholes)
        answers = []
        for context, whole, (nats, count), (more, total) in zip(contexts, wholes, before, behind, strict=True):
            if total <= count:
                raise Refusal("A task asks for the likelihood of an empty text; each answer must have a token.")
            answers.append((more - nats, self._text(context, total - count) == whole))
        return answers

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        return [nats for nats, _ in self._scores([request.args[0] for request in requests])]

    def generate_until(self, requests, disable_tqdm=False):
        answers = []
        for request in requests:
            context, asked = request.args[:2]
            room = int(asked.get("max_gen_toks", asked.get("max_tokens", MOST_NEW_TOKENS)))
            temperature = float(asked.get("temperature", 0.0)) if asked.get("do_sample") else 0.0
            until = asked.get("until") or []
            text = self._text(context, room, temperature)[len(context) :]
            ends = [text.find(end) for end in ([until] if isinstance(until, str) else until) if end and end in text]
            answers.append(text[: min(ends, default=len(text))])
        return answers

    def _text(self, context, room, temperature=0.0):
        """The context and at most `room` tokens that follow."""
        options = {"max_new_tokens": [room], "temperature": [temperature]}
        return str(self.served.predict("generate", prompt=[context], **options)["text"][0])
