"""In-silico perturbation: edits of ranked cells, the engine that encodes them, the screen, its effects.

The trade-off made here: nothing is approximated. Every (cell, gene) pair is one full pass through the
encoder, as in the reference method; time is saved by packing passes without padding, by stopping at the
layer that is read, by encoding each unperturbed cell once, and by planning a screen in which tested and
null genes share cells.
"""
