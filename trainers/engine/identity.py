"""What a run was begun with: the fingerprints of its text, its tokenizer, the files of its task and what that has learnt.

They are kept in `config.json`, and so is how the scores of its end were counted: sacrebleu's signatures.

A command names files, and files change. With another text a run would see other batches. With another tokenizer its ids would
mean other tokens, and with other labels its classes other things. Nothing would fail, so the run refuses to go on.
"""

import hashlib
import json
from pathlib import Path

from zoo.config import Refusal
from zoo.files import replace_file

KEY = "data"  # of `config.json`
SIGNATURE = "_signature"  # the end of those keys that say how a score was counted


def of(source, tokenizer, task):
    """Name -> what identifies it, JSON strings.

    Args:
        source: the `TextSource` of the run.
        tokenizer: the tokenizer, as it was prepared.
        task: the task, after `inspect`.
    """
    facts = json.dumps(task.facts.to_dict(), sort_keys=True)
    return {
        "text": source.fingerprint(), "tokenizer": tokenizer.digest(),
        "labels": list(getattr(task.facts, "labels", ())), "facts": hashlib.sha256(facts.encode()).hexdigest(),
        "files": {name: _digest(value) for name in task.config.files if (value := getattr(task.config, name))},
    }  # fmt: skip


def _digest(paths):
    """Of one file, or of several; the task says where one is not there."""
    paths = (paths,) if isinstance(paths, str) else paths
    return hashlib.sha256(
        b"".join(hashlib.sha256(path.read_bytes()).digest() for path in map(Path, paths) if path.is_file())
    ).hexdigest()


def write(run, config):
    """Writes the config of a run, a `TrainConfig`, and leaves what is known of its data and its scores."""
    _replace(run, {**config.to_dict(), **{name: value for name, value in _read(run).items() if is_known_later(name)}})


def is_known_later(name):
    """Whether a key of `config.json` is not of the `TrainConfig`."""
    return name == KEY or name.endswith(SIGNATURE)


def keep_signatures(run, scores):
    """Keeps how the scores of a split were counted, where they say so: `bleu_signature` and the like."""
    said = {name: value for name, value in scores.items() if name.endswith(SIGNATURE)}
    if said:
        _replace(run, {**_read(run), **said})


def check(run, now):
    """Keeps the identity of the data of a run that begins; of one that goes on it compares it.

    Args:
        run: the directory of the run, with its `config.json`.
        now: as `of` gives it.

    Raises:
        Refusal: the run was begun with other data. The sentence says what differs, and what can be done.
    """
    config = _read(run)
    before = config.get(KEY)
    if before is None:  # it begins, or was begun by a version that kept none
        _replace(run, {**config, KEY: now})
        return
    differing = [name for name in ("text", "tokenizer", "labels", "facts") if before.get(name) != now[name]]
    files = before.get("files", now["files"])  # a version before this one kept none
    differing += [name for name in now["files"] if files.get(name) != now["files"][name]]
    if not differing:
        return
    what = " and ".join(name for name in differing if name != "facts" or differing == ["facts"])
    labels = f" (labels {before.get('labels')} then, {now['labels']} now)" if "labels" in differing else ""
    raise Refusal(
        f"{run} was begun with another {what}{labels}, and cannot go on with this. Put back what it was begun with, or begin a "
        f"new run in another --model_dir; a run that has ended can be its beginning (--init_from={run})."
    )


def _read(run):
    path = Path(run) / "config.json"
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}


def _replace(run, values):
    replace_file(Path(run) / "config.json", lambda path: path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf8"))
