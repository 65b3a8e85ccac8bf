"""Carries models in and out: python -m trainers.convert --from=all-MiniLM-L6-v2 --to=minilm

It makes a bundle of a Hugging Face directory, a GGUF file, a preset of KerasHub's (a directory, or a published one as
`keras_hub:NAME`), a directory of Google's BERT, of OpenAI's GPT-2 or GPT, of CTranslate2's or of OpenNMT-tf's, an ARPA file,
or a file of word vectors. A bundle or a run becomes a Hugging Face directory; an n-gram, an ARPA file; word vectors, a file of
them; an encoder, with --static, vectors of its tokens. A certificate ends it: what was compared with what, and how far the two
are apart.
"""

import json
import os
import re
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal

FLAGS = flags.FLAGS
# What stands before the name of one of KerasHub's published presets.
PRESET = "keras_hub:"


def main():
    source, target = FLAGS["from"].value, FLAGS["to"].value
    if source is None or target is None:
        raise Refusal("--from and --to are both needed: a directory or a .gguf file, and a directory to be made.")
    published, target = source.startswith(PRESET), Path(target)
    if not published and not Path(source).exists():
        raise Refusal(f"--from={source}: there is no such file or directory.")
    if (_is_arpa(target) or _is_vectors(target)) and target.exists():
        raise Refusal(f"--to={target} is there already; give the name of a new file.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refusal(f"--to={target} is there already and not empty; give the name of a new directory.")
    with program.quiet():
        import tensorflow  # noqa: F401
    source = _fetched(source.removeprefix(PRESET)) if published else Path(source)
    outward = _is_ours(source) and not _is_translator(source)
    if FLAGS.static is not None and not outward:
        raise Refusal("--static takes a bundle of an encoder; make one of these files first, without --static.")
    certificate = _write(source, target) if outward else _read(source, target)
    print(json.dumps(certificate, indent=1))
    if (target / "tokenizer").is_dir():
        print(f"Bundle: {target}\nNext:\n  python -m trainers.export --model_dir={target} --export_dir=export")


def _is_arpa(path):
    return path.name.endswith((".arpa", ".arpa.gz"))


def _is_vectors(path):
    return path.name.removesuffix(".gz").endswith((".txt", ".vec", ".bin"))


def _is_translator(source):
    """Whether a directory holds a model of CTranslate2's, and not a pickle under the same name."""
    path = source / "model.bin"
    if not path.is_file():
        return False
    with open(path, "rb") as file:  # the version comes first
        return int.from_bytes(file.read(4), "little") < 100


def _is_ours(source):
    return any((directory / "tokenizer" / "zoo_tokenizer.json").is_file() for directory in (source, source / "bundle"))


def _fetched(name):
    from zoo.convert import keras_hub

    return keras_hub.fetch(name)


def _read(source, target):
    """From third-party files to a bundle. Returns the certificate."""
    from zoo.convert import certificate, gguf, huggingface, keras_hub, old_tensorflow, openai

    library = "transformers"
    if _is_arpa(source):
        return _read_arpa(source, target)
    if _is_vectors(source) and source.is_file():
        return _read_vectors(source, target)
    if _is_translator(source) or list(source.glob("ckpt-*.index")):
        return _read_translator(source, target)
    if source.is_file():
        bundle = gguf.read(source)
    elif keras_hub.is_preset(source):
        bundle, library = keras_hub.read(source), "keras_hub"
    elif openai.is_there(source) and not (source / "config.json").is_file():
        bundle = openai.read(source)
    elif (source / old_tensorflow.CONFIG).is_file() and not (source / "config.json").is_file():
        bundle = old_tensorflow.read(source)
    else:
        bundle = huggingface.read(source)
    model, task = bundle.model, bundle.task.registered_name
    print(f"Model: {model.registered_name}, {model.count_params():,} parameters, for {task}", flush=True)
    for name in bundle.provenance.get("left_out", []):
        print(f"Left out: {name}, of a head that no task here has", flush=True)
    certified = certificate.certify(bundle, source, FLAGS.peer_python, library)
    if "checklist" in bundle.provenance:
        certified["checklist"] = bundle.provenance.pop("checklist")
    bundle.provenance["certificate"] = certified
    bundle.save(target)
    return bundle.provenance["certificate"]


def _read_arpa(source, target):
    from zoo.convert import arpa

    bundle = arpa.read_bundle(source)
    counts = ", ".join(f"{count:,}" for count in bundle.model.config.ngram_counts)
    print(f"Model: ngram, order {bundle.model.config.order}, {counts} n-grams", flush=True)
    bundle.provenance["certificate"] = arpa.certify(bundle, source, written=False)
    bundle.save(target)
    return bundle.provenance["certificate"]


def _read_translator(source, target):
    from zoo.convert import ctranslate2, opennmt_tf

    theirs = _is_translator(source)
    bundle = ctranslate2.read(source) if theirs else opennmt_tf.read(source)
    print(f"Model: transformer, {bundle.model.count_params():,} parameters, for translation", flush=True)
    proof = ctranslate2.certify(bundle, source, FLAGS.peer_python) if theirs else opennmt_tf.certify()
    bundle.provenance["certificate"] = {**proof, "checklist": bundle.provenance.pop("checklist")}
    bundle.save(target)
    return bundle.provenance["certificate"]


def _read_vectors(source, target):
    from zoo.convert import vector_files

    bundle = vector_files.read_bundle(source)
    count, width = bundle.model.config.vocab_size, bundle.model.config.hidden_dim
    note = "; texts are read in lower case, as all words are" if bundle.tokenizer.lowercase else ""
    print(f"Model: word2vec, {count - 2:,} words, {width} numbers each{note}", flush=True)
    marks = [word for word in bundle.provenance["left_out"] if word in vector_files.MARKS]
    for word in marks:
        print(f"Left out: {word}, which is a mark and not a word", flush=True)
    spaced = [word for word in bundle.provenance["left_out"] if word not in vector_files.MARKS]
    if spaced:
        print(f"Left out: {len(spaced):,} words with white space in them, such as {spaced[0]!r}", flush=True)
    bundle.provenance["certificate"] = vector_files.certify(bundle, source, written=False)
    bundle.save(target)
    return bundle.provenance["certificate"]


def _make_static(bundle, target):
    """From an encoder to the vectors of its tokens. Returns what was kept."""
    from zoo.convert import static

    made = static.distil(bundle, FLAGS.static)
    made.save(target)
    return {name: made.provenance[name] for name in ("tokens", "variance_kept")}


def _write(source, target):
    """From a bundle to third-party files, or to the vectors of its tokens. Returns the certificate."""
    from zoo import bundle as bundles
    from zoo.convert import certificate, huggingface
    from zoo.files import remove_stale, staged

    bundle = bundles.load(bundles.find(source))
    if FLAGS.static is not None:
        return _make_static(bundle, target)
    if _is_vectors(target):
        from zoo.convert import vector_files

        left_out = vector_files.write_bundle(bundle, target)
        if left_out:
            print(f"Left out: {len(left_out)} tokens with white space in them", flush=True)
        return vector_files.certify(bundle, target)
    if _is_arpa(target):
        from zoo.convert import arpa

        target.parent.mkdir(parents=True, exist_ok=True)
        arpa.write_bundle(bundle, target)
        return arpa.certify(bundle, target)
    if bundle.task.temperature != 1:
        print(
            f"Left out: the temperature {bundle.task.temperature:.4f} of --calibrate, for which the files have no place",
            flush=True,
        )
        bundle.task.temperature = 1.0
        bundle.task.limit_ids(bundle.model, bundle.tokenizer)
    with staged(target.parent, target.name) as path:
        remove_stale(target.parent, re.escape(target.name))
        written = huggingface.write(bundle, path / target.name)
        result = certificate.certify(bundle, written, FLAGS.peer_python)
        if bundle.task.registered_name == "embedding" and bundle.task.config.pooling == "pooler":
            print("Left out: the pooling by the model's pooler, which sentence-transformers does not have", flush=True)
        (written / "certificate.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
        os.replace(written, target)
    return result


def start():
    """The program, with its flags."""
    trainer_flags.define_conversion()
    program.start(main)


if __name__ == "__main__":
    start()
