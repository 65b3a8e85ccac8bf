"""Tests. The folders below mirror zoo/, trainers/ and tfds_configs/; the files here are about all of them together."""
