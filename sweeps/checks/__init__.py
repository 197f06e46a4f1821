"""Checks of a configuration beyond the types of its fields: what two fields, or a field and the machine, decide together.

Each check reads the raw values, so that it can speak even where other fields do not parse.
"""
