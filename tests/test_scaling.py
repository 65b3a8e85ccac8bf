"""What the scaling benchmark makes of its numbers."""

from benchmarks import scaling


def test_a_ring_sums_in_twice_as_many_steps_as_it_has_others():
    """Four machines, 8 MB, 1 MB/s: each of 6 messages has 2 MB and takes 2 s and the latency."""
    assert scaling.sum_seconds(4, 8e6, 1e6, 0.25) == 6 * 2.25
    assert scaling.sum_seconds(1, 8e6, 1e6, 0.25) == 0


def test_more_machines_are_slower_each(capsys):
    args = scaling._parser().parse_args(["--machines=8,64"])
    scaling._project(args, 1_000.0)
    assumed, eight, many = capsys.readouterr().out.splitlines()
    assert "3.4 MB of gradients" in assumed and "2,048 tokens a step" in assumed
    assert eight.startswith("8 machines: step 2048 ms, sum 5 ms, 7,979 tokens/s, 1.00")
    assert many.startswith("64 machines: step 2048 ms, sum 12 ms,")
