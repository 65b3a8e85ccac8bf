"""Every flag of every program, declared once, and the way from flags to a TrainConfig.

Imports no TensorFlow: `--help`, `--list` and a wrong flag answer at once.
"""

import dataclasses
import math
import os

from absl import flags

from trainers.engine import initial, length
from trainers.engine.privacy import PrivacyConfig
from trainers.engine.tuning import TuningConfig
from zoo.config import Refusal, nearest
from zoo.registry import MODELS, TASKS, tasks_of

FLAGS = flags.FLAGS

OPTIMIZERS = ("adamw", "sgd", "adafactor", "muon", "plain_sgd", "adagrad")
STRATEGIES = ("auto", "cpu", "gpu", "mirrored", "multi_worker", "tpu", "parameter_server")
METHODS = ("integrated_gradients", "gradient_x_input", "occlusion", "logit_lens", "attention")  # zoo/{explanation,layerwise}.py
SCHEDULES = ("cosine", "linear", "inverse_sqrt", "noam", "constant")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run. Written to `config.json` before step 0, where every value is resolved."""

    model: str
    preset: str
    set: tuple[str, ...]
    task: str
    dataset: str
    data_path: str | None
    tokenizer: str
    vocab_size: int | None
    seq_length: int
    batch_size: int
    steps: int | None  # None until the epochs are counted in steps
    epochs: float | None
    learning_rate: float
    optimizer: str
    schedule: str
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    label_smoothing: float
    z_loss: float
    separate_documents: bool
    strategy: str
    grad_accumulation: int
    precision: str
    xla: str
    seed: int
    init_from: str | None
    eval_every: int | None  # likewise
    eval_tokens: int | None
    checkpoint_every: int | None  # likewise
    export: bool

    def to_dict(self):
        return {**dataclasses.asdict(self), "set": list(self.set)}


# The flags of `trainers.run` by meaning, for --help.
GROUPS = {
    "What is trained": ("model", "preset", "set", "task", "init_from"),
    "Text": ("dataset", "data_path", "tokenizer", "vocab_size"),
    "Training": (
        "steps", "epochs", "batch_size", "seq_length", "learning_rate", "optimizer", "schedule", "warmup_steps",
        "weight_decay", "clip_norm", "label_smoothing", "z_loss", "separate_documents", "seed",
    ),
    "The machine": ("strategy", "num_workers", "grad_accumulation", "precision", "xla", "profile"),
    "The run and what it leaves": ("model_dir", "resume", "eval_every", "eval_tokens", "checkpoint_every", "export"),
    "Only to look": ("list", "dry_run", "completion"),
}  # fmt: skip


# What holds for a flag that neither the command line nor the family's recipe gives.
DEFAULTS = dict(
    preset="default", dataset="python_docs", tokenizer="bpe", seq_length=128, batch_size=16, steps=1_000,
    learning_rate=1e-3, optimizer="adamw", schedule="cosine", warmup_steps=0, weight_decay=0.0, clip_norm=0.0,
    label_smoothing=0.0, z_loss=0.0, separate_documents=False, strategy="auto", grad_accumulation=1,
    precision="float32", xla="auto", seed=0,
)  # fmt: skip
TOKENIZER_SETTINGS = ("lowercase", "punctuation")  # of a recipe's `set`, what is for the recipe's tokenizer
# Weights that are trained already take small steps, whatever a family's rate from scratch is, and need no crutches (`set`).
FINE_TUNING = dict(learning_rate=1e-4, optimizer="adamw", set=())


class _ListFlag(flags.Flag):
    """`--list` alone has the value "true"; it may name a family."""

    def __init__(self):
        meaning = "Print the models with their presets, tasks and datasets, and stop; --list=gpt: what the presets of one take."
        super().__init__(flags.ArgumentParser(), flags.ArgumentSerializer(), "list", "false", meaning, boolean=True)


def _define_text_source(tokenizer=None):
    flags.DEFINE_string("dataset", None, "Where the text comes from. [python_docs, or local_text with --data_path]")
    flags.DEFINE_string("data_path", None, "Your text: a file, a glob, or train=...,validation=...,test=....")
    flags.DEFINE_string("tokenizer", tokenizer, "byte, char, word, bpe, wordpiece, unigram, or a path.")
    flags.DEFINE_integer("vocab_size", None, "Size of the vocabulary to be trained.", lower_bound=1)


def define_preparation():
    """Flags of `trainers.prepare`."""
    _define_text_source(DEFAULTS["tokenizer"])
    flags.DEFINE_integer("counts", None, "Count the n-grams of the train split up to this order as well.", lower_bound=1)
    flags.DEFINE_string("runner", None, "Encode side by side by this runner of Apache Beam, such as DirectRunner. [here]")
    flags.DEFINE_multi_string("option", [], "An option of the runner without its dashes, such as direct_num_workers=2.")


def define_training():
    """Flags of `trainers.run`."""
    flags.DEFINE_flag(_ListFlag())
    flags.DEFINE_string("model", None, "Family to train: " + ", ".join(MODELS.names()) + ".")
    flags.DEFINE_string("preset", None, "Named structure of the family; --list shows them. [default]")
    flags.DEFINE_multi_string(
        "set", [], "key=value for a field of the model, of the task, of trainers/engine/privacy.py or tuning.py."
    )
    flags.DEFINE_string("task", None, "What to train for. [the family's first task]")
    _define_text_source()
    flags.DEFINE_integer("seq_length", None, "Tokens in a training sequence.", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "Sequences in a step, over all replicas.", lower_bound=1)
    flags.DEFINE_integer("steps", None, "Training steps.", lower_bound=0)
    flags.DEFINE_float("epochs", None, "Passes over the training data, in place of --steps.", lower_bound=0.0)
    flags.DEFINE_float("learning_rate", None, "Peak learning rate.", lower_bound=0.0)
    flags.DEFINE_enum("optimizer", None, OPTIMIZERS, "Update rule.")
    flags.DEFINE_enum("schedule", None, SCHEDULES, "Shape of the learning rate after the warm-up.")
    flags.DEFINE_integer("warmup_steps", None, "Steps of linear warm-up.", lower_bound=0)
    flags.DEFINE_float("weight_decay", None, "Decoupled weight decay of matrices.", lower_bound=0.0)
    flags.DEFINE_float("clip_norm", None, "Largest global norm of the gradient; 0 for no limit.", lower_bound=0.0)
    flags.DEFINE_float("label_smoothing", None, "Mass spread over the vocabulary.", lower_bound=0.0, upper_bound=0.999)
    flags.DEFINE_float("z_loss", None, "Weight of the squared log-normaliser.", lower_bound=0.0)
    flags.DEFINE_bool("separate_documents", None, "Attention and state do not cross documents.")
    flags.DEFINE_enum("strategy", None, STRATEGIES, "Which devices compute; auto takes the best that are there.")
    flags.DEFINE_integer("num_workers", 1, "Processes on this host that train together, without TF_CONFIG.", lower_bound=1)
    flags.DEFINE_integer(
        "grad_accumulation", None, "Micro-batches that a step is taken in, so that less memory does.", lower_bound=1
    )
    flags.DEFINE_enum("precision", None, ("float32", "bfloat16", "float16"), "Of the computation; weights stay float32.")
    flags.DEFINE_enum("xla", None, ("auto", "on", "off", "require"), "Whether the step is compiled by XLA.")
    flags.DEFINE_integer("seed", None, "Of weights, dropout and the order of the data.", 0, 2**63 - 1)
    flags.DEFINE_string("init_from", None, "A bundle or a run that this one begins with: all of it, or rows of word vectors.")
    flags.DEFINE_string("model_dir", None, "Where the run is written. [runs/<model>/<timestamp>]")
    flags.DEFINE_enum("resume", "auto", ("auto", "never"), "Go on with the run in --model_dir, or insist on a new one.")
    flags.DEFINE_integer("eval_every", None, "Steps between evaluations. [a sixth of the steps]", lower_bound=1)
    flags.DEFINE_integer(
        "eval_tokens", None, "Tokens of a split that an evaluation reads. [all where that takes little time]",
        lower_bound=1,
    )  # fmt: skip
    flags.DEFINE_integer("checkpoint_every", None, "Steps between checkpoints. [a sixth of the steps]", lower_bound=1)
    flags.DEFINE_bool("export", True, "Write the SavedModel at the end.")
    flags.DEFINE_string("profile", None, "first:last of the steps that TensorBoard gets a trace of.")
    flags.DEFINE_enum("completion", None, ("bash", "zsh"), "Print what makes this shell complete flags and names, and stop.")
    flags.DEFINE_bool("dry_run", False, "Print the resolved run and what it will cost, and stop before step 0.")


def _define_model_dir():
    flags.DEFINE_string("model_dir", None, "The run, or the bundle, to work on; such as runs/gpt/latest.")


def model_dir():
    """The bundle that --model_dir names. Raises ValueError in a sentence."""
    from zoo.bundle import find

    if FLAGS.model_dir is None:
        raise Refusal("--model_dir is missing; give the directory of a run, such as runs/gpt/latest.")
    return find(FLAGS.model_dir)


def define_evaluation():
    """Flags of `trainers.evaluate`."""
    _define_model_dir()
    flags.DEFINE_string("dataset", None, "What to judge the model on. [what it was trained on]")
    flags.DEFINE_string("data_path", None, "Your text: a file, a glob, or train=...,validation=...,test=....")
    flags.DEFINE_list("split", ["validation", "test"], "Splits to judge it on.")
    flags.DEFINE_integer("seq_length", None, "Tokens in a window. [as in training]", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "Windows at a time. [as in training]", lower_bound=1)
    flags.DEFINE_bool("calibration", False, "Measure the calibration of next tokens; that of classes is always measured.")
    flags.DEFINE_bool("calibrate", False, "Fit a temperature on the validation split, and keep it in the bundle.")
    flags.DEFINE_string("predictions", None, "File for predicted tags or roles beside those of the one --split, in columns.")
    flags.DEFINE_bool("memorisation", False, "Measure what a language model knows of its training text by heart.")
    flags.DEFINE_integer("shots", None, "Classify by likelihood after so many examples of the train split.", lower_bound=0)
    flags.DEFINE_string("pattern", "{text}\\nLabel: {label}", "How --shots writes an example; \\n is a line's end.")
    flags.DEFINE_list("label_words", [], "What --shots writes for labels: label=word, separated by commas. [the labels]")
    flags.DEFINE_integer("shot_seeds", 5, "Draws of the examples that --shots shows.", lower_bound=1)
    flags.DEFINE_bool("by_group", False, "Scores of a classifier for each value of the examples' field group, besides.")
    flags.DEFINE_string("weat", None, "File of JSON lines with word lists X, Y, A, B: how near X and Y lie to A and B.")
    flags.DEFINE_string("swaps", None, "File of one TAB other TAB trait: what the answers do when these words change places.")
    flags.DEFINE_string("against", None, "Another run of the same task: the difference, by paired bootstrap.")
    flags.DEFINE_string(
        "pairs", None, "File of more TAB less TAB trait, CrowS-Pairs or Winogender: which sentence is likelier."
    )


def define_harness():
    """Flags of `trainers.harness`."""
    _define_model_dir()
    flags.DEFINE_string("export_dir", None, "Ask the newest SavedModel there instead, through its signatures.")
    flags.DEFINE_list("tasks", [], "Tasks of lm_eval, separated by commas.")
    flags.DEFINE_string("include_path", None, "Directory with tasks of your own, as YAML.")
    flags.DEFINE_integer("num_fewshot", None, "Examples that are shown before each question. [as the task says]", lower_bound=0)
    flags.DEFINE_integer("limit", None, "Questions of each task. [all]", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "Rows at a time. [16]", lower_bound=1)
    flags.DEFINE_integer("bootstrap", 1_000, "Draws for the standard error of scores that have no formula.", lower_bound=0)


def define_doctor():
    """Flags of `trainers.doctor`."""
    flags.DEFINE_bool("measure", True, "Measure the speed of products and of memory, which takes a few seconds.")


def define_export():
    """Flags of `trainers.export`."""
    _define_model_dir()
    flags.DEFINE_string("export_dir", None, "Parent of the version to be written. [export/ beside the bundle]")
    flags.DEFINE_integer("version", None, "Its number, above all that are there. [the next one]", lower_bound=1)
    flags.DEFINE_enum("export_precision", "float32", ("float32", "bfloat16", "int8"), "Of the stored weights.")
    flags.DEFINE_multi_string(
        "set", [], "draft=ngram:4, or draft=ngram:RUN of an n-gram model, guesses tokens ahead: the same text sooner."
    )
    flags.DEFINE_bool("export_xla", False, "Besides, in export_xla/, a version for servers that were started with XLA.")
    flags.DEFINE_enum("export_format", "saved_model", ("saved_model", "litert", "onnx", "ctranslate2"), "Kind of file.")
    flags.DEFINE_bool("verify", False, "Write nothing; prove the newest version in --export_dir once more, in every way.")


def _define_text():
    flags.DEFINE_string("text", None, "The text that is asked about.")


def given_text():
    """The text of --text. Raises Refusal where it is missing."""
    if FLAGS.text is None:
        raise Refusal("--text is missing; give the text that is asked about.")
    return FLAGS.text


def define_trace():
    """Flags of `trainers.trace`."""
    _define_model_dir()
    _define_text()
    flags.DEFINE_integer("passages", 10, "Most passages to show, longest first.", lower_bound=0)
    flags.DEFINE_integer("documents", 3, "Most places to show of each passage.", lower_bound=0)
    flags.DEFINE_integer("order", None, "Count each n-gram of this order besides.", lower_bound=1)
    flags.DEFINE_enum("format", "terminal", ("terminal", "json"), "What is printed.")


def define_forgetting():
    """Flags of `trainers.forget`."""
    _define_model_dir()
    flags.DEFINE_list("documents", [], "Numbers of documents as trainers.trace tells them, separated by commas.")
    flags.DEFINE_string("to", None, "Directory of the bundle that is made.")


def define_explanation():
    """Flags of `trainers.explain`."""
    _define_model_dir()
    _define_text()
    flags.DEFINE_enum("method", METHODS[0], METHODS, "How a token is given its score, or what is shown of each layer.")
    flags.DEFINE_string("target", None, "The class, or what goes on or is written of a source. [the likeliest]")
    flags.DEFINE_string("contrast", None, "Another one: why the target and not that.")
    flags.DEFINE_integer("word", None, "Number of the word whose tag or role is explained, from 0.", lower_bound=0)
    flags.DEFINE_integer("predicate", None, "Number of the predicate that the word has a role in.", lower_bound=0)
    flags.DEFINE_enum("format", "terminal", ("terminal", "json", "html"), "What is printed.")


def define_generation():
    """Flags of `trainers.generate`."""
    _define_model_dir()
    flags.DEFINE_string("export_dir", None, "Use the newest SavedModel there instead, as a server would.")
    flags.DEFINE_string("prompt", None, "Text to go on with. Without --prompt and --prompt_file you are asked for it.")
    flags.DEFINE_string("prompt_file", None, "File with a prompt a line; one JSON object a prompt is printed.")
    flags.DEFINE_bool("chat", False, "Answer as in a conversation, by the chat frame that came with the model.")
    flags.DEFINE_integer("max_new_tokens", 128, "Most tokens to add.", lower_bound=1)
    flags.DEFINE_float("temperature", 0.8, "0 takes the likeliest token, as in translation; higher varies.", lower_bound=0.0)
    flags.DEFINE_integer("top_k", 40, "Sample among this many likeliest tokens; 0 for all.", lower_bound=0)
    flags.DEFINE_float("top_p", 1.0, "Sample among those with this much probability.", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_integer("seed", 0, "The same seed gives the same text.", lower_bound=-(2**63), upper_bound=2**63 - 1)
    flags.DEFINE_string("stop", None, "The text ends before this string; $'\\n' is a line's end in bash.")
    flags.DEFINE_float(
        "min_p", 0.0, "Sample among those with this share of the largest probability.", lower_bound=0.0, upper_bound=1.0
    )
    flags.DEFINE_float("repetition_penalty", 1.0, "Above 1 makes tokens that are there already less likely.", lower_bound=0.0)
    flags.DEFINE_integer("no_repeat_ngram", 0, "No n-gram of so many tokens comes twice; 0 for any.", lower_bound=0)
    flags.DEFINE_integer("min_new_tokens", 0, "Of another text, such as a translation: its least tokens.", lower_bound=0)
    flags.DEFINE_string("target_prefix", "", "Of another text: what it begins with.")
    flags.DEFINE_float("coverage_penalty", 0.0, "Of a search for another text: beta of Wu et al. 2016.", lower_bound=0.0)
    flags.DEFINE_string("draft", "none", "ngram:4, or ngram:RUN of an n-gram, guesses tokens ahead: the same text sooner.")
    flags.DEFINE_integer("num_beams", None, "Search the likeliest text with so many beams, instead of sampling.", lower_bound=1)
    flags.DEFINE_float("length_penalty", 0.6, "Of the search: 0 compares plain probabilities.", lower_bound=0.0)
    flags.DEFINE_enum(
        "beam_rule", "wu", ["wu", "transformers", "ctranslate2"], "How the search compares texts, and when it ends."
    )
    flags.DEFINE_bool("trace", False, "Show which passages of each text of --prompt_file stand in the training text.")
    flags.DEFINE_integer("num_best", 1, "Print so many of the texts that the search finds, best first.", lower_bound=1)


def define_playground():
    """Flags of `trainers.playground`."""
    flags.DEFINE_multi_string("export_dir", [], "Directory of the versions of an export; once for each model.")
    flags.DEFINE_multi_string("name", [], "What the model is served as; once for each. [the family's]")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
    flags.DEFINE_integer("port", 8501, "Port to listen on; 0 takes a free one.", lower_bound=0, upper_bound=65_535)
    flags.DEFINE_integer("grpc_port", None, "Port of gRPC besides; 0 takes a free one.", lower_bound=0, upper_bound=65_535)
    flags.DEFINE_string("server", None, "URL of a TF Serving to show the page for, such as http://localhost:8501; with --name.")
    flags.DEFINE_float("max_request_mb", 64.0, "A larger request is refused.", lower_bound=0.001)


def define_conversion():
    """Flags of `trainers.convert`."""
    flags.DEFINE_string(
        "from", None, "A Hugging Face directory, a GGUF or ARPA file, a KerasHub preset (or keras_hub:NAME), Google's BERT, "
        "word vectors (.txt, .vec, .bin), a bundle, a run.",
    )  # fmt: skip
    flags.DEFINE_string(
        "to", None, "What to make: a bundle; of a bundle, a Hugging Face directory, or a .arpa, .txt, .glove.txt, .vec or .bin."
    )  # fmt: skip
    flags.DEFINE_integer("static", None, "Of an encoder's bundle: make a bundle of its tokens' vectors, so many numbers each.")
    flags.DEFINE_string("peer_python", None, "An interpreter with torch and transformers, to compare with. [this one's]")


def define_phrases():
    """Flags of `trainers.phrases`."""
    flags.DEFINE_string("from", None, "The text, a sentence a line; .gz is decompressed.")
    flags.DEFINE_string("to", None, "The file to write.")
    flags.DEFINE_integer("passes", 1, "How often phrases are joined: each time they may be twice as long.", lower_bound=1)
    flags.DEFINE_integer(
        "min_count", 5, "Rarer words are in no phrase, and so much is taken from every pair's count.", lower_bound=1
    )
    flags.DEFINE_float("threshold", 100.0, "A phrase has a score above this.", lower_bound=0.0)
    flags.DEFINE_bool("lowercase", False, "Write all words in lower case.")
    flags.DEFINE_bool("punctuation", True, "Keep it; otherwise what is not a letter, mark, digit or _ separates words.")


def define_report():
    """Flags of `trainers.report`."""
    flags.DEFINE_multi_string("model_dir", None, "A run to report on; given several times, the runs are compared.")
    flags.DEFINE_bool("samples", True, "Load the model and show what it answers, which takes some seconds.")


def train_config():
    """The TrainConfig and the model's config that the parsed flags ask for. Raises ValueError in a sentence."""
    if FLAGS.model is None:
        raise Refusal(f"--model is missing; {nearest('', MODELS.names())}")
    config_class = MODELS.config(FLAGS.model)
    preset = FLAGS.preset or DEFAULTS["preset"]
    resolved = {**DEFAULTS, "task": config_class.default_task, **config_class.recipe_for(preset)}
    if FLAGS.task not in (None, config_class.default_task):
        # The family's own is for its first task, and so is what it sets.
        resolved = {**resolved, "set": (), **TASKS.config(FLAGS.task).recipe, **config_class.task_recipes.get(FLAGS.task, {})}
    model_config = config_class.preset(preset)
    if FLAGS.init_from and os.path.exists(FLAGS.init_from) and os.path.islink(FLAGS.init_from.rstrip("/")):
        FLAGS.init_from = os.path.realpath(FLAGS.init_from)  # such as `latest`, which this run is going to be
    width = initial.width_of_rows(FLAGS.init_from, FLAGS.model) if FLAGS.init_from else None
    takes_over = FLAGS.init_from and width is None
    if takes_over:
        model_config = _begun_from(resolved)
        resolved.update(FINE_TUNING if config_class.contextual else {})  # a table of vectors learns at its own rate
    elif width is not None and "embedding_dim" in config_class.field_names():
        model_config = model_config.replace(embedding_dim=width)
    if FLAGS.data_path:
        resolved["dataset"] = "local_text"
    if FLAGS.tokenizer not in (None, resolved["tokenizer"]) and not takes_over:
        resolved["vocab_size"] = None  # the recipe's size is for the recipe's tokenizer
        kept = [each for each in resolved.get("set", ()) if each.partition("=")[0] not in TOKENIZER_SETTINGS]
        resolved["set"] = tuple(kept)
    settings = (*resolved.pop("set", ()), *FLAGS.set)  # what is said last counts
    for field in dataclasses.fields(TrainConfig):
        given = FLAGS[field.name].value
        if isinstance(given, float) and not math.isfinite(given):
            raise Refusal(f"--{field.name} must be a finite number, got {given}.")
        if given is not None:
            resolved[field.name] = given
    if FLAGS.epochs is not None:
        if FLAGS.steps is not None:
            raise Refusal("--steps and --epochs both say how long to train; give one of the two.")
        if model_config.fitted:
            raise Refusal(f"{FLAGS.model} is fitted in one pass over its text; leave out --epochs.")
        resolved["steps"] = None
    profiled_steps()
    resolved = {**dict.fromkeys(field.name for field in dataclasses.fields(TrainConfig)), **resolved}
    config = TrainConfig(**{**resolved, "model": FLAGS.model, "preset": preset, "set": settings})
    _check_names(config, config_class)
    model_config = model_config.override(_set_for(config_class, config))
    config = _without_noam(config, model_config)
    config = length.settled(config, tuning_config(config).average)  # which refuses a wrong value, as the task's config does
    budget = getattr(task_config(config), "batch_tokens", 0)
    if budget:
        if FLAGS.batch_size is not None:
            raise Refusal("--batch_size counts rows, and --set=batch_tokens= tokens; give one of the two.")
        config = dataclasses.replace(config, batch_size=max(budget // config.seq_length, 1))  # rows of the longest texts
    privacy_config(config)
    return config, _fitted_to_sequence(model_config, config)


def _without_noam(config, model_config):
    """A run whose schedule has a peak: noam is `inverse_sqrt` with the peak (D warmup_steps)^-0.5 (Vaswani et al. 2017, eq. 3).

    --learning_rate multiplies it, where it is given; the recipe's own belongs to another schedule.
    """
    if config.schedule != "noam":
        return config
    width = getattr(model_config, "hidden_dim", None)
    if not width or not config.warmup_steps:
        raise Refusal("--schedule=noam goes by --warmup_steps of at least 1 and by a model's hidden_dim; give inverse_sqrt.")
    factor = 1.0 if FLAGS.learning_rate is None else FLAGS.learning_rate
    peak = factor * (width * config.warmup_steps) ** -0.5
    return dataclasses.replace(config, schedule="inverse_sqrt", learning_rate=peak)


def _begun_from(resolved):
    """The model's config in --init_from; its tokenizer goes into `resolved`, and the sequence length if the recipe's is too
    long."""
    for name in ("preset", "tokenizer", "vocab_size"):
        if FLAGS[name].value is not None:
            raise Refusal(f"--{name} cannot be chosen with --init_from: structure and vocabulary are those of the bundle.")
    model_config, resolved["tokenizer"] = initial.described(FLAGS.init_from, FLAGS.model)
    resolved["vocab_size"] = None
    longest = getattr(model_config, "max_length", None)
    if longest is not None:
        resolved["seq_length"] = min(resolved["seq_length"], longest)
    return model_config


def task_config(config):
    """The task's own config: its defaults with those fields of --set that are not the model's."""
    task_class = TASKS.config(config.task)
    return task_class().override(_set_for(task_class, config))


def tuning_config(config):
    """The `TuningConfig` of a run: its defaults with those fields of --set that are neither the model's nor the task's."""
    return TuningConfig().override(_set_for(TuningConfig, config))


def privacy_config(config):
    """The `PrivacyConfig` of a run, likewise."""
    return PrivacyConfig().override(_set_for(PrivacyConfig, config))


def _set_for(config_class, config):
    """The assignments of --set that are for one of the four configs: each is for the first that has such a field.

    Raises:
        ValueError: no config has it.
    """
    classes = (MODELS.config(config.model), TASKS.config(config.task), TuningConfig, PrivacyConfig)
    fields = [{field.name for field in dataclasses.fields(each)} for each in classes]
    mine = []
    for assignment in config.set:
        name = assignment.partition("=")[0]
        owner = next((each for each, names in zip(classes, fields, strict=True) if name in names), None)
        if owner is None and "=" in assignment:
            raise Refusal(f"{classes[0].__name__} has no field {name!r}; {nearest(name, set().union(*fields))}")
        if (owner or classes[0]) is config_class:
            mine.append(assignment)
    return mine


def profiled_steps():
    """(first, last) of --profile, or None. Raises ValueError when it is not a range."""
    if FLAGS.profile is None:
        return None
    first, _, last = FLAGS.profile.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise Refusal(f"--profile takes two steps such as 10:20, got {FLAGS.profile!r}.")
    return int(first), int(last)


def _check_names(config, config_class):
    import tfds_configs
    from trainers.prepare import check_tokenizer

    TASKS.check(config.task)
    tasks = [task for task in tasks_of(config_class) if TASKS.config(task).trains]
    if config.task not in tasks:
        raise Refusal(f"{config.model} is not trained on {config.task}; {nearest(config.task, tasks)}")
    least = TASKS.config(config.task).least_seq_length
    if config.seq_length < least:
        raise Refusal(f"--seq_length={config.seq_length} is too short for {config.task}: a row has at least {least} tokens.")
    tfds_configs.check(config.dataset, config.data_path)
    check_tokenizer(config.tokenizer)


def _fitted_to_sequence(model_config, config):
    """A model with learned positions must be at least as long as the training sequences."""
    length = getattr(model_config, "max_length", None)
    if length is None or length >= config.seq_length:
        return model_config
    if config.init_from and initial.width_of_rows(config.init_from, config.model) is None:
        raise Refusal(f"--seq_length={config.seq_length} is more than the {length} positions of --init_from.")
    if any(assignment.startswith("max_length=") for assignment in config.set):
        raise Refusal(f"--seq_length={config.seq_length} does not fit max_length={length}; set them alike.")
    return model_config.replace(max_length=config.seq_length)
