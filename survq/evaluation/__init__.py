"""Evaluation of out-of-fold risks: concordance, risk groups, and their uncertainty."""
