"""Language models, one file per family; `zoo.registry.MODELS` finds them."""
