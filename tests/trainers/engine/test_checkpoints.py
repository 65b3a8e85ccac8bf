"""Checkpoints: whole or not there; damaged ones are said and passed over."""

import concurrent.futures
import json
import threading
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.engine import optimizers
from trainers.engine.checkpoints import Checkpoints, named_variables
from trainers.flags import OPTIMIZERS


class Variable:
    """What a checkpoint needs of a variable."""

    def __init__(self, value, name="v"):
        self.value, self.name = np.asarray(value), name

    shape = property(lambda self: self.value.shape)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)

    def assign(self, value):
        self.value = value


def checkpoints(directory, **values):
    return Checkpoints(directory, {name: Variable(value) for name, value in values.items()})


def save(saver, step, progress=None, metrics=""):
    saver.save(step, progress or {}, metrics)
    saver.wait()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_round_trip_of_values_dtypes_and_progress(tmp_path):
    values = dict(a=np.arange(6, dtype="float32").reshape(2, 3), b=np.array(7, "int64"), c=np.array([1, 2], "uint32"))
    save(checkpoints(tmp_path, **values), 5, {"losses": [0.1, 1 / 3]}, '{"step": 1}\n')
    other = checkpoints(tmp_path, **{name: np.zeros_like(value) for name, value in values.items()})
    assert other.restore() == {"losses": [0.1, 1 / 3], "step": 5, "metrics": '{"step": 1}\n'}
    for name, value in values.items():
        restored = other.variables[name].value
        assert restored.dtype == value.dtype
        np.testing.assert_array_equal(restored, value)


def test_none_yet(tmp_path):
    assert checkpoints(tmp_path / "none", a=1.0).restore() is None


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path):
    saver = checkpoints(tmp_path, a=0.0)
    for step in (2, 30, 100):
        saver.variables["a"].assign(np.array(float(step)))
        save(saver, step)
    assert names(tmp_path) == ["step_00000030", "step_00000100"]
    assert saver.restore()["step"] == 100
    assert saver.variables["a"].value == 100


def test_the_mean_over_checkpoints_of_floats_under_a_prefix(tmp_path):
    saver = checkpoints(tmp_path, **{"model/w": np.float32([0, 0]), "model/seed": np.uint32(0), "optimizer/m": np.float32(0)})
    saver.keeps = (1, 2, 4)
    for step in range(1, 7):
        for variable in saver.variables.values():
            variable.assign((variable.value * 0 + step**2).astype(variable.value.dtype))
        save(saver, step)
    assert names(tmp_path) == [f"step_{step:08d}" for step in (1, 2, 4, 5, 6)]
    said = []
    assert saver.average([1, 2, 3, 4], "model/", said.append) == [1, 2, 4]
    assert len(said) == 1 and "step_00000003 is left out of the mean" in said[0]
    assert saver.variables["model/w"].value.tolist() == [7, 7]  # (1 + 4 + 16) / 3
    assert saver.variables["model/seed"].value == saver.variables["optimizer/m"].value == 36


def test_saving_a_step_again_replaces_it(tmp_path):
    save(checkpoints(tmp_path, a=1.0), 3, {"n": 1})
    save(checkpoints(tmp_path, a=2.0), 3, {"n": 2})
    reader = checkpoints(tmp_path, a=0.0)
    assert reader.restore() == {"n": 2, "step": 3, "metrics": ""} and reader.variables["a"].value == 2
    assert names(tmp_path) == ["step_00000003"]


FILES = ("arrays.npz", "progress.json", "metrics.jsonl", "complete.json")
DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "one bit": lambda path: path.write_bytes(one_bit_changed(path.read_bytes())),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"{}"),
}


