"""The networks and train steps of oldphoto_jax once more in PyTorch, to compare their speed."""
