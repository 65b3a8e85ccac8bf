"""Writes the goldens of all models and of `tasks`, or of those named: python -m tests.goldens gpt tasks"""

import json
import sys

from tests import goldens, tiny_models

for case in sys.argv[1:] or [*tiny_models.cases("language_model", "encoder", "encoder_decoder"), "tasks"]:
    golden = goldens.of_tasks() if case == "tasks" else goldens.measure(case)
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
    goldens.path_of(case).write_text("{\n" + lines + "\n}\n", encoding="utf8")
    if case != "tasks":
        print(f"{case}: {len(golden['variables'])} variables, loss {golden['losses'][0]} -> {golden['losses'][-1]}")
