"""From token ids to batches: streams on disk, packed windows, rows of examples, what is masked and what is changed."""
