"""Sub-networks: extract, verify, write, load.

  formats/    written for other engines, and compared with them
  pruning/    mixtures without the experts that a language hardly uses
  shrinking/  smaller vocabularies, and weights of fewer bits

These three import the modules here, and not one another; only `exporting` and
`full_model`, which do what a command asks, import them.
"""
