"""Lines of text: files, cleaning, test sets, vocabularies."""
