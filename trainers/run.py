"""Trains a model, from text to a SavedModel: python -m trainers.run --model=gpt

A flag that is not given takes the value that is known to work for the family.
--dry_run shows all values, and the fields that --set takes.
"""

import contextlib
import datetime
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from trainers.engine import identity, workers
from trainers.engine.interruption import sigterm_as_ctrl_c
from zoo.config import Refusal
from zoo.files import replace_file

FLAGS = flags.FLAGS
LOCK_SECONDS = 5.0  # for a process that was killed to be gone
# Fields of config.json that may change when a run goes on: they move no weight (a strategy: by rounding alone). So
# may `steps` and `epochs`, upwards: what is done stays done, and from there on the learning rate follows the schedule of the
# new length.
RESUMABLE_CHANGES = ("export", "eval_every", "eval_tokens", "checkpoint_every", "strategy")


def main():
    if FLAGS.list != "false":
        from trainers import listing

        print(listing.table() if FLAGS.list == "true" else listing.family(FLAGS.list))
        return
    if FLAGS.completion:
        from trainers import completion

        print(completion.script(FLAGS.completion), end="")
        return
    config, model_config = trainer_flags.train_config()
    if FLAGS.dry_run:
        print(json.dumps(_described(config, model_config), indent=1))
        return
    cluster = _cluster(config)
    if cluster is None and FLAGS.num_workers > 1:
        raise SystemExit(_launch(config))
    if cluster is not None and cluster.index > 0:
        _work(config, model_config)
        return
    with sigterm_as_ctrl_c(), _run_directory(config) as run:
        print(f"Run: {run}  (TensorBoard: tensorboard --logdir {run / 'tensorboard'})", flush=True)
        try:
            with program.quiet():
                import tensorflow  # noqa: F401
            from trainers.training import train

            train(run, config, model_config)
        except KeyboardInterrupt:  # between preparation and the first step, or while the bundle is made
            print(f"\nInterrupted. Go on with: {program.command_to_go_on(run)}", flush=True)
            raise SystemExit(program.RESUME_STATUS) from None
        except BrokenPipeError:
            if program.reader_has_gone():
                go_on = program.command_to_go_on(run)
                print(f"Nobody reads what this prints any more. Go on with: {go_on}", file=sys.stderr, flush=True)
            raise
        except workers.WorkerGone as gone:
            go_on = program.command_to_go_on(run)
            print(f"A worker has gone ({gone}). On every host, go on with: {go_on}", flush=True)
            _leave()


def _cluster(config):
    """The `workers.Cluster` that this process is to train in, or None. Raises Refusal if the flags contradict it."""
    if config.strategy not in ("auto", "multi_worker"):
        if FLAGS.num_workers > 1:
            raise Refusal(f"--num_workers is for --strategy=multi_worker, and not for {config.strategy}.")
        return None
    cluster = workers.from_environment()
    if cluster is not None and FLAGS.num_workers not in (1, cluster.size):
        raise Refusal(f"--num_workers={FLAGS.num_workers}, and TF_CONFIG names {cluster.size}; leave one of them out.")
    return cluster


def _work(config, model_config):
    """Trains as a worker that is not the chief: it says little, and whatever it writes goes when it ends."""
    with sigterm_as_ctrl_c(), tempfile.TemporaryDirectory() as directory:
        print("A worker: the chief tells how it goes, and writes.", flush=True)
        try:
            with program.quiet():
                import tensorflow  # noqa: F401
            from trainers.training import train

            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                train(Path(directory), config, model_config)
        except KeyboardInterrupt:
            raise SystemExit(program.RESUME_STATUS) from None
        except workers.WorkerGone as gone:
            print(f"A worker has gone ({gone}). Start the same command on every host again.", file=sys.stderr, flush=True)
            shutil.rmtree(directory)
            _leave()


