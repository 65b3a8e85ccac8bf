"""Beams beside transformers and CTranslate2, on models that transformers makes itself with random weights.

    python -m benchmarks.beams [--peer_python=PYTHON] [--num_sources=64] [STRUCTURE ...]

For each structure the peer makes a tiny model, writes it with `save_pretrained`, and searches with four beams: `generate` of
transformers as it is by default (length_penalty=1.0, early_stopping=False), and, after CTranslate2's own converter,
`translate_batch` (length_penalty=1, patience=1). Here the directory is read, and searched under the rule of each. One JSON
object for a structure and a peer: how many of the n-best are the same in text, how many of the texts ended before the limit,
how many sources ended before any beam reached it, the largest difference of scores; and, of those that differ, the smallest
distance between two scores of their source, as two texts about equally likely may change places.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

T5 = dict(
    d_model=24, d_kv=6, d_ff=40, num_layers=2, num_decoder_layers=2, num_heads=4, relative_attention_num_buckets=8,
    relative_attention_max_distance=20, decoder_start_token_id=0, dropout_rate=0.0,
)  # fmt: skip
MARIAN = dict(
    d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=40,
    decoder_ffn_dim=40, max_position_embeddings=64, activation_function="swish", scale_embedding=True, dropout=0.0,
    share_encoder_decoder_embeddings=True,
)  # fmt: skip
# name -> (model_type, fields of its config)
STRUCTURES = {
    "t5": ("t5", dict(T5, feed_forward_proj="relu", tie_word_embeddings=True)),
    "t5-v1.1": ("t5", dict(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "flan-t5": ("t5", dict(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1)),
    "umt5": ("umt5", dict(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "marian": ("marian", MARIAN),
}
TEXTS = ["the cat sat on the mat .", "a cat is not a dog , 1984", "the naive dog ran ."] * 3
NUM_BEAMS, NEW_TOKENS = 4, 14
PEERS = ("transformers", "ctranslate2")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beams", description=__doc__.splitlines()[0])
    parser.add_argument("structures", nargs="*", metavar="STRUCTURE", help="names of some of them; all by default")
    parser.add_argument("--peer_python", default=sys.executable, help="an interpreter with torch, transformers and ctranslate2")
    parser.add_argument("--num_sources", type=int, default=64)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return _make(Path(args.worker), args.structures, args.num_sources)
    from zoo.tokenizers.base import create

    names = args.structures or list(STRUCTURES)
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            (Path(directory) / name).mkdir()
            tokenizer = _pieces() if name == "marian" else create("unigram", TEXTS, 48)
            tokenizer.save_huggingface(Path(directory) / name)
            roles = dict(eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id, vocab_size=tokenizer.vocab_size)
            (Path(directory) / name / "roles.json").write_text(json.dumps(roles))
        command = [args.peer_python, "-I", __file__, f"--worker={directory}", f"--num_sources={args.num_sources}", *names]
        subprocess.run(command, check=True)
        for name in names:
            for told in _compared(Path(directory) / name):
                print(json.dumps({"structure": name, **told}), flush=True)


def _pieces():
    """The two SentencePiece models and the one list of ids of a Marian."""
    import io

    import sentencepiece

    from zoo.tokenizers.numbered_pieces import NumberedPieces
    from zoo.tokenizers.pair import PairTokenizer
    from zoo.tokenizers.special import Special

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, hard_vocab_limit=False, bos_id=-1, eos_id=-1, minloglevel=2,
        vocab_size=40,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(1, processor.get_piece_size())]
    special = Special({"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, ((), (), ("</s>",)))
    return PairTokenizer(*[NumberedPieces(model.getvalue(), ["</s>", "<unk>", *pieces, "<pad>"], special)] * 2)


def _make(directory, names, num_sources):
    """In the peer's process: writes each model, and beside it sources and what both peers make of them."""
    import torch
    import transformers

    for name in names:
        there = directory / name
        model_type, fields = STRUCTURES[name]
        roles = json.loads((there / "roles.json").read_text())
        (there / "roles.json").unlink()
        torch.manual_seed(7)
        start = roles["pad_token_id"]
        config = transformers.AutoConfig.for_model(
            model_type, **{**fields, **roles, "decoder_start_token_id": start, "forced_eos_token_id": None}
        )
        config._attn_implementation = "eager"
        model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "embed_positions" in key:
                    continue
                torch.nn.init.normal_(parameter, std=0.35)
                if "norm" in key and key.endswith("weight"):
                    parameter += 1
            table = model.get_output_embeddings().weight
            table[roles["eos_token_id"]] *= 3.0  # so that texts end at all
            if model_type == "marian":
                table[start] = 0
                torch.nn.init.normal_(model.final_logits_bias, std=0.35)
        model.save_pretrained(there)
        random = np.random.default_rng(5)
        others = [i for i in range(roles["vocab_size"]) if i not in (roles["eos_token_id"], start)]
        rows = [[*random.choice(others, random.integers(2, 15)).tolist(), roles["eos_token_id"]] for _ in range(num_sources)]
        results = {"sources": np.array(json.dumps(rows))}
        results |= {f"transformers_{key}": value for key, value in _transformers(model, rows, roles, start).items()}
        results |= {f"ctranslate2_{key}": value for key, value in _ctranslate2(there, rows, roles).items()}
        np.savez(directory / f"{name}.npz", **results)


