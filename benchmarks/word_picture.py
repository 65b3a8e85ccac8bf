"""A picture of some words: their vectors' first two principal components.

    python -m benchmarks.word_picture --model_dir=runs/word2vec/latest --to=docs/images/word-vectors.svg
    python -m benchmarks.word_picture --model_dir=RUN --to=PICTURE.png --words='king,queen man,woman'

Words of one group, by commas, have one colour; groups are separated by spaces. The vectors have length 1 and the mean 0.
"""

import argparse

import numpy as np

GROUPS = (
    "list,tuple,dict,set,string,bytes int,float,complex,decimal,fraction socket,server,client,connection,http,address "
    "file,directory,path,open,filename thread,process,lock,queue,task error,exception,raises,raised,valueerror,typeerror"
)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#806000", "#56b4e9", "#666666")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.word_picture", description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True, help="a run or a bundle of word vectors")
    parser.add_argument("--to", required=True, help="the picture: a name that ends in .svg or .png")
    parser.add_argument("--words", default=GROUPS, help="groups of words")
    args = parser.parse_args()
    import zoo

    loaded = zoo.load(args.model_dir)
    words = {word: number for number, group in enumerate(args.words.split()) for word in group.split(",")}
    vectors = loaded.predict("embed", text=list(words))["embedding"]
    known = [bool(np.any(vector)) for vector in vectors]
    if missing := [word for word, there in zip(words, known, strict=True) if not there]:
        print(f"Not in the vocabulary: {', '.join(missing)}")
    names = [word for word, there in zip(words, known, strict=True) if there]
    if len(names) < 3:
        raise SystemExit("A picture needs at least three words that are in the vocabulary.")
    places, share = components(np.asarray(vectors)[known])
    draw(names, places, [words[name] for name in names], args.to)
    print(f"{args.to}: {len(names)} words; the two components have {share:.0%} of the variance")


def components(vectors):
    """(float (N, 2), the share of the variance): the first two principal components of the rows of (N, D)."""
    centred = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * sizes[:2], float((sizes[:2] ** 2).sum() / (sizes**2).sum())


def draw(names, places, groups, path):
    """Writes the picture: each word at its place, in the colour of its group."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "words", "font.family": "sans-serif", "font.size": 10}):
        picture = Figure(figsize=(8, 5.5), layout="constrained")
        axes = picture.add_subplot()
        for name, (x, y), group in zip(names, places, groups, strict=True):
            colour = COLOURS[group % len(COLOURS)]
            axes.plot(x, y, "o", color=colour, ms=3)
            axes.annotate(name, (x, y), xytext=(4, 2), textcoords="offset points", color=colour)
        axes.set_xlabel("first component")
        axes.set_ylabel("second component")
        axes.margins(0.1)
        axes.spines[["top", "right"]].set_visible(False)
        dateless = {"metadata": {"Date": None}} if str(path).endswith(".svg") else {}
        picture.savefig(path, facecolor="white", dpi=100, **dateless)


if __name__ == "__main__":
    main()
