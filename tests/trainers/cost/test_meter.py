"""What a run says of the speed of its devices."""

from trainers.cost import machine, meter


def test_a_precision_that_is_slower_here_is_told_with_the_way_out(monkeypatch):
    speeds = {"float32": 100.0, "bfloat16": 58.0}
    monkeypatch.setattr(machine, "matmul_peak", speeds.__getitem__)
    assert meter.slower_precision("bfloat16") == (
        "Warning: this CPU makes products in bfloat16 at 0.58 x the speed of float32; leave out --precision=bfloat16 unless "
        "memory needs it."
    )
    speeds["bfloat16"] = 150.0
    assert meter.slower_precision("bfloat16") is None and meter.slower_precision("float32") is None
