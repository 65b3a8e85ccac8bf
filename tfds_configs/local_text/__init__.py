"""Your own files as a data set: text, JSON lines, CSV, TSV; by glob, gzipped or not; split by you or by position."""
