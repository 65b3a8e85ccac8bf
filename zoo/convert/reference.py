"""What the `transformers` library computes from the same files: the other side of a parity certificate.

This file imports nothing of ours and is also a program, so that any interpreter which has torch and transformers can run it:

    python zoo/convert/reference.py request.json answer.npz

The request names a directory (or a GGUF file), texts, and rows of ids; the answer holds the peer's ids of the texts and its float32
logits, or hidden states for a model without a head, of the rows.
"""

import json
import sys
from pathlib import Path

import numpy as np


def answer(request):
    """The peer's ids and outputs as a dict of numpy arrays, and its versions under `versions`."""
    import torch
    import transformers

    path = Path(request["path"])
    where = dict(pretrained_model_name_or_path=str(path))
    if path.is_file():
        where = dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
    classes = {
        "language_modeling": transformers.AutoModelForCausalLM,
        "masked_lm": transformers.AutoModelForMaskedLM,
        "embed": transformers.AutoModel,
    }
    if path.is_file():
        model = _of_gguf(transformers, path)
    else:
        peer_class = classes[request["task"]]
        model = peer_class.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    results = {}
    for i, ids in enumerate(request["rows"]):
        with torch.no_grad():
            outputs = model(torch.tensor([ids]))
        result = outputs.last_hidden_state if request["task"] == "embed" else outputs.logits
        results[f"outputs_{i}"] = result[0].float().numpy()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        for i, text in enumerate(request["texts"]):
            results[f"ids_{i}"] = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    except (ValueError, OSError, ImportError) as error:
        results["tokenizer_error"] = np.array(str(error).splitlines()[0])
    results["versions"] = np.array(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__}))
    return results


def _of_gguf(transformers, path):
    """The library's own reading of a GGUF file; its `from_pretrained` would want another package for it."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.for_model(**load_gguf_checkpoint(str(path), return_tensors=False)["config"])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    left = model.load_state_dict(tensors, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if set(left.missing_keys) - tied or left.unexpected_keys:
        raise ValueError(f"transformers reads {path} in part only: {left}.")
    return model.float().eval()


def main(request, target):
    """Reads a request file and writes the answer's."""
    with open(request, encoding="utf8") as file:
        results = answer(json.load(file))
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
