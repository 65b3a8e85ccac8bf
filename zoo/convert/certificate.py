"""Proof that a converted model gives the numbers of the one it came from: fixed texts, both sides, the largest difference.

    certify(bundle, "model_dir") -> {"ids": {...}, "outputs": {...}}

Nothing is claimed that was not compared: without a peer the certificate says so.
"""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.config import Refusal
from zoo.convert import openai, reference, safetensors
from zoo.convert.huggingface import template
from zoo.convert.old_tensorflow import CONFIG, H5
from zoo.data import examples
from zoo.signatures.fill_mask import holes
from zoo.signatures.fill_spans import WithSentinels
from zoo.signatures.text_to_text import written as spelt
from zoo.tokenizers.base import read_json
from zoo.tokenizers.special import sentinel_name

TEXTS = (
    "The capital of France is Paris, and in 1984 it was, too.",
    "Naïve café:\n\tdef f(x):  return x**2  # 東京 😀",
    "",
    " ".join(f"Sentence number {i} is a little longer than the one before." for i in range(8)),
)
# Texts with the mask token, which is written HOLE here, in them.
HOLE = "<hole>"
HOLES = (f"The capital of {HOLE} is Paris.", f"{HOLE} {HOLE}, too", f"a\t {HOLE}b")
CONVERSATIONS = [[{"role": "user", "content": TEXTS[0]}]]
CONVERSATIONS.append(
    CONVERSATIONS[0] + [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?\nSay it."}]
)
# Of the largest output, or of 1 if that is smaller. Both sides add up float32 products in orders of their own.
TOLERANCE = 1e-3
# Tokens that are written after each text.
NEW_TOKENS = 8
# Beams of the search for the best texts of an encoder-decoder.
NUM_BEAMS = 4
# So many positions of a row are compared at once.
POSITIONS = 16


def certify(bundle, path, peer_python=None, library="transformers"):
    """Compares a bundle with what the files at `path` give to the library that wrote them.

    Args:
        bundle: the converted `Bundle`.
        path: a Hugging Face directory, a GGUF file, a preset of KerasHub's, or a directory of Google's BERT or
            OpenAI's GPT.
        peer_python: an interpreter with the peer; None for this one, if it has it.
        library: the peer: `transformers` (with torch) or `keras_hub`.

    Returns:
        dict of `texts`, how many; `ids` and `outputs`: what was compared with whom, and how far they are apart; `tokenizer`: in
        which calls ids were compared; `served`: what `embed` and `generate` answered as the peer's programs do.

    Raises:
        Refusal: ids differ, or outputs by more than `TOLERANCE`; or the peer fails.
    """
    path = Path(path)
    ids, what = _native_ids(bundle, path, library)
    certificate = {"texts": len(TEXTS), "dtype": "float32", "ids": ids, "tokenizer": what}
    makers = "OpenAI's" if openai.is_there(path) else "ChatGLM's" if _is_chatglm(bundle) else None
    if makers:
        certificate["outputs"] = {"compared": False, "reason": f"no library of today reads these files of {makers}"}
        return certificate
    peer = sys.executable if _has(library) and (peer_python is None or library == "keras_hub") else peer_python
    if peer is None:
        certificate["outputs"] = {"compared": False, "reason": "torch and transformers are not installed; see --peer_python"}
        return certificate
    asked, task = rows(bundle), bundle.task.registered_name
    request = {
        "library": library, "path": str(path.resolve()), "task": task, "texts": TEXTS, "rows": asked,
        "added": _with_added(bundle),
        "conversations": CONVERSATIONS, "hole": HOLE, "holes": _holes(bundle),
        "sentinel": sentinel_name(0), "target_start": _target_start(bundle),
        "num_ids": bundle.model.num_ids,
        "new_tokens": NEW_TOKENS, "num_beams": NUM_BEAMS, "eos_id": bundle.tokenizer.target.eos_id,
        "stop_ids": list(bundle.tokenizer.target.stop_ids),
        "prompts": [i for i, whole in enumerate(_framed(bundle)) if len(whole) == len(asked[i])],
        "old_tensorflow": path.is_dir() and not _is_written_anew(path),
    }  # fmt: skip
    with ask(peer, request) as answer:
        compared = {"compared": True, "peer": library, "versions": json.loads(str(answer["versions"]))}
        if "ids_0" in answer:
            apart, bare = _apart(bundle, path, answer), _is_bare(bundle, path, answer)
            certificate["tokenizer"] = _check_answers(bundle, answer, library, apart, bare)
            certificate["ids"] = {"identical": True, **compared}
            if apart:
                reason = f"{library} cuts these texts otherwise than the SentencePiece model itself, whose ids they have here"
                certificate["ids"] |= {"identical": False, "apart": [TEXTS[i] for i in apart], "reason": reason}
            if bare:
                certificate["ids"]["frame"] = (
                    f"not compared: no file says add_bos_token, so {library} puts nothing around a text; here it begins with "
                    f"{' '.join(template(bundle)[0])}"
                )
        elif "tokenizer_error" in answer:
            certificate["ids"]["reason"] = f"{library} has no tokenizer: {answer['tokenizer_error']}"
        if "reason" in answer:
            certificate["outputs"] = {"compared": False, "reason": str(answer["reason"])}
            return certificate
        difference, largest = _compared(bundle, asked, answer)
        served = _served(bundle, asked, answer, TOLERANCE * max(1.0, largest), library)
    if not difference <= TOLERANCE * max(1.0, largest):
        raise Refusal(
            f"The converted model's outputs are up to {difference:.2e} away from those of {library} ({largest:.2e} at most); "
            "it is not the same model."
        )
    what = "hidden states" if task == "embedding" else "logits"
    certificate["outputs"] = {"what": what, "largest_difference": difference, "largest_output": largest, **compared}
    certificate["served"] = served
    return certificate


def _is_chatglm(bundle):
    """Whether a bundle came from a directory that code of its makers reads, and no library."""
    return bundle.provenance.get("model_type", "").startswith("chatglm")


def _is_written_anew(path):
    """Whether a directory has weights that the present libraries read: all but TensorFlow's old ones."""
    return safetensors.found(path) or not ((path / H5).is_file() or (path / CONFIG).is_file())


def _compared(bundle, asked, answer):
    """(the largest difference of our outputs from the peer's, the largest of these)."""
    difference = largest = 0.0
    for i, first, ours in outputs(bundle, asked):
        if first == 0:
            theirs = answer[f"outputs_{i}"]
            largest = max(largest, float(np.abs(theirs).max()))
        difference = max(difference, float(np.abs(ours - theirs[first : first + len(ours), : ours.shape[-1]]).max()))
    return difference, largest


def _served(bundle, asked, answer, tolerance, peer):
    """Compares what the bundle serves with what the peer's own programs answer. Returns what was compared, by signature."""
    signatures, served = bundle.task.signatures(bundle.model, bundle.tokenizer), {}
    if "vectors" in answer:
        ours = signatures["embed"](text=tf.constant(TEXTS))["embedding"].numpy()
        theirs = answer["vectors"]
        if ours.shape != theirs.shape or not np.abs(ours - theirs).max() <= TOLERANCE * max(1.0, np.abs(theirs).max()):
            raise Refusal(
                f"embed serves other vectors than {peer} with the modules of this directory; it is not the same model."
            )
        served["embed"] = {"texts": len(theirs), "largest_difference": float(np.abs(ours - theirs).max())}
    written = [i for i in range(len(TEXTS)) if f"written_{i}" in answer]
    if written:
        # Where two tokens are about equally likely, either may be written.
        counts = [_sure(answer[f"gaps_{i}"], tolerance) for i in written]
        texts, start = tf.constant([TEXTS[i] for i in written]), _target_start(bundle)
        asked_for = {"prompt" if start is None else "text": texts, "max_new_tokens": tf.constant(counts)}
        ours = signatures["generate"](**asked_for)["text"].numpy()
        for i, count, text in zip(written, counts, ours, strict=True):
            more = answer[f"written_{i}"].tolist()[:count]
            if start is None:
                head, whole = bundle.tokenizer.decode(asked[i]), bundle.tokenizer.decode([*asked[i], *more])
                theirs = TEXTS[i] + whole[len(head) :]
            else:
                theirs = (
                    spelt(_spelling(bundle).target, tf.constant([more], tf.int32, (1, len(more))), [len(more)])
                    .numpy()[0]
                    .decode()
                )
            if text.decode("utf8", "replace") != theirs:
                raise Refusal(f"After {TEXTS[i][:20]!r} generate writes another text than {peer}; it is not the same model.")
        served["generate"] = {"texts": len(written), "tokens": sum(counts)}
    beams = [i for i in range(len(TEXTS)) if f"beams_{i}" in answer]
    if beams:
        served["beam_search"] = _same_beams(bundle, signatures["beam_search"], beams, answer)
    return served


def _same_beams(bundle, beam_search, beams, answer):
    """How many of the peer's best texts are ours too, in the same order, and how far their scores are apart.

    It is told, and refuses nothing: where two texts are about equally likely, either may fall out of the search on the way.
    """
    count = len(beams)
    ours = beam_search(
        text=tf.constant([TEXTS[i] for i in beams]), max_new_tokens=tf.fill([count], NEW_TOKENS),
        num_beams=tf.fill([count], NUM_BEAMS), length_penalty=tf.ones([count]), beam_rule=tf.fill([count], "transformers"),
    )  # fmt: skip
    same, difference, target = 0, 0.0, _spelling(bundle).target
    for i, texts, scores in zip(beams, ours["text"].numpy(), ours["score"].numpy(), strict=True):
        theirs = answer[f"beams_{i}"]
        ends = np.cumsum(theirs == target.eos_id, 1) > 0
        lengths = np.where(ends.any(1), ends.argmax(1), theirs.shape[1])
        equal = spelt(target, tf.constant(theirs), lengths).numpy() == texts
        same += int(equal.sum())
        if equal.any():
            difference = max(difference, float(np.abs(scores - answer[f"beam_scores_{i}"])[equal].max()))
    return {"texts": count * NUM_BEAMS, "same": same, "largest_difference": difference}


def _sure(gaps, tolerance):
    """How many steps come before the first at which the second likeliest token is as near as the two sides may be apart."""
    near = np.flatnonzero(gaps <= 2 * tolerance)
    return int(near[0]) if near.size else len(gaps)


def outputs(bundle, asked):
    """Yields what a model makes of rows of ids, a few positions at a time: logits for a whole text can be as large as a layer.

    Args:
        bundle: a `Bundle`.
        asked: list of rows.

    Yields:
        `(i, first, array)`: of row i, from position `first` on, float32 (n, V) logits, or (n, D) hidden states where there is
        no head.
    """
    model, task, start = bundle.model, bundle.task, _target_start(bundle)

    # In a graph, a tied table is multiplied as it is; line by line it would be transposed first, which takes its size again.
    @tf.function(reduce_retracing=True, autograph=False)
    def projected(hidden_1TD, first, end):
        if task.registered_name == "masked_lm":
            return model.head.logits(hidden_1TD[:, first:end])[0]
        return model.project(hidden_1TD[:, first:end])[0]

    for i, row in enumerate(asked):
        with warnings.catch_warnings():  # of the softmax over the only token of an empty text
            warnings.filterwarnings("ignore", "You are using a softmax over axis", UserWarning)
            ids = tf.constant([row], tf.int32)
            if start is None:
                hidden_1TD = model.without_head().hidden({"token_ids": ids})
            else:  # a decoder that is to say what the encoder reads
                hidden_1TD = model.hidden({"source_ids": ids, "token_ids": tf.constant([[*start, *row]], tf.int32)})
        if task.registered_name == "embedding":
            yield i, 0, hidden_1TD[0].numpy()
            continue
        length = hidden_1TD.shape[1]
        for first in range(0, length, POSITIONS):
            end = min(first + POSITIONS, length)
            yield i, first, projected(hidden_1TD, tf.constant(first), tf.constant(end)).numpy()


def rows(bundle):
    """The fixed texts as rows of ids, with the special ids around them."""
    longest = min(bundle.model.max_length or 128, 128)
    return _framed(bundle, longest - len(_target_start(bundle) or ()))


def _target_start(bundle):
    """What a decoder reads first, a list of ids; None where there is none beside an encoder."""
    if bundle.model.kind != "encoder_decoder":
        return None
    return list(bundle.task.frame(bundle.model.kind, bundle.tokenizer).target_start)


def _with_added(bundle):
    """A text with plain tokens in it that somebody added to the vocabulary, or ""."""
    added = [token.content for token in bundle.tokenizer.added[:8]]
    return f"The{' x '.join(added)}y {''.join(added)}" if added else ""


def _holes(bundle):
    """The texts with holes. Blanks other than one space before a sentinel are not everywhere its own."""
    return HOLES[:2] if bundle.task.registered_name == "span_corruption" else HOLES


def _spelling(bundle):
    """What the texts of an encoder-decoder are read and written with."""
    if bundle.task.registered_name != "span_corruption":
        return bundle.tokenizer
    ids = bundle.task.sentinel_ids(bundle.tokenizer)
    return WithSentinels(bundle.tokenizer, ids, bundle.model.config.vocab_size)


def _framed(bundle, longest=10**6):
    frame = bundle.task.frame(bundle.model.kind, bundle.tokenizer)
    return [examples.row([bundle.tokenizer.encode(text)], frame, longest)[0].tolist() for text in TEXTS]


def _native_ids(bundle, path, library):
    """Compares ids with the `tokenizers` library's, if there is a file that it reads. Returns what the certificate says of
    it, and the names of what was compared."""
    file = path / "tokenizer.json"
    if library != "transformers" or not file.is_file():
        return {"compared": False, "reason": f"{path.name} has no tokenizer.json of Hugging Face's"}, []
    native = tokenizers.Tokenizer.from_file(str(file))
    native.no_padding()
    native.no_truncation()
    what, added = ["texts"], _with_added(bundle)
    _check("tokenizers", "texts", _ours(bundle, "ids"), [native.encode(t, add_special_tokens=False).ids for t in TEXTS])
    if added:
        what.append("added tokens")
        _check("tokenizers", what[-1], [bundle.tokenizer.encode(added)], [native.encode(added, add_special_tokens=False).ids])
    # Without a post-processor the file leaves special tokens to the libraries that read it.
    if native.post_processor is not None or not any(template(bundle)):
        what += ["default calls", "pairs"]
        _check("tokenizers", "default calls", _ours(bundle, "whole"), [native.encode(t).ids for t in TEXTS])
        _check("tokenizers", "pairs", _ours(bundle, "pair"), [native.encode(t, TEXTS[i - 1]).ids for i, t in enumerate(TEXTS)])
    versions = {"tokenizers": tokenizers.__version__}
    return {"compared": True, "identical": True, "peer": "tokenizers", "versions": versions}, what


def _ours(bundle, what):
    """Ids of `TEXTS` as they go out to other libraries: `ids` alone, `whole` with the special tokens, each as a `pair` with the
    text before it, or each as the `target` of a decoder."""
    if what == "target":
        target = bundle.tokenizer.target
        return [[*target.encode(text), target.eos_id] for text in TEXTS]
    id_of = {token: i for i, token in enumerate(bundle.tokenizer.vocabulary)}
    before, between, after = ([id_of[token] for token in part] for part in template(bundle))
    texts = [bundle.tokenizer.encode(text) for text in TEXTS]
    if what == "ids":
        return texts
    if what == "whole":
        return [[*before, *ids, *after] for ids in texts]
    return [[*before, *ids, *between, *texts[i - 1], *after] for i, ids in enumerate(texts)]


def _apart(bundle, path, answer):
    """The numbers of the texts for which ours are the ids of the SentencePiece model itself, and the peer's are not.

    transformers 5 makes a tokenizer of its own of a SentencePiece model of BPE, and leaves the model's normalizer out.
    """
    files = sorted(path.glob("*.model")) if path.is_dir() and not (path / "tokenizer.json").is_file() else []
    if bundle.tokenizer.registered_name != "unigram" or len(files) != 1:
        return []
    import sentencepiece

    model, vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(files[0])), bundle.tokenizer.vocabulary
    return [
        i
        for i, (text, ids) in enumerate(zip(TEXTS, _ours(bundle, "ids"), strict=True))
        if answer[f"ids_{i}"].tolist() != ids
        and [model.id_to_piece(piece) for piece in model.encode(text)] == [vocabulary[piece] for piece in ids]
    ]


