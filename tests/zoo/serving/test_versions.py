"""Which names in a directory are versions."""

import pytest

from trainers.served import Served
from zoo.config import Refusal
from zoo.export import latest_version
from zoo.serving.versions import numbered


def test_only_names_of_ascii_digits_are_versions(tmp_path):
    for name in ("3", "10", "²", "٣", "-4", "5.0", "deployment", ".11-made"):
        (tmp_path / name).mkdir()
    assert numbered(tmp_path) == {3: tmp_path / "3", 10: tmp_path / "10"}
    assert latest_version(tmp_path) == 10 and latest_version(tmp_path / "absent") == 0


def test_a_directory_of_other_digits_holds_no_version(tmp_path):
    (tmp_path / "²").mkdir()
    with pytest.raises(Refusal, match="holds no SavedModel; write one with python -m trainers.export"):
        Served(tmp_path)
