"""Text to tokens, once: trains the tokenizer, encodes every split natively, and keeps both in a cache.

    python -m trainers.prepare --data_path=notes.txt --tokenizer=bpe         what a run with the same flags does first
    python -m trainers.prepare --data_path=notes.txt --runner=DirectRunner   by an engine of Apache Beam, side by side

    <cache>/<source>-<tokenizer>-<key>/
        tokenizer/  train/  validation/  test/

Each of these directories appears in one step when it is complete: whatever interrupts the work, what is there is whole,
and the next run goes on from it. The key is made of the text and its splits, the tokenizer and the code that turns one into
the other.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import time
from pathlib import Path

import numpy as np
from absl import flags

from trainers import flags as trainer_flags
from trainers import program, shared_cache
from zoo.config import Refusal
from zoo.data.shards import TokenShards, write_shards
from zoo.files import appearing, exclusive
from zoo.registry import TOKENIZERS

# Texts are encoded together until they have this many characters: enough to keep all cores busy, little enough to hold.
CHUNK_CHARACTERS = 2**20
REPORT_EVERY_BYTES = 2**18
FLAGS = flags.FLAGS
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def cache_directory(cache_dir=None):
    """Where tokens are kept: the argument, or the environment variable ZOO_CACHE, or ~/.cache/language_model_zoo.

    Raises:
        Refusal: ZOO_CACHE is a URL.
    """
    if "://" in os.environ.get("ZOO_CACHE", "") and not cache_dir:
        raise Refusal(f"ZOO_CACHE={os.environ['ZOO_CACHE']} is a URL; give a directory here, and the URL as ZOO_SHARED_CACHE.")
    return Path(cache_dir or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "language_model_zoo")


def check_tokenizer(spec, vocab_size=None):
    """Raises Refusal when `spec` is neither a registered tokenizer nor a path. Imports no TensorFlow."""
    if spec in TOKENIZERS.names():
        return
    if not os.path.exists(spec):
        TOKENIZERS.check(spec)
    if vocab_size is not None:
        raise Refusal(f"vocab_size is for a tokenizer that is trained here; {spec} has its vocabulary already.")


def prepare_for(task, layout, source, tokenizer_spec, vocab_size=None, *, splits=None, progress=None):
    """`(tokenizer, data)` for a task: split -> `TokenShards` for one that reads text, as in `prepare`, or what it makes of
    examples.

    A task that reads examples has seen those of the train split (`Task.inspect`) if that is among the splits.
    """
    if task.reads == "text":
        options = task.tokenizer_options(str(tokenizer_spec))
        return prepare(source, tokenizer_spec, vocab_size, splits=splits, progress=progress, options=options)
    report = progress or (lambda what, num_bytes: None)
    check_tokenizer(str(tokenizer_spec), vocab_size)
    splits = list(source.splits) if splits is None else splits
    for split in splits:
        source.check_split(split)
    with _disk_errors_named(cache_directory()):
        tokenizer = _for_examples(task, source, str(tokenizer_spec), vocab_size, report)
    if "train" in splits:
        task.inspect(source.examples("train"))
    return tokenizer, {split: task.encode(source.examples(split), tokenizer, layout) for split in splits}


def _for_examples(task, source, spec, vocab_size, report):
    """The tokenizer of a task that reads examples; a pair of them where each side of a pair of texts is to have its own."""
    from zoo.tokenizers.pair import PairTokenizer

    options = task.tokenizer_options(spec)

    def of(texts_of, texts_are):
        texts = (text for example in source.examples("train") for text in texts_of(example) if isinstance(text, str))
        return _tokenizer(source, spec, vocab_size, cache_directory(), report, texts, options, texts_are)[1]

    if not (task.separate_vocabularies and spec in TOKENIZERS.names()):
        return of(task.texts, task.texts_are)
    return PairTokenizer(*(of(lambda example, side=side: task.texts({side: example.get(side)}), side) for side in task.fields))


def prepare(source, tokenizer_spec, vocab_size=None, cache_dir=None, *, splits=None, progress=None, options=None, beam=None):
    """Tokens of a text source, from the cache or made now.

    Args:
        source: a `tfds_configs.TextSource`.
        tokenizer_spec: byte, char, word, bpe, ..., which is trained on the train split alone; or a path to a tokenizer.
        vocab_size: for a tokenizer that is trained; None means its own default.
        cache_dir: None means what `cache_directory` says.
        splits: which ones; by default all that the source has.
        progress: called with (what is being made, bytes of text read so far).
        options: what else a tokenizer that is trained takes, a dict; see `zoo.tokenizers.base.create`.
        beam: a `trainers.parts.Beam` that encodes the splits, or None to do it here. The tokens are the same.

    Returns:
        `(tokenizer, streams)`: the tokenizer, and split -> `TokenShards`. Their `num_bytes` counts the UTF-8 bytes of
        the documents, and `lost_bytes` those that stand under the unknown token.

    Raises:
        Refusal: an unknown tokenizer or split, or text that is empty or cannot be read.
        OSError: the cache cannot be written.
    """
    report = progress or (lambda what, num_bytes: None)
    check_tokenizer(str(tokenizer_spec), vocab_size)
    splits = list(source.splits) if splits is None else splits
    for split in splits:
        source.check_split(split)
    with _disk_errors_named(cache_directory(cache_dir)):
        cache = cache_directory(cache_dir)
        directory, tokenizer = _tokenizer(source, str(tokenizer_spec), vocab_size, cache, report, options=options)
        made = {}  # the text of a split -> its tokens: test may be the validation text
        for split in splits:
            text = source.splits[split]
            if text not in made:
                made[text] = _tokens(source, split, tokenizer, directory / split, report, beam)
        return tokenizer, {split: made[source.splits[split]] for split in splits}


def _tokenizer(source, spec, vocab_size, cache, report, texts=None, options=None, texts_are=""):
    """(directory of the cache, tokenizer); it is trained on `texts`, by default all of the train split."""
    from zoo.tokenizers.base import create, cut_parts, load

    name = re.sub(r"[^\w-]+", "_", f"{source.name}-{Path(spec).name}")
    if spec not in TOKENIZERS.names():
        tokenizer = create(spec)
        return cache / f"{name}-{_key(source, tokenizer.digest())}", tokenizer
    directory = cache / f"{name}-{_key(source, spec, vocab_size, *filter(None, (options, texts_are)))}"
    with exclusive(directory):
        shared = shared_cache.url_of(directory / "tokenizer")
        if not (directory / "tokenizer").exists() and shared_cache.is_there(shared):
            shared_cache.fetch(shared, directory / "tokenizer")
        if not (directory / "tokenizer").exists():
            pieces = source.vocabulary_pieces() if texts is None else ((text, True) for text in texts)
            parts = cut_parts(_reported(pieces, "tokenizer", report), TOKENIZERS.get(spec))
            tokenizer = create(spec, (text for text, _ in parts), vocab_size, **(options or {}))
            with appearing(directory / "tokenizer") as partial:
                tokenizer.save(partial)
        else:
            tokenizer = load(directory / "tokenizer")
        shared_cache.publish(directory / "tokenizer", shared)
    return directory, tokenizer


def _tokens(source, split, tokenizer, directory, report, beam=None):
    """The split's tokens, which another process may be making at this moment: then this one waits for them."""
    from zoo.tokenizers.base import cut_parts

    shared = shared_cache.url_of(directory)
    with exclusive(directory.parent):
        from trainers import parts  # which needs this file

        if not directory.exists() and shared_cache.is_there(shared):
            return TokenShards.open(shared)
        if not directory.exists() and not beam and parts.is_divided(source, split, tokenizer):
            beam = parts.Here(functools.partial(report, split))
        if beam and not directory.exists():
            saved = directory.with_name("tokenizer")
            if not saved.exists():
                with appearing(saved) as partial:
                    tokenizer.save(partial)
            parts.make_shards(source, split, tokenizer, saved, directory, beam)
        if not directory.exists():
            meta = {"num_bytes": 0, "lost_bytes": 0, "source": source.name, "split": split, "licence": source.licence}
            parts = cut_parts(_reported(source.pieces(split), split, report), tokenizer)
            ids = _some(encoded(parts, tokenizer, meta), f"{source.name}'s {split} split")
            write_shards(directory, ids, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, meta=meta, ended=True)
        shared_cache.publish(directory, shared)
    return TokenShards.open(directory)


