"""What a training will need, before it runs; TPU pods by their compiler."""
