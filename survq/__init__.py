"""survq: multimodal cancer survival with learnable queries, as a Ray distributed hyperparameter study."""

__version__ = "0.1.0"