def one_bit_changed(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_said_and_the_one_before_is_read(file, damage, tmp_path):
    saver = checkpoints(tmp_path, a=np.arange(1000.0))
    for step in (1, 2):
        save(saver, step, {"losses": [step]}, '{"step": 1}\n')
        saver.variables["a"].assign(np.zeros(1000))
    DAMAGES[damage](tmp_path / "step_00000002" / file)
    said = []
    assert saver.restore(said.append) == {"losses": [1], "step": 1, "metrics": '{"step": 1}\n'}
    np.testing.assert_array_equal(saver.variables["a"].value, np.arange(1000.0))
    assert len(said) == 1 and "step_00000002 is damaged" in said[0]
    assert names(tmp_path) == ["damaged_step_00000002", "step_00000001"]
    DAMAGES[damage](tmp_path / "step_00000001" / file)
    with pytest.raises(ValueError, match="Every checkpoint under .* is damaged; start anew in another --model_dir"):
        saver.restore(said.append)


def test_those_of_another_model_are_refused(tmp_path):
    save(checkpoints(tmp_path, a=1.0, b=2.0), 1)
    with pytest.raises(ValueError, match="belongs to another model or optimizer; it differs in b, c"):
        checkpoints(tmp_path, a=1.0, c=2.0).restore()
    with pytest.raises(ValueError, match=r"a has shape \(\), here it is \(2,\)"):
        checkpoints(tmp_path, a=[1.0, 2.0], b=2.0).restore()


def test_a_full_disk_leaves_the_old_one_and_nothing_half_written(tmp_path, monkeypatch):
    saver = checkpoints(tmp_path, a=1.0)
    save(saver, 1)

    def full(file, **arrays):
        file.write(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    saver.save(2, {})
    with pytest.raises(OSError, match="No space left"):
        saver.wait()
    saver.save(3, {})
    concurrent.futures.wait([saver._writing])
    with pytest.raises(OSError, match="No space left"):
        saver.poll()
    assert names(tmp_path) == ["step_00000001"]
    monkeypatch.undo()
    assert saver.restore()["step"] == 1


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path):
    saver = checkpoints(tmp_path, a=1.0)
    (tmp_path / ".step_00000009.partial").mkdir(parents=True)
    (tmp_path / ".step_00000009.partial" / "arrays.npz").write_bytes(b"half")
    assert saver.restore() is None
    assert names(tmp_path) == []
    save(saver, 9)
    assert names(tmp_path) == ["step_00000009"]
    assert json.loads((tmp_path / "step_00000009" / "progress.json").read_text()) == {"step": 9}


def test_the_best_by_validation_stays_beside_the_newest(tmp_path):
    saver = checkpoints(tmp_path, a=0.0)
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0), (4, None), (5, 3.0)):
        saver.variables["a"].assign(np.array(float(step)))
        save(saver, step, {"validation_loss": loss})
    assert names(tmp_path) == ["best", "step_00000002", "step_00000004", "step_00000005"]
    assert (tmp_path / "best").resolve().name == "step_00000002"
    save(saver, 6, {"validation_loss": 2.5})
    assert names(tmp_path) == ["best", "step_00000005", "step_00000006"]
    assert (tmp_path / "best").resolve().name == "step_00000006"
    assert saver.restore()["step"] == 6


def test_going_back_takes_the_last_one_before_a_step_and_forgets_those_after(tmp_path):
    saver = checkpoints(tmp_path, a=0.0)
    for step, loss in ((0, 1.0), (10, 2.0), (20, None)):
        saver.variables["a"].assign(np.array(float(step)))
        save(saver, step, {"validation_loss": loss})
    assert saver.restore(before=25)["step"] == 20
    assert saver.restore(before=19)["step"] == 10 and saver.variables["a"].value == 10
    assert names(tmp_path) == ["best", "step_00000000", "step_00000010"]
    save(saver, 11)
    save(saver, 12)
    assert saver.restore(before=5)["step"] == 0
    save(saver, 30)
    save(saver, 31)
    assert saver.restore(before=20)["step"] == 0  # kept as the best
    (tmp_path / "best").unlink()
    for step in (40, 50):
        save(saver, step)
    DAMAGES["missing"](tmp_path / "step_00000000" / "progress.json")
    save(saver, 51)
    assert saver.restore(before=20)["step"] == 50  # none is early enough: the oldest


