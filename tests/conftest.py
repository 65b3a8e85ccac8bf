"""What every test stands on: a quiet TensorFlow, a token cache of its own, Keras's global settings put back."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # goldens and bit-equal resumes are promises about the CPU


@pytest.fixture(scope="session", autouse=True)
def own_token_cache(tmp_path_factory):
    """No test reads or fills the user's cache; subprocesses inherit this too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("token_cache")))
        yield


@pytest.fixture(autouse=True)
def kernels_stay():
    """No test leaves another choice of kernels behind: processes that later tests start would have other last digits."""
    before = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    yield
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == before


@pytest.fixture(scope="module", autouse=True)
def graphs_go():
    """No module leaves its graphs in memory: TensorFlow never forgets a gradient of `tf.custom_gradient`, nor its graph."""
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import ops

        registered = ops.gradient_registry._registry
        for name in [name for name in registered if name.startswith("CustomGradient-")]:
            del registered[name]


@pytest.fixture
def restore_dtype_policy():
    """For tests that set Keras's global precision."""
    import keras

    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def pytest_collection_modifyitems(items):
    """Laws first, whole runs after them: what is cheap and says exactly what broke comes before what is long."""
    items.sort(key=lambda item: item.path.relative_to(HERE).parts[0] != "zoo")
