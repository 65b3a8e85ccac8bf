"""The table that --list prints, without TensorFlow."""

import io

from rich.console import Console
from rich.table import Table

from zoo.registry import MODELS, TASKS, tasks_of


def _size(num_params):
    for unit, factor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if num_params >= factor:
            return f"{num_params / factor:.3g}{unit}"
    return str(num_params)


def _num_params(config, preset):
    """Parameters of a preset, with the vocabulary that a run trains for it where it has none of its own."""
    vocab_size = config.recipe_for(preset).get("vocab_size")
    own = "vocab_size" in config.presets[preset] or vocab_size is None
    return config.preset(preset, **({} if own else {"vocab_size": vocab_size})).num_params()


def table():
    """Every model with its presets and their parameter counts, its tasks and its default dataset, as text."""
    shown = Table("model", "presets (parameters)", "tasks", "default dataset", show_lines=True)
    for name in MODELS.names():
        config = MODELS.config(name)
        # Of a model that is fitted in closed form the text decides how many parameters there are.
        presets = [preset if config.fitted else f"{preset} ({_size(_num_params(config, preset))})" for preset in config.presets]
        shown.add_row(
            name,
            ", ".join(presets),
            ", ".join(task for task in tasks_of(config) if TASKS.config(task).trains),
            config.recipe["dataset"],
        )
    text = io.StringIO()
    Console(file=text, width=110).print(shown)
    return text.getvalue().rstrip()
