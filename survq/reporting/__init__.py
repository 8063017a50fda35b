"""From the records of finished runs to tables and figures; nothing here computes a risk."""
