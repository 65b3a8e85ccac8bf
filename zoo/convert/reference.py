"""What another library computes from the same files: the other side of a parity certificate.

This file imports nothing from the zoo and is also a program, so that any interpreter which has torch and transformers, or
keras_nlp for KerasHub's presets, can run it:

    python zoo/convert/reference.py request.json answer.npz

The request names the library, a directory (or a GGUF file), texts, and rows of ids; the answer holds the peer's ids of the
texts (alone, in a default call, in pairs, padded, with the mask token) and its float32 logits, or hidden states for a model
without a head, of the rows; or the reason why it cannot give them.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np


def answer(request):
    """The peer's ids and outputs as a dict of numpy arrays, its versions under `versions`, and why there are no outputs under
    `reason`."""
    peers = {"keras_hub": _keras_hub, "ctranslate2": _ctranslate2}
    return peers.get(request["library"], _transformers)(request)


def _transformers(request):
    import torch
    import transformers

    path = Path(request["path"])
    results = {"versions": np.array(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__}))}
    if request["old_tensorflow"] and int(transformers.__version__.split(".")[0]) >= 5:
        results["reason"] = np.array(f"transformers {transformers.__version__} reads no weights of TensorFlow; 4 did")
    else:
        try:
            model = _of_gguf(transformers, path) if path.is_file() else _of_directory(transformers, request, path)
        except ValueError as error:
            if not (path.is_file() and "not supported yet" in str(error)):
                raise
            return {**results, "reason": np.array(f"transformers {transformers.__version__} says: {error}")}
        start = request["target_start"]
        if request["task"] == "language_modeling" or start is not None:
            results.update(_written(model, request))
        for i, ids in enumerate(request["rows"]):
            with torch.no_grad():
                # A cache has as many layers there as the encoder.
                target = {} if start is None else {"decoder_input_ids": torch.tensor([[*start, *ids]]), "use_cache": False}
                outputs = model(torch.tensor([ids]), **target)
            result = outputs.last_hidden_state if request["task"] == "embedding" else outputs[0]
            results[f"outputs_{i}"] = result[0].float().numpy()
    where = dict(pretrained_model_name_or_path=str(path))
    if path.is_file():
        where = dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        results.update(_ids(tokenizer, request))
        if request["task"] == "embedding" and "reason" not in results and (path / "modules.json").is_file():
            results["vectors"] = _vectors(model, tokenizer, path, request["texts"])
    except (ValueError, OSError, ImportError) as error:
        results["tokenizer_error"] = np.array(str(error).splitlines()[0])
    return results


def _written(model, request):
    """Greedy continuations of the rows, and how far the likeliest token is above the second at each step."""
    import torch

    results, start = {}, request["target_start"]
    room = getattr(model.config, "max_position_embeddings", 10**6) - request["new_tokens"]
    plain = dict(
        do_sample=False, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, min_new_tokens=None, min_length=0
    )
    if start is not None:
        # A Marian's files ask for an end at the limit, and for no padding, which `suppress_tokens` sees to.
        plain |= {"decoder_start_token_id": start[0], "use_cache": False, "forced_eos_token_id": None, "bad_words_ids": None}
    # A table may have rows for a round number, which stand for nothing.
    num_ids = request["num_ids"] or model.config.vocab_size
    if num_ids < model.config.vocab_size:
        plain["suppress_tokens"] = list(range(num_ids, model.config.vocab_size))
    # Where a model comes with the ids that end its texts, it ends them at these.
    told = start is None and model.generation_config.eos_token_id is not None and Path(request["path"]).is_dir()
    ends = {} if told else {"eos_token_id": request["stop_ids"]}
    for i in request["prompts"]:
        ids = request["rows"][i]
        if len(ids) <= room:
            with torch.no_grad():
                made = model.generate(
                    torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    max_new_tokens=request["new_tokens"], **ends, pad_token_id=request["eos_id"],
                    output_logits=True, return_dict_in_generate=True, **plain,
                )  # fmt: skip
            if start is not None:
                results.update(_beams(model, request, i, plain))
            best = torch.stack([logits[0, :num_ids].float().topk(2).values for logits in made.logits])
            results[f"written_{i}"] = made.sequences[0, len(ids if start is None else start) :].numpy().astype(np.int32)
            results[f"gaps_{i}"] = (best[:, 0] - best[:, 1]).numpy()
    return results


def _beams(model, request, i, plain):
    """The best continuations of row i by the library's beam search with its own defaults, best first, and their scores."""
    import torch

    ids = torch.tensor([request["rows"][i]])
    with torch.no_grad():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), **{**plain, "num_beams": request["num_beams"]},
            num_return_sequences=request["num_beams"], max_new_tokens=request["new_tokens"], length_penalty=1.0,
            early_stopping=False, renormalize_logits=True, eos_token_id=request["eos_id"], pad_token_id=request["eos_id"],
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    written = made.sequences[:, len(request["target_start"]) :]
    return {f"beams_{i}": written.numpy().astype(np.int32), f"beam_scores_{i}": made.sequences_scores.float().numpy()}


