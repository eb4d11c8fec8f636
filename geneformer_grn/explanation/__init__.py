"""Why a fine-tuned model said so: gradients over tokens, occlusion, and whether either is faithful.

An attribution is a number for each gene of each cell: how much it speaks for the class. Four ways to get one
stand side by side, since none is right by itself; which of them finds the genes that the model uses is
measured by taking them away (`explanation.faithfulness`). All of it says what the model reads, not what the
cell does.
"""