def _is_bare(bundle, path, answer):
    """Whether the peer puts nothing around a text only because no file says what stands there.

    Where tokenizer_config.json has no `add_bos_token`, transformers 5 begins a Llama's text with nothing, and transformers 4
    began it with `<s>`, as the bundle does.
    """
    settings = path / "tokenizer_config.json"
    said = not path.is_dir() or (path / "tokenizer.json").is_file()
    said = said or settings.is_file() and "add_bos_token" in read_json(settings)
    if said or bundle.tokenizer.registered_name != "unigram" or "whole_0" not in answer:
        return False
    nothing = all(np.array_equal(answer[f"whole_{i}"], answer[f"ids_{i}"]) for i in range(len(TEXTS)))
    return nothing and any(template(bundle))


def _check_answers(bundle, answer, peer, apart, bare=False):
    """Compares all that the peer's tokenizer answered with ours.

    Args:
        bundle, answer, peer: the two sides.
        apart: numbers of texts that are left out.
        bare: whether what stands around a text is left out.

    Returns:
        The names of what was compared.
    """
    if bare:
        answer = {key: answer[key] for key in answer if not key.startswith(("whole_", "pair_", "padded", "outputs_"))}
    tokenizer, what = bundle.tokenizer, []

    def compare(name, ours, theirs):
        _check(peer, name, ours, theirs)
        what.append(name)

    for name, key in (("texts", "ids"), ("default calls", "whole"), ("pairs", "pair"), ("targets", "target")):
        there = [i for i in range(len(TEXTS)) if f"{key}_{i}" in answer and i not in apart]
        if key == "pair":
            there = [i for i in there if (i - 1) % len(TEXTS) not in apart]
        if there:
            ours = _ours(bundle, key)
            compare(name, [ours[i] for i in there], [answer[f"{key}_{i}"].tolist() for i in there])
    if "added" in answer:
        compare("added tokens", [tokenizer.encode(_with_added(bundle))], [answer["added"].tolist()])
    if "padded" in answer:
        theirs = [(i, row) for i, row in enumerate(answer["padded"].tolist()) if i not in apart]
        whole = _ours(bundle, "whole")
        ours = [whole[i] + [tokenizer.pad_id] * (len(row) - len(whole[i])) for i, row in theirs]
        compare("padding", ours, [row for _, row in theirs])
    if "chat_0" in answer and _knows_conversations(tokenizer):
        ours = [tokenizer.chat_frame.ids(tokenizer, messages) for messages in CONVERSATIONS]
        compare("conversations", ours, [answer[f"chat_{i}"].tolist() for i in range(len(ours))])
    if "mask_id" in answer and tokenizer.mask_id is not None:
        compare("mask token", [tokenizer.mask_id], [int(answer["mask_id"])])
        if bundle.task.registered_name == "masked_lm":
            texts = tf.constant([text.replace(HOLE, tokenizer.mask_token) for text in HOLES])
            batch, _ = holes(bundle.model, tokenizer, bundle.task.frame(bundle.model.kind, tokenizer), texts)
            ours = tf.ragged.boolean_mask(batch["token_ids"], batch["padding_mask"]).to_list()
            compare("texts with the mask token", ours, [answer[f"hole_{i}"].tolist() for i in range(len(HOLES))])
    elif "hole_0" in answer and bundle.task.registered_name == "span_corruption":
        texts = tf.constant([text.replace(HOLE, sentinel_name(0)) for text in _holes(bundle)])
        ours = [[*ids, tokenizer.eos_id] for ids in _spelling(bundle).tokenize(texts).to_list()]
        compare("texts with sentinels", ours, [answer[f"hole_{i}"].tolist() for i in range(len(ours))])
    return what