def encoded(parts, tokenizer, meta):
    """Ids of each document that has any, with its eos, perhaps in several arrays; counts bytes into `meta`."""
    from zoo.tokenizers.base import ahead

    begun, eos = False, np.array([tokenizer.eos_id], np.int32)
    for (chunk, ends), batch in ahead(lambda item: tokenizer.encode_batch(item[0]), _chunks(parts)):
        meta["num_bytes"] += sum(len(text.encode()) for text in chunk)
        if tokenizer.unk_id is not None:
            text_of_token = np.repeat(np.arange(len(chunk)), [len(ids) for ids in batch])
            unknown = np.unique(text_of_token[np.concatenate(batch) == tokenizer.unk_id])
            meta["lost_bytes"] += sum(tokenizer.lost_bytes(chunk[i]) for i in unknown)
        for ids, last in zip(batch, ends, strict=True):
            if len(ids):
                yield ids if begun or tokenizer.bos_id is None else np.append(np.int32(tokenizer.bos_id), ids)
                begun = True
            if begun and last:
                yield eos
                begun = False


def _some(arrays, where):
    num_tokens = 0
    for ids in arrays:
        num_tokens += len(ids)
        yield ids
    if not num_tokens:
        raise Refusal(f"{where} holds no text: not one token comes of it.")


