"""Training: from a corpus of ranked cells and a typed config to a plain Hugging Face checkpoint.

``pretrain`` joins what the other files do: ``config`` (what is asked), ``plan`` (how many steps, what cost),
``stream`` (which batch comes when, the same for any number of processes), ``loop`` (one step, read from top
to bottom), ``optimizer`` (AdamW and its learning rate), ``checkpoints`` and ``signals`` (nothing lost when
stopped or killed), ``tracking`` (the log) and ``validation`` (held-out loss). The loop is our own and not
``transformers.Trainer``: batches here are token budgets, and the loss is divided by the masked tokens of all
processes together, which ``Trainer`` does not do.
"""
