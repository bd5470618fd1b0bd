from tests import random_mixtures

mixture_of = random_mixtures.mixture_of
samples = random_mixtures.samples
vocabulary = random_mixtures.vocabulary