def _vectors(model, tokenizer, path, texts):
    """What sentence-transformers makes of texts; by hand, from the settings in the directory, where it is not installed."""
    import torch

    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        return np.asarray(SentenceTransformer(str(path), device="cpu").encode(list(texts)), np.float32)
    kinds = [module["type"].rpartition(".")[2] for module in _json(path / "modules.json")]
    (pooling,) = (module["path"] for module in _json(path / "modules.json") if module["type"].endswith("Pooling"))
    settings, prompts = _json(path / pooling / "config.json"), _json(path / "config_sentence_transformers.json")
    limit = next((_json(file).get("max_seq_length") for file in path.glob("sentence_*_config.json")), None)
    # RoBERTa counts positions from behind the id of padding.
    positions = model.config.max_position_embeddings - (2 if "roberta" in model.config.model_type else 0)
    limit = min(limit or tokenizer.model_max_length, positions)
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name"), "")
    vectors = []
    for text in texts:
        inputs = tokenizer(prompt + text, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0].float()
        first = settings.get("pooling_mode_cls_token") or settings.get("pooling_mode") == "cls"
        vector = _dense(path, hidden[0] if first else hidden.mean(0))
        vectors.append((torch.nn.functional.normalize(vector, dim=0) if "Normalize" in kinds else vector).numpy())
    return np.stack(vectors)


def _dense(path, vector):
    """A Dense module behind the pooling, where the directory has one."""
    import torch
    from safetensors.numpy import load_file

    for module in _json(path / "modules.json"):
        if module["type"].endswith("Dense"):
            folder = path / module["path"]
            tensors, settings = load_file(folder / "model.safetensors"), _json(folder / "config.json")
            activation = getattr(torch.nn, settings["activation_function"].rpartition(".")[2])()
            bias = torch.from_numpy(tensors["linear.bias"]) if settings["bias"] else None
            vector = activation(torch.nn.functional.linear(vector, torch.from_numpy(tensors["linear.weight"]), bias)).detach()
    return vector


def _json(path):
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}


def _ids(tokenizer, request):
    """What a tokenizer makes of texts: alone, in a default call, in pairs, padded, and with the mask token in them."""

    def ids(*texts, **options):
        return np.array(tokenizer(*texts, **options)["input_ids"], np.int32)

    texts, results = request["texts"], {}
    for i, text in enumerate(texts):
        results[f"ids_{i}"] = ids(text, add_special_tokens=False)
        results[f"whole_{i}"] = ids(text)
        if request["target_start"] is not None:
            results[f"target_{i}"] = ids(text_target=text)
        if texts[i - 1]:  # an empty second text counts as none there
            results[f"pair_{i}"] = ids(text, texts[i - 1])
    if request["added"]:
        results["added"] = ids(request["added"], add_special_tokens=False)
    if tokenizer.pad_token is not None:
        tokenizer.padding_side = "right"
        results["padded"] = ids(texts, padding=True)
    if tokenizer.mask_token is not None:
        results["mask_id"] = np.array(tokenizer.mask_token_id)
    if tokenizer.chat_template:
        for i, messages in enumerate(request["conversations"]):
            spelt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            results[f"chat_{i}"] = ids(spelt, add_special_tokens=False)
    hole = tokenizer.mask_token if request["target_start"] is None else request["sentinel"]
    if hole is not None:
        for i, text in enumerate(request["holes"]):
            results[f"hole_{i}"] = ids(text.replace(request["hole"], hole))
    return results


