"""Greedy decoding at GPT-2's shape beside transformers and keras-hub, in one run.

    python -m benchmarks.decode                          124M parameters, a prompt of 16 tokens, 64 new ones, batch 1 and 8
    python -m benchmarks.decode --prompt_length=512 --new_tokens=1 --batch_sizes=1       prefill
    python -m benchmarks.decode --peer_python=PATH       PyTorch and transformers live in another interpreter
    python -m benchmarks.decode --sides=ours --profile   where our time goes, kind of op by kind of op
    python -m benchmarks.decode --model_dir=DIR          a bundle with and without a draft, on two kinds of text
    python -m benchmarks.decode --model_dir=DIR --agree=1000             ... whether both write the same text
    python -m benchmarks.decode --model_dir=DIR --peer_dir=HUGGING_FACE_DIR      ... beside transformers with its prompt lookup

Every side has random weights of one shape and decodes the same number of tokens on all cores; a figure is new tokens
over the seconds of the whole call, prompt included. Sides with a precision in their name compute in it, the others in float32.
Ours is the exported SavedModel, text in and text out, loaded by plain TensorFlow. Peers are called as their users would:
`generate` of both, keras-hub with its own choice of compilation. With --model_dir the weights are those of a trained bundle,
asked in Python at batch 1, and every side writes as many tokens as the bundle writes greedily.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

OURS = ("ours", "ours-bfloat16")
PEERS = ("transformers", "transformers-bfloat16", "keras-hub")
SIDES = (*OURS, *PEERS)
PRESETS = {"gpt2_small": (12, 12, 768), "gpt2_medium": (24, 16, 1_024), "gpt2_large": (36, 20, 1_280)}
VOCAB_SIZE, MAX_LENGTH = 50_257, 1_024
# With and without a draft, on weights of a bundle.
DRAFTING = ("bundle", "bundle-draft")
LOOKUP = ("transformers-dir", "transformers-dir-lookup")
LOOKUP_TOKENS = 10  # transformers' own example
PROMPTS = {
    "repeating": """<|im_start|>user
Summarise: The export holds only core operations of TensorFlow, the tokenizer included. The server that loads it needs no
Python and no code of the zoo's. Before an export appears under its number it is replayed in a clean process through the C API,
the loader that the server uses, and its answers are compared with the answers of the process that wrote it.
<|im_end|>
<|im_start|>assistant
""",
    "other": """<|im_start|>user
