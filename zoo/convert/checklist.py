"""A source is a checklist: every file and field of it is applied, irrelevant for a reason that stands here, or refused.

checklist = Checklist("all-MiniLM-L6-v2")
checklist.files(applied=["config.json", ...])
checklist.fields("config.json", theirs, applied=["vocab_size", ...], irrelevant=CONFIG)
checklist.report()   ->   {"applied": {...}, "irrelevant": {...}}, which the certificate keeps
"""

import re
from pathlib import Path

from zoo.config import Refusal

# Reason -> patterns of files.
FILES = {
    "another form of the weights": (
        r"pytorch_model.*\.bin(\.index\.json)?", r"tf_model\.h5", r"flax_model.*", r"rust_model\.ot",
        r".*\.(onnx|gguf|tflite|pth)",
        r"model\.ckpt.*", r"onnx", r"openvino", r"coreml", r"gguf", r"original", r"model\.safetensors\.index\.json",
        r"model-\d+-of-\d+\.safetensors",
    ),
    "another form of the vocabulary": (
        r"vocab\.(txt|json|bpe)", r"encoder\.json", r"merges\.txt", r"unigram\.json", r".*\.model", r"tokenizer\.json",
    ),
    "of a training run": (
        r"training_args\.bin", r"(optimizer|scheduler|scaler)\.(pt|bin)", r"rng_state.*\.pth", r"trainer_state\.json",
        r"(all|train|eval)_results\.json", r"data_config\.json", r"checkpoint-\d+", r"runs", r"eval", r"certificate\.json",
    ),
    "text about the model": (
        r"\..*", r"LICEN[CS]E.*", r"NOTICE.*", r"README.*", r"USE_POLICY.*", r"modelcard\.json", r"assets", r"images?",
        r".*\.(md|txt|rst|pdf|html|csv|tsv|log|png|jpe?g|gif|svg|ipynb|sh|ya?ml|bib)",
    ),
    "code, which is never run; config.json names none of it": (r".*\.py", r"__pycache__"),
    "a chat template in an older form": (r"chat_template\.json",),
    "for another library": (r"(sparse|colbert)_linear\.pt", r"params\.json", r"consolidated.*"),
}  # fmt: skip
# Reason -> fields of config.json, of every kind of model.
CONFIG = {
    "tells where it comes from": (
        "_name_or_path name_or_path _commit_hash transformers_version architectures tokenizer_class torch_dtype dtype "
        "_num_labels "
        "transformers.js_config finetuning_task is_llama_config"
    ),
    "for training alone": (
        "initializer_range gradient_checkpointing attention_probs_dropout_prob attention_dropout attn_pdrop embd_pdrop "
        "problem_type task_specific_params"
    ),
    "changes no number": (
        "use_cache output_attentions output_hidden_states output_past return_dict torchscript use_bfloat16 "
        "chunk_size_feed_forward reorder_and_upcast_attn pretraining_tp attn_implementation _attn_implementation n_ctx "
        "n_special predict_special_tokens"
    ),
    "of heads that no task here has": (
        "id2label label2id num_labels classifier_dropout summary_type summary_use_proj summary_activation "
        "summary_proj_to_labels summary_first_dropout directionality pooler_fc_size pooler_num_attention_heads "
        "pooler_num_fc_layers pooler_size_per_head pooler_type"
    ),
    "an option of a request": (
        "do_sample temperature top_k top_p num_beams max_length min_length repetition_penalty length_penalty typical_p "
        "no_repeat_ngram_size early_stopping num_return_sequences num_beam_groups diversity_penalty prefix "
        "encoder_no_repeat_ngram_size remove_invalid_values output_scores return_dict_in_generate"
    ),
}
# Fields that are read with the tokenizer.
TOKEN_IDS = tuple(f"{role}_token_id" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Field of config.json -> the values that change nothing; None stands for an absent one too.
INERT = {
    "is_encoder_decoder": (None, False), "is_decoder": (None, False), "add_cross_attention": (None, False),
    "tie_encoder_decoder": (None, False), "cross_attention_hidden_size": (None,), "pruned_heads": (None, {}),
    "quantization_config": (None,), "auto_map": (None, {}), "rope_interleaved": (None, False),
    "tie_word_embeddings": (None, True), "partial_rotary_factor": (None, 1, 1.0),
}  # fmt: skip
TOKENIZER_CONFIG = {
    "tells where it comes from": (
        "name_or_path _commit_hash tokenizer_class processor_class special_tokens_map_file tokenizer_file full_tokenizer_file "
        "vocab_file merges_file from_slow from_flax backend is_local local_files_only legacy device_map files_loaded "
        "source_lang target_lang target_vocab_file unk_id"
    ),
    "changes no ids of a whole text": (
        "model_input_names padding_side truncation_side padding truncation max_length max_len stride truncation_strategy "
        "pad_to_multiple_of pad_token_type_id trim_offsets clean_up_tokenization_spaces errors spaces_between_special_tokens "
        "use_fast"
    ),
    "for conversations with tools": "use_default_system_prompt response_schema",
}
# Of generation_config.json: what is read, what a request asks for or decides nothing, and what must not be there.
GENERATION_APPLIED = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
GENERATION = {
    "an option of a request": (
        CONFIG["an option of a request"] + " max_new_tokens min_new_tokens max_time min_p epsilon_cutoff eta_cutoff top_h "
        "encoder_repetition_penalty renormalize_logits penalty_alpha dola_layers low_memory num_assistant_tokens chat_format "
        "max_window_size"
    ),
    "changes no number": (
        "use_cache cache_implementation cache_config return_legacy_cache output_attentions output_hidden_states output_logits "
        "prefill_chunk_size compile_config disable_compile is_assistant num_assistant_tokens_schedule "
        "assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit "
        "assistant_lookbehind target_lookbehind trust_remote_code continuous_batching_config"
    ),
    "tells where it comes from": "transformers_version _from_model_config _commit_hash generation_kwargs",
}
GENERATION_INERT = {
    "suppress_tokens": (None, []), "begin_suppress_tokens": (None, []), "bad_words_ids": (None, []),
    "force_words_ids": (None, []), "constraints": (None, []), "sequence_bias": (None, {}, []),
    "forced_bos_token_id": (None,), "forced_eos_token_id": (None,), "forced_decoder_ids": (None, []),
    "exponential_decay_length_penalty": (None,), "stop_strings": (None, [], ""), "guidance_scale": (None, 1, 1.0),
    "watermarking_config": (None,), "token_healing": (None, False),
}  # fmt: skip
TOKENIZER_APPLIED = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "added_tokens_decoder",
    "additional_special_tokens", "extra_special_tokens", "add_bos_token", "add_eos_token", "do_lower_case", "strip_accents",
    "tokenize_chinese_chars", "do_basic_tokenize", "never_split", "sp_model_kwargs", "split_special_tokens", "model_max_length",
    "extra_ids", "separate_vocabs", "chat_template", "add_prefix_space",
)  # fmt: skip


