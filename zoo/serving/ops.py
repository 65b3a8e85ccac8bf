"""Which operations an export may hold: those that a stock TF Serving can run.

A stock server links TensorFlow's core operations with their CPU kernels, and tensorflow-text's; it has XLA switched off and no
Python. The list is therefore derived, not kept by hand: what the C library registers a CPU kernel for, without what needs
Python or
    XLA,
or reaches files and the network while it answers.
"""

import ctypes
from pathlib import Path

from tensorflow.core.framework import kernel_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from zoo.config import Refusal
from zoo.serving import c_api

PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
# Of tensorflow-text, which the unigram tokenizer needs and BPE of texts in normal form; a stock server links them.
TENSORFLOW_TEXT = {
    "SentencepieceOp", "SentencepieceTokenizeOp", "SentencepieceDetokenizeOp", "SentencepieceIdToStringOp",
    "SentencepieceStringToIdOp", "SentencepieceVocabSizeOp", "NormalizeUTF8",
}  # fmt: skip
# What loads a checkpoint while the model is loaded; anything else that touches files is refused.
RESTORING = {"RestoreV2", "SaveV2", "MergeV2Checkpoints", "ShardedFilename"}
OUTSIDE = ("Xla", "_Xla", "TPU", "Rpc", "Collective", "Reader", "TFRecord", "TextLine", "FixedLength")
FILES = {
    "ReadFile", "WriteFile", "MatchingFiles", "Save", "SaveSlices", "Restore", "RestoreSlice", "SaveV2", "RestoreV2",
    "MergeV2Checkpoints", "PrintV2", "Print", "InitializeTableFromTextFile", "InitializeTableFromTextFileV2",
}  # fmt: skip


def allowed_ops():
    """Names of the operations that an export may hold."""
    lib = c_api.library()
    status = lib.TF_NewStatus()
    buffer = lib.TF_GetAllRegisteredKernels(status)
    kernels = kernel_def_pb2.KernelList.FromString(ctypes.string_at(buffer.contents.data, buffer.contents.length))
    lib.TF_DeleteBuffer(buffer)
    lib.TF_DeleteStatus(status)
    on_cpu = {kernel.op for kernel in kernels.kernel if kernel.device_type in ("CPU", "DEFAULT")}
    stock = {op for op in on_cpu - PYTHON - FILES if not op.startswith(OUTSIDE)}
    return frozenset(stock | RESTORING | TENSORFLOW_TEXT)


def check_ops(export, xla=False):
    """Raises Refusal if the SavedModel in `export` holds an operation that a stock TF Serving cannot run.

    Args:
        export: directory of one version.
        xla: whether it is meant for a server that was started with XLA.
    """
    saved_model = saved_model_pb2.SavedModel.FromString((Path(export) / "saved_model.pb").read_bytes())
    allowed = allowed_ops()
    for meta_graph in saved_model.meta_graphs:
        library = meta_graph.graph_def.library.function
        functions = {function.signature.name for function in library}
        must_compile = [function.signature.name for function in library if function.attr["_XlaMustCompile"].b]
        nodes = list(meta_graph.graph_def.node)
        for function in library:
            nodes += function.node_def
        must_compile += [node.name for node in nodes if node.attr["_XlaMustCompile"].b]
        if must_compile and not xla:
            raise Refusal(f"{must_compile[0]} must be compiled by XLA, which a stock server has switched off.")
        strangers = {node.op: node.name for node in nodes if node.op not in allowed and node.op not in functions}
        if strangers:
            op, name = min(strangers.items())
            raise Refusal(f"{name} is of the kind {op}, which a stock server cannot run; allowed are core operations alone.")
