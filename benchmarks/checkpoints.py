"""What a checkpoint costs the steps around it.

    python -m benchmarks.checkpoints                       the default GPT, and GPT-2's 124M parameters
    python -m benchmarks.checkpoints --presets=default

Takes steps with AdamW, saves between two of them, and goes on until the checkpoint is on disk. Told are: the state's size; a
step before; for how long `save` holds up the next one; by how much that one is longer; how long the writing takes; and by how
much the steps until its end are longer, as the thread that writes has its share of the cores. Medians.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

SIZES = {"default": dict(batch_size=16, seq_length=128, steps=40), "gpt2_small": dict(batch_size=4, seq_length=128, steps=4)}


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default=",".join(SIZES), help=f"which of {', '.join(SIZES)}, by commas")
    parser.add_argument("--saves", type=int, default=3)
    args = parser.parse_args()
    print(f"{'preset':<12}{'state':>9}{'a step':>10}{'save()':>10}{'next step':>12}{'written in':>12}{'steps meanwhile':>17}")
    for preset in args.presets.split(","):
        state, step, stall, following, written, meanwhile = _measured(preset, args.saves)
        print(
            f"{preset:<12}{state / 1e6:6,.0f} MB{1000 * step:7,.0f} ms{1000 * stall:7,.1f} "
            f"ms{1000 * (following - step):+9,.0f} ms"
            f"{1000 * written:9,.0f} ms{meanwhile / step - 1:+17.0%}",
            flush=True,
        )


def _measured(preset, saves):
    """(bytes of the state; seconds: a step, a save, the step after it, its writing, a step during that), medians over saves."""
    import numpy as np

    from benchmarks.train_gpt import SETTINGS
    from trainers.engine import loop, optimizers
    from trainers.engine.checkpoints import Checkpoints, named_variables
    from zoo.registry import MODELS, TASKS

    size, model_class = SIZES[preset], MODELS.get("gpt")
    model = model_class(model_class.config_class.preset(preset)).build_from_ids()
    trainer = loop.Trainer(
        model, TASKS.get("language_modeling")(), optimizers.create(SETTINGS, model.trainable_variables),
        batch_size=size["batch_size"], seq_length=size["seq_length"], xla=preset == "default", fuse=preset != "default",
    )  # fmt: skip
    random = np.random.default_rng(0)
    ids = random.integers(0, model.config.vocab_size, (size["batch_size"], size["seq_length"] + 1)).astype("int32")
    batch = dict(token_ids=ids[:, :-1], labels=ids[:, 1:], loss_weights=np.ones(ids[:, 1:].shape, "float32"))

    def step():
        began = time.perf_counter()
        float(trainer.step(batch).loss)
        return time.perf_counter() - began

    step()
    step()
    variables = named_variables(**trainer.variables())
    scratch = Path(tempfile.mkdtemp())
    try:
        checkpoints = Checkpoints(scratch, variables)
        alone, following, meanwhile = [], [], []
        for number in range(saves):
            alone += [step() for _ in range(size["steps"])]
            checkpoints.save(number + 1, {})
            following.append(step())
            while not checkpoints.poll():
                meanwhile.append(step())
    finally:
        shutil.rmtree(scratch)
    state = sum(np.asarray(variable).nbytes for variable in variables.values())
    middle = np.median
    return (
        state, middle(alone), middle(checkpoints.stall_seconds), middle(following), middle(checkpoints.write_seconds),
        middle(meanwhile) if meanwhile else middle(following),
    )  # fmt: skip


if __name__ == "__main__":
    main()
