"""Carries models in and out: python -m trainers.convert --from=all-MiniLM-L6-v2 --to=minilm

From a Hugging Face directory or a GGUF file to a bundle, and from a bundle or a run to a Hugging Face directory. It ends with a
certificate: what was compared with whom, and how far the two are apart.
"""

import json
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags

FLAGS = flags.FLAGS


def main():
    source, target = FLAGS["from"].value, FLAGS["to"].value
    if source is None or target is None:
        raise ValueError("--from and --to are both needed: a directory or a .gguf file, and a directory to be made.")
    source, target = Path(source), Path(target)
    if not source.exists():
        raise ValueError(f"--from={source}: there is no such file or directory.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--to={target} is there already and not empty; give the name of a new directory.")
    with trainer_flags.quiet():
        import tensorflow  # noqa: F401
    outward = _is_ours(source)
    certificate = _write(source, target) if outward else _read(source, target)
    print(json.dumps(certificate, indent=1))
    if not outward:
        print(f"Bundle: {target}\nNext:\n  python -m trainers.export --model_dir={target} --export_dir=export")


def _is_ours(source):
    return any((directory / "tokenizer" / "zoo_tokenizer.json").is_file() for directory in (source, source / "bundle"))


def _read(source, target):
    """From other people's files to a bundle. Returns the certificate."""
    from zoo.convert import certificate, gguf, huggingface

    bundle = gguf.read(source) if source.is_file() else huggingface.read(source)
    model, task = bundle.model, bundle.task.registered_name
    print(f"Model: {model.registered_name}, {model.count_params():,} parameters, for {task}", flush=True)
    for name in bundle.provenance.get("left_out", []):
        print(f"Left out: {name}, of a head that no task here has", flush=True)
    bundle.provenance["certificate"] = certificate.certify(bundle, source, FLAGS.peer_python)
    bundle.save(target)
    return bundle.provenance["certificate"]


def _write(source, target):
    """From a bundle to a Hugging Face directory. Returns the certificate."""
    from zoo import bundle as bundles
    from zoo.convert import certificate, huggingface

    bundle = bundles.load(bundles.find(source))
    huggingface.write(bundle, target)
    result = certificate.certify(bundle, target, FLAGS.peer_python)
    (target / "certificate.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    return result


if __name__ == "__main__":
    trainer_flags.define_conversion()
    trainer_flags.program(main)
