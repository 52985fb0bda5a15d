"""modelregistry: the model registry whose main job is promotion."""
