"""Writes a trained model as a SavedModel for TF Serving: python -m trainers.export --model_dir=runs/gpt/latest"""

import json
import time
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal

FLAGS = flags.FLAGS


def main():
    if FLAGS.verify:
        return _verify()
    start = time.perf_counter()
    directory = trainer_flags.model_dir()
    draft = _draft()
    if FLAGS.export_format != "saved_model":
        for name in ("version", "export_precision", "export_xla", "set"):
            if FLAGS[name].value != FLAGS[name].default:
                raise Refusal(f"--{name} is for --export_format=saved_model, and not for {FLAGS.export_format}; leave it out.")
    with program.quiet():
        import tensorflow  # noqa: F401

    import zoo
    from zoo.export import loaded_draft

    loaded = zoo.load(directory)
    draft = loaded_draft(draft, loaded.tokenizer)
    target = Path(FLAGS.export_dir) if FLAGS.export_dir else directory.parent / "export"
    if FLAGS.export_format == "ctranslate2":
        return _translator(target, loaded)
    if FLAGS.export_format != "saved_model":
        from zoo.serving.token_level import export_forward

        with program.quiet():
            file, difference = export_forward(target, loaded.model, loaded.tokenizer, FLAGS.export_format)
        print(
            f"Export: {file}, {file.stat().st_size / 1e6:,.1f} MB: one pass on token ids, no text; its runtime's "
            "outputs are within "
            f"{difference:.1e} of the model's. Ids come from {file.parent / 'tokenizer'}"
        )
        return None
    versions = [(target, False)]
    if FLAGS.export_xla:
        # Elsewhere: a stock server takes the highest version that it finds, and could not run this one. First, as it may be
        # refused.
        versions.insert(0, (target.with_name(f"{target.name}_xla"), True))
    for parent, xla in versions:
        with program.quiet():
            path = loaded.export(parent, version=FLAGS.version, precision=FLAGS.export_precision, xla=xla, draft=draft)
        print(written(path, loaded.model.registered_name, xla))
        if draft is not None:
            print(f"Draft: {draft.described()}")
    print(f"{time.perf_counter() - start:.1f} s in all")
    if FLAGS.export_precision != "float32":
        print(_quality(directory, loaded, FLAGS.export_precision))
    return None


def _draft():
    """What --set says of the draft."""
    asked = "none"
    for assignment in FLAGS.set:
        key, equals, asked = assignment.partition("=")
        if key != "draft" or not equals:
            raise Refusal(f"--set of an export takes draft=none, draft=ngram:N or draft=ngram:DIR, got {assignment!r}.")
    return asked


def _translator(parent, loaded):
    """Writes `ctranslate2/` in place of an older one, once that library has translated as the model does."""
    from zoo.bundle import Bundle
    from zoo.convert import ctranslate2
    from zoo.files import remove_stale, replace_directory, staged

    bundle = Bundle(loaded.model, loaded.tokenizer, loaded.task, {})
    with staged(parent, "ctranslate2") as path, program.quiet():
        remove_stale(parent, "ctranslate2")
        proof = ctranslate2.certify(bundle, ctranslate2.write(bundle, path))
        replace_directory(path, parent / "ctranslate2")
    beams = proof["served"]["beam_search"]
    print(
        f"Export: {parent / 'ctranslate2'}: log-probabilities there are within {proof['outputs']['largest_difference']:.1e} of "
        f"the model's, greedy texts the same, {beams['same']} of {beams['texts']} texts of four beams the same. Tokens come "
        f"from {parent / 'ctranslate2' / 'tokenizer'}"
    )


def written(path, name, xla=False):
    """What an export holds and how it is served, for people.

    Args:
        path: the directory of one version.
        name: what the model is served as.
        xla: whether it wants a server that was started with XLA.
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
    instances = deployment.example_instances(requests, signatures["serving_default"].defaults)
    lines += [
        "", "Serve it, and ask it:",
        f"  {deployment.docker_command(Path(path).parent, name, xla)}",
        f"  {deployment.curl_command(name, instances)}",
        f"With batching, compose or Kubernetes: {Path(path).parent / 'deployment' / 'README.md'}",
    ]  # fmt: skip
    return "\n".join(lines)


def _quality(directory, loaded, precision):
    """What the precision of an export costs, in the scores of its task on the text that the model was judged on.

    The model is judged here, with the weights as the export stores them; that the export answers as it does has been proved.
    """
    import tfds_configs
    from trainers import evaluate
    from zoo.data.batch import Layout
    from zoo.serving.weights import at_precision, stored_weights

    run, task = evaluate.run_of(directory), loaded.task
    if "dataset" not in run:
        return "What that costs cannot be told: this bundle stands alone, and no text is known that it was not trained on."
    source = tfds_configs.get(run["dataset"], run["data_path"])
    layout = Layout(
        run["seq_length"], run["batch_size"], separate_documents=run.get("separate_documents", False),
        pairs_share_rows=loaded.model.kind == "language_model",
    )  # fmt: skip
    with program.quiet():
        data = evaluate.splits(task, layout, source, directory, ["validation"])["validation"]
        before = evaluate.judge(task, loaded.model, data, loaded.tokenizer, layout)
        served = at_precision(loaded.model, precision, task)
        with stored_weights(served, precision):
            after = evaluate.judge(task, served, data, loaded.tokenizer, layout)
    shown = [f"{name} {before[name]:.4f} before, {after[name]:.4f} in {precision}" for name in task.shown if name in before]
    return f"On the validation split of {source.name}: {'; '.join(shown)}."


def _verify():
    """Proves the newest version of --export_dir, or of the run's export/, in every way that there is."""
    target = Path(FLAGS.export_dir) if FLAGS.export_dir else trainer_flags.model_dir().parent / "export"
    with program.quiet():
        import tensorflow  # noqa: F401

    from zoo.export import latest_version
    from zoo.serving import proof

    version = latest_version(target)
    if not version:
        raise Refusal(f"{target} holds no version to verify; write one with python -m trainers.export.")
    for check in proof.CHECKS:
        with program.quiet():
            sentence = check(target / str(version))
        print(sentence, flush=True)


def start():
    """The program, with its flags."""
    trainer_flags.define_export()
    program.start(main)


if __name__ == "__main__":
    start()
