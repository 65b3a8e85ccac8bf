"""Scores of texts that were written, given texts that people wrote: BLEU, chrF, TER and ROUGE, by sacrebleu and rouge-score."""

import re

import numpy as np

from zoo.metrics import Sample


def translation_scores(texts, references, tokenize="13a"):
    """BLEU and chrF of translations, as sacrebleu counts them (Post 2018), from 0 to 100.

    Args:
        texts: list of strings.
        references: for each a list of strings. Texts may have unequal numbers of them.
        tokenize: how sacrebleu cuts words: 13a, none, intl, zh or char.

    Returns:
        dict of `bleu`, `chrf`, and `bleu_signature` and `chrf_signature`, sacrebleu's words for how it counted.
    """
    import sacrebleu  # takes a while to import, and only this needs it

    bleu, chrf, streams = sacrebleu.BLEU(tokenize=tokenize), sacrebleu.CHRF(), _streams(references)
    scores = {"bleu": bleu.corpus_score(texts, streams).score, "chrf": chrf.corpus_score(texts, streams).score}
    signatures = {"bleu_signature": str(bleu.get_signature()), "chrf_signature": str(chrf.get_signature())}
    return {**scores, **signatures}


def _streams(references):
    """Lists of references, one a text, as sacrebleu takes them: the first of each text, the second, ..., None for one less."""
    most = max(len(some) for some in references)
    return [[some[i] if i < len(some) else None for some in references] for i in range(most)]


def bleu_sample(texts, references, tokenize="13a"):
    """BLEU as a `Sample`: what `translation_scores` counts of each text."""
    import sacrebleu  # as above

    one = sacrebleu.BLEU(tokenize=tokenize, effective_order=True)  # which only keeps it from warning of single sentences
    counted = [one.sentence_score(text, some) for text, some in zip(texts, references, strict=True)]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in counted]

    def of_sums(sums):
        numbers = [int(number) for number in sums]
        return sacrebleu.BLEU.compute_bleu(numbers[:4], numbers[4:8], *numbers[8:], smooth_method="exp").score

    return Sample(np.array(rows, np.float64), of_sums)


def chrf_sample(texts, references):
    """chrF as a `Sample`: the n-grams of characters of each text, of its best reference, and those in both."""
    import sacrebleu  # as above

    chrf = sacrebleu.CHRF()
    # What sacrebleu's own tests of pairs draw from; it has no other name for it.
    rows = chrf._extract_corpus_statistics(texts, _streams(references))
    return Sample(np.array(rows, np.float64), lambda sums: chrf._compute_score_from_stats([int(n) for n in sums]).score)


def edit_scores(texts, references):
    """TER of translations (Snover et al. 2006), as sacrebleu counts it: edits and shifts for 100 words of the reference.

    It tries many shifts, which takes long where texts are far from their references and long.

    Args:
        texts, references: as of `translation_scores`.

    Returns:
        dict of `ter`, and `ter_signature`, sacrebleu's words for how it counted.
    """
    import sacrebleu  # as above

    ter = sacrebleu.TER()
    return {"ter": ter.corpus_score(texts, _streams(references)).score, "ter_signature": str(ter.get_signature())}


def ter_sample(texts, references):
    """TER as a `Sample`: the edits and the words of the references of each text."""
    import sacrebleu  # as above

    counted = [sacrebleu.TER().sentence_score(text, some) for text, some in zip(texts, references, strict=True)]
    rows = np.array([[score.num_edits, score.ref_length] for score in counted], np.float64)
    return Sample(rows, lambda sums: float(100 * sums[0] / sums[1]) if sums[1] else 100.0 * bool(sums[0]))


class _Characters:
    """Cuts a text into its characters, for ROUGE in Chinese."""

    def tokenize(self, text):
        return [character for character in text if not character.isspace()]


def summary_scores(texts, references, lang="en"):
    """ROUGE of summaries, as rouge-score counts it (Lin 2004): F-measures from 0 to 1, of the best reference.

    Args:
        texts: list of strings.
        references: for each a list of strings.
        lang: `en`, with Porter's stemmer, or `zh`, by characters.
    """
    values = rouge_values(texts, references, lang)
    return {name: sum(some) / max(len(texts), 1) for name, some in values.items()}


def rouge_values(texts, references, lang="en"):
    """As `summary_scores`, but a list with the value of each text."""
    from rouge_score import rouge_scorer  # as above

    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    tokenizer = _Characters() if lang == "zh" else None
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=lang == "en", tokenizer=tokenizer)
    values = {name: [] for name in names}
    for text, some in zip(texts, references, strict=True):
        for name, score in scorer.score_multi(some, text).items():
            values[name].append(score.fmeasure)
    return values


def first_sentence(text):
    """What stands in front of the first end of a sentence or line: lead-1, a summary that needs no model.

    first_sentence("A tool. It draws.")   ->   "A tool."
    """
    return re.split(r"(?<=[.!?])\s|(?<=[。！？])|\n", text.strip(), maxsplit=1)[0].strip()
