"""Writes a trained model as a SavedModel for TF Serving: python -m trainers.export --model_dir=runs/gpt/latest"""

import json
import math
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags

FLAGS = flags.FLAGS
# What bits per byte before and after are told on: so many pieces of so many characters of validation text.
PIECES, PIECE_LENGTH = 64, 100


def main():
    if FLAGS.export_format != "saved_model":
        raise ValueError(
            f"--export_format={FLAGS.export_format} cannot hold what is served here: text in and out needs string tensors and tables, "
            "which that format has not; use saved_model."
        )
    if FLAGS.verify:
        return _verify()
    directory = trainer_flags.model_dir()
    with trainer_flags.quiet():
        import tensorflow  # noqa: F401

    import zoo

    loaded = zoo.load(directory)
    target = Path(FLAGS.export_dir) if FLAGS.export_dir else directory.parent / "export"
    with trainer_flags.quiet():
        path = loaded.export(target, version=FLAGS.version, precision=FLAGS.export_precision)
    print(written(path, loaded.model.registered_name))
    if FLAGS.export_precision != "float32" and "score" in loaded.signatures:
        with trainer_flags.quiet():
            sentence = _quality(directory, loaded, path)
        print(sentence)


def written(path, name):
    """What an export holds and how it is served, for people.

    Args:
        path: the directory of one version.
        name: what the model is served as.
    """
    from zoo.serving import c_api, deployment, golden

    size = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    signatures = c_api.read_signatures(path)
    lines = [f"Export: {path}, {size / 1e6:,.1f} MB; its answers in a process without our code were the same", ""]
    rows = []
    for signature, slots in sorted(signatures.items(), key=lambda item: item[0] != "serving_default"):
        rows.append((signature, c_api.described(slots.inputs, slots.defaults), c_api.described(slots.outputs)))
    width = max(len(name) for name, _, _ in rows)
    lines += [f"  {name:<{width}}  {inputs}\n  {'':<{width}}  -> {outputs}" for name, inputs, outputs in rows]
    requests = json.loads((Path(path) / golden.EXTRA / "golden.json").read_text(encoding="utf8"))
    lines += [
        "", "Serve it, and ask it:",
        f"  {deployment.docker_command(Path(path).parent, name)}",
        f"  {deployment.curl_command(name, deployment.example_instances(requests))}",
        f"With batching, compose or Kubernetes: {Path(path).parent / 'deployment' / 'README.md'}",
    ]  # fmt: skip
    return "\n".join(lines)


def _quality(directory, loaded, path):
    """What the precision of an export costs, in bits per byte of the text that the model was judged on."""
    import tfds_configs
    from zoo.serving import c_api

    config = Path(directory).parent / "config.json"
    run = json.loads(config.read_text(encoding="utf8")) if config.is_file() else {}
    if "dataset" not in run:
        return "Bits per byte before and after cannot be told: this bundle stands alone, and no text is known that it was not trained on."
    source, texts = tfds_configs.get(run["dataset"], run["data_path"]), []
    for text in source.texts("validation"):
        texts += [text[i : i + PIECE_LENGTH] for i in range(0, len(text), PIECE_LENGTH)][: PIECES - len(texts)]
        if len(texts) == PIECES:
            break
    num_bytes = sum(len(text.encode()) for text in texts)
    before = -sum(score["log_prob"] for score in loaded.score(texts)) / math.log(2) / num_bytes
    after = -float(c_api.SavedModel(path).run("score", {"text": texts})["log_prob"].sum()) / math.log(2) / num_bytes
    return f"Bits per byte of {len(texts)} pieces of {source.name}: {before:.4f} before, {after:.4f} in {FLAGS.export_precision} ({after - before:+.4f})."


def _verify():
    """Proves the newest version of --export_dir, or of the run's export/, in every way that there is."""
    target = Path(FLAGS.export_dir) if FLAGS.export_dir else trainer_flags.model_dir().parent / "export"
    with trainer_flags.quiet():
        import tensorflow  # noqa: F401

    from zoo.export import latest_version
    from zoo.serving import verification

    version = latest_version(target)
    if not version:
        raise ValueError(f"{target} holds no version to verify; write one with python -m trainers.export.")
    for check in verification.CHECKS:
        with trainer_flags.quiet():
            sentence = check(target / str(version))
        print(sentence, flush=True)


if __name__ == "__main__":
    trainer_flags.define_export()
    trainer_flags.program(main)
