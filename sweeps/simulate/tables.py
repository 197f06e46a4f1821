"""Published scores of supervised fine-tuning mixtures: arXiv 2310.05492, GSM8K and HumanEval in percent, MT-Bench 1 to 10.

Rows are (gsm8k, humaneval, mt_bench). DMT by replay factor k: version 1, appendix table 5; other strategies: table 1. Ratios
(research question 3): appendix table 4. Mixing (questions 1 and 2): appendix tables 2 and 3, columns "mix".
Where the paper contradicts itself, the cell of the appendix table is taken.
"""

Scores = tuple[float, float, float]

BENCHMARKS = ("gsm8k", "humaneval", "mt_bench")

DMT: dict[str, dict[float, Scores]] = {
    "7b": {
        0: (32.60, 15.24, 6.02),
        1 / 256: (41.92, 17.68, 6.08),
        1 / 64: (42.53, 15.85, 6.01),
        1 / 16: (43.30, 15.24, 5.78),
        1 / 4: (48.37, 13.41, 5.69),
        1: (45.79, 14.02, 5.63),
    },
    "13b": {
        0: (40.48, 18.30, 5.93),
        1 / 256: (46.47, 19.50, 6.03),
        1 / 64: (47.61, 15.24, 6.03),
        1 / 16: (48.59, 18.90, 5.96),
        1 / 4: (50.18, 18.90, 5.83),
        1: (50.49, 16.46, 5.76),
    },
}
"""By replay factor k; k = 0 is mixed sequential training."""

STRATEGIES: dict[str, dict[str, Scores]] = {
    "7b": {"multi_task": (47.53, 14.63, 5.76), "sequential": (31.39, 15.85, 5.72)},
    "13b": {"multi_task": (50.94, 19.50, 5.73), "sequential": (39.12, 20.12, 5.93)},
}

RATIO_7B: dict[tuple[float, float], Scores] = {
    (1, 1): (47.53, 14.63, 5.76),
    (1, 1 / 4): (48.44, 15.85, 5.73),
    (1, 1 / 16): (47.99, 15.24, 5.27),
    (1, 1 / 64): (47.23, 14.63, 5.16),
    (1, 1 / 256): (48.52, 16.46, 4.69),
    (1 / 4, 1): (41.31, 10.97, 5.81),
    (1 / 16, 1): (33.20, 11.58, 5.76),
    (1 / 64, 1): (25.17, 12.19, 5.84),
    (1 / 256, 1): (16.52, 9.14, 5.82),
    (1 / 4, 1 / 64): (43.29, 12.19, 5.07),
    (1 / 16, 1 / 64): (33.81, 12.19, 5.17),
    (1 / 64, 1 / 64): (26.23, 12.19, 5.12),
    (1 / 256, 1 / 64): (18.27, 10.36, 5.12),
}
"""Multi-task training by (fraction of the specialist data, fraction of the general data)."""

MIXING: dict[str, dict[float, Scores]] = {
    "7b": {
        1: (47.53, 14.63, 5.76),
        1 / 4: (41.98, 9.14, 5.48),
        1 / 16: (32.97, 9.16, 5.22),
        1 / 64: (25.77, 14.63, 5.27),
        1 / 256: (14.78, 11.37, 4.11),
    },
    "13b": {
        1: (50.49, 17.10, 5.73),
        1 / 4: (48.52, 14.00, 5.61),
        1 / 16: (40.63, 14.60, 5.52),
        1 / 64: (33.2, 17.68, 5.24),
        1 / 256: (24.94, 12.19, 4.4),
    },
    "33b": {
        1: (56.69, 18.9, 6.07),
        1 / 4: (54.54, 22.56, 5.92),
        1 / 16: (53.33, 26.82, 6.26),
        1 / 64: (46.66, 18.6, 5.73),
        1 / 256: (36.54, 17.68, 4.58),
    },
}
"""Multi-task training by the fraction of every source."""

PARAMETERS = {"7b": 6.7e9, "13b": 13.0e9, "33b": 32.5e9}
EXAMPLES = {"specialist": 130_164, "general": 86_060}
"""GSM8K RFT with Code Alpaca, and ShareGPT."""

QUESTIONS = {"gsm8k": 1319, "humaneval": 164, "mt_bench": 80}
MT_BENCH_SD = 2.3
"""Standard deviation of MT-Bench over questions, between the published 2.81, 2.04 and 1.57 of three models."""

SEED_SD = {"unit": 0.006, "ten": 0.06}
"""Standard deviation over training seeds on the scale of a benchmark: published are 0.3 points for an average of benchmarks,
1.1 for HumanEval and 0.02 to 0.10 for MT-Bench."""

SPECIALISTS_ONLY: dict[str, Scores] = {"7b": (49.10, 18.40, 3.42), "13b": (51.40, 17.10, 3.04)}
"""What the last stage of DMT starts from. The paper has no row for training on both specialist sets: GSM8K is that of math
only, HumanEval that of code only, MT-Bench the mean of the two (table 1)."""
BASE = {"unit": 0.0, "ten": 1.0}
LEARNING = 4.0
"""How fast a stage learns: after a share s of it, (1 - exp(-4 s)) / (1 - exp(-4)) of the change has happened: 64 % after a
quarter, 88 % after a half. Made up: the paper has no scores inside a stage."""


def scale_of(benchmark: str) -> str:
    """Whether a benchmark is published on 0 to 1 or on 1 to 10."""
    return "ten" if benchmark in ("mt_bench", "toy_chat") else "unit"
