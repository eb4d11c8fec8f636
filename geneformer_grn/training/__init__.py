"""Training: from a corpus of ranked cells and a typed config to a plain Hugging Face checkpoint.

``pretrain`` joins what the other files do: ``config`` (what is asked), ``plan`` and ``cost`` (how many
steps, at what price), ``stream`` (which batch comes when, the same for any number of processes),
``attention`` (which kernel), ``loop`` (one step, read from top to bottom), ``optimizer`` and ``schedule``
(AdamW or Muon and its learning rate), ``sharding`` (models above one GPU), ``checkpoints`` and ``signals``
(nothing lost when stopped or killed), ``meter``, ``flops`` and ``tracking`` (the log) and ``validation``
(held-out loss). The loop is our own and not ``transformers.Trainer``: batches here are token budgets, and
the loss is divided by the masked tokens of all processes together, which ``Trainer`` does not do.
"""
