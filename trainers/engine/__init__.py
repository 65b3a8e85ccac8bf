"""What a run does from step 0 to its end: the loop, devices, checkpoints, recovery."""
