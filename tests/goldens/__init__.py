"""Numbers that a refactor may not move, one JSON file a model; `python -m tests.goldens` writes them anew.

variables   path and shape of every variable, in order: an interface, as bundles and checkpoints are read by them
logits      of the seeded tiny model: the first and last position of one row, eight ids each; hidden states of an encoder
losses      of the first ten steps of training on a toy language (a closed-form model has one: after the fit)

`tasks.json` has, for every task that reads examples on every model that serves it, the variables of its head and the losses of
the seeded model on the first three batches.
"""

import json
from pathlib import Path

import keras
import numpy as np

from tests import tiny_models, tiny_tasks

FOLDER = Path(__file__).parent
STEPS = 10


def path_of(case):
    return FOLDER / f"{case}.json"


def load(case):
    """The golden of a case. Raises FileNotFoundError, saying how to write it."""
    if not path_of(case).is_file():
        raise FileNotFoundError(f"{case} has no golden: look at what it computes, then write it with python -m tests.goldens.")
    return json.loads(path_of(case).read_text(encoding="utf8"))


def measure(case):
    """What the code computes now."""
    return {"variables": variables(case), "logits": logits(case), "losses": losses(case)}


def variables(case):
    return [[v.path, list(v.shape)] for v in tiny_models.create(case).variables]


def logits(case):
    model = tiny_models.create(case)
    values = np.asarray(model(tiny_models.inputs(model)))[1, [0, -1], :8]
    return np.round(values.astype(float), 6).tolist()


def losses(case):
    model = tiny_models.assembled(case)
    if model.fitted:
        ids = tiny_models.stream(model.config.vocab_size)
        log_probs, _ = model.token_log_probs(ids[None, :-1], ids[None, 1:])
        return [round(-float(np.mean(log_probs)), 6)]
    batches = tiny_models.batches(model, seed=1)
    trainer = tiny_models.trainer(model, STEPS, **tiny_models.SETTINGS.get(case, {}))
    return [round(float(trainer.step(batches.batch(step), batches.starts_epoch(step))[0]), 6) for step in range(STEPS)]


def of_tasks():
    """`model:task` -> what the code computes now for a task that reads examples."""
    return {case: of_task(case) for case in task_cases()}


def task_cases():
    """Those that train all of a model."""
    return [case for case in tiny_tasks.cases() if case.partition(":")[2].partition(":")[2] not in tiny_tasks.TUNED]


def of_task(case):
    task, model, batches, _ = tiny_tasks.create(case)
    tiny_models.strengthen(model)
    losses = []
    for step in range(3):
        batch = {name: keras.ops.convert_to_tensor(value) for name, value in batches.batch(step).items()}
        total, count = task.loss(batch, task.forward(model, batch)[0])
        losses.append(round(float(total) / float(count), 6))
    # A model that is its own head has its variables in a golden of its own, unless it is a classifier as it stands.
    head = model.weights if model.kind == "classifier" else model.head.weights if model.without_head() is not model else []
    return {"head": [[v.path, list(v.shape)] for v in head], "losses": losses}
