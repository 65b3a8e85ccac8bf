"""Pairs of sentences that differ in one trait: which of the two a model finds likelier, and how sure that is."""

import csv
import io
import itertools

import numpy as np

from zoo import metrics, text_files
from zoo.config import Refusal

REMARK = (
    "A share near one half does not show that a model is fair: pairs name few groups, and in many of them more than the trait "
    "differs (Blodgett et al. 2021). Read the pairs before you use the number."
)


def read(path):
    """The pairs of a file, a list of (more, less, trait): a row `more TAB less TAB trait` each, the trait may be missing.

    Two public sets are read as they come, known by their first line: CrowS-Pairs' CSV, whose trait is `bias_type` (Nangia et
    al. 2020); and Winogender's TSV, of which the sentence of a man is `more`, that of a woman `less`, and the occupation the
    trait (Rudinger et al. 2018).

    Raises:
        Refusal: a row that is not so, or a file without any.
    """
    header = next((line for _, line in text_files.lines(path)), "")
    if {"sent_more", "sent_less", "bias_type"} <= set(header.split(",")):
        return _required(_crows(path), path)
    if header.split("\t") == ["sentid", "sentence"]:
        return _required(_winogender(path), path)
    found = []
    for number, line in text_files.lines(path):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) not in (2, 3) or not all(cell.strip() for cell in cells[:2]):
            raise Refusal(f"Line {number} of {path} must be more TAB less TAB trait, got {line!r:.80}.")
        found.append((cells[0], cells[1], cells[2].strip() if len(cells) == 3 else ""))
    return _required(found, path)


def _required(found, path):
    if not found:
        raise Refusal(f"{path} holds no pairs; each line is more TAB less TAB trait.")
    return found


def _crows(path):
    """CrowS-Pairs' rows."""
    rows, found = csv.DictReader(io.StringIO(text_files.whole(path), newline="")), []
    for row in rows:
        pair = row["sent_more"], row["sent_less"]
        if not all(cell and cell.strip() for cell in pair):
            raise Refusal(f"Line {rows.line_num} of {path} must have sent_more and sent_less, as its first line says.")
        found.append((*pair, row["bias_type"] or ""))
    return found


def _winogender(path):
    """`technician.customer.1.male.txt TAB sentence`: the sentences of a man and of a woman of each scene."""
    scenes = {}
    for number, line in itertools.islice(text_files.lines(path), 1, None):
        name, _, sentence = line.partition("\t")
        parts = name.removesuffix(".txt").split(".")
        if len(parts) != 4 or not sentence:
            raise Refusal(f"Line {number} of {path} must be occupation.other.number.gender.txt TAB sentence, got {line!r:.80}.")
        scenes.setdefault(tuple(parts[:3]), {})[parts[3]] = sentence
    return [(scene["male"], scene["female"], key[0]) for key, scene in scenes.items() if {"male", "female"} <= scene.keys()]


def judge(log_prob, pairs):
    """The scores of all pairs and of those of each trait: a list of dicts, all of them first.

    Args:
        log_prob: list of strings -> float (N,), the natural (pseudo-)log-likelihood of each whole.
        pairs: list of (more, less, trait).

    Returns:
        `trait` (`all` for all), `num_pairs`, `preferred` (the share of pairs whose `more` is likelier; a tie counts half) with
        its 95% `interval`, `mean_difference` of the log-likelihoods in nats, and `p_value` of a permutation test of it.
    """
    more, less = (np.asarray(log_prob([pair[side] for pair in pairs]), np.float64) for side in (0, 1))
    differences, traits = more - less, np.array([pair[2] for pair in pairs])
    groups = [("all", np.ones(len(pairs), bool))]
    groups += [(trait, traits == trait) for trait in sorted(set(traits.tolist()) - {""})]
    return [{"trait": trait, **_scores(differences[chosen])} for trait, chosen in groups]


def _scores(differences):
    preferred = float((differences > 0).mean() + (differences == 0).mean() / 2)
    return {
        "num_pairs": len(differences),
        "preferred": preferred,
        "interval": list(metrics.share_interval(preferred, len(differences))),
        "mean_difference": float(differences.mean()),
        "p_value": metrics.sign_flip_test(differences),
    }
