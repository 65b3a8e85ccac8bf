"""How much of the batches of pairs is text and not padding, by rows and by a budget of tokens.

    python -m benchmarks.padding --source=train.en --target=train.de --vocab_size=10000

Prints for each way to make batches of an epoch: their number, the places of a batch (rows times width), and the share of all
places, of sources and targets, that hold tokens.
"""

import argparse
import os
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.padding", description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="file with a text a line")
    parser.add_argument("--target", required=True, help="file with what each becomes")
    parser.add_argument("--vocab_size", type=int, default=8_192, help="of the byte pairs that both are cut into")
    parser.add_argument("--seq_length", type=int, default=64, help="most tokens of a text")
    parser.add_argument("--batch_size", type=int, default=128, help="rows")
    parser.add_argument("--batch_tokens", type=int, default=4_096, help="the budget")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    import numpy as np

    from zoo.data.examples import Frame
    from zoo.data.parallel import Pair, PairBatches, PairRows, TokenBudgetBatches
    from zoo.tokenizers.base import create

    texts = [Path(path).read_text(encoding="utf8").splitlines() for path in (args.source, args.target)]
    tokenizer = create("bpe", [*texts[0], *texts[1]], args.vocab_size)
    room = args.seq_length - 2
    ids = [[np.array(one[:room], np.int32) for one in tokenizer.encode_batch(some)] for some in texts]
    pairs = [Pair(*both) for both in zip(*ids, strict=True)]
    frame = Frame(after=(tokenizer.eos_id,), target_start=(tokenizer.pad_id,))
    rows = PairRows(pairs, frame, "encoder_decoder", tokenizer.eos_id, tokenizer.pad_id, args.seq_length)
    for name, batches in (
        (f"--batch_size={args.batch_size}", PairBatches(rows, args.batch_size, 0)),
        (f"--set=batch_tokens={args.batch_tokens}", TokenBudgetBatches(rows, args.batch_tokens, 0)),
    ):
        places = tokens = 0
        for step in range(batches.steps_per_epoch):
            batch = batches.batch(step)
            places += batch["labels"].size
            tokens += int(batch["source_mask"].sum()) + int(batch["loss_weights"].sum())
        count = batches.steps_per_epoch
        print(f"{name}: {count} batches, {places / count:,.0f} places each, {tokens / places / 2:.1%} of them tokens")


if __name__ == "__main__":
    main()
