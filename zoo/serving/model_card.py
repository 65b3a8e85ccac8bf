"""The card of an exported model: what it was made from, what it scored, and what it should not be used for."""

import json

from zoo.serving import measured
from zoo.version import __version__

LIMITS = """- It says what is likely in text like its training text. It does not know whether that is true.
- It may repeat what its training text holds, names and errors included.
- It was judged on what is named above, and on nothing else. A question that was not measured has no answer.
"""


def model_card(model, tokenizer, task, provenance=None):
    """Markdown.

    Args:
        model: a built model.
        tokenizer: its tokenizer.
        task: a task.
        provenance: JSON values of the bundle: dataset, licence, steps, scores by split. None: nothing is known.
    """
    known = provenance or {}
    structure = json.dumps(model.config.to_dict(), sort_keys=True)
    lines = [
        f"# {model.registered_name}",
        "",
        f"A {model.registered_name} model for {task.registered_name.replace('_', ' ')}, written by Language Model "
        f"Zoo {__version__}.",
        "",
        "## Model",
        "",
        f"- Parameters: {model.config.num_params():,}",
        f"- Longest text: {f'{model.max_length:,} tokens' if model.max_length else 'set by the server'}",
        f"- Tokenizer: {tokenizer.registered_name}, {tokenizer.vocab_size:,} ids",
        f"- Structure: `{structure}`",
        *([] if task.draft is None else [f"- Draft: {task.draft.described()}"]),
        "",
        "## Data",
        "",
        f"- Training text: {known.get('dataset', 'unknown: this bundle does not say')}",
        f"- Licence of the text: {known.get('licence') or 'unknown; find out before you publish the weights'}",
        "- Licence of the weights: yours to choose, as far as the licence of the text allows it",
        f"- Training steps: {known.get('steps', 'unknown')}",
        *_promise(known.get("privacy")),
        "",
        "## Figures",
        "",
    ]
    scores = known.get("scores") or {}
    for split, values in sorted(scores.items()):
        shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(values.items()) if isinstance(value, float))
        lines.append(f"- {split}: {shown}")
    if not scores:
        lines.append("- None were recorded.")
    asked = measured.sentences(task.registered_name, known)
    lines += ["", "## Privacy, fairness and calibration", "", *(f"- {sentence}" for sentence in asked)]
    return "\n".join([*lines, "", "## Limits", "", LIMITS])


def _promise(privacy):
    """What a private run promises of its training data, as lines."""
    if not privacy:
        return ["- Privacy: no promise; the weights may hold any part of the training text"]
    return [
        f"- Privacy: epsilon {privacy['epsilon']:.4g} at delta {privacy['delta']:.3g}, for {privacy['unit']} of the training "
        "text more or less"
    ]