Write a short story about a lighthouse keeper who finds a letter.<|im_end|>
<|im_start|>assistant
""",
}


def main():
    args = _parser().parse_args()
    if args.worker:
        return WORKERS[args.worker](args)
    if args.model_dir:
        from zoo.config import Refusal

        try:
            return _compare_drafts(args)
        except Refusal as error:
            sys.exit(str(error))
    from benchmarks.sides import has_module, measure, print_profile, report

    sides = []
    for side in args.sides.split(","):
        python = args.peer_python if side in PEERS else sys.executable
        module = side.removesuffix("-bfloat16").replace("-", "_")
        if side in PEERS and not has_module(python, module):
            print(f"{module} is not installed in {python}: no figure and no ratio for it.")
            continue
        sides.append((side, python))
    with tempfile.TemporaryDirectory() as scratch:
        directory = args.directory or scratch
        if not args.directory:
            _export(args, Path(directory))
        for batch_size in args.batch_sizes.split(","):
            options = [f"--directory={directory}", f"--batch_size={batch_size}"]
            commands = {
                side: [python, "-m", "benchmarks.decode", *sys.argv[1:], f"--worker={side}", *options] for side, python in sides
            }
            print(
                f"Greedy decoding, {args.preset}, batch {batch_size}, {args.prompt_length} + {args.new_tokens} tokens, "
                f"{os.cpu_count()} cores: {args.rounds} interleaved rounds", flush=True,
            )  # fmt: skip
            mine = [side for side, _ in sides if side in OURS]
            report(measure(commands, args.rounds), mine, ("ours", *PEERS), int(batch_size) * args.new_tokens, "tokens")
            if args.profile:
                print_profile(Path(directory), args.new_tokens)
    return None


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to measure, by commas")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="gpt2_small")
    parser.add_argument("--batch_sizes", default="1,8", help="by commas")
    for name, value in (("prompt_length", 16), ("new_tokens", 64), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--profile", action="store_true", help="prints our milliseconds a token by kind of op")
    parser.add_argument("--directory", help="holds an export of an earlier run, for measuring it again")
    parser.add_argument("--model_dir", help="a bundle of a language model, to be decoded with and without a draft")
    parser.add_argument("--peer_dir", help="the same weights as a Hugging Face directory, made by trainers.convert")
    parser.add_argument("--agree", type=int, help="compares so many greedy texts with and without the draft, and stops")
    parser.add_argument("--draft", default="ngram:4", help="as trainers.generate takes it")
    parser.add_argument("--worker", choices=(*SIDES, *DRAFTING, *LOOKUP), help=argparse.SUPPRESS)
    parser.add_argument("--prompt", choices=tuple(PROMPTS), help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int, help=argparse.SUPPRESS)
    return parser


def _export(args, directory):
    from zoo.export import export_saved_model
    from zoo.registry import MODELS, TASKS, TOKENIZERS

    tokenizer = TOKENIZERS.get("word")([f"w{i}" for i in range(VOCAB_SIZE - 2)])
    config = MODELS.config("gpt").preset(args.preset)
    model = MODELS.get("gpt")(config).build_from_ids()
    for side in args.sides.split(","):
        if side in OURS:
            precision = "bfloat16" if side.endswith("bfloat16") else "float32"
            export_saved_model(
                directory / side / "export", model, tokenizer, TASKS.get("language_modeling")(), precision=precision
            )


def _compare_drafts(args):
    """A bundle with and without a draft, and the peer's two ways, on each of `PROMPTS`."""
    import zoo
    from benchmarks.sides import has_module, measure, report

    loaded = zoo.load(args.model_dir)
    if args.agree:
        return _count_equal(args, loaded)
    peers = LOOKUP if args.peer_dir and has_module(args.peer_python, "transformers") else ()
    with tempfile.TemporaryDirectory() as directory:
        for name, prompt in PROMPTS.items():
            begun = len(loaded.tokenizer.encode(prompt))
            text = loaded.generate(prompt, args.new_tokens, draft=args.draft)
            new_tokens = len(loaded.tokenizer.encode(text)) - begun
            frame = loaded.task.frame(loaded.model.kind, loaded.tokenizer)
            ids = [*frame.before, *loaded.tokenizer.encode(prompt), *frame.after]
            (Path(directory) / f"{name}.json").write_text(json.dumps([ids, new_tokens]))
            commands = {
                side: [
                    args.peer_python if side in LOOKUP else sys.executable, "-m", "benchmarks.decode", *sys.argv[1:],
                    f"--worker={side}", f"--directory={directory}", f"--prompt={name}",
                ]
                for side in (*DRAFTING, *peers)
            }  # fmt: skip
            print(
                f"{name}: {len(ids)} + {new_tokens} tokens, {os.cpu_count()} cores, {args.rounds} interleaved rounds",
                flush=True,
            )
            report(measure(commands, args.rounds), ("bundle-draft",), ("bundle", *peers), new_tokens, "tokens")
    return None


def _count_equal(args, loaded):
    """How many greedy texts are the same with a draft, of random prompts that repeat themselves more or less."""
    import random

    numbers, tokenizer, equal = random.Random(0), loaded.tokenizer, 0
    for _ in range(args.agree):
        piece = [numbers.randrange(tokenizer.vocab_size) for _ in range(numbers.randint(1, args.prompt_length))]
        prompt = tokenizer.decode((piece * 3)[: numbers.randint(1, args.prompt_length)])
        equal += loaded.generate(prompt, args.new_tokens) == loaded.generate(prompt, args.new_tokens, draft=args.draft)
    print(f"{equal} of {args.agree} greedy texts of {args.new_tokens} tokens are the same with {args.draft} as without")


