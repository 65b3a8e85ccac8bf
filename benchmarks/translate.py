"""Decoding of encoder-decoders beside transformers and CTranslate2, in one run: t5-small's and marian-base's shapes.

    python -m benchmarks.translate --peer_python=PATH                both shapes; batch 1 greedy, batch 1 and beam 4, batch 16
    python -m benchmarks.translate --shapes=t5_small --cases=1x4     batch 1, four beams
    python -m benchmarks.translate --size=tiny --rounds=1            whether it runs at all
    python -m benchmarks.translate --sides=ours --profile            where our time goes, kind of op by kind of op

Every side has random weights of one shape in float32, reads a source of 24 tokens a row, writes 32 and uses all cores; no side
ends a text early, as the end has a row of zeros. A figure is new tokens of the best texts over the seconds of the whole call,
source included. Ours is the exported SavedModel, text in and text out, loaded by plain TensorFlow. Peers are called as their
users would: `generate`, and `translate_batch` of what CTranslate2's own converter makes of transformers' model. `products` is
no decoder: only the matrix products of 32 steps, each weight once a step, as our layers do them. Nothing with weights can be
faster than that here, so ours over products is what is lost on top of it.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

SIDES = ("ours", "products", "transformers", "ctranslate2")
PEERS = SIDES[2:]
# (layers of each stack, heads, width, width of the network, ids)
SIZES = {
    "full": {"t5_small": (6, 8, 512, 2_048, 32_128), "marian_base": (6, 8, 512, 2_048, 58_101)},
    "tiny": {"t5_small": (2, 2, 16, 32, 200), "marian_base": (2, 2, 16, 32, 201)},
}
EOS_ID = 1


def main():
    args = _parser().parse_args()
    if args.worker:
        return WORKERS[args.worker](args)
    from benchmarks.sides import has_module, measure, print_profile, report

    sides = []
    for side in args.sides.split(","):
        python = args.peer_python if side in PEERS else sys.executable
        if side in PEERS and not has_module(python, side):
            print(f"{side} is not installed in {python}: no figure and no ratio for it.")
            continue
        sides.append((side, python))
    print(f"Host: {host()}; {versions([python for _, python in sides])}", flush=True)
    for shape in args.shapes.split(","):
        with tempfile.TemporaryDirectory() as directory:
            _prepare(args, shape, Path(directory), dict(sides))
            for case in args.cases.split(","):
                rows, beams = map(int, case.split("x"))
                options = [f"--directory={directory}", f"--shape={shape}", f"--case={case}"]
                commands = {
                    side: [python, "-m", "benchmarks.translate", *sys.argv[1:], f"--worker={side}", *options]
                    for side, python in sides
                }
                print(
                    f"{shape} {SIZES[args.size][shape]}, batch {rows}, {'greedy' if beams == 1 else f'{beams} beams'}, "
                    f"{args.source_length} + {args.new_tokens} tokens, {args.rounds} interleaved rounds", flush=True,
                )  # fmt: skip
                report(measure(commands, args.rounds), ["ours"], SIDES, rows * args.new_tokens, "tokens")
                if args.profile:
                    print_profile(Path(directory), args.new_tokens)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translate", description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to measure, by commas")
    parser.add_argument("--shapes", default=",".join(SIZES["full"]), help="by commas")
    parser.add_argument("--cases", default="1x1,1x4,16x1", help="rows x beams, by commas")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    for name, value in (("source_length", 24), ("new_tokens", 32), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--profile", action="store_true", help="prints our milliseconds a token by kind of op")
    parser.add_argument("--worker", choices=(*SIDES, "convert"), help=argparse.SUPPRESS)
    for name in ("directory", "shape", "case"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def host():
    """The processor, its cores, and what a product of matrices and a pass over memory reach."""
    import time

    import numpy as np

    def best(work, rounds=5):
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    square, long = np.ones((1_024, 1_024), np.float32), np.ones(2**25, np.float32)
    flops, bandwidth = 2 * 1_024**3 / best(lambda: square @ square), long.nbytes / best(lambda: long.sum())
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    name = names[0] if cpu.is_file() and names else platform.processor()
    return f"{name}, {os.cpu_count()} cores, {flops / 1e9:.0f} GFLOP/s in float32, {bandwidth / 1e9:.0f} GB/s read (NumPy)"


def versions(pythons):
    packages = ("tensorflow", "keras", "torch", "transformers", "ctranslate2")
    script = (
        "import importlib.metadata as m\n"
        f"for p in {packages}:\n"
        " try: print(p, m.version(p))\n"
        " except m.PackageNotFoundError: pass"
    )
    outputs = [subprocess.run([p, "-c", script], capture_output=True, text=True, check=True).stdout for p in set(pythons)]
    return ", ".join(sorted({line for output in outputs for line in output.splitlines()}))


def _prepare(args, shape, directory, sides):
    """Exports our model, and has CTranslate2's converter make its own of transformers'."""
    if "ours" in sides:
        _export(args, shape, directory)
    if "ctranslate2" in sides:
        options = [f"--directory={directory}", f"--shape={shape}", "--worker=convert"]
        command = [sides["ctranslate2"], "-m", "benchmarks.translate", *sys.argv[1:], *options]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _model(args, shape):
    """Ours, in which no text ends."""
    import numpy as np

    from zoo.registry import MODELS

    layers, heads, width, inner, vocab_size = SIZES[args.size][shape]
    fields = dict(num_layers=layers, num_heads=heads, hidden_dim=width, mlp_dim=inner, vocab_size=vocab_size, dropout=0.0)
    family, preset = ("t5", "t5_small") if shape == "t5_small" else ("transformer", "marian_base")
    fields |= dict(head_dim=width // heads) if family == "t5" else {}
    model = MODELS.get(family)(MODELS.config(family).preset(preset, **fields)).build_from_ids()
    table = model.embeddings.embeddings
    table.assign(table.numpy() * (np.arange(vocab_size) != EOS_ID)[:, None])
    return model


def _export(args, shape, directory):
    from zoo.export import export_saved_model
    from zoo.registry import TASKS, TOKENIZERS

    model = _model(args, shape)
    tokenizer = TOKENIZERS.get("word")([f"w{i}" for i in range(model.config.vocab_size - 2)])
    export_saved_model(directory / "export", model, tokenizer, TASKS.get("translation")())


def _ours(args):
    import tensorflow as tf

    from benchmarks.sides import serve
    from zoo.signatures.generation import default

    rows, beams = map(int, args.case.split("x"))
    loaded = tf.saved_model.load(str(Path(args.directory) / "export" / "1"))
    texts = [" ".join(f"w{i % 97}" for i in range(row, row + args.source_length - 1)) for row in range(rows)]
    signature = loaded.signatures["generate" if beams == 1 else "beam_search"]
    request = {name: tf.constant(default(name)) for name in signature.structured_input_signature[1] if name != "text"}
    request |= {"text": tf.constant(texts), "max_new_tokens": tf.constant([args.new_tokens])}
    request |= {"num_beams": tf.constant([beams])} if beams > 1 else {}

    def decode():
        answer = signature(**request)["text"].numpy()
        if any(len(text.split()) != args.new_tokens for text in answer.reshape(rows, -1)[:, 0]):
            raise SystemExit("A row ended early.")

    decode()
    if args.profile:
        with tf.profiler.experimental.Profile(args.directory):
            decode()
    serve(decode)


def _products(args):
    """The products of the decoder alone, of as many rows as there are beams."""
    import tensorflow as tf

    from benchmarks.sides import serve
    from zoo.layers.linear import times_rows

    rows, beams = map(int, args.case.split("x"))
    layers, _, width, inner, vocab_size = SIZES[args.size][args.shape]
    # Outputs and inputs of a block: queries, keys and values; output; queries of the memory; output; the network.
    block = [(3 * width, width), (width, width), (width, width), (width, width), (inner, width), (width, inner)]
    shapes = [*block * layers, (vocab_size, width)]
    tables = [tf.Variable(tf.random.normal(shape)) for shape in shapes]

    @tf.function
    def step(*inputs):
        return [tf.reduce_sum(times_rows(x, table)[..., :1]) for x, table in zip(inputs, tables, strict=True)]

    inputs = [tf.random.normal([rows * beams, 1, shape[1]]) for shape in shapes]

    def decode():
        for _ in range(args.new_tokens):
            sums = step(*inputs)
        float(sums[0])

    serve(decode)


def _peer_model(args):
    """A model of transformers' with random weights, in which no text ends."""
    import torch
    import transformers

    layers, heads, width, inner, vocab_size = SIZES[args.size][args.shape]
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    if args.shape == "t5_small":
        config = transformers.T5Config(
            vocab_size=vocab_size, d_model=width, d_kv=width // heads, d_ff=inner, num_layers=layers, num_heads=heads,
            decoder_start_token_id=0, eos_token_id=EOS_ID, pad_token_id=0,
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.MarianConfig(
            vocab_size=vocab_size, d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_ffn_dim=inner,
            decoder_ffn_dim=inner, encoder_attention_heads=heads, decoder_attention_heads=heads, max_position_embeddings=512,
            activation_function="swish", scale_embedding=True, pad_token_id=vocab_size - 1, eos_token_id=EOS_ID,
            decoder_start_token_id=vocab_size - 1, forced_eos_token_id=None,
        )  # fmt: skip
        model = transformers.MarianMTModel(config)
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS_ID] = 0
    return model.eval()


