"""Writes a trained model as a SavedModel for TF Serving: python -m trainers.export --model_dir=runs/gpt/latest"""

from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags

FLAGS = flags.FLAGS


def main():
    directory = trainer_flags.model_dir()
    with trainer_flags.quiet():
        import tensorflow  # noqa: F401

    import zoo

    loaded = zoo.load(directory)
    target = Path(FLAGS.export_dir) if FLAGS.export_dir else directory.parent / "export"
    with trainer_flags.quiet():
        path = loaded.export(target)
    print(f"Export: {path}, replayed in a fresh process: equal")
    for name, function in loaded.signatures.items():
        inputs = ", ".join(f"{key} {spec.dtype.name}" for key, spec in _inputs(function).items())
        print(f"  {name}({inputs})")


def _inputs(function):
    """Name -> TensorSpec of a signature's inputs."""
    arguments, keywords = function.input_signature or (), {}
    names = function.python_function.__code__.co_varnames
    return {**dict(zip(names, arguments, strict=False)), **keywords}


if __name__ == "__main__":
    trainer_flags.define_export()
    trainer_flags.program(main)
