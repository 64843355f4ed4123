"""Training of the built-in networks: recipes, image classifiers, language models."""
