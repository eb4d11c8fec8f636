"""In-silico perturbation: edits of ranked cells, the engine that encodes them, the screen, its effects.

The trade-off made here: what is reported as an effect is exact. Every (cell, gene) pair is encoded as in the
reference method; time is saved by packing cells without padding, by stopping at the layer that is read, by
encoding each unperturbed cell once, by computing once what the perturbations of one cell share in the first
layer, and by planning a screen in which tested and null genes share cells. Estimates (`first_order`) only
choose which genes are run.
"""
