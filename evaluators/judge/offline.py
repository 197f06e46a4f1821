"""`offline-rules`: stands in for a judge where none can be reached.

It looks at the form of an answer only, so its ratings say nothing about quality and are never reported as MT-Bench.
"""

NAME = "offline-rules"


def offline_rating(text: str) -> float:
    """1 to 10 by form: there is an answer, of some length, in varied words, that comes to an end."""
    words = text.split()
    varied = len(set(words)) / len(words) if words else 0.0
    return 1 + 3 * bool(words) + 2 * min(1.0, len(words) / 50) + 2 * varied + 2 * text.rstrip().endswith((".", "!", "?"))
