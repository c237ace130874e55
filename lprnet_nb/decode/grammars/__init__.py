"""Grammars as data; the format is described in `lprnet_nb.decode.grammar`."""
