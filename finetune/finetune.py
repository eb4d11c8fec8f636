"""The verb ``geneformer-grn finetune`` as a script, for launchers that want one.

torchrun --nproc_per_node 2 finetune/finetune.py CONFIG.toml --out DIR
"""

import sys

from geneformer_grn.cli import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