def _of_directory(transformers, request, path):
    """A model of Hugging Face's files, or of TensorFlow's in the hands of transformers 4."""
    import torch

    classes = {
        "language_modeling": transformers.AutoModelForCausalLM,
        "masked_lm": transformers.AutoModelForMaskedLM,
        "embedding": transformers.AutoModel,
    }
    text_to_text = transformers.AutoModelForSeq2SeqLM
    old = int(transformers.__version__.split(".")[0]) < 5
    options = {"torch_dtype" if old else "dtype": torch.float32, "attn_implementation": "eager"}
    if request["old_tensorflow"]:
        options["from_tf"] = True
        if (path / "bert_config.json").is_file():
            options["config"] = transformers.BertConfig.from_json_file(path / "bert_config.json")
            (path,) = path.glob("*.ckpt*.index")
            # Its reader of these files wants both of their heads; the first output is the masked language model's.
            whole = transformers.BertForPreTraining.from_pretrained(path, **options).eval()
            return whole.bert if request["task"] == "embedding" else whole
    return classes.get(request["task"], text_to_text).from_pretrained(path, **options).eval()


def _keras_hub(request):
    import keras
    import keras_nlp

    path, models, task, start = request["path"], keras_nlp.models, request["task"], request["target_start"]
    head = models.MaskedLM.from_preset(path, preprocessor=None) if task == "masked_lm" else None
    head = head if start is None else models.Seq2SeqLM.from_preset(path, preprocessor=None)
    backbone = models.Backbone.from_preset(path) if head is None else head.backbone
    results = {"versions": np.array(json.dumps({"keras_hub": keras_nlp.__version__, "keras": keras.__version__}))}
    for i, ids in enumerate(request["rows"]):
        row = np.array([ids], np.int32)
        inputs = {"token_ids": row, "padding_mask": np.ones_like(row), "segment_ids": np.zeros_like(row)}
        inputs = {name: value for name, value in inputs.items() if name in backbone.input}
        if start is not None:
            target = np.array([[*start, *ids]], np.int32)
            outputs = head(
                {
                    "encoder_token_ids": row, "encoder_padding_mask": np.ones_like(row),
                    "decoder_token_ids": target, "decoder_padding_mask": np.ones_like(target),
                }
            )  # fmt: skip
        elif head is not None:
            outputs = head({**inputs, "mask_positions": np.arange(row.shape[1], dtype=np.int32)[None]})
        else:
            outputs = backbone(inputs)
            outputs = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
            outputs = backbone.token_embedding(outputs, reverse=True) if task == "language_modeling" else outputs
        results[f"outputs_{i}"] = np.asarray(outputs[0], np.float32)
    tokenizer = models.Tokenizer.from_preset(path)
    for i, text in enumerate(request["texts"]):
        results[f"ids_{i}"] = np.asarray(tokenizer(text), np.int32).reshape(-1)
    return results


def _ctranslate2(request):
    """Log-probabilities of given tokens, the end included; greedy texts and the sums of their log-probabilities; and those of a
    beam search with the library's own defaults, and their scores. All of them tokens, joined by line feeds."""
    import ctranslate2

    results = {"versions": np.array(json.dumps({"ctranslate2": ctranslate2.__version__}))}
    model = ctranslate2.Translator(request["path"], device="cpu", compute_type="float32", intra_threads=1)
    sources, targets, num_beams = request["source_tokens"], request["target_tokens"], request["num_beams"]
    for i, score in enumerate(model.score_batch(sources, targets)):
        results[f"log_probs_{i}"] = np.array(score.log_probs, np.float32)
    both = dict(max_decoding_length=request["new_tokens"], min_decoding_length=0, return_scores=True)
    searched = dict(beam_size=num_beams, num_hypotheses=num_beams, length_penalty=1)
    for name, options in (("greedy", dict(beam_size=1, length_penalty=0)), ("beams", searched)):
        for i, made in enumerate(model.translate_batch(sources, **both, **options)):
            results[f"{name}_{i}"] = np.array(["\n".join(tokens) for tokens in made.hypotheses])
            results[f"{name}_scores_{i}"] = np.array(made.scores, np.float32)
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
