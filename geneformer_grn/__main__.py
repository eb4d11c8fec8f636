"""``python -m geneformer_grn``: the command line where its script is not on the path."""

from geneformer_grn.cli import main

if __name__ == "__main__":
    main()
