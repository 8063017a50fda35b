"""What the out-of-fold risks are worth: concordance, risk groups, and how sure one can be."""
