"""Text in, text out, in one graph: the functions that an exported model answers requests with."""
