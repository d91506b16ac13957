"""Measuring models: metrics of features, extractors of features, judges of captions, questions to denoisers, and the run that joins them."""