def _leave():
    """Ends the process where it stands: TensorFlow's orderly way out would wait for the worker that has gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(program.RESUME_STATUS)


def _launch(config):
    """Starts the workers of --num_workers. Returns the exit status for all of them."""
    latest = Path("runs") / config.model / "latest"
    before = os.readlink(latest) if latest.is_symlink() else None
    statuses, dead = workers.launch(FLAGS.num_workers, "trainers.run", sys.argv[1:])
    if not any(statuses):
        return 0
    if dead:
        names = " and ".join(f"{i} (signal {-statuses[i]})" for i in dead)
        run = FLAGS.model_dir
        if run is None and latest.is_symlink() and os.readlink(latest) != before:
            run = latest.parent / os.readlink(latest)
        go_on = f"Go on with: {program.command_to_go_on(run)}" if run else "No run had begun."
        print(f"Worker {names} died, and the others have ended. {go_on}", flush=True)
        return program.RESUME_STATUS if run else 1
    # A mistake or a bug weighs more than the others' having found a worker gone.
    return min((status for status in statuses if status > 0), default=1)


def _described(config, model_config):
    if config.vocab_size:  # else the text decides
        model_config = model_config.replace(vocab_size=config.vocab_size)
    described = {**config.to_dict(), "model_config": model_config.to_dict(), "num_params": model_config.num_params()}
    if config.steps or config.epochs is not None:
        from trainers.cost import plan

        planned = plan.make(config, model_config, trainer_flags.task_config(config), tuning=trainer_flags.tuning_config(config))
        described["plan"] = planned.to_dict()
    if config.epochs is not None:
        described["remark"] = (
            f"The steps of --epochs={config.epochs:g} follow from the data, which a dry run does not read; "
            "the run tells them before step 0."
        )
    return described


@contextlib.contextmanager
def _run_directory(config):
    """Yields the directory of the run, with its config.json; a mistake that ends it before step 0 leaves no trace."""
    if FLAGS.model_dir:
        directory, latest = Path(FLAGS.model_dir), None
    else:
        directory = Path("runs") / config.model / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        latest = directory.parent / "latest"
    resumed = _holds_this_run(directory, config)
    made = _missing_parents(directory)
    before = os.readlink(latest) if latest and latest.is_symlink() else None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            identity.write(directory, config)
            if latest:
                replace_file(latest, lambda path: path.symlink_to(directory.name))
            yield directory
    except Exception:
        if not resumed and not (directory / "metrics.jsonl").exists():
            if latest and before:
                replace_file(latest, lambda path: path.symlink_to(before))
            elif latest:
                latest.unlink(missing_ok=True)
            for path in directory.glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in made:
                if path.is_dir():
                    path.rmdir()
        raise


@contextlib.contextmanager
def _alone(directory):
    """Holds a lock on the directory, which the kernel frees when the process dies: two at work would spoil the run."""
    descriptor, began = os.open(directory, os.O_RDONLY), time.monotonic()
    try:
        while not _locked(descriptor):
            if time.monotonic() - began > LOCK_SECONDS:
                raise Refusal(f"Another process is training in {directory}; wait for its end, or choose another --model_dir.")
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _missing_parents(directory):
    """The directory and those above it that are not there yet, innermost first."""
    return [path for path in (directory, *directory.parents) if not path.exists()]


def _holds_this_run(directory, config):
    """Whether `directory` holds a run that may go on with this config. Raises Refusal if it holds another."""
    if directory.exists() and not directory.is_dir():
        raise Refusal(f"{directory} is a file; --model_dir takes a directory.")
    path = directory / "config.json"
    if not path.is_file():
        if directory.exists() and any(directory.iterdir()):
            raise Refusal(f"{directory} is not empty and holds no run; choose another --model_dir.")
        return False
    if FLAGS.resume == "never":
        raise Refusal(f"{directory} holds another run; choose another --model_dir, or --resume=auto.")
    try:
        before = dict(json.loads(path.read_text(encoding="utf8")))
    except (ValueError, TypeError) as error:
        raise Refusal(f"{path} is damaged ({error}); choose another --model_dir.") from error
    # What its data is is compared when it has been prepared.
    before = {name: value for name, value in before.items() if not identity.is_known_later(name)}
    now = config.to_dict()
    differing = [
        key for key in sorted(before.keys() | now.keys()) if not _may_go_on(key, before.get(key), now.get(key), config.set)
    ]
    if differing:
        changes = ", ".join(f"{key} ({before.get(key)!r} then, {now.get(key)!r} now)" for key in differing)
        raise Refusal(f"{directory} holds another run; it differs in {changes}. Choose another --model_dir.")
    return True


def _may_go_on(key, then, now, settings):
    """Whether a run with some `--set` may go on when the field `key` of its config changes like this. With dp_epsilon the noise
    follows from the steps."""
    if key == "steps" and now is None:
        return True  # the epochs are compared; how many steps they take follows from the data
    if key in ("steps", "epochs") and then is not None and then != now:
        return now is not None and now >= then and not any(each.startswith("dp_epsilon=") for each in settings)
    return then == now or key in RESUMABLE_CHANGES


def start():
    """The program, with its flags."""
    trainer_flags.define_training()
    program.start(main, trainer_flags.GROUPS)


if __name__ == "__main__":
    start()
