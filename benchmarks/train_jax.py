"""Training speed of GPT under Keras's JAX backend: forward, backward and update as one compiled step, on whatever device JAX
has.

    python -m benchmarks.train_jax                      GPT-2 124M and a modern 1B, bfloat16, T 1,024 and 4,096; wants a GPU
    python -m benchmarks.train_jax --tiny               the same steps at shapes for a CPU: that it runs, not how fast

It needs keras and jax, and no TensorFlow. Every case is a process of its own. Utilisation is the model's arithmetic (6 FLOPs a
weight and token, and 6 L N H T a token for causal attention: what is hidden is not counted) over what the device does in a
plain matrix product, measured in the same process (or `--peak_tflops`). What is computed again by `--remat` does not count.
"""

import argparse
import json
import os
import subprocess
import sys
import time

SIZES = {
    "gpt2_small": dict(vocab_size=50_304),  # 50,257 in whole tiles of 128
    "modern_1b": {},
}
TINY = dict(num_layers=2, num_heads=4, hidden_dim=32, vocab_size=128, mlp_dim=64)


def main():
    args = _parser().parse_args()
    if args.tiny:
        args.lengths, args.batch_tokens, args.matmul, args.steps = "128,256", 512, 256, 2
    if args.worker:
        return print(json.dumps(_train(args, *args.worker.split(":"))))
    print("  model        T      attention   batch   tokens/s   utilisation of the measured peak")
    failed = []
    for preset in args.presets.split(","):
        for length in args.lengths.split(","):
            for form in args.forms.split(","):
                case = f"{preset}:{length}:{form}"
                command = [sys.executable, "-m", "benchmarks.train_jax", *sys.argv[1:], f"--worker={case}"]
                answer = subprocess.run(command, capture_output=True, text=True, check=False)
                if answer.returncode:
                    failed.append(case)
                    why = [line for line in answer.stderr.splitlines() if "Error" in line] or ["killed"]
                    print(f"  {case}: no figure; {why[-1][:200]}", flush=True)
                    continue
                r = json.loads(answer.stdout.splitlines()[-1])
                print(
                    f"  {preset:<12} {int(length):<6,} {form:<11} {r['batch_size']:<7} {r['tokens_per_second']:<10,.0f} "
                    f"{r['utilisation']:.1%} of {r['peak_tflops']:.3g} TFLOP/s on {r['device']}; loss {r['first_loss']:.3f} to "
                    f"{r['last_loss']:.3f}", flush=True,
                )  # fmt: skip
    if failed:
        raise SystemExit(f"Without a figure: {', '.join(failed)}.")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_jax", description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default=",".join(SIZES), help="of gpt, by commas")
    parser.add_argument("--lengths", default="1024,4096", help="T, by commas")
    parser.add_argument("--forms", default="plain,blockwise", help="of attention: auto, plain, rows, blockwise, by commas")
    parser.add_argument("--remat", choices=("none", "block"), default="none")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch_tokens", type=int, default=16_384, help="tokens in a step")
    parser.add_argument("--steps", type=int, default=10, help="measured steps, after two that are not")
    parser.add_argument("--matmul", type=int, default=8_192, help="side of the product that measures the peak")
    parser.add_argument("--peak_tflops", type=float, help="the device's peak, instead of measuring it")
    parser.add_argument("--tiny", action="store_true", help="shapes that a CPU trains in seconds")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def _train(args, preset, length, form):
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras
    import numpy as np

    from zoo.registry import MODELS, TASKS

    length, dtype = int(length), args.precision
    if dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    model_class = MODELS.get("gpt")
    sizes = dict(
        SIZES.get(preset, {}), **({**TINY, "num_kv_heads": None if preset == "gpt2_small" else 2} if args.tiny else {})
    )
    config = model_class.config_class.preset(preset, **sizes, max_length=length, attention=form, remat=args.remat)
    model, task = model_class(config).build_from_ids(), TASKS.get("language_modeling")()
    optimizer = keras.optimizers.AdamW(3e-4, weight_decay=0.1)
    optimizer.build(model.trainable_variables)
    batch_size = max(1, args.batch_tokens // length)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, length + 1)).astype("int32")
    batch = dict(token_ids=ids[:, :-1], labels=ids[:, 1:], loss_weights=np.ones((batch_size, length), "float32"))
    batch = jax.device_put(batch)

    def mean_loss(weights, others, batch):
        mapping = [
            *zip(model.trainable_variables, weights, strict=True),
            *zip(model.non_trainable_variables, others, strict=True),
        ]
        with keras.StatelessScope(mapping):
            outputs, _ = task.forward(model, batch, training=True)
            loss_sum, count = task.loss(batch, outputs)
        return loss_sum / count

    def step(weights, others, moments, batch):
        loss, gradients = jax.value_and_grad(mean_loss)(weights, others, batch)
        weights, moments = optimizer.stateless_apply(moments, gradients, weights)
        return loss, weights, moments

    step = jax.jit(step, donate_argnums=(0, 2))
    weights, others, moments = ([v.value for v in group] for group in (
        model.trainable_variables, model.non_trainable_variables, optimizer.variables,
    ))  # fmt: skip
    losses = []
    for i in range(args.steps + 2):
        if i == 2:
            jax.block_until_ready(weights)
            began = time.perf_counter()
        loss, weights, moments = step(weights, others, moments, batch)
        losses.append(loss)
    jax.block_until_ready(weights)
    speed = args.steps * batch_size * length / (time.perf_counter() - began)
    peak = args.peak_tflops * 1e12 if args.peak_tflops else _matmul_peak(args.matmul, dtype)
    return dict(
        batch_size=batch_size, tokens_per_second=speed, utilisation=speed * _flops_per_token(config, length) / peak,
        peak_tflops=peak / 1e12, device=jax.devices()[0].device_kind, first_loss=float(losses[0]), last_loss=float(losses[-1]),
    )  # fmt: skip


def _flops_per_token(config, length):
    """Of one training step: tables that are only looked up cost nothing, and a query sees half of the keys on average."""
    looked_up = 0 if config.tie_embeddings else config.vocab_size * config.hidden_dim
    if config.position == "learned":
        looked_up += config.max_length * config.hidden_dim
    return 6 * (config.num_params() - looked_up) + 6 * config.num_layers * config.num_heads * config.head_width * length


def _matmul_peak(side, dtype):
    """FLOP/s of the best of ten square products."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


if __name__ == "__main__":
    main()
