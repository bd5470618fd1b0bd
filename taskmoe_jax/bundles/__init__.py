"""What a bundle is: a folder with a model that is ready to deploy."""