def _transformers(model, rows, roles, start):
    import torch

    answers, scores = [], []
    bad = {"bad_words_ids": [[start]], "renormalize_logits": True} if model.config.model_type == "marian" else {}
    for ids in rows:
        with torch.no_grad():
            made = model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), num_beams=NUM_BEAMS,
                num_return_sequences=NUM_BEAMS, max_new_tokens=NEW_TOKENS, output_scores=True, return_dict_in_generate=True,
                **bad,
            )  # fmt: skip
        answers.append([_until(ids[1:], roles["eos_token_id"]) for ids in made.sequences.tolist()])
        scores.append(made.sequences_scores.tolist())
    return {"texts": np.array(json.dumps(answers)), "scores": np.array(json.dumps(scores))}


def _until(ids, end):
    return ids[: ids.index(end)] if end in ids else ids


def _ctranslate2(directory, rows, roles):
    import ctranslate2
    from ctranslate2.converters import transformers

    # Only ids are compared, so tokens need names alone.
    tokens = [f"<{i}>" for i in range(roles["vocab_size"])]
    tokens[roles["eos_token_id"]], tokens[roles["pad_token_id"]] = "</s>", "<pad>"
    tokens[tokens.index("<2>")] = "<unk>"
    transformers.ModelLoader.get_vocabulary = lambda self, model, tokenizer: list(tokens)
    if directory.name != "marian":  # transformers 5 always says that the tables are tied, and keeps the truth elsewhere
        converted = transformers.T5Loader.get_model_spec

        def of_the_truth(self, model):
            model.config.tie_word_embeddings = model.config.scale_decoder_outputs
            return converted(self, model)

        transformers.T5Loader.get_model_spec = of_the_truth
    where = directory.with_name(f"{directory.name} ctranslate2")
    transformers.TransformersConverter(str(directory)).convert(str(where))
    config = json.loads((where / "config.json").read_text())
    named = dict(bos_token="<pad>", eos_token="</s>", unk_token="<unk>", decoder_start_token="<pad>")
    named |= {"decoder_start_token": "</s>"} if "<pad>" not in _tokens(where) else {}
    (where / "config.json").write_text(json.dumps({**config, **named}))
    model = ctranslate2.Translator(str(where), device="cpu", compute_type="float32", intra_threads=1)
    id_of = {token: i for i, token in enumerate(tokens)}
    made = model.translate_batch(
        [[tokens[i] for i in row] for row in rows], beam_size=NUM_BEAMS, num_hypotheses=NUM_BEAMS, return_scores=True,
        max_decoding_length=NEW_TOKENS, min_decoding_length=0, max_batch_size=16,
    )  # fmt: skip
    answers = [[[id_of[token] for token in texts] for texts in each.hypotheses] for each in made]
    return {"texts": np.array(json.dumps(answers)), "scores": np.array(json.dumps([each.scores for each in made]))}


def _tokens(directory):
    return json.loads((directory / "shared_vocabulary.json").read_text(encoding="utf8"))


def _compared(directory):
    import tensorflow as tf

    from zoo.beams import beam_search
    from zoo.convert import huggingface

    expected = np.load(directory.with_name(f"{directory.name}.npz"))
    bundle, rows = huggingface.read(directory), json.loads(str(expected["sources"]))
    model, target = bundle.model, bundle.tokenizer.target
    start = bundle.task.frame(model.kind, bundle.tokenizer).target_start

    @tf.function
    def search(source_ids, source_mask, rule):
        state = model.init_state(len(rows), NEW_TOKENS + 1, model.encode(source_ids, source_mask))
        begun = tf.tile(tf.constant([list(start)], tf.int32), [len(rows), 1])
        return beam_search(
            model.next_logits, state, begun, max_new_tokens=NEW_TOKENS, num_beams=NUM_BEAMS, num_best=None, length_penalty=1.0,
            rule=rule, stop_ids=(target.eos_id,), pad_id=target.pad_id,
        )  # fmt: skip

    sources = tf.ragged.constant(rows, tf.int32)
    dense, mask = sources.to_tensor(), tf.sequence_mask(sources.row_lengths())
    for peer in PEERS:
        best = search(dense, mask, tf.constant(peer))
        ours = [[_until(ids[:n], target.eos_id) for ids, n in zip(*each, strict=True)]
                for each in zip(best.token_ids.numpy().tolist(), best.lengths.numpy().tolist(), strict=True)]  # fmt: skip
        theirs, scores = (json.loads(str(expected[f"{peer}_{key}"])) for key in ("texts", "scores"))
        same = np.array([[one == other for one, other in zip(*pair, strict=True)] for pair in zip(ours, theirs, strict=True)])
        lengths = np.array([[len(ids) for ids in each] for each in theirs])
        scores = np.array(scores)
        with np.errstate(invalid="ignore"):  # an empty text has -inf in CTranslate2
            apart = np.nan_to_num(np.abs(best.scores.numpy() - scores), nan=0.0)
        told = {
            "peer": peer, "texts": same.size, "same": int(same.sum()), "ended": int((lengths < NEW_TOKENS).sum()),
            "sources_ended": int((lengths.max(1) < NEW_TOKENS).sum()), "largest_difference": float(apart[same].max(initial=0)),
        }  # fmt: skip
        if not same.all():
            told["differ"] = [int(i) for i in np.flatnonzero(~same.all(1))]
            told["nearest"] = float(min(np.abs(np.diff(scores[i])).min() for i in told["differ"]))
        yield told


if __name__ == "__main__":
    main()