class Checklist:
    """What became of each part of a source.

    Args:
        directory: the source, for messages and for its files.
    """

    def __init__(self, directory):
        self._directory = Path(directory)
        self._applied, self._irrelevant = {}, {}

    def apply(self, part, *names):
        """Notes that fields of a part, or the part as a whole, were applied."""
        self._applied.setdefault(part, []).extend(names)

    def ignore(self, part, reason):
        """Notes that a part of the source is irrelevant, and why."""
        self._irrelevant.setdefault(reason, []).append(part)

    def files(self, applied):
        """Goes through the files and folders of the source. Raises Refusal for one that nobody knows."""
        for path in sorted(self._directory.iterdir()):
            if path.name in applied:
                self.apply(path.name)
                continue
            reason = next((why for why, known in FILES.items() if any(re.fullmatch(p, path.name) for p in known)), None)
            if reason is None:
                kind = "folder" if path.is_dir() else "file"
                raise Refusal(
                    f"{self._directory} has the {kind} {path.name}, which is not known here and may change what the model "
                    "computes; move it out of the directory if it does not."
                )
            self.ignore(path.name, reason)

    def fields(self, part, values, applied, irrelevant, inert=None):
        """Goes through the fields of a file.

        Args:
            part: the file's name.
            values: dict, field -> value.
            applied: fields that are read.
            irrelevant: reason -> names, in one string.
            inert: field -> values under which it changes nothing.

        Raises:
            Refusal: a field that is in none of these, unless it is null.
        """
        reasons = {name: reason for reason, names in irrelevant.items() for name in names.split()}
        inert = inert or {}
        for name, value in values.items():
            if name in applied:
                self.apply(part, name)
            elif name in inert:
                if value not in inert[name]:
                    raise Refusal(f"{self._directory / part} has {name}={str(value)[:60]}, which is not supported.")
                self.ignore(f"{part}: {name}", "has the value that changes nothing")
            elif name in reasons or value is None:
                self.ignore(f"{part}: {name}", reasons.get(name, "null"))
            else:
                raise Refusal(
                    f"{self._directory / part} has the field {name}={str(value)[:60]}, which is not known here and may change "
                    "what the model computes; take it out if it does not."
                )

    def report(self):
        """JSON values for the certificate: `applied`, part -> its fields, and `irrelevant`, reason -> parts."""
        return {
            "applied": {part: ", ".join(names) or "whole" for part, names in sorted(self._applied.items())},
            "irrelevant": {reason: ", ".join(parts) for reason, parts in sorted(self._irrelevant.items())},
        }
