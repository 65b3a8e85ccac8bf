"""What a plan says, against numbers worked out by hand."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests import programs, tiny_models
from trainers.cost import plan
from zoo.config import Refusal
from zoo.layers.forms import resolve_form
from zoo.registry import MODELS, TASKS

GPT = MODELS.config("gpt")


def tiny(**fields):
    return GPT.preset("tiny", **fields)  # V 61, 16 positions, 2 layers, 2 heads, D 12, F 48


def run(**changes):
    settings = dict(
        batch_size=12,
        seq_length=16,
        steps=10,
        task="language_modeling",
        optimizer="adamw",
        precision="float32",
        grad_accumulation=1,
        xla="auto",
        clip_norm=0.0,
    )
    return SimpleNamespace(**{**settings, **changes})


# A block multiplies by 12 x 36, 12 x 12, 12 x 48 and 48 x 12, and has 36 + 12 + 48 + 12 biases and 4 x 12 of two norms.
BLOCK = 12 * 36 + 12 * 12 + 2 * 12 * 48 + 36 + 12 + 48 + 12 + 4 * 12
ATTENDED = 2 * 12 * 16 * 12  # 12 T N H in each of two layers


def test_flops_of_a_gpt():
    body = 2 * BLOCK + 2 * 12  # the blocks and the last norm; not the positions
    assert tiny().cost(16).body_params == body
    assert plan.flops_per_token(tiny(), 16) == 6 * (body + 61 * 12) + ATTENDED  # and the tied table
    assert plan.flops_per_token(tiny(), 7) == 6 * (body + 61 * 12) + ATTENDED * 7 / 16


def test_a_table_that_is_only_looked_up_costs_no_flops():
    assert tiny(tie_embeddings=False).cost(16).body_params == tiny().cost(16).body_params
    rotary = tiny(position="rotary", head_dim=4)
    assert rotary.cost(16).body_params == rotary.num_params() - 61 * 12
    lstm = MODELS.config("lstm").preset("tiny")
    assert lstm.cost(16).body_params == lstm.num_params() - 61 * 10
    untied = MODELS.config("lstm").preset("tiny", tie_embeddings=False)
    assert untied.cost(16).body_params == untied.num_params() - 61 * (10 + 14)
    assert plan.flops_per_token(untied, 16) == 6 * (untied.cost(16).body_params + 61 * 14)


def test_a_task_costs_at_the_positions_that_it_looks_at():
    bert = MODELS.config("bert").preset("tiny", pooler=True)
    body = 2 * BLOCK + 2 * 12 + 2 * 12  # the norm of the embeddings, and the products with the two segments
    assert bert.cost(16).body_params == body
    masked = plan.output_of(bert, 16, "masked_lm", TASKS.config("masked_lm")(mask_rate=0.2))
    # a head of 12 x 12 with a bias, a norm, and a bias for each of the 61 tokens, which the table makes
    assert (masked.positions, masked.width, masked.params) == (4, 61, 12 * 12 + 12 + 2 * 12 + 61)
    assert plan.flops_per_token(bert, 16, masked) == 6 * (body + (masked.params + 61 * 12) / 4) + ATTENDED
    labels = SimpleNamespace(labels=("no", "perhaps", "yes"))
    classes, tags = (plan.output_of(tiny(), 16, task, facts=labels) for task in ("classification", "tagging"))
    assert (classes.positions, tags.positions, classes.params) == (1, 16, 195)  # 13 x 12 and 13 x 3
    assert tags.params == 39
    assert plan.flops_per_token(tiny(), 16, classes) == 6 * (tiny().cost(16).body_params + 195 / 16) + ATTENDED
    assert plan.flops_per_token(tiny(), 16, tags) == 6 * (tiny().cost(16).body_params + 39) + ATTENDED
    assert plan.make(run(task="tagging"), tiny(), facts=labels).num_params == tiny().num_params() + 39
    bag = MODELS.config("bag_of_words").preset("tiny")
    assert plan.make(run(task="classification"), bag, facts=labels).num_params == bag.num_params()


@pytest.mark.parametrize("name", ["gpt", "lstm", "bert"])
def test_parameters_are_those_of_the_model_with_its_head(name):
    model = tiny_models.assembled(name)
    task_config = TASKS.config(model.config.default_task)()
    planned = plan.make(run(task=model.config.default_task), model.config, task_config)
    assert planned.num_params == sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_memory_of_weights_moments_gradients_and_a_checkpoints_copy():
    params = 4 * tiny().num_params()
    memory = plan.training_memory(tiny(), 3, 16)
    assert (memory.weights, memory.optimizer, memory.gradients, memory.checkpoint) == (params, 2 * params, params, 3 * params)
    assert memory.total == 7 * params + memory.activations + plan.GRAPHS["compiled"]
    assert plan.training_memory(tiny(), 3, 16, xla="off").graphs == plan.GRAPHS["blocks"]
    assert plan.training_memory(MODELS.config("lstm").preset("tiny"), 3, 16).graphs == plan.GRAPHS["recurrent"]
    assert plan.training_memory(MODELS.config("bag_of_words").preset("tiny"), 3, 16).graphs == plan.GRAPHS["flat"]
    assert plan.training_memory(tiny(attention="blockwise"), 3, 16).graphs > memory.graphs  # XLA has more to compile
    assert plan.training_memory(tiny(), 3, 16, optimizer="sgd").checkpoint == 2 * params
    assert plan.training_memory(tiny(), 3, 16, clip_norm=1.0, grad_accumulation=3).gradients == 3 * params


def test_activations_go_with_rows_and_less_is_kept_when_blocks_are_computed_again():
    def activations(config=None, batch_size=12, seq_length=16, **options):
        return plan.training_memory(config or tiny(), batch_size, seq_length, **options).activations

    assert activations() == pytest.approx(4 * activations(batch_size=3))
    assert activations(grad_accumulation=4) == pytest.approx(activations(batch_size=3))
    assert activations(grad_accumulation=5) == pytest.approx(activations(batch_size=3))  # the fullest part has three rows
    assert activations(precision="bfloat16") < activations()
    assert activations(seq_length=8) <= activations() / 2
    again = dataclasses.replace(tiny(), num_layers=12)
    assert activations(again.replace(remat="block")) < activations(again) / 2


def test_of_many_logits_only_a_chunk_is_held():
    wide = tiny(vocab_size=2**16)
    at_once, in_chunks = (plan.training_memory(wide, rows, 16).activations for rows in (64, 65))
    assert at_once == pytest.approx(64 * plan.training_memory(wide, 1, 16).activations)

    def activations(logits):
        output = plan.output_of(wide, 16, task_config=TASKS.config("language_modeling")(logits=logits))
        return plan.training_memory(wide, 65, 16, output=output).activations

    assert activations("auto") == activations("chunks") == in_chunks < at_once < activations("whole")


@pytest.mark.parametrize("length", [16, 255, 256, 1_024, 2_047, 2_048])
def test_the_scores_that_are_kept_go_by_the_form_of_attention_that_the_layer_takes(length):
    def activations(form):
        config = tiny(max_length=4_096, attention=form)
        return plan.training_memory(config, 1, length, xla="on").activations

    assert activations("blockwise") < activations("rows")
    assert activations("rows") == activations("plain") if length < 256 else activations("rows") < activations("plain")
    assert activations("auto") == activations(resolve_form("auto", length, causal=True))


def test_what_fits_needs_no_proposal_and_what_does_not_gets_one_that_does():
    enough = plan.make(run(), tiny(), limit=2e9)
    assert enough.fits and enough.proposals == () and enough.tokens == 12 * 16 * 10
    whole = plan.training_memory(tiny(), 12, 16)
    third = plan.training_memory(tiny(), 4, 16).total
    limit = (plan.LOADED + (third + plan.training_memory(tiny(), 6, 16).total) / 2) / plan.SAFE
    tight = plan.make(run(), tiny(), limit=limit)
    assert not tight.fits
    assert "--batch_size=4" in tight.proposals
    accumulation = next(int(p.partition("=")[2]) for p in tight.proposals if p.startswith("--grad_accumulation"))
    assert plan.fits(plan.training_memory(tiny(), 12, 16, grad_accumulation=accumulation), limit)
    assert f"needs about {(whole.total + plan.LOADED) / 1e9:.1f} GB" in tight.warning()
    assert tight.warning().endswith(f"it would fit with {' or '.join(tight.proposals)}.")


def test_when_the_weights_alone_are_too_large():
    hopeless = plan.make(run(), tiny(), limit=plan.LOADED)
    assert not hopeless.fits and hopeless.proposals == ()
    assert "choose a smaller --preset" in hopeless.warning()


def test_a_batch_of_a_quadrillion_rows_is_refused_and_nothing_is_tried():
    planned = plan.make(run(batch_size=10**15), tiny(), limit=16e9)
    assert planned.hopeless and planned.proposals == ()
    assert planned.warning().endswith("choose a smaller --batch_size, --seq_length or model.")


def test_a_dry_run_prints_the_plan_with_the_vocabulary_that_is_asked_for(capfd):
    answer = programs.call(capfd, "run", "--model=gpt", "--preset=tiny", "--vocab_size=300", "--dry_run")
    told = json.loads(answer.out)["plan"]
    assert told["num_params"] == tiny(vocab_size=300).num_params()
    memory = told["memory"]
    on_accelerator = sum(memory[name] for name in ("weights", "optimizer", "gradients", "activations"))
    assert told["on_accelerator_not_measured"] == pytest.approx(on_accelerator, abs=4)
    assert told["fits"] and told["memory"]["total"] == pytest.approx(sum(
        value for name, value in told["memory"].items() if name != "total"
    ), abs=5)  # fmt: skip
    assert "plan" not in json.loads(programs.call(capfd, "run", "--model=ngram", "--dry_run").out)


def test_a_dry_run_of_epochs_tells_all_but_what_follows_from_the_data(capfd):
    told = [
        json.loads(programs.call(capfd, "run", "--model=gpt", "--preset=tiny", "--dry_run", flag).out)
        for flag in ("--epochs=1.5", "--steps=7")
    ]
    assert told[0].pop("remark") == (
        "The steps of --epochs=1.5 follow from the data, which a dry run does not read; the run tells them before step 0."
    )
    of_epochs, of_steps = (each["plan"] for each in told)
    assert (told[0]["steps"], told[0]["epochs"], "remark" in told[1]) == (None, 1.5, False)
    assert (of_epochs.pop("tokens"), of_epochs.pop("flops")) == (None, None)
    assert of_steps.pop("tokens") == 7 * told[1]["batch_size"] * told[1]["seq_length"] and of_steps.pop("flops") > 0
    assert of_epochs == of_steps and of_epochs["memory"]["total"] > 0


def test_the_time_to_the_end_counts_evaluations_at_a_third():
    # 60 of 100 steps of 10 x 8 tokens; evaluations after 50 and 75 on 90 of 120 tokens each, and the last on 120 + 30
    config = SimpleNamespace(steps=100, eval_every=25, batch_size=10, seq_length=8)
    expected = (60 * 80 + (2 * 90 + 150) / 3) / 50.0
    assert plan.seconds_left(config, 40, 50.0, 90, 150) == pytest.approx(expected)
    assert plan.seconds_left(config, 100, 50.0, 90, 150) == pytest.approx(150 / 3 / 50.0)


def test_weights_that_are_larger_than_memory_are_refused_before_anything_is_made():
    config = MODELS.config("gpt").preset("default", num_layers=10**11)
    with pytest.raises(Refusal, match=r"needs .* GB for its weights alone, and this machine has 16.0 GB"):
        plan.require_memory(config, limit=16e9)
    plan.require_memory(MODELS.config("gpt").preset("gpt2_small"), limit=16e9)
    plan.require_memory(MODELS.config("ngram").preset("default"), limit=1)
