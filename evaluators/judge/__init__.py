"""A judge that rates answers: what it is asked, how its replies are read, kept and paid for, and what it costs to fail."""
