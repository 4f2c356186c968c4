"""Prints docs/config-pbtxt.md: the table of config.pbtxt's fields of config_fields.py, with a word before it."""

from headrace import config_fields

INTRODUCTION = """# config.pbtxt, field by field

Written from `python/headrace/config_fields.py` by `make docs`; change it there.

A model needs no `config.pbtxt`: what it leaves out is completed from the model. Names and meanings are Triton's, so its
repositories can be served as they are. No field is ignored in silence: one that is *warned about* stands in the log by
its name and changes nothing; one that is *refused* keeps the model from being served, with the reason in the log, in
the repository index and in the answer to a load request. A message that is warned about or refused is so as a whole.
The JSON of a load request's `config` parameter is read by the same table.
"""

if __name__ == "__main__":
    print(INTRODUCTION)
    print(config_fields.markdown().rstrip())