def _chunks(parts):
    """Yields (texts, whether each ends its document), of many parts together."""
    chunk, size = [], 0
    for part in parts:
        chunk.append(part)
        size += len(part[0])
        if size >= CHUNK_CHARACTERS:
            yield tuple(zip(*chunk, strict=True))
            chunk, size = [], 0
    if chunk:
        yield tuple(zip(*chunk, strict=True))


def _reported(pieces, what, report):
    num_bytes = reported = 0
    for text, ends in pieces:
        yield text, ends
        num_bytes += len(text.encode())
        if num_bytes - reported >= REPORT_EVERY_BYTES:
            reported = num_bytes
            report(what, num_bytes)
    report(what, num_bytes)


def _key(source, *tokenizer):
    """16 hexadecimal digits that change with the text and how it is split, the tokenizer, and the code of tokenizers and
    shards."""
    code = hashlib.sha256()
    zoo = Path(write_shards.__code__.co_filename).parents[1]
    for path in [zoo / "data" / "shards.py", *sorted((zoo / "tokenizers").glob("*.py"))]:
        code.update(path.read_bytes())
    whole = json.dumps([source.fingerprint(), sorted(source.splits.items()), *tokenizer, code.hexdigest()])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _disk_errors_named(cache):
    """Says what to do about a cache that cannot be written."""
    try:
        yield
    except OSError as error:
        where, place = Path(error.filename or cache).absolute(), Path(cache).absolute()
        if error.errno not in UNWRITABLE or not (where.is_relative_to(place) or place.is_relative_to(where)):
            raise  # such as of the text itself, that may not be read
        raise Refusal(
            f"{where} cannot be written ({error.strerror}): make room, or set ZOO_CACHE to a directory of your own."
        ) from error


def main():
    import tfds_configs
    from trainers.progress import ProgressBar, duration, preparing

    dataset = FLAGS.dataset or ("local_text" if FLAGS.data_path else "python_docs")
    tfds_configs.check(dataset, FLAGS.data_path)
    check_tokenizer(FLAGS.tokenizer, FLAGS.vocab_size)
    if FLAGS.option and not FLAGS.runner:
        raise Refusal("--option is for a runner of Apache Beam; name it, such as --runner=DirectRunner.")
    beam = None
    if FLAGS.runner:
        import apache_beam  # noqa: F401 - so that its want is told before the text is read

        from trainers.parts import Beam

        beam = Beam(FLAGS.runner, tuple(f"--{option}" for option in FLAGS.option))
    source = tfds_configs.get(dataset, FLAGS.data_path)
    began = time.perf_counter()
    with program.quiet():
        import tensorflow  # noqa: F401
    with ProgressBar("Preparing") as bar:
        _, streams = prepare(
            source, FLAGS.tokenizer, FLAGS.vocab_size, progress=preparing(bar, source.num_bytes), beam=beam
        )  # fmt: skip
    for split, shards in streams.items():
        where = shards.directory or os.environ["ZOO_SHARED_CACHE"]
        print(f"{split}: {len(shards):,} tokens of {shards.num_bytes:,} bytes in {where}")
    if FLAGS.counts:
        from trainers.ngram_counts import make_counts
        from trainers.parts import Here

        print(f"n-grams: {make_counts(streams['train'], FLAGS.counts, beam or Here(lambda done: None))}")
    print(f"Prepared in {duration(time.perf_counter() - began)}.")


def start():
    """The program, with its flags."""
    trainer_flags.define_preparation()
    program.start(main)


if __name__ == "__main__":
    start()
