"""Answers from models: one interface (`interface.py`), and the engines behind it (`engines.py` opens one by its config)."""
