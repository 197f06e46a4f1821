"""The embedded toy world: three small abilities and the tiny model that learns them in minutes on one core."""
