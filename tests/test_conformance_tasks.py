"""What every task that reads examples keeps to, on every model that serves it: the numbers of its golden."""

import numpy as np
import pytest

from tests import goldens


@pytest.mark.parametrize("case", goldens.task_cases())
def test_heads_and_losses_are_those_of_the_golden(case):
    golden, now = goldens.load("tasks").get(case), goldens.of_task(case)
    assert golden is not None, (
        f"{case} has no golden: look at what it computes, then write it with python -m tests.goldens tasks."
    )
    assert now["head"] == golden["head"]
    np.testing.assert_allclose(now["losses"], golden["losses"], rtol=1e-4, atol=1e-4)
