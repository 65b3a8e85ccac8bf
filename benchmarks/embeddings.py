"""Embeddings of a converted sentence encoder beside `transformers`: cosines and largest difference over 200 sentences.

    python -m benchmarks.embeddings --source=all-MiniLM-L6-v2 --peer_python=PATH [--texts=FILE]

`--source` is the Hugging Face directory; it is converted here. The sentences are those of a file, one a line, or else the
docstrings of Python's standard library.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NUM_TEXTS = 200
# The peer's side, run by --peer_python: mean over the real tokens, length 1, as sentence-transformers does.
PEER = """
import json, sys
import numpy as np, torch, transformers
source, texts, target, longest = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(source)
model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
rows = []
for text in json.load(open(texts)):
    batch = tokenizer(text, truncation=True, max_length=int(longest), return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state[0]
    rows.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
np.save(target, np.stack(rows))
print(transformers.__version__, torch.__version__)
"""


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="the Hugging Face directory of a sentence encoder")
    parser.add_argument("--texts", help="a file with a sentence a line")
    parser.add_argument("--peer_python", default=sys.executable, help="an interpreter with torch and transformers")
    args = parser.parse_args()

    import tensorflow as tf

    from zoo.convert import huggingface

    texts = _texts(args.texts)
    bundle = huggingface.read(args.source)
    embed = bundle.task.signatures(bundle.model, bundle.tokenizer)["embed"]
    longest = bundle.task.config.max_tokens or bundle.model.max_length
    ours = np.concatenate([embed(text=tf.constant(texts[i : i + 20]))["embedding"] for i in range(0, len(texts), 20)])
    theirs, versions = _peer(args, texts, longest)
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    result = {
        "texts": len(texts), "lowest_cosine": float(cosines.min()), "largest_difference": float(np.abs(ours - theirs).max()),
        "peer": versions,
    }  # fmt: skip
    print(json.dumps(result))


def _texts(path):
    if path:
        return [line for line in Path(path).read_text(encoding="utf8").splitlines() if line.strip()][:NUM_TEXTS]
    import tfds_configs

    paragraphs = (part for text in tfds_configs.get("python_docs").texts("validation") for part in text.split("\n\n"))
    return [part for part, _ in zip((p for p in paragraphs if len(p) > 20), range(NUM_TEXTS), strict=False)]


def _peer(args, texts, longest):
    """(embeddings (N, D), versions) from the other interpreter."""
    with tempfile.TemporaryDirectory() as directory:
        asked, answered = Path(directory) / "texts.json", Path(directory) / "embeddings.npy"
        asked.write_text(json.dumps(texts), encoding="utf8")
        command = [args.peer_python, "-I", "-c", PEER, str(args.source), str(asked), str(answered), str(longest)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return np.load(answered, allow_pickle=False), "transformers {} with torch {}".format(*printed.split())


if __name__ == "__main__":
    main()
