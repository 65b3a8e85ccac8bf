"""The tables that --list and --list=FAMILY print, without TensorFlow."""

import io
import textwrap
from types import SimpleNamespace

from rich.console import Console
from rich.table import Column, Table

from trainers.cost import machine, plan
from trainers.flags import DEFAULTS
from zoo.registry import MODELS, TASKS, tasks_of

WIDTH = 100  # columns
# The part of a large product's speed that training reaches. The default GPT and LSTM, evaluations included, make 100 and 106
# GFLOP/s on two quiet cores whose products run at 170 to 200.
SHARE_OF_PEAK = 0.5
BY_PRODUCTS = "Training is taken to reach half of that, as the default GPT does."
BY_TABLES = "Most of a step reads tables and compares, which was measured beside such a product on two busy cores."


def short(num_params):
    """A number of parameters in three digits, such as 1.33M."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if num_params >= factor:
            return f"{num_params / factor:.3g}{unit}"
    return str(num_params)


def preset_config(config, preset):
    """The config of a preset, with the vocabulary that a run trains for it where it has none of its own."""
    vocab_size = config.recipe_for(preset).get("vocab_size")
    own = "vocab_size" in config.presets[preset] or vocab_size is None
    return config.preset(preset, **({} if own else {"vocab_size": vocab_size}))


def table():
    """Every model with its presets and their parameter counts, its tasks and its default dataset, as text."""
    columns = Column("presets (parameters)", width=28), Column("tasks", width=20), Column("default dataset", no_wrap=True)
    shown = Table("model", *columns, show_lines=True)
    for name in MODELS.names():
        config = MODELS.config(name)
        # Of a model that is fitted in closed form the text decides how many parameters there are.
        presets = [
            preset if config.fitted else f"{preset} ({short(preset_config(config, preset).num_params())})"
            for preset in config.presets
        ]
        shown.add_row(
            name,
            ", ".join(presets),
            ", ".join(task for task in tasks_of(config) if TASKS.config(task).trains),
            config.recipe["dataset"],
        )
    return f"{_text(shown)}\n--list=FAMILY shows what the presets of a family take to train."


def family(name):
    """The presets of one family with parameters, memory and time to train, as text.

    Raises:
        Refusal: no such family; the sentence names the nearest.
    """
    config = MODELS.config(name)
    if config.fitted:
        sentence = f"{name} is fitted in closed form, in one pass: the text decides what it takes."
        return textwrap.fill(f"{sentence} Presets: {', '.join(config.presets)}.", WIDTH)
    peak, limit = machine.processor_peak(), machine.memory_limit()
    columns = ("parameters", "batch", "steps", "memory", "time")
    shown = Table("preset", *(Column(column, justify="right") for column in columns))
    for preset in config.presets:
        recipe = SimpleNamespace(**{**DEFAULTS, **config.recipe_for(preset), "task": config.default_task})
        structure = preset_config(config, preset)
        recipe.seq_length = min(recipe.seq_length, getattr(structure, "max_length", None) or recipe.seq_length)
        planned = plan.make(recipe, structure, limit=limit)
        unmultiplied = structure.cost(recipe.seq_length).unmultiplied
        seconds = (planned.flops_per_token + unmultiplied) * planned.tokens / (SHARE_OF_PEAK * peak)
        shown.add_row(
            preset, short(planned.num_params), f"{recipe.batch_size} x {recipe.seq_length}", f"{recipe.steps:,}",
            f"{(planned.memory.total + plan.LOADED) / 1e9:,.1f} GB{'' if planned.fits else ' (!)'}",
            _roughly(seconds),
        )  # fmt: skip
    remarks = [
        f"Trained for {config.default_task} with the family's recipe. Memory is the plan's, TensorFlow included; (!) is more "
        f"than the {limit / 1e9:.1f} GB here, and --dry_run says what would fit."
    ]
    remarks.append(
        f"Time is rough, and this processor's: a large product runs at {peak / 1e9:,.0f} GFLOP/s, measured just now beside "
        f"whatever else runs here. {BY_TABLES if unmultiplied else BY_PRODUCTS} A GPU is not counted."
    )
    return "\n".join([_text(shown), *(textwrap.fill(remark, WIDTH) for remark in remarks)])


def _roughly(seconds):
    """Seconds in minutes, hours or days."""
    if seconds < 60:
        return "under 1 min"
    for unit, size in (("min", 60), ("h", 3_600), ("days", 86_400)):
        if seconds < 100 * size or unit == "days":
            return f"{seconds / size:,.0f} {unit}"


def _text(shown):
    text = io.StringIO()
    Console(file=text, width=WIDTH).print(shown)
    return text.getvalue().rstrip()
