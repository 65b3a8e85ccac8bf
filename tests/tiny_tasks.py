"""Every task that reads examples, on every model that serves it, at preset `tiny`: what replicas and goldens are about."""

import keras

from trainers.engine import tuning
from zoo.data.batch import Layout
from zoo.registry import MODELS, TASKS, tasks_of
from zoo.tokenizers.base import create as create_tokenizer

CONTEXT = "abs: the value. len: a number of items. max: the largest of all items."
EXAMPLES = {
    "classification": [{"text": text, "label": label} for text, label in (
        ("good", "yes"), ("bad thing", "no"), ("so so", "perhaps"), ("fine", "yes"), ("very good", "yes"), ("no thing", "no"),
        ("not a bad thing", "perhaps"),
    )],
    "tagging": [{"tokens": tokens.split(), "tags": tags.split()} for tokens, tags in (
        ("the cat sat", "D N V"), ("cats sit", "N V"), ("the mat sat on the cat", "D N V P D N"), ("sit", "V"),
    )],
    "semantic_roles": [
        {"tokens": tokens.split(), "predicates": list(columns), "tags": [tags.split() for tags in columns.values()]}
        for tokens, columns in (
            ("the cat sat", {2: "B-A0 I-A0 B-V"}), ("cats", {}),
            ("the cat saw cats sit", {2: "B-A0 I-A0 B-V B-A1 I-A1", 4: "O O O B-A0 B-V"}),
        )
    ],
    **dict.fromkeys(("translation", "summarization"), [
        {"source": source, "target": target} for source, target in (
            ("the cat sat", "le chat"), ("a dog", "un chien"), ("the mat", "le tapis"), ("cats sit on the mat", "les chats"),
        )
    ]),
    "question_answering": [
        {"question": f"what is {word}?", "context": CONTEXT, "answers": [answer], "answer_starts": [CONTEXT.index(answer)]}
        for word, answer in (("abs", "the value"), ("len", "number"), ("max", "largest of all"))
    ],
}  # fmt: skip
# Tags of spans, for the conditional random field.
SPANS = [{"tokens": tokens.split(), "tags": tags.split()} for tokens, tags in (
    ("the cat sat", "B-A I-A O"), ("cats sit", "B-A O"), ("the mat sat on the cat", "B-M I-M O O B-A I-A"), ("sit", "O"),
)]  # fmt: skip
FIELDS = {
    "classification": dict(balance=True, head_dropout=0.0), "tagging": dict(head_dropout=0.0),
    "semantic_roles": dict(head_dropout=0.0),
    "question_answering": dict(head_dropout=0.0, max_question=6, stride=4), "translation": {}, "summarization": {},
}  # fmt: skip
LAYOUT = Layout(seq_length=24, batch_size=5)
# Two ways of training a part of a model; see trainers/engine/tuning.py.
TUNED = {
    "lora": tuning.TuningConfig(lora_rank=2, lora_alpha=2.0, layer_decay=0.5),
    "frozen": tuning.TuningConfig(freeze="1", layer_decay=0.5, l1=0.01),
}  # fmt: skip
# Classification by filling a pattern, with words that the vocabulary has.
PATTERN = dict(pattern="{text} is {label}.", verbalizers="no=bad thing,perhaps=so,yes=good")
# Ways of a task: what else is asked of it.
WAYS = {"pattern": PATTERN, "crf": dict(crf=True, constraints="training")}


def cases():
    """`model:task` of each pair, and `model:task:way` of what is trained in part, by a pattern, or with a random field."""
    pairs = [f"{name}:{task}" for name in MODELS.names() for task in tasks_of(MODELS.config(name)) if task in EXAMPLES]
    return [*pairs, *(f"gpt:classification:{way}" for way in TUNED), "glm:classification:pattern", "bilstm:tagging:crf"]


def encoded(case):
    """(task, tokenizer, data) of a case."""
    _, task_name, way = [*case.split(":"), ""][:3]
    examples, task_class = SPANS if way == "crf" else EXAMPLES[task_name], TASKS.get(task_name)
    task = task_class(task_class.config_class(**FIELDS[task_name], **WAYS.get(way, {})))
    task.inspect(examples)
    tokenizer = create_tokenizer("wordpiece", [text for example in examples for text in task.texts(example)] * 3, 90)
    return task, tokenizer, task.encode(examples, tokenizer, LAYOUT)


def create(case):
    """(task, model, batches, `TuningConfig`) of a case, seeded. Call it where the model's variables are to live."""
    name, _, way = [*case.split(":"), ""][:3]
    keras.utils.set_random_seed(7)
    task, tokenizer, data = encoded(case)
    of_blanks = TASKS.get("blank_infilling")().model_fields(tokenizer) if way == "pattern" else {}
    fields = {**task.model_fields(tokenizer), **of_blanks, "dropout": 0.0, "max_length": LAYOUT.seq_length}
    config = MODELS.config(name).preset("tiny")
    model = task.assemble(MODELS.get(name)(config.replace(**{k: v for k, v in fields.items() if k in config.field_names()})))
    model.build_from_ids()
    settings = TUNED.get(way, tuning.TuningConfig())
    tuning.begin(model, settings)
    return task, model, task.training_batches(data, model, tokenizer, LAYOUT), settings
