"""`python -m evaluators.sandbox FILE` runs one Python file in the sandbox and prints its result as a line of JSON.

Exit code 0 only for passed, 3 for refused, 2 for a file that cannot be read, else 1.
"""

import json
import sys
from dataclasses import asdict

from evaluators.sandbox.outside import run


def main(arguments: list[str]) -> int:
    """The exit code."""
    if len(arguments) != 1:
        print("usage: python -m evaluators.sandbox FILE", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as file:
            program = file.read()
    except (OSError, UnicodeDecodeError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    result = run(program)
    told = asdict(result)
    print(json.dumps({name: told[name] for name in ("verdict", "reason", "confined_by", "suspicious")}))
    return {"passed": 0, "refused": 3}.get(result.verdict, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