def _source_ids(args, rows):
    return [[2 + i % 97 for i in range(row, row + args.source_length - 1)] + [EOS_ID] for row in range(rows)]


def _transformers(args):
    import torch

    from benchmarks.sides import serve

    rows, beams = map(int, args.case.split("x"))
    model, ids = _peer_model(args), torch.tensor(_source_ids(args, rows))
    mask = torch.ones_like(ids)

    def decode():
        written = model.generate(ids, attention_mask=mask, max_new_tokens=args.new_tokens, num_beams=beams, do_sample=False)
        if written.shape != (rows, args.new_tokens + 1):
            raise SystemExit("A row ended early.")

    serve(decode)


def _tokens(args):
    """Names for the ids of CTranslate2; the padding of a Marian is not among them."""
    vocab_size = SIZES[args.size][args.shape][-1]
    tokens = [f"w{i}" for i in range(vocab_size if args.shape == "t5_small" else vocab_size - 1)]
    tokens[0], tokens[EOS_ID], tokens[2] = "<pad>", "</s>", "<unk>"
    return tokens


def _convert(args):
    import torch
    from ctranslate2.converters import transformers

    model, tokens = _peer_model(args), _tokens(args)
    loader = transformers.T5Loader() if args.shape == "t5_small" else transformers.MarianMTLoader()
    with torch.no_grad():
        spec = loader.get_model_spec(model)
    spec.config.bos_token = spec.config.decoder_start_token = "<pad>" if args.shape == "t5_small" else "</s>"
    spec.config.eos_token, spec.config.unk_token = "</s>", "<unk>"
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    (Path(args.directory) / "ctranslate2").mkdir()
    spec.validate()
    spec.optimize()
    spec.save(str(Path(args.directory) / "ctranslate2"))


def _ctranslate2(args):
    import ctranslate2

    from benchmarks.sides import serve

    rows, beams = map(int, args.case.split("x"))
    model = ctranslate2.Translator(
        str(Path(args.directory) / "ctranslate2"), device="cpu", compute_type="float32", intra_threads=os.cpu_count()
    )
    tokens = _tokens(args)
    source = [[tokens[i] for i in ids] for ids in _source_ids(args, rows)]

    def decode():
        made = model.translate_batch(source, beam_size=beams, max_decoding_length=args.new_tokens)
        if any(len(each.hypotheses[0]) != args.new_tokens for each in made):
            raise SystemExit("A row ended early.")

    serve(decode)


WORKERS = {
    "ours": _ours, "products": _products, "transformers": _transformers, "ctranslate2": _ctranslate2, "convert": _convert,
}  # fmt: skip

if __name__ == "__main__":
    main()
