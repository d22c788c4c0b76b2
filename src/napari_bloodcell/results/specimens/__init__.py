"""Specimens: the results of many fields of one smear, pooled."""
