"""Models that transformers makes itself, read here: python -m benchmarks.decoders [--peer_python=PYTHON] [STRUCTURE ...]

For each structure the peer makes a tiny model with random weights from a config of its own, writes it with `save_pretrained`,
and computes logits of two rows and a greedy continuation of eight tokens. Here the directory is read, and the same is computed,
the continuation step by step from a cache. One JSON object a structure: the largest difference of logits, whether the tokens
are the same, and whether the directory that is written from the bundle holds the tensors that were read. Of an encoder, which
writes no text, logits of its masked language model are compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZE = dict(
    vocab_size=270, hidden_size=24, num_hidden_layers=3, num_attention_heads=6, intermediate_size=40, max_position_embeddings=64
)
GROUPED = dict(SIZE, num_key_value_heads=2)
PLAIN = {name: value for name, value in SIZE.items() if name != "intermediate_size"}
FALCON = dict(PLAIN, ffn_hidden_size=40)
# name -> (model_type, fields of its config)
STRUCTURES = {
    "qwen2": ("qwen2", GROUPED),
    "qwen2, windows": ("qwen2", dict(GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": ("qwen3", dict(GROUPED, head_dim=10)),
    "mistral": ("mistral", dict(GROUPED, sliding_window=5)),
    "phi3": (
        "phi3",
        dict(GROUPED, rope_parameters={"rope_theta": 100.0, "rope_type": "default", "partial_rotary_factor": 0.5}),
    ),
    "olmo2": ("olmo2", dict(GROUPED, rms_norm_eps=1e-6)),
    "gpt_neox": ("gpt_neox", dict(SIZE, rotary_pct=0.5)),
    "gpt_neox, one after the other": ("gpt_neox", dict(SIZE, use_parallel_residual=False, rotary_pct=1.0)),
    "opt": ("opt", dict(PLAIN, ffn_dim=40, word_embed_proj_dim=24)),
    "stablelm": (
        "stablelm",
        dict(GROUPED, use_qkv_bias=True, rope_parameters={"rope_theta": 500.0, "partial_rotary_factor": 0.5}),
    ),
    "stablelm, parallel": ("stablelm", dict(GROUPED, use_parallel_residual=True, partial_rotary_factor=0.5)),
    "smollm3": ("smollm3", dict(GROUPED, no_rope_layer_interval=2)),
    "gemma": ("gemma", dict(GROUPED, head_dim=8)),
    "gemma2": ("gemma2", dict(GROUPED, head_dim=8, sliding_window=5, query_pre_attn_scalar=10)),
    "gemma3_text": ("gemma3_text", dict(GROUPED, head_dim=8, sliding_window=5, sliding_window_pattern=2)),
    "bloom": ("bloom", dict(vocab_size=270, hidden_size=24, n_layer=3, n_head=6)),
    "falcon": ("falcon", FALCON),
    "falcon, new": ("falcon", dict(FALCON, new_decoder_architecture=True, num_kv_heads=2)),
    "falcon, one after the other": ("falcon", dict(FALCON, parallel_attn=False, multi_query=False)),
}
# A masked language model needs the special tokens of an encoder, five more than `_compared` trains.
STRUCTURES |= {
    "modernbert": (
        "modernbert",
        dict(SIZE, vocab_size=275, num_hidden_layers=5, local_attention=8, cls_token_id=0, sep_token_id=0),
    )
}
ENCODERS, NEW_TOKENS = ("modernbert",), 8


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoders", description=__doc__.splitlines()[0])
    parser.add_argument("structures", nargs="*", metavar="STRUCTURE", help="names of some of them; all by default")
    parser.add_argument("--peer_python", default=sys.executable, help="an interpreter with torch and transformers")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return _make(Path(args.worker), args.structures)
    names = args.structures or list(STRUCTURES)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([args.peer_python, "-I", __file__, f"--worker={directory}", *names], check=True)
        for name in names:
            print(json.dumps({"structure": name, **_compared(Path(directory) / name)}), flush=True)


def _make(directory, names):
    """In the peer's process: writes each model, and beside it rows of ids, logits and continuations."""
    import torch
    import transformers

    for name in names:
        model_type, fields = STRUCTURES[name]
        torch.manual_seed(3)
        # No end, so that greedy texts are all of one length.
        config = transformers.AutoConfig.for_model(model_type, **fields, bos_token_id=0, eos_token_id=None, pad_token_id=None)
        encodes = model_type in ENCODERS
        kind = transformers.AutoModelForMaskedLM if encodes else transformers.AutoModelForCausalLM
        model = kind.from_config(config, attn_implementation="eager").eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        ids = torch.randint(1, 270, (2, 19))
        with torch.no_grad():
            logits = model(ids).logits.numpy()
            written = ids if encodes else model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        model.save_pretrained(directory / name)
        written = written.numpy()[:, ids.shape[1] :]
        np.savez(directory / f"{name}.npz", ids=ids.numpy(), logits=logits, written=written)


def _compared(directory):
    from safetensors.numpy import load_file

    from zoo.convert import huggingface
    from zoo.tokenizers.base import create

    expected = np.load(directory.with_name(f"{directory.name}.npz"))
    encodes = json.loads((directory / "config.json").read_text())["model_type"] in ENCODERS
    tokenizer = create("bpe", ["the cat sat on the mat ."] * 2, 270)
    tokenizer.save_huggingface(directory)
    if encodes:
        _add_marks(directory)
    bundle = huggingface.read(directory)
    model, ids = bundle.model, expected["ids"].astype(np.int32)
    difference = float(np.abs(np.asarray(model(ids)) - expected["logits"]).max())
    written, piece = [ids[:, :0]], ids
    state = None if encodes else model.init_state(len(ids), ids.shape[1] + NEW_TOKENS)
    for _ in range(0 if encodes else NEW_TOKENS):
        logits, state = model(piece, state=state)
        piece = np.asarray(logits)[:, -1:].argmax(-1).astype(np.int32)
        written.append(piece)
    back = load_file(huggingface.write(bundle, directory.with_name(f"{directory.name} back")) / "model.safetensors")
    theirs = load_file(directory / "model.safetensors")
    return {
        "difference": difference, "largest": float(np.abs(expected["logits"]).max()),
        "same_tokens": bool((np.concatenate(written, 1) == expected["written"]).all()),
        "same_tensors": back.keys() == theirs.keys() and all(np.allclose(back[k], theirs[k], atol=1e-6) for k in theirs),
    }  # fmt: skip


def _add_marks(directory):
    """Gives a tokenizer.json the special tokens of an encoder, and what stands around its texts."""
    from tokenizers import Tokenizer, processors

    path = directory / "tokenizer.json"
    native, marks = Tokenizer.from_file(str(path)), {role: f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
    native.add_special_tokens(list(marks.values()))
    ends = [(marks[role], native.token_to_id(marks[role])) for role in ("cls", "sep")]
    native.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    native.save(str(path))
    named = {f"{role}_token": token for role, token in marks.items()}
    (directory / "tokenizer_config.json").write_text(json.dumps(named))


if __name__ == "__main__":
    main()