def _bundle(args):
    import zoo
    from benchmarks.sides import serve

    loaded, prompt = zoo.load(args.model_dir), PROMPTS[args.prompt]
    draft = args.draft if args.worker == "bundle-draft" else "none"
    serve(lambda: loaded.generate(prompt, args.new_tokens, draft=draft))


def _transformers_dir(args):
    import torch
    import transformers

    from benchmarks.sides import serve

    torch.set_num_threads(os.cpu_count())
    model = transformers.AutoModelForCausalLM.from_pretrained(args.peer_dir, dtype=torch.float32).eval()
    ids, new_tokens = json.loads((Path(args.directory) / f"{args.prompt}.json").read_text())
    ids = torch.tensor([ids])
    lookup = {"prompt_lookup_num_tokens": LOOKUP_TOKENS} if args.worker.endswith("lookup") else {}
    serve(
        lambda: model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            **lookup,
        )
    )


def _prompt_ids(args):
    """A prompt a row, other tokens in each."""
    return [[(7 * row + 13 * i) % 1_000 for i in range(args.prompt_length)] for row in range(args.batch_size)]


def _ours(args):
    import tensorflow as tf

    from benchmarks.sides import serve

    # The end-of-text id that comes first is one token of the prompt.
    prompts = [" ".join(f"w{i}" for i in ids[1:]) for ids in _prompt_ids(args)]
    rows = [args.batch_size]
    loaded = tf.saved_model.load(str(Path(args.directory) / args.worker / "export" / "1"))
    request = dict(
        prompt=tf.constant(prompts), max_new_tokens=tf.fill(rows, args.new_tokens), temperature=tf.zeros(rows),
        top_k=tf.zeros(rows, tf.int32), top_p=tf.ones(rows), seed=tf.zeros(rows, tf.int64),
    )  # fmt: skip

    def decode():
        texts = loaded.signatures["generate"](**request)["text"].numpy()
        if any(len(text.split()) != args.prompt_length - 1 + args.new_tokens for text in texts):
            raise SystemExit("A row ended early.")

    decode()
    if args.profile:
        with tf.profiler.experimental.Profile(args.directory):
            decode()
    serve(decode)


def _keras_hub(args):
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_hub
    import numpy as np

    from benchmarks.sides import serve

    num_layers, num_heads, hidden_dim = PRESETS[args.preset]
    backbone = keras_hub.models.GPT2Backbone(
        VOCAB_SIZE, num_layers, num_heads, hidden_dim, 4 * hidden_dim, max_sequence_length=MAX_LENGTH
    )
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    room = [[0, 0], [0, args.new_tokens]]
    ids = np.pad(np.array(_prompt_ids(args), np.int32), room)
    mask = np.pad(np.ones((args.batch_size, args.prompt_length), np.int32), room)
    serve(lambda: model.generate({"token_ids": ids, "padding_mask": mask}, stop_token_ids=None))


def _transformers(args):
    import torch
    import transformers

    from benchmarks.sides import serve

    num_layers, num_heads, hidden_dim = PRESETS[args.preset]
    config = transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=MAX_LENGTH, n_layer=num_layers, n_head=num_heads, n_embd=hidden_dim
    )
    half = args.worker.endswith("bfloat16")
    # The faster of the two attentions and caches in each precision, as measured: eager in float32, fused in bfloat16, a growing
    # cache.
    config._attn_implementation = "sdpa" if half else "eager"
    torch.set_num_threads(os.cpu_count())
    model = transformers.GPT2LMHeadModel(config).eval().to(torch.bfloat16 if half else torch.float32)
    ids = torch.tensor(_prompt_ids(args))

    def decode():
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.new_tokens, min_new_tokens=args.new_tokens,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
        if written.shape[1] != args.prompt_length + args.new_tokens:
            raise SystemExit("A row ended early.")

    serve(decode)


WORKERS = {
    **dict(zip(SIDES, (_ours, _ours, _transformers, _transformers, _keras_hub), strict=True)),
    **dict.fromkeys(DRAFTING, _bundle),
    **dict.fromkeys(LOOKUP, _transformers_dir),
}

if __name__ == "__main__":
    main()
