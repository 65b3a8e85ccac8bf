"""Which text: raw strings, never tokens."""