def test_the_step_does_not_wait_for_the_disk_and_sees_its_own_values_saved(tmp_path, monkeypatch):
    written, go = np.savez, threading.Event()

    def slow(file, **arrays):
        assert go.wait(10)
        written(file, **arrays)

    monkeypatch.setattr(np, "savez", slow)
    saver = checkpoints(tmp_path, a=np.arange(3.0))
    saver.save(1, {})
    saver.variables["a"].value[:] = 9  # the next step's update, in place
    saver.poll()
    assert names(tmp_path) == [] or names(tmp_path) == [".step_00000001.partial"]
    go.set()
    saver.wait()
    assert saver.restore()["step"] == 1
    np.testing.assert_array_equal(saver.variables["a"].value, np.arange(3.0))
    assert saver.stall_seconds[0] < 1


def test_a_worker_that_is_not_the_chief_reads_and_never_writes(tmp_path):
    chief = checkpoints(tmp_path, a=1.0)
    save(chief, 1)
    (tmp_path / ".step_00000002.partial").mkdir()  # the chief is at it
    other = Checkpoints(tmp_path, {"a": Variable(0.0)}, writes=False)
    other.save(5, {})
    other.wait()
    assert other.restore(before=0)["step"] == 1 and other.variables["a"].value == 1
    assert names(tmp_path) == [".step_00000002.partial", "step_00000001"]


def test_bfloat16_comes_back(tmp_path):
    import ml_dtypes

    value = np.array([[1.5, -2.0, 3.0]], ml_dtypes.bfloat16)
    save(checkpoints(tmp_path, a=value), 1)
    reader = checkpoints(tmp_path, a=np.zeros_like(value))
    reader.restore()
    assert reader.variables["a"].value.dtype == value.dtype
    np.testing.assert_array_equal(reader.variables["a"].value, value)


def test_names_tell_variables_of_one_path_apart_and_do_not_count_seed_generators():
    class Seed(Variable):
        def __init__(self, path):
            super().__init__(0)
            self.path = path

    first = [
        Seed("seed_generator/seed_generator_state"),
        Seed("seed_generator_1/seed_generator_state"),
        Seed("block_1/w"),
    ]
    later = [
        Seed("seed_generator_8/seed_generator_state"),
        Seed("seed_generator_9/seed_generator_state"),
        Seed("block_1/w"),
    ]
    assert list(named_variables(model=first)) == list(named_variables(model=later)) == [
        "model/0000/seed_generator/seed_generator_state",
        "model/0001/seed_generator/seed_generator_state",
        "model/0002/block_1/w",
    ]  # fmt: skip
    assert list(named_variables(model=[Variable(0, "a")], carried=[Variable(0, "a")])) == [
        "model/0000/a",
        "carried/0000/a",
    ]


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_saved_is_of_the_moment_of_saving_whatever_the_next_steps_do(optimizer, xla, tmp_path, monkeypatch):
    weights = [keras.Variable(np.ones(shape, "float32"), name=name) for name, shape in (("w", (3, 4)), ("b", (5,)))]
    settings = SimpleNamespace(
        optimizer=optimizer, learning_rate=0.1, schedule="constant", warmup_steps=0, steps=9, weight_decay=0.1, clip_norm=1.0
    )
    update = optimizers.create(settings, weights)
    step = tf.function(
        lambda: update.apply([tf.ones(w.shape) for w in weights], weights), jit_compile=xla, autograph=False
    )  # fmt: skip
    step()
    saver = Checkpoints(tmp_path, named_variables(model=weights, optimizer=update.variables))
    expected = {name: np.asarray(variable).copy() for name, variable in saver.variables.items()}
    go_on, write = threading.Event(), saver._write
    monkeypatch.setattr(saver, "_write", lambda *arguments: go_on.wait(60) and write(*arguments))
    saver.save(1, {})
    step()
    step()
    go_on.set()
    saver.wait()
    assert not np.array_equal(np.asarray(weights[0]), expected["model/0000/w"])
    with np.load(tmp_path / "step_00000001" / "arrays.npz") as saved:
        assert saved.files == list(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(saved[name], value, err_msg=name)
