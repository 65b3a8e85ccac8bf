"""Checkpoints: whole or not there; damaged ones are said and passed over."""

import json

import numpy as np
import pytest

from trainers.checkpoints import Checkpoints, named_variables


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


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_round_trip_of_values_dtypes_and_progress(tmp_path):
    values = dict(a=np.arange(6, dtype="float32").reshape(2, 3), b=np.array(7, "int64"), c=np.array([1, 2], "uint32"))
    checkpoints(tmp_path, **values).save(5, {"losses": [0.1, 1 / 3]})
    other = checkpoints(tmp_path, **{name: np.zeros_like(value) for name, value in values.items()})
    assert other.restore() == {"losses": [0.1, 1 / 3], "step": 5}
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
        saver.save(step, {})
    assert names(tmp_path) == ["step_00000030", "step_00000100"]
    assert saver.restore()["step"] == 100
    assert saver.variables["a"].value == 100


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints(tmp_path, a=1.0).save(3, {"n": 1})
    checkpoints(tmp_path, a=2.0).save(3, {"n": 2})
    reader = checkpoints(tmp_path, a=0.0)
    assert reader.restore() == {"n": 2, "step": 3} and reader.variables["a"].value == 2
    assert names(tmp_path) == ["step_00000003"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "no arrays", "no progress", "broken json"])
def test_a_damaged_one_is_said_and_the_one_before_is_read(tmp_path, damage):
    saver = checkpoints(tmp_path, a=np.arange(1000.0))
    saver.save(1, {})
    saver.save(2, {})
    path = tmp_path / "step_00000002"
    if damage in ("truncated", "empty"):
        data = (path / "arrays.npz").read_bytes()
        (path / "arrays.npz").write_bytes(data[: len(data) // 2 if damage == "truncated" else 0])
    elif damage == "broken json":
        (path / "progress.json").write_text('{"step": ')
    else:
        (path / ("arrays.npz" if damage == "no arrays" else "progress.json")).unlink()
    said = []
    assert saver.restore(said.append)["step"] == 1
    assert len(said) == 1 and "step_00000002 is damaged" in said[0]
    (tmp_path / "step_00000001" / "arrays.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="Every checkpoint under .* is damaged; start anew in another --model_dir"):
        saver.restore(said.append)


def test_those_of_another_model_are_refused(tmp_path):
    checkpoints(tmp_path, a=1.0, b=2.0).save(1, {})
    with pytest.raises(ValueError, match="belongs to another model or optimizer; it differs in b, c"):
        checkpoints(tmp_path, a=1.0, c=2.0).restore()
    with pytest.raises(ValueError, match=r"a has shape \(\), here it is \(2,\)"):
        checkpoints(tmp_path, a=[1.0, 2.0], b=2.0).restore()


def test_a_full_disk_leaves_the_old_one_and_nothing_half_written(tmp_path, monkeypatch):
    saver = checkpoints(tmp_path, a=1.0)
    saver.save(1, {})

    def full(file, **arrays):
        file.write(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        saver.save(2, {})
    assert names(tmp_path) == ["step_00000001"]
    monkeypatch.undo()
    assert saver.restore()["step"] == 1


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path):
    saver = checkpoints(tmp_path, a=1.0)
    (tmp_path / ".step_00000009.partial").mkdir(parents=True)
    (tmp_path / ".step_00000009.partial" / "arrays.npz").write_bytes(b"half")
    assert saver.restore() is None
    saver.save(9, {})
    assert names(tmp_path) == ["step_00000009"]
    assert json.loads((tmp_path / "step_00000009" / "progress.json").read_text()) == {"step": 9}


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