def _knows_conversations(tokenizer):
    """Whether a vocabulary has a chat frame; it may have come with a template of an unknown kind."""
    try:
        return bool(tokenizer.chat_frame.end_ids(tokenizer))
    except Refusal:
        return False


def _check(peer, name, ours, theirs):
    """Raises Refusal for the first of two lists that differ."""
    for one, other in zip(ours, theirs, strict=True):
        if one != other:
            raise Refusal(
                f"The converted tokenizer gives other ids than {peer} for {name}: {str(one)[:60]} and not {str(other)[:60]}; "
                "it is not the same."
            )


def _has(library):
    needed = ("keras_nlp",) if library == "keras_hub" else ("torch", "transformers")
    return all(importlib.util.find_spec(name) for name in needed)


@contextlib.contextmanager
def ask(peer, request):
    """The answer of `zoo/convert/reference.py` in another process, whose memory goes when it ends; each array is read when it
    is asked for."""
    with tempfile.TemporaryDirectory() as directory:
        asked, answered = Path(directory) / "request.json", Path(directory) / "answer.npz"
        asked.write_text(json.dumps(request), encoding="utf8")
        command = [str(peer), "-I", str(Path(reference.__file__).resolve()), str(asked), str(answered)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1]
            raise Refusal(f"The peer {peer} could not run this model: {reason}")
        with np.load(answered, allow_pickle=False) as arrays:
            yield arrays
