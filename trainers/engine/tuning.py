"""Which weights a run moves, and how fast: all alike, some not at all, the lower ones more slowly, or adapters beside them.

    --set=freeze=embeddings     what makes vectors of ids stays as it is; `freeze=3`: the first three blocks too; `backbone`:
                                all but the task's head
    --set=layer_decay=0.8       of D stages, stage d = 0 ... D - 1 learns at rate * 0.8^(D - 1 - d), the head at the rate itself
    --set=lora_rank=8           only adapters of the blocks' matrices, and the head, are trained; they are merged into the
                                matrices when training ends, so that no bundle and no export has a trace of them
    --set=l1=0.1                matrices shrink towards 0 by rate * l1 a step, and stay there
    --set=average=5             what is judged, saved and exported is the mean of the last five checkpoints (`averaging.py`)

These are fields of `--set` for every family that has blocks; `l1` and `average` for every family that is trained in
steps. The bundle does not keep them. Imports no TensorFlow: `flags.py` reads the config.
"""

from dataclasses import dataclass

from zoo import private
from zoo.config import Config, Refusal


@dataclass(frozen=True)
class TuningConfig(Config):
    """How a run trains what it begins with.

    Attributes:
        freeze: `none`, `embeddings`, a number of blocks (and the embeddings with them), or `backbone`.
        layer_decay: by what the rate falls from a stage to the one below it (Howard and Ruder 2018, section 3.2; Clark et al.
            2020).
        lora_rank: of the adapters (Hu et al. 2021); 0 for none.
        lora_alpha: an adapter is weighed with lora_alpha / lora_rank.
        l1: decoupled, as weight decay is.
        average: of so many of the last checkpoints the weights are averaged at the end; 0 and 1 leave the last ones.
    """

    freeze: str = "none"
    layer_decay: float = 1.0
    lora_rank: int = 0
    lora_alpha: float = 16.0
    l1: float = 0.0
    average: int = 0

    def validate(self):
        known = self.freeze in ("none", "embeddings", "backbone") or self.freeze.isdecimal()
        self.require(known, f"freeze is none, embeddings, a number of blocks or backbone, got {self.freeze!r}.")
        self.require(0 < self.layer_decay <= 1, f"layer_decay must be above 0 and at most 1, got {self.layer_decay}.")
        self.require(self.lora_rank >= 0, f"lora_rank must not be negative, got {self.lora_rank}.")
        self.require(self.lora_alpha > 0, f"lora_alpha must be positive, got {self.lora_alpha}.")
        self.require(self.l1 >= 0, f"l1 must not be negative, got {self.l1}.")
        self.require(self.average >= 0, f"average must not be negative, got {self.average}.")
        alone = not self.lora_rank or self.freeze == "none"
        self.require(alone, "lora_rank leaves everything but adapters and head as it is; leave out freeze.")


def begin(model, config):
    """Makes a built model train only what a `TuningConfig` says.

    Raises:
        Refusal: the family has no such stages, or nothing would be left to train.
    """
    if model.fitted:
        if config != TuningConfig():
            fields = "freeze, layer_decay, lora_rank, lora_alpha, l1 and average"
            raise Refusal(
                f"{model.registered_name} is fitted in closed form: {fields} are for models that are trained in steps."
            )
        return
    if config.freeze == "none" and config.layer_decay == 1 and not config.lora_rank:
        return
    stages = model.layers_by_depth()
    blocks = stages[1:-1]
    if config.freeze.isdecimal() and int(config.freeze) > len(blocks):
        raise Refusal(f"freeze={config.freeze} is more than the {len(blocks)} blocks of this {model.registered_name}.")
    frozen = {"none": 0, "embeddings": 1, "backbone": len(stages)}.get(config.freeze)
    frozen = 1 + int(config.freeze) if frozen is None else frozen
    if config.lora_rank:
        linears = [layer for block in blocks for layer in _linears(block)]
        if not linears:
            raise Refusal(f"{model.registered_name} has no matrices that lora_rank could stand beside; it is for bert and gpt.")
        frozen = len(stages)
    for variable in (v for stage in stages[:frozen] for layer in stage for v in layer.trainable_variables):
        variable.trainable = False
    if config.lora_rank:
        for layer in linears:
            layer.add_adapter(config.lora_rank, config.lora_alpha)
    if not model.trainable_variables:
        raise Refusal(f"freeze={config.freeze} leaves nothing to train: this {model.registered_name} has no head of its own.")


def rates(model, config):
    """What the learning rate of each trainable variable is multiplied by, in their order; None where all learn alike."""
    if config.layer_decay == 1:
        return None
    stages, below = model.layers_by_depth(), {}
    for depth, stage in enumerate(stages):
        for variable in (v for layer in stage for v in layer.variables):
            below.setdefault(id(variable), len(stages) - 1 - depth)  # a table that the output shares belongs to the input
    return [config.layer_decay ** below.get(id(variable), 0) for variable in model.trainable_variables]


def finish(model):
    """Merges what adapters a model has."""
    for layer in _linears([model]):
        layer.merge_adapter()


def _linears(layers):
    """All layers under some that can have an adapter."""
    from zoo.layers.linear import Linear  # here, so that a wrong flag is refused without Keras

    return [inner for layer in layers for inner in private.inner_layers(layer) if isinstance(inner, Linear)]
