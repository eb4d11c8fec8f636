"""The verb ``geneformer-grn pretrain`` as a script, for launchers that want one.

torchrun --nproc_per_node 2 pretrain/pretrain.py CONFIG.toml --out DIR
"""

import sys

from geneformer_grn.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
