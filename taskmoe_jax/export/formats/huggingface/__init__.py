"""A stock T5 of Hugging Face's transformers."""
