from tests import random_mixtures
from tests.train import conftest as trained

mixture_of = random_mixtures.mixture_of
samples = random_mixtures.samples
vocabulary = random_mixtures.vocabulary

# What a run directory holds is what the trainer hands over.
model_config = trained.model_config
no_room = trained.no_room
run = trained.run
space = trained.space
vocabulary_of = trained.vocabulary_of
