"""Workflows: what joins rooms into one job: import, networks, perturbations, the main run.

No method lives here; a workflow calls the rooms in order, and writes what they return.
"""
