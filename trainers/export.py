"""Writes a trained model as a SavedModel for TF Serving: python -m trainers.export --model_dir=runs/gpt/latest"""

import json
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags

FLAGS = flags.FLAGS


def main():
    if FLAGS.verify:
        return _verify()
    directory = trainer_flags.model_dir()
    with trainer_flags.quiet():
        import tensorflow  # noqa: F401

    import zoo

    loaded = zoo.load(directory)
    target = Path(FLAGS.export_dir) if FLAGS.export_dir else directory.parent / "export"
    with trainer_flags.quiet():
        path = loaded.export(target, version=FLAGS.version)
    print(written(path, loaded.model.registered_name))


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
    rows = [("signature", "takes", "gives")]
    for signature, slots in sorted(signatures.items(), key=lambda item: item[0] != "serving_default"):
        outputs = ", ".join(f"{key} {c_api.type_name(slot)}" for key, slot in sorted(slots.outputs.items()))
        rows.append((signature, c_api.described(slots), outputs))
    width = max(len(name) for name, _, _ in rows)
    lines += [f"  {name:<{width}}  {inputs}\n  {'':<{width}}  -> {outputs}" for name, inputs, outputs in rows[1:]]
    requests = json.loads((Path(path) / golden.EXTRA / "golden.json").read_text(encoding="utf8"))
    lines += [
        "", "Serve it, and ask it:",
        f"  {deployment.docker_command(Path(path).parent, name)}",
        f"  {deployment.curl_command(name, deployment.example_instances(requests))}",
        f"With batching, compose or Kubernetes: {Path(path).parent / 'deployment' / 'README.md'}",
    ]  # fmt: skip
    return "\n".join(lines)


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
