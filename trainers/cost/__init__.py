"""What a run costs: the plan before it, the machine under it, the meter while it goes."""
