"""A bag of words beside scikit-learn's TF-IDF and logistic regression, on the same files in one run.

    python -m benchmarks.classification --train=train.tsv --test=test.tsv
    python -m benchmarks.classification --train=train.tsv --test=test.tsv --analyzer=char -- --preset=characters

The files have a row an example, `label TAB text`. Ours is `trainers.run --model=bag_of_words` on all of the training file, with
the flags that follow; scikit-learn's is TfidfVectorizer (1-2-grams of words, or of characters) and LogisticRegression, as they
come, and once more with sublinear counts and C=10, which suits such texts better. The test file is read to count and for
nothing else.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="label TAB text")
    parser.add_argument("--test", required=True, help="label TAB text")
    parser.add_argument("--analyzer", choices=("word", "char"), default="word", help="scikit-learn's n-grams")
    parser.add_argument("flags", nargs="*", help="further flags of trainers.run, after --")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("sklearn") is None:
        parser.error("scikit-learn is not installed; pip install scikit-learn, or start this with an interpreter that has it.")
    theirs = {"scikit-learn": {}, "scikit-learn, C=10": dict(sublinear_tf=True, C=10.0)}
    rows = [*((name, *_theirs(args, **settings)) for name, settings in theirs.items()), ("bag_of_words", *_ours(args))]
    for name, accuracy, macro_f1, seconds in rows:
        print(f"{name:18} accuracy {accuracy:.4f}  macro F1 {macro_f1:.4f}  {seconds:6.1f} s")
    return 0 if rows[-1][1] >= max(accuracy for _, accuracy, *_ in rows) else 1


def _theirs(args, sublinear_tf=False, C=1.0):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score

    began = time.perf_counter()
    (labels, texts), (wanted, asked) = _read(args.train), _read(args.test)
    vectorizer = TfidfVectorizer(analyzer=args.analyzer, ngram_range=(1, 2), sublinear_tf=sublinear_tf)
    classifier = LogisticRegression(C=C, max_iter=1_000).fit(vectorizer.fit_transform(texts), labels)
    answers = classifier.predict(vectorizer.transform(asked))
    scores = accuracy_score(wanted, answers), f1_score(wanted, answers, average="macro")
    return *scores, time.perf_counter() - began


def _ours(args):
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as run:
        data = f"train={args.train},validation={args.test},test={args.test},columns=label:text"
        command = [sys.executable, "-m", "trainers.run", "--model=bag_of_words", f"--data_path={data}",
                   f"--model_dir={run}/run", "--export=false", *args.flags]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        last = json.loads(Path(run, "run", "metrics.jsonl").read_text(encoding="utf8").splitlines()[-1])
    return last["accuracy"], last["macro_f1"], time.perf_counter() - began


def _read(path):
    rows = [line.split("\t", 1) for line in Path(path).read_text(encoding="utf8").split("\n") if line]
    return [label for label, _ in rows], [text for _, text in rows]


if __name__ == "__main__":
    sys.exit(main())
